"""`insitu retrain`: what it leaves, when it goes on, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from golden.network import Network, run
from insitu import cli
from insitu.choice import Choice, read_choices, write_choices
from insitu.errors import InputError
from insitu.evaluate import read_inputs
from insitu.float_network import FloatMean, FloatNetwork
from insitu.models import load_float
from insitu.network import load, save, to_bytes, training_record
from insitu.quantise import calibrate
from tests.insitu.models import example
from tests.insitu.networks import random_network, random_stored

torch = pytest.importorskip("torch", reason="needs the extra train")

from insitu.train import loop  # noqa: E402
from insitu.train import retrain as retrain_module  # noqa: E402
from insitu.train.float_module import FloatModule  # noqa: E402
from insitu.train.loop import Options, batches  # noqa: E402
from insitu.train.retrain import read_samples  # noqa: E402
from insitu.train.retrain import retrain as train  # noqa: E402
from insitu.train.student import Student  # noqa: E402

torch.set_num_threads(1)  # Other tests run beside these.

SHAPE = (3, 9, 8)


def invoke(*arguments):
    """Exit status, standard output and error of a command."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def classifier(path: Path, rng: np.random.Generator, inputs) -> np.ndarray:
    """Write a network that finds all of its classes in the inputs [N, H, W, C]; and which."""
    model = example(rng)
    onnx.save(model, path)
    found = load_float(path).run(inputs).reshape(len(inputs), -1)
    (bias,) = (one for one in model.graph.initializer if one.name == "b2")
    values = numpy_helper.to_array(bias) - found.mean(axis=0) / 2  # It counts twice.
    bias.CopyFrom(numpy_helper.from_array(values.astype(np.float32), "b2"))
    onnx.save(model, path)
    return (found - found.mean(axis=0)).argmax(axis=1)


@pytest.fixture
def folder(tmp_path: Path, seed: int) -> Path:
    """A model, choices, and samples with the model's own classes for labels."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(0, 256, (400, *SHAPE), np.uint8)
    real = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1)).astype(np.float32) / 255
    labels = classifier(tmp_path / "net.onnx", rng, real)
    np.savez(tmp_path / "train.npz", inputs=inputs, labels=labels)
    write_choices({"Conv2": Choice(terms=2, qb=3, qu=3)}, tmp_path / "choices.json")
    return tmp_path


def retrain(folder: Path, *more: object, samples: str = "train.npz"):
    return invoke(
        "retrain",
        folder / "net.onnx",
        *("--choices", folder / "choices.json"),
        *("--samples", folder / samples),
        *("-o", folder / "out.npz"),
        *("--epochs", 3, "--batch", 20, "--held-out", 100),
        *more,
    )


def refused(folder: Path, *more: object, cause: str, samples: str = "train.npz") -> None:
    """Status 2, and nothing changed."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    status, output, errors = retrain(folder, *more, samples=samples)
    assert status == 2, errors
    assert cause in errors
    assert "next: " in errors
    assert not output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_leaves_a_network_that_is_as_accurate_as_it_says(folder: Path) -> None:
    status, output, errors = retrain(
        folder, "--config", "sim-8x1", "--json", folder / "report.json"
    )
    assert status == 0, errors
    assert "epoch 3, held out" in errors
    report = json.loads((folder / "report.json").read_text())
    record = report["training"]
    assert [one["epoch"] for one in record["epochs"]] == [1, 2, 3]
    assert record["held_out"] == record["epochs"][record["epoch"] - 1]["held_out"]
    assert record["teacher"] == 100  # The labels are its own.
    assert f"{record['held_out']:.2f} %" in output
    assert training_record(folder / "out.npz") == record
    assert report["plan"]["configuration"] == "sim-8x1"

    network = load(folder / "out.npz")
    weights = network.layers[1].weights
    assert (weights.B.shape, weights.qb, weights.qu) == ((12, 2, 4), 3, 3)
    # Right as often as it says, on the held-out samples, in integers.
    found = read_inputs(folder / "train.npz", network)
    held_out = np.random.default_rng(0).permutation(400)[:100]
    answers = run(network, found.integers[held_out]).reshape(100, -1).argmax(axis=1)
    right = 100 * float(np.mean(answers == found.labels[held_out]))
    assert abs(right - record["held_out"]) <= 2  # Sums in single precision, rarely.
    agreement = record["agreement"]
    assert agreement["outputs"] == 500
    assert agreement["differ"] == 0
    assert "0 of 500" in output


def test_says_where_the_network_is_not_what_was_trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the last layer were exported with biases that are two steps of the output too large."""

    def off(self: Student) -> Network:
        made = golden(self)
        last = made.layers[-1]
        two_steps = np.rint(2 * 2.0 ** (31 + last.shift) / last.multiplier).astype(np.int32)
        return replace(made, layers=(*made.layers[:-1], replace(last, bias=last.bias + two_steps)))

    golden = Student.golden
    monkeypatch.setattr(Student, "golden", off)
    status, output, errors = retrain(folder)
    assert status == 0, errors
    agreement = (training_record(folder / "out.npz") or {})["agreement"]
    assert agreement["differ"] > 450  # Some are at the end of the range.
    assert agreement["steps"] in (2, 3)
    assert f"by at most {agreement['steps']} of 255 steps" in output


def test_goes_on_from_the_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert retrain(folder)[0] == 0
    whole = load(folder / "out.npz")
    record = training_record(folder / "out.npz")
    for name in ("out.npz", "out.npz.checkpoint"):
        (folder / name).unlink()

    class Stop(Exception):
        pass

    seen = []

    def stop(samples, options, epoch):
        if epoch < options.epochs:  # Not the batches that settle normalisations.
            seen.append(epoch)
            if len(seen) == 3:
                raise Stop
        return batches(samples, options, epoch)

    monkeypatch.setattr(loop, "batches", stop)
    with pytest.raises(Stop):
        retrain(folder)
    assert not (folder / "out.npz").exists()
    assert retrain(folder)[0] == 0
    assert seen == [0, 1, 2, 2]
    assert training_record(folder / "out.npz") == record
    for one, other in zip(whole.layers, load(folder / "out.npz").layers, strict=True):
        np.testing.assert_array_equal(one.weights.W, other.weights.W)


@pytest.mark.parametrize("unit", ["avx512_bf16", "amx_bf16", "bf16", "avx2"])
def test_bfloat16_is_for_devices_with_units(
    unit: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    types = set()

    class Seen(Student):
        def forward(self, x):
            y = super().forward(x)
            types.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
            return y

    monkeypatch.setattr(loop, "best_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(retrain_module, "best_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(retrain_module, "Student", Seen)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: True, "avx512_f": True})
    network, choices = load_float(folder / "net.onnx"), read_choices(folder / "choices.json")
    samples = read_samples(folder / "train.npz", network)
    options = Options(epochs=1, batch=25, held_out=40, distillation=0.0, bfloat16=True)
    has = unit != "avx2"
    record = train(network, choices, samples, [options], folder / "some.pt").record
    assert record["bfloat16"] == has
    assert types == ({None, torch.bfloat16} if has else {None})  # Measured without.
    types.clear()
    options = replace(options, bfloat16=False)
    record = train(network, choices, samples, [options], folder / "none.pt").record
    assert record["bfloat16"] is False
    assert types == {None}


def test_stages_go_on_from_each_other(folder: Path) -> None:
    network, choices = load_float(folder / "net.onnx"), read_choices(folder / "choices.json")
    samples = read_samples(folder / "train.npz", network)
    first = Options(epochs=2, batch=25, held_out=40, distillation=0.5)
    second = replace(first, epochs=1, rate=1e-9, distillation=0.0, seed=3)
    checkpoint = folder / "stages.pt"

    def made(*stages):
        return train(network, choices, samples, stages, checkpoint)

    alone = made(first)
    assert not checkpoint.with_stem("stages-2").exists()
    both = made(first, second)  # The first stage comes from its checkpoint.
    numbers = [(one["stage"], one["epoch"]) for one in both.record["epochs"]]
    assert numbers == [(1, 1), (1, 2), (2, 1)]
    assert both.record["epochs"][:2] == alone.record["epochs"]
    assert both.record["epoch"] == 1
    # At that rate nothing moves but the normalisations, which other batches set.
    for one, other in zip(alone.network.layers, both.network.layers, strict=True):
        np.testing.assert_array_equal(one.weights.W, other.weights.W)
    before = checkpoint.with_stem("stages-2").read_bytes()
    assert made(first, second).record == both.record
    assert checkpoint.with_stem("stages-2").read_bytes() == before
    with pytest.raises(InputError, match=r"stages-2\.pt is of a training with other settings"):
        made(first, replace(second, seed=4))
    # Another first stage: the second did not go on from that.
    checkpoint.rename(checkpoint.with_stem("kept"))
    with pytest.raises(InputError, match=r"later stage than .*stages\.pt, which is not there"):
        made(first, second)
    checkpoint.with_stem("stages-2").rename(checkpoint.with_stem("second"))
    made(replace(first, seed=1))
    checkpoint.with_stem("second").rename(checkpoint.with_stem("stages-2"))
    with pytest.raises(InputError, match=r"stages-2\.pt is of a training with other settings"):
        made(replace(first, seed=1), second)
    with pytest.raises(ValueError, match=r"at least one Options, not \(\)"):
        made()
    with pytest.raises(ValueError, match=r"the same samples, not \[40, 50\]"):
        made(first, replace(second, held_out=50))


def test_a_better_network_is_not_replaced(folder: Path) -> None:
    rng = np.random.default_rng(0)
    other = random_network(
        rng, [{"weights": random_stored(rng, 5, 3, 72, 4), "kernel": (9, 8)}], (9, 8, 3)
    )
    save(other, folder / "out.npz")
    refused(folder, cause="does not say how accurate it is")

    with np.load(folder / "train.npz") as archive:
        inputs, labels = archive["inputs"], archive["labels"].copy()
    labels[::7] = (labels[::7] + 1) % 5  # Which nothing is right on.
    np.savez(folder / "train.npz", inputs=inputs, labels=labels)
    (folder / "out.npz").write_bytes(to_bytes(other, {"held_out": 100.0}))
    before = (folder / "out.npz").read_bytes()
    status, _, errors = retrain(folder)
    assert status == 2
    assert "is right on 100.00 %" in errors
    assert (folder / "out.npz").read_bytes() == before

    assert retrain(folder, "--force")[0] == 0  # All of it comes from the checkpoint.
    record = training_record(folder / "out.npz")
    assert record is not None
    assert record["held_out"] < 100
    (folder / "out.npz").write_bytes(to_bytes(other, {"held_out": record["held_out"] - 1.0}))
    assert retrain(folder)[0] == 0
    assert training_record(folder / "out.npz") == record


def test_bad_samples_are_refused(folder: Path) -> None:
    with np.load(folder / "train.npz") as archive:
        inputs, labels = archive["inputs"], archive["labels"]

    def bad(cause, *more, **arrays):
        np.savez(folder / "bad.npz", **{"inputs": inputs, "labels": labels} | arrays)
        refused(folder, *more, cause=cause, samples="bad.npz")

    bad("have shape (400, 9, 8, 3)", inputs=inputs.transpose(0, 2, 3, 1))
    bad("have shape (400, 9, 8, 3)", inputs=inputs.transpose(0, 2, 3, 1).astype(np.float32))
    bad("are of int16", inputs=inputs.astype(np.int16))
    bad("hold infinities or NaN", inputs=np.full_like(inputs, np.nan, np.float32))
    bad("it knows nothing of them", labels=(labels + 1) % 5)
    bad("have a scale, which is for uint8", inputs=inputs.astype(np.float32), scale=2.0)
    bad("have scale array(-1.)", scale=-1.0)
    bad("label 5 stands for no output: the network has 5", labels=labels + 1)
    bad("label -1 stands for no output", labels=labels - 1)
    bad("labels of int64 (399,)", labels=labels[1:])
    bad("are too few to hold out 200", "--held-out", 200)
    bad("are less than a batch of 301", "--batch", 301)
    np.savez(folder / "unlabelled.npz", inputs=inputs)
    refused(folder, cause="have no array 'labels'", samples="unlabelled.npz")
    np.savez(folder / "less.npz", inputs=inputs[:0], labels=labels[:0])
    refused(folder, cause="have shape (0, 3, 9, 8)", samples="less.npz")


def test_bad_choices_models_and_options_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(folder, "--rate", 0, cause="--rate must be positive, not 0.0")
    refused(folder, "--config", "up4k", cause="no configuration named 'up4k'")
    write_choices({"Conv2": Choice(terms=5)}, folder / "choices.json")
    refused(folder, cause="layer 'Conv2' cannot have 5 terms")
    write_choices({"Conv2": Choice(terms=3)}, folder / "choices.json")
    refused(folder, "--config", "up5k", cause="has 3 basis terms (Bi), up5k sums at most 2")
    write_choices({"Conv1": Choice()}, folder / "choices.json")
    refused(folder, cause="no layer 'Conv1'")
    (folder / "choices.json").write_text("{")
    refused(folder, cause="are no JSON")
    (folder / "net.onnx").write_bytes(b"nothing")
    refused(folder, cause="net.onnx is not an undamaged ONNX model")
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    refused(folder, cause="retraining needs PyTorch, which is not installed")


def test_checkpoints_of_others_are_refused(folder: Path) -> None:
    assert retrain(folder)[0] == 0
    with np.load(folder / "train.npz") as archive:
        np.savez(folder / "other.npz", inputs=archive["inputs"] ^ 1, labels=archive["labels"])
    refused(folder, cause="of a training with other settings", samples="other.npz")
    refused(folder, "--seed", 1, cause="of a training with other settings")
    model = onnx.load(folder / "net.onnx")
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Clip"
    relu.input.extend(["nothing", "much"])
    for name, limit in (("nothing", 0), ("much", 1e6)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(limit), name))
    whole = (folder / "net.onnx").read_bytes()
    onnx.save(model, folder / "net.onnx")
    refused(folder, cause="of a training with other settings")
    (folder / "net.onnx").write_bytes(whole)
    checkpoint = folder / "out.npz.checkpoint"
    whole = checkpoint.read_bytes()
    bent = bytearray(whole)
    bent[len(whole) // 3 :: 997] = bytes(len(bent[len(whole) // 3 :: 997]))
    for damaged in (whole[:-300], b"", b"notes", bytes(bent)):
        checkpoint.write_bytes(damaged)
        refused(folder, cause="is no checkpoint, or a damaged one")


def test_outputs_of_many_pixels_are_refused(folder: Path) -> None:
    model = onnx.load(folder / "net.onnx")
    del model.graph.node[1:]
    output = onnx.helper.make_tensor_value_info(
        model.graph.node[0].output[0], onnx.TensorProto.FLOAT, ["N", None, None, None]
    )
    model.graph.output[0].CopyFrom(output)
    onnx.save(model, folder / "net.onnx")
    refused(folder, cause="channels, which are not numbered")


def test_pixels_of_a_tflite_have_a_scale(tmp_path: Path, seed: int) -> None:
    network = FloatNetwork("n", (4, 5, 3), (FloatMean(name="mean"),))
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 4, 5, 3), np.uint8)
    path = tmp_path / "train.npz"
    np.savez(path, inputs=pixels, labels=np.arange(6) % 3)
    with pytest.raises(InputError, match="are of uint8 without a scale"):
        read_samples(path, network, channels_last=True)
    np.savez(path, inputs=pixels, labels=np.arange(6) % 3, scale=0.5)
    found = read_samples(path, network, channels_last=True)
    expected = (pixels / 2).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(found.real().numpy(), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Of the exporter, which needs no more.
def test_a_module_of_pytorch_enters_as_onnx(tmp_path: Path, seed: int) -> None:
    class Residual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.norm = torch.nn.BatchNorm2d(8)
            self.second = torch.nn.Conv2d(8, 8, 3, padding=1)
            self.classes = torch.nn.Linear(8, 5)

        def forward(self, x):
            y = torch.relu(self.norm(self.first(x)))
            return self.classes(torch.relu(y + self.second(y)).mean(dim=(2, 3)))

    torch.manual_seed(seed)
    module, x = Residual().eval(), torch.rand(4, *SHAPE)
    names = {"input_names": ["input"], "dynamic_axes": {"input": {0: "N"}}}
    torch.onnx.export(module, (x[:1],), tmp_path / "net.onnx", dynamo=False, **names)
    found = load_float(tmp_path / "net.onnx").run(x.permute(0, 2, 3, 1).contiguous().numpy())
    np.testing.assert_allclose(found.reshape(4, 5), module(x).detach(), atol=1e-5)


def test_nothing_stays_on_the_cpu(folder: Path) -> None:
    """On PyTorch's device without memory any value from the CPU is an error."""
    network = load_float(folder / "net.onnx")
    samples = read_samples(folder / "train.npz", network)
    inputs = np.ascontiguousarray(samples.real().permute(0, 2, 3, 1).numpy())
    choices = {
        "Conv0": Choice(terms=1, kernels=6),
        "Conv2": Choice(terms=2, kernels=7, factored=True),
    }
    student = Student(network, choices, calibrate(network, inputs)).to("meta")
    options = Options(batch=20, shift=1, mirror=True, cutout=2)
    for batch in batches(samples.to(torch.device("meta")), options, 0):
        student.train()
        y = student(batch.real()) + FloatModule(network).to("meta")(batch.real())
        (y.square().mean() + student.coherence()).backward()
        assert all(one.grad is not None for one in student.parameters())
        student.eval()
        assert student(batch.real()).device.type == "meta"
