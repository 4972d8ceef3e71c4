"""The verb compress: what it leaves, what it says, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

import insitu.menu
from golden.network import Convolution, Stored
from insitu import show
from insitu.choice import read_choices
from insitu.cli_options import parse_bytes
from insitu.compress import compress
from insitu.console import output
from insitu.errors import InputError
from insitu.import_onnx import import_onnx
from insitu.network import load, to_bytes
from insitu.plan import plan
from insitu.quantise import calibrate, load_inputs
from insitu.search import Search
from rtl.config import CONFIGURATIONS
from tests.insitu.models import example
from tests.insitu.test_cli import contents, invoke, refused

CONFIG = CONFIGURATIONS["up5k"]


@pytest.fixture
def folder(tmp_path, seed, monkeypatch):
    """A folder with a model, calibration samples and labelled inputs."""
    monkeypatch.setattr(insitu.menu, "_INTRA", ((4, 4), (2, 2)))
    rng = np.random.default_rng(seed)
    onnx.save(example(rng, channels=(3, 16, 24)), tmp_path / "net.onnx")
    network = import_onnx(tmp_path / "net.onnx")
    np.savez(tmp_path / "calibration.npz", inputs=rng.random((40, 3, 9, 8), np.float32))
    inputs = rng.random((50, 3, 9, 8), np.float32)
    labels = network.run(inputs.transpose(0, 2, 3, 1)).reshape(50, -1).argmax(axis=1)
    np.savez(tmp_path / "labelled.npz", inputs=inputs, labels=labels)
    return tmp_path


def arguments(folder, *more):
    names = ("--config", "up5k", "--cache", folder / "kept", "-o", folder / "out.npz")
    return ("compress", folder / "net.onnx", *names, *more)


def test_a_network_its_choices_and_all_figures(folder):
    result = invoke(
        *arguments(folder, "--budget", "1.5KB", "--inputs", folder / "labelled.npz"),
        *("--choices", folder / "choices.json", "--json", folder / "report.json"),
    )
    assert result.status == 0, result
    report = json.loads((folder / "report.json").read_text())
    network = load(folder / "out.npz")
    planned = plan(network, CONFIG)
    found = report[report["written"]]
    assert found["loss"] == min(report[name]["loss"] for name in ("compressed", "plain"))
    assert report["budget_bytes"] == 1536
    assert found["bytes"] == found["weight_bytes"] + found["parameter_bytes"] <= 1536
    assert found["weight_bytes"] == planned.weight_bits // 8
    assert found["cycles"] == planned.cycles
    assert found["payload_bytes"] == planned.payload_bytes
    assert 0 <= report["plain"]["accuracy"] <= 1
    assert report["float"]["accuracy"] == 1
    assert report["calibration"] == {"file": str(folder / "calibration.npz"), "samples": 40}
    assert report["inputs"] == {"file": str(folder / "labelled.npz"), "samples": 50}
    assert len(report["frontier"]) > 3
    for word in ("Frontier", "Layer by layer", "stored alone", "in floating point"):
        assert word in result.output
    assert f"{found['bytes']:,}" in result.output
    for times in (1.9, 2.1):
        report["compressed"]["cycles"] = int(times * report["plain"]["cycles"])
        console = output()
        with console.capture() as said:
            console.print(show.compression(report))
        assert ("--cycles N limits them" in said.get()) == (times > 2)

    # What was chosen gives the network, fitted to three of four samples.
    choices = read_choices(folder / "choices.json")
    real = import_onnx(folder / "net.onnx")
    samples, _ = load_inputs(folder / "calibration.npz", real.input_shape)
    fitted = replace(calibrate(real, samples), inputs=np.delete(samples, np.s_[::4], axis=0))
    made, _ = compress(real, fitted, choices, CONFIG)
    assert to_bytes(made) == (folder / "out.npz").read_bytes()


def stored(network):
    layers = [layer for layer in network.layers if isinstance(layer, Convolution)]
    return all(isinstance(layer.weights, Stored) for layer in layers)


def test_stored_weights_are_written_where_they_lose_less(folder, monkeypatch):
    """By the measured loss, whatever the solver's stand-in said."""
    monkeypatch.setattr(Search, "loss", lambda _, network: 0.125 if stored(network) else 0.25)
    result = invoke(
        *arguments(folder, "--budget", "1.5KB", "--inputs", folder / "labelled.npz"),
        *("--choices", folder / "choices.json", "--json", folder / "report.json"),
    )
    assert result.status == 0, result
    report = json.loads((folder / "report.json").read_text())
    chosen, plain = report["compressed"], report["plain"]
    assert chosen["proxy_loss"] < plain["proxy_loss"]
    assert {layer["dataflow"] for layer in plain["layers"]} == {"stored"}
    assert report["written"] == "plain"
    said = " ".join(result.output.split())
    assert "stored alone: its measured loss is 0.125, that of the solver's choice 0.25" in said
    assert "Layer by layer, stored alone" in said
    network = load(folder / "out.npz")
    assert stored(network)
    assert plan(network, CONFIG).weight_bits // 8 == plain["weight_bytes"]
    assert all(choice.stored for choice in read_choices(folder / "choices.json").values())


def test_the_least_memory_for_an_accuracy(folder):
    result = invoke(
        *arguments(folder, "--max-loss", "6", "--inputs", folder / "labelled.npz"),
        *("--json", folder / "report.json"),
    )
    assert result.status == 0, result
    report = json.loads((folder / "report.json").read_text())
    found = report[report["written"]]
    assert found["accuracy"] >= 0.94
    assert found["bytes"] in [one["bytes"] for one in report["tried"]]
    assert "of 50 samples" in " ".join(result.output.split())


def test_a_worse_network_does_not_overwrite_a_better_one(folder):
    assert invoke(*arguments(folder, "--budget", "3KB")).status == 0
    better = (folder / "out.npz").read_bytes()
    refused(
        folder,
        *arguments(folder, "--budget", "1.5KB"),
        cause="out.npz exists and is better: its loss on calibration samples is",
        next_step="--force",
    )
    assert (folder / "out.npz").read_bytes() == better
    assert invoke(*arguments(folder, "--budget", "1.5KB", "--force")).status == 0
    worse = (folder / "out.npz").read_bytes()
    assert worse != better
    assert invoke(*arguments(folder, "--budget", "3KB")).status == 0
    assert (folder / "out.npz").read_bytes() == better


def test_a_retrained_network_is_not_overwritten(folder):
    """Its outputs may be further from the float network's, and right more often."""
    worth = ("--budget", "1.5KB")
    assert invoke(*arguments(folder, *worth)).status == 0
    path = folder / "out.npz"
    path.write_bytes(to_bytes(load(path), {"held_out": 91.5}))
    refused(folder, *arguments(folder, *worth), cause="exists, and has been retrained")
    assert invoke(*arguments(folder, *worth, "--force")).status == 0


def test_what_cannot_be_compared_is_not_overwritten(folder):
    (folder / "out.npz").write_bytes(b"no network")
    worth = ("--budget", "3KB", "--inputs", folder / "labelled.npz")
    refused(folder, *arguments(folder, *worth), cause="is no network to compare with")
    assert not (folder / "kept").exists()


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ((), "there must be a budget or a loss"),
        (("--budget", "2KB", "--max-loss", "1"), "there must be a budget or a loss"),
        (("--max-loss", "1"), "accuracy is measured on nothing"),
        (("--budget", "2 MB"), "'2 MB' is no size"),
        (("--budget", "100"), "100 bytes cannot be met: the smallest allocation takes"),
        (("--budget", "2KB", "--cycles", "10"), "10 cycles cannot be met"),
    ],
)
def test_budgets_that_make_no_sense(folder, more, cause):
    before = contents(folder)
    refused(folder, *arguments(folder, *more), cause=cause)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("inputs", "cause"),
    [
        (np.zeros((4, 3, 8, 9), np.float32), "have shape (4, 3, 8, 9)"),
        (np.full((4, 3, 9, 8), np.nan, np.float32), "hold infinities or NaN"),
        (np.zeros((4, 3, 9, 8), np.int32), "are of int32"),
        (np.full((4, 3, 9, 8), 0.5, np.float32), "hold nothing but 0.5"),
        (np.linspace(0, 200, 864, dtype=np.float32).reshape(4, 3, 9, 8), "are in 0..200"),
    ],
)
def test_calibration_samples_that_cannot_be(folder, inputs, cause):
    np.savez(folder / "other.npz", inputs=inputs)
    refused(
        folder,
        *arguments(folder, "--budget", "2KB", "--calibration", folder / "other.npz"),
        *("--inputs", folder / "labelled.npz"),
        cause=cause,
    )


def test_no_calibration_samples(folder):
    (folder / "calibration.npz").unlink()
    refused(
        folder,
        *arguments(folder, "--budget", "2KB"),
        cause="there is no",
        next_step="--calibration FILE.npz",
    )


@pytest.mark.parametrize("worth", [("--budget", "1.5KB"), ("--max-loss", "6")])
def test_labels_of_which_the_network_knows_nothing(folder, worth, monkeypatch):
    """Before anything is fitted."""
    monkeypatch.setattr(insitu.menu, "effective_weights", None)
    found = dict(np.load(folder / "labelled.npz"))
    np.savez(folder / "wrong.npz", inputs=found["inputs"], labels=np.arange(50) % 3 + 100)
    refused(
        folder,
        *arguments(folder, *worth, "--inputs", folder / "wrong.npz"),
        cause="it knows nothing of them",
    )


def test_inputs_without_labels(folder):
    refused(
        folder,
        *arguments(folder, "--budget", "2KB", "--inputs", folder / "calibration.npz"),
        cause="have no array 'labels'",
    )


def test_sizes():
    sizes = {"46KB": 47104, "46 kb": 47104, "1.5KiB": 1536, "700": 700, "12B": 12}
    assert {text: parse_bytes(text) for text in sizes} == sizes
    for text in ("", "KB", "-3KB", "0", "1e3", "3 GB", "46KB!", "9" * 400):
        with pytest.raises(InputError, match="is no size"):
            parse_bytes(text)


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (("--choices", "out.npz"), "network and choices are both out.npz"),
        (("--json", "out.npz"), "network and report are both out.npz"),
        (("--choices", "net.onnx"), "choices net.onnx would replace what is read"),
        (("--inputs", "labelled.npz", "--json", "labelled.npz"), "report labelled.npz would"),
        (("--calibration", "bad.npz"), "reach 1e+30"),
    ],
)
def test_outputs_and_inputs_are_refused(folder, more, cause, monkeypatch):
    samples = np.zeros((40, 3, 9, 8), np.float32)
    samples[3, 1, 4, 5] = 1e30
    np.savez(folder / "bad.npz", inputs=samples)
    monkeypatch.chdir(folder)
    names = ("--config", "up5k", "--budget", "2KB", "--cache", "kept", "-o", "out.npz")
    refused(folder, "compress", "net.onnx", *names, *more, cause=cause)


def test_a_network_is_named_as_one(folder):
    names = ("--config", "up5k", "--budget", "2KB", "-o", folder / "out.image")
    cause, advice = "is no .npz file", "out.npz"
    refused(folder, "compress", folder / "net.onnx", *names, cause=cause, next_step=advice)
