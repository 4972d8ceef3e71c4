"""The student computes what the integer network that it becomes computes."""

import dataclasses
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from golden.code import Code
from golden.network import Network, run
from insitu.choice import Choice
from insitu.errors import FitError, InputError
from insitu.float_network import (
    FloatAdd,
    FloatFunction,
    FloatNetwork,
    FloatPooling,
)
from insitu.menu import distance
from insitu.quantise import Calibration, calibrate
from tests.insitu.networks import random_convolution

torch = pytest.importorskip("torch", reason="needs the extra train")

from insitu.train.float_module import FloatModule  # noqa: E402
from insitu.train.loop import (  # noqa: E402
    Options,
    Samples,
    accuracy,
    chosen,
    fit,
    outputs,
    samples_from,
)
from insitu.train.straight_through import integers, shift8, step  # noqa: E402
from insitu.train.student import Student, _parts  # noqa: E402
from insitu.train.weights import CrossWeights, IntraWeights, StoredWeights  # noqa: E402

SIZE = 8

torch.set_num_threads(1)  # Other tests run beside these.


def network(rng: np.random.Generator) -> FloatNetwork:
    """A residual network with asymmetric padding, a depthwise layer, and an average at the end."""

    convolution = partial(random_convolution, rng)

    same = {"padding": (1, 1, 1, 1)}
    layers = (
        convolution("stem", "input", 12, 3, 3, low=0.0, **same),
        convolution("first", "stem", 12, 12, 3, low=0.0, **same),
        convolution("second", "first", 12, 12, 3, **same),
        FloatAdd(name="sum", inputs=("stem", "second"), low=0.0),
        convolution("depthwise", "sum", 12, 1, 3, groups=12, low=0.0, high=6.0, **same),
        convolution("wide", "depthwise", 20, 12, 3, stride=(2, 2), padding=(0, 0, 1, 1), low=0.0),
        FloatPooling(
            name="pool",
            inputs=("wide",),
            mode="average",
            kernel=(4, 4),
            stride=(4, 4),
            padding=(0, 0, 0, 0),
        ),
        convolution("classes", "pool", 5, 20, 1, dense=True),
    )
    return FloatNetwork("test", (SIZE, SIZE, 3), layers)


CHOICES = {
    "stem": Choice(q=4),
    "first": Choice(terms=2, kernels=8, qb=4, qu=4, qv=4, factored=True),
    "second": Choice(kernels=7, qu=3, qv=5),
    "depthwise": Choice(q=5),
    "wide": Choice(terms=2, qb=3, qu=3, code=Code.POWER_OF_TWO),
    "classes": Choice(q=6),
}


def calibration(made: FloatNetwork, rng: np.random.Generator) -> Calibration:
    return calibrate(made, rng.uniform(0, 1, (64, SIZE, SIZE, 3)).astype(np.float32))


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def made(rng: np.random.Generator) -> tuple[FloatNetwork, Calibration]:
    found = network(rng)
    return found, calibration(found, rng)


def check_against_golden(student: Student, rng: np.random.Generator, largest: int = 127) -> Network:
    """Compare outputs for inputs at random, from -128 to `largest`; the integer network."""
    golden = student.golden()
    scale, zero_point = golden.input_scale, golden.input_zero_point
    x = rng.integers(-128, largest + 1, (200, SIZE, SIZE, 3)).astype(np.int8)
    real = ((x.astype(np.float32) - zero_point) * np.float32(scale)).transpose(0, 3, 1, 2)
    samples = Samples(torch.from_numpy(real.copy()), torch.zeros(len(x), dtype=torch.int64))
    found = outputs(student, samples).numpy() / golden.output_scale
    expected = run(golden, x).reshape(len(x), -1).astype(int) - golden.output_zero_point
    np.testing.assert_array_equal(np.rint(found), expected)
    assert np.abs(np.rint(found) - expected).max() <= 1
    assert len(np.unique(expected)) > 20
    return golden


def test_the_integer_network_gives_the_students_outputs(
    made: tuple[FloatNetwork, Calibration], rng: np.random.Generator
) -> None:
    golden = check_against_golden(Student(*made[:1], CHOICES, made[1]), rng)
    assert [layer.name for layer in golden.layers][:4] == ["stem", "first.basis", "first", "second"]


def test_so_does_that_of_fully_factored_layers(
    made: tuple[FloatNetwork, Calibration], rng: np.random.Generator, tmp_path: Path
) -> None:
    """Also with a stride, uneven padding, and after training."""
    fully = Choice(terms=2, kernels=8, qb=3, qu=4, qv=4, factored=True, fully=True)
    student = Student(*made[:1], CHOICES | {"first": fully, "wide": fully}, made[1])
    golden = check_against_golden(student, rng)
    layers = {layer.name: layer for layer in golden.layers}
    assert layers["wide.coefficients"].weights.shape == (16, 12, 1)
    assert layers["wide.basis"].weights.shape == (16, 1, 9)
    assert layers["wide.basis"].groups == 16
    assert layers["wide"].weights.shape == (20, 16, 1)
    # Padding reads zeros, which are to be zeros of the sums.
    assert layers["wide.coefficients"].output_zero_point == 0
    before = layers["wide.coefficients"]
    np.testing.assert_array_equal(
        before.bias, -before.input_zero_point * before.weights.W.sum(axis=(1, 2))
    )
    fit(student, None, bright(rng, 600), BRIEF, tmp_path / "checkpoint")
    check_against_golden(student, rng)


@pytest.mark.parametrize("form", [{}, {"terms": 1, "qb": 4}, {"terms": 1, "fully": True}])
def test_so_does_that_of_a_factored_output(
    made: tuple[FloatNetwork, Calibration],
    rng: np.random.Generator,
    tmp_path: Path,
    form: dict[str, int],
) -> None:
    choice = Choice(kernels=4, qu=5, qv=6, factored=True, **form)
    student = Student(*made[:1], CHOICES | {"classes": choice}, made[1])
    golden = check_against_golden(student, rng)
    stages = ["classes.coefficients"] if "fully" in form else []
    names = [layer.name for layer in golden.layers]
    assert names[names.index("pool") + 1 :] == [*stages, "classes.basis", "classes"]
    x = torch.from_numpy(rng.uniform(0, 1, (200, 3, SIZE, SIZE)).astype(np.float32))
    close, wanted = outputs(student, Samples(x, x[:, 0, 0, 0])), FloatModule(made[0])(x)
    assert float(torch.corrcoef(torch.stack([close.flatten(), wanted.flatten()]))[0, 1]) > 0.5
    apart = (close.mean(dim=0) - wanted.mean(dim=0)).abs().max()
    assert apart < 0.1 * wanted.abs().max()
    fit(student, None, bright(rng, 600), BRIEF, tmp_path / "checkpoint")
    check_against_golden(student, rng)


@pytest.mark.parametrize("mode", ["average", "maximum"])
def test_so_does_that_of_a_pooling_with_limits(mode: str, rng: np.random.Generator) -> None:
    """As of an activation behind it: F.relu(F.max_pool2d(x, 2))."""
    made = network(rng)
    layers = {layer.name: layer for layer in made.layers}
    layers["wide"] = dataclasses.replace(layers["wide"], low=-math.inf)
    pool = dataclasses.replace(layers["pool"], mode=mode, low=0.0, high=0.5)
    layers["pool"] = pool
    limited = dataclasses.replace(made, layers=tuple(layers.values()))
    student = Student(limited, CHOICES, calibration(limited, rng))
    check_against_golden(student, rng)


def test_halves_of_a_sum_go_to_even(
    made: tuple[FloatNetwork, Calibration], rng: np.random.Generator
) -> None:
    """Where its scale is twice that of what is added, every second sum is a half."""
    found, given = made
    place = [layer.name for layer in found.layers].index("sum") + 1
    scales = list(given.scales)
    scales[place] = 2 * max(scales[1], scales[place - 1])
    student = Student(found, CHOICES, dataclasses.replace(given, scales=tuple(scales)))
    assert student.quantisations["sum"].scale > student.quantisations["stem"].scale
    check_against_golden(student, rng)


def test_sums_of_few_bits_are_multiplied_by_less_than_1(
    made: tuple[FloatNetwork, Calibration], rng: np.random.Generator, tmp_path: Path
) -> None:
    """Of weights of 1 bit, a unit of few sums is worth more than a unit of a map of small range."""
    layers = (
        dataclasses.replace(layer, high=0.5) if layer.name == "depthwise" else layer
        for layer in made[0].layers
    )
    found = dataclasses.replace(made[0], layers=tuple(layers))
    student = Student(found, CHOICES | {"depthwise": Choice(q=1)}, calibration(found, rng))
    golden = check_against_golden(student, rng)
    layer = next(one for one in golden.layers if one.name == "depthwise")
    multipliers = layer.multiplier * 2.0 ** (-31 - layer.shift)
    assert 0.99 < multipliers.max() < 1
    fit(student, None, bright(rng, 600), BRIEF, tmp_path / "checkpoint")
    check_against_golden(student, rng)


def test_sums_of_basis_kernels_are_multiplied_by_less_than_1(
    made: tuple[FloatNetwork, Calibration], rng: np.random.Generator, tmp_path: Path
) -> None:
    """The same of kernels of 1 bit that see inputs of a few steps."""
    found, given = made
    scales = (32 * given.scales[0], *given.scales[1:])
    choices = CHOICES | {"stem": Choice(kernels=10, qu=1, qv=4, factored=True)}
    student = Student(found, choices, dataclasses.replace(given, scales=scales))
    golden = check_against_golden(student, rng, -120)
    layer = next(one for one in golden.layers if one.name == "stem.basis")
    multipliers = layer.multiplier * 2.0 ** (-31 - layer.shift)
    assert 0.99 < multipliers.max() < 1
    fit(student, None, bright(rng, 600), BRIEF, tmp_path / "checkpoint")
    check_against_golden(student, rng, -120)


FACTORED = Choice(kernels=12, qu=8, qv=8, factored=True)
FULLY = Choice(kernels=12, terms=9, qb=8, qu=8, qv=8, factored=True, fully=True)


@pytest.mark.parametrize(("form", "factor"), [(FACTORED, 1.1), (FULLY, 1.7)])
def test_full_ranks_of_many_bits_compute_the_network(
    form: Choice,
    factor: float,
    made: tuple[FloatNetwork, Calibration],
    rng: np.random.Generator,
) -> None:
    """Before any training they err about as much as weights stored at 8 bits."""
    found, given = made
    inputs = rng.uniform(0, 1, (300, SIZE, SIZE, 3)).astype(np.float32)
    samples = samples_from(inputs, np.zeros(300))
    expected = outputs(FloatModule(found), samples)
    expected -= expected.mean(dim=0)

    def error(choices: dict[str, Choice]) -> float:
        given_by = outputs(Student(found, choices, given), samples)
        given_by -= given_by.mean(dim=0)
        return float((given_by - expected).norm() / expected.norm())

    choices = {"stem": FACTORED, "first": form, "second": form}
    assert error(choices) < factor * error({}) + 0.01


@pytest.mark.parametrize("form", [FACTORED, FULLY])
def test_v_has_the_scale_of_each_kernel(
    form: Choice, made: tuple[FloatNetwork, Calibration], rng: np.random.Generator
) -> None:
    """In layers one behind another: as each stands at the end, real sums over the map's."""
    found, given = made
    student = Student(found, {"stem": FACTORED, "first": form, "second": form}, given)
    for name in ("stem", "first", "second"):
        *stages, _ = student._stages[name]
        layer = next(one for one in found.layers if one.name == name)
        *kernels, v = _parts(torch.from_numpy(layer.weights).float(), student.choices[name])
        scale = torch.ones(v.shape[1], dtype=torch.float64)
        for stage, real in zip(stages, kernels, strict=True):
            scale *= student._part(stage.layer).worth(real)
        # A map of integers has no finer steps, where kernels of small singular values end.
        matter = v.norm(dim=(0, 2)) > 0.05 * v.norm(dim=(0, 2)).max()
        ratio = student._part(layer).weights.w.detach()[:, :, 0] / (v[:, :, 0] * scale)
        ratio = ratio[:, matter]
        assert float((ratio / ratio.median() - 1).abs().max()) < 0.03


def test_training_and_evaluation_see_the_same_basis_maps(
    made: tuple[FloatNetwork, Calibration], rng: np.random.Generator
) -> None:
    """Also of kernels whose sums are multiplied with less than unit variance would take."""
    found, given = made
    given = dataclasses.replace(given, scales=(32 * given.scales[0], *given.scales[1:]))
    kernels = Choice(kernels=10, qu=1, qv=4, factored=True)
    student = Student(found, {"stem": kernels}, given)
    x = torch.from_numpy(rng.uniform(0, 1, (200, 3, SIZE, SIZE)).astype(np.float32))
    student.settle([x])
    stage = student._stages["stem"][0]
    basis = student._part(stage.layer)
    assert float(basis.gain().max()) == pytest.approx(basis.most)
    maps = student._quantise(x, "input", None)
    with torch.no_grad():
        seen = [basis.train(mode)(maps, stage.layer, stage.given.scale) for mode in (True, False)]
    assert float((seen[0] - seen[1]).abs().max()) < 0.1 * float(seen[1].std())


def test_the_float_module_computes_the_network(
    made: tuple[FloatNetwork, Calibration], rng: np.random.Generator
) -> None:
    x = rng.uniform(0, 1, (20, SIZE, SIZE, 3)).astype(np.float32)
    found = FloatModule(made[0])(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(found, made[0].run(x).reshape(20, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "form",
    [
        lambda w: StoredWeights(w, 1),
        lambda w: StoredWeights(w, 2),
        lambda w: StoredWeights(w, 8),
        lambda w: IntraWeights(w, Choice(terms=3, qb=8, qu=8)),
        lambda w: IntraWeights(w, Choice(terms=1, qb=1, qu=2)),
        lambda w: IntraWeights(w, Choice(terms=2, qu=3, code=Code.POWER_OF_TWO)),
        lambda w: CrossWeights(w, Choice(terms=2, kernels=9, qu=3, code=Code.POWER_OF_TWO)),
        lambda w: CrossWeights(w, Choice(kernels=5, qu=4, qv=4)),
        lambda w: CrossWeights(w, Choice(terms=2, kernels=9, qb=4, qu=4, qv=6)),
    ],
)
def test_weights_are_those_of_golden(form, rng: np.random.Generator) -> None:
    weights = form(torch.from_numpy(rng.standard_normal((10, 7, 9)).astype(np.float32)))
    golden = weights.golden()
    np.testing.assert_array_equal(golden.W, weights().detach().numpy())
    weights().square().sum().backward()
    for parameter in weights.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.abs().sum() > 0)


def test_the_cross_level_shifts_by_what_the_hardware_can(rng: np.random.Generator) -> None:
    w = torch.from_numpy(rng.standard_normal((10, 7, 9)).astype(np.float32))
    weights = CrossWeights(w, Choice(kernels=2, qu=2, qv=2))
    assert weights.s2 == weights.golden().s2 == 1
    np.testing.assert_array_equal(weights.golden().W, weights().detach().numpy())


def test_many_bits_and_full_ranks_keep_the_weights(rng: np.random.Generator) -> None:
    w = rng.standard_normal((10, 12, 9)).astype(np.float32)
    for weights in (
        StoredWeights(torch.from_numpy(w), 8),
        CrossWeights(torch.from_numpy(w), Choice(kernels=10, qu=8, qv=8)),
    ):
        found = weights().detach().numpy().reshape(10, -1)
        cosine = np.sum(found * w.reshape(10, -1), axis=1)
        cosine /= np.linalg.norm(found, axis=1) * np.linalg.norm(w.reshape(10, -1), axis=1)
        assert cosine.min() > 0.99


def test_shift8_is_that_of_golden() -> None:
    from golden.fixed import clamp8, round_shift

    sums = torch.arange(-70000, 70000, 7).float()
    for shift in (0, 1, 5, 9):
        expected = clamp8(round_shift(sums.numpy().astype(np.int64), shift))
        np.testing.assert_array_equal(shift8(sums, shift).numpy(), expected)


@pytest.mark.parametrize("q", range(1, 9))
def test_integers_use_their_range(q: int, rng: np.random.Generator) -> None:
    latent = torch.from_numpy(rng.standard_normal((3, 4000)).astype(np.float32))
    found = integers(latent * torch.tensor([[1e-3], [1.0], [1e3]]), q)
    high = max(1, 2 ** (q - 1) - 1)
    assert -high <= found.min() <= -0.9 * high
    assert 0.9 * high <= found.max() <= high
    # The step follows the values' scale, row by row.
    np.testing.assert_array_equal(integers(latent[:1] * 7.0, q), integers(latent[:1], q))


def test_powers_of_two_are_the_nearest_at_a_good_step(rng: np.random.Generator) -> None:
    latent = torch.from_numpy(rng.standard_normal((1, 20000)))
    found = integers(latent, 3, Code.POWER_OF_TWO)
    values = np.array([-4, -2, -1, 0, 1, 2, 4])
    x = latent.numpy()[0]

    def nearest(one):
        return values[np.abs(x[:, np.newaxis] / one - values).argmin(axis=1)]

    one = float(step(latent, 3, Code.POWER_OF_TWO))
    np.testing.assert_array_equal(found.numpy()[0], nearest(one))
    error = {
        factor: np.square(x - factor * one * nearest(factor * one)).mean()
        for factor in (0.8, 1.0, 1.25)
    }
    assert min(error, key=error.__getitem__) == 1.0


def bright(rng: np.random.Generator, count: int) -> Samples:
    """Classes that a network can learn: which of five places is bright."""
    labels = rng.integers(0, 5, count)
    x = rng.uniform(0, 0.4, (count, SIZE, SIZE, 3)).astype(np.float32)
    for n, label in enumerate(labels):
        x[n, label, 1:7] += 0.5
    return samples_from(x, labels)


OPTIONS = Options(epochs=5, batch=20, held_out=100, rate=0.05, orthonormality=0.1)
BRIEF = dataclasses.replace(OPTIONS, epochs=1)


def test_training_resumes_where_it_stopped(
    made: tuple[FloatNetwork, Calibration], rng: np.random.Generator, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(figures) -> None:
        if figures["epoch"] == 2:
            raise Stop

    samples = bright(rng, 600)
    teacher = FloatModule(made[0])
    whole = Student(made[0], CHOICES, made[1])
    figures = fit(whole, None, samples, OPTIONS, tmp_path / "whole")
    assert figures[-1]["loss"] < figures[0]["loss"]
    assert accuracy(whole, samples) > 40  # Of 20 by chance.

    with pytest.raises(Stop):
        fit(
            Student(made[0], CHOICES, made[1]),
            None,
            samples,
            OPTIONS,
            tmp_path / "stopped",
            report=stop,
        )
    again = Student(made[0], CHOICES, made[1])
    assert fit(again, None, samples, OPTIONS, tmp_path / "stopped") == figures
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name

    other = dataclasses.replace(OPTIONS, rate=0.01)
    with pytest.raises(InputError, match="other settings"):
        fit(again, teacher, samples, other, tmp_path / "whole")
    with pytest.raises(InputError, match="too few"):
        fit(again, teacher, bright(rng, 150), OPTIONS, tmp_path / "new")


def test_of_epochs_as_good_the_last_is_chosen() -> None:
    """Of 100 samples at 90 %, a standard deviation is 3."""

    def epoch(*right: float) -> int:
        figures = [{"epoch": n, "held_out": one} for n, one in enumerate(right, 1)]
        return int(chosen(figures, 100)["epoch"])

    assert epoch(10) == 1
    assert epoch(80, 90, 87.01) == 3
    assert epoch(80, 90, 86.99) == 2
    assert epoch(87.5, 90, 88, 80) == 3
    assert epoch(100, 99) == 1


def test_the_student_is_that_of_the_epoch_chosen(
    made: tuple[FloatNetwork, Calibration],
    rng: np.random.Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = iter([50.0, 90.0, 89.0, 20.0, 10.0])
    states = []

    def measured(student: Student, held_out: Samples) -> float:
        states.append({name: value.clone() for name, value in student.state_dict().items()})
        return next(scores)

    monkeypatch.setattr("insitu.train.loop.accuracy", measured)
    student = Student(made[0], CHOICES, made[1])
    fit(student, None, bright(rng, 600), OPTIONS, tmp_path / "checkpoint")
    for name, value in student.state_dict().items():
        assert torch.equal(value, states[2][name]), name


@pytest.mark.parametrize("count", [*range(1, 5), 9, 10, 11])
def test_a_training_may_be_of_any_number_of_steps(
    made: tuple[FloatNetwork, Calibration], rng: np.random.Generator, tmp_path: Path, count: int
) -> None:
    student = Student(made[0], CHOICES, made[1])
    options = dataclasses.replace(BRIEF, held_out=5)
    figures = fit(student, None, bright(rng, 20 * count + 5), options, tmp_path / "checkpoint")
    assert math.isfinite(figures[-1]["loss"])


def test_a_training_that_diverges_is_ended(
    made: tuple[FloatNetwork, Calibration], rng: np.random.Generator, tmp_path: Path
) -> None:
    student = Student(made[0], CHOICES, made[1])
    with torch.no_grad():
        student.layer_classes.bias[0] = math.nan
    with pytest.raises(InputError, match="loss of epoch 1 is no number"):
        fit(student, None, bright(rng, 600), OPTIONS, tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_coherence_is_of_every_set_of_bases_once(
    made: tuple[FloatNetwork, Calibration], rng: np.random.Generator
) -> None:
    """V's columns and the rows of each kernel's B, of a layer that has both."""
    both = Choice(terms=2, kernels=8, qb=4, qu=4, qv=4)
    student = Student(made[0], {"first": both}, made[1])
    weights = student.layer_first.weights
    with torch.no_grad():  # They begin as orthogonal.
        for factor in (weights.v, weights.basis.b):
            factor.copy_(torch.from_numpy(rng.standard_normal(factor.shape)))

    def cosines(rows: np.ndarray) -> float:
        normal = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
        square = np.square(normal @ normal.swapaxes(-1, -2))
        apart = ~np.eye(rows.shape[-2], dtype=bool)
        return float(square[..., apart].mean())

    v, b = weights.v.detach().numpy(), weights.basis.b.detach().numpy()
    expected = (cosines(v.T) + cosines(b)) / len(student.choices)
    assert float(student.coherence().detach()) == pytest.approx(expected, rel=1e-4)


def test_settling_gives_the_statistics_of_the_weights_as_they_are(
    made: tuple[FloatNetwork, Calibration], rng: np.random.Generator
) -> None:
    student = Student(made[0], CHOICES, made[1])
    batches = [bright(rng, 60).real() for _ in range(3)]
    with torch.no_grad():
        student.layer_stem.weights.w *= -1
    student.settle(batches)
    norm = student.layer_stem.norm
    kept = norm.running_mean.clone(), norm.running_var.clone()
    seen = []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    student.settle(batches)
    for found, again in zip(kept, (norm.running_mean, norm.running_var), strict=True):
        torch.testing.assert_close(found, again)
    means = torch.stack([sums.mean(dim=(0, 2, 3)) for sums in seen]).mean(dim=0)
    variances = torch.stack([sums.var(dim=(0, 2, 3)) for sums in seen]).mean(dim=0)
    torch.testing.assert_close(kept[0], means)
    torch.testing.assert_close(kept[1], variances)


def test_distillation_follows_the_teacher(
    made: tuple[FloatNetwork, Calibration], rng: np.random.Generator, tmp_path: Path
) -> None:
    samples = bright(rng, 600)
    teacher = FloatModule(made[0])
    wanted = outputs(teacher, samples).numpy()
    student = Student(made[0], CHOICES, made[1])
    with torch.no_grad():
        student.layer_classes.weights.w.mul_(-1)
    options = dataclasses.replace(OPTIONS, distillation=1.0, shift=1, mirror=True, cutout=2)
    before = distance(outputs(student, samples).numpy(), wanted)
    fit(student, teacher, samples, options, tmp_path / "checkpoint")
    assert distance(outputs(student, samples).numpy(), wanted) < 0.1 * before


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"missing": Choice()}, "no layer 'missing'"),
        ({"first": Choice(kernels=13)}, "layer 'first' cannot have 13 kernels"),
        ({"wide": Choice(terms=10)}, "layer 'wide' cannot have 10 terms"),
        ({"depthwise": Choice(terms=1)}, "layer 'depthwise' has groups"),
        ({"classes": Choice(terms=1)}, "layer 'classes' gives the network's output"),
    ],
)
def test_impossible_choices_are_refused(
    made: tuple[FloatNetwork, Calibration], choices: dict[str, Choice], message: str
) -> None:
    with pytest.raises(FitError, match=message):
        Student(made[0], choices, made[1])


def test_other_kinds_of_layer_are_refused(made: tuple[FloatNetwork, Calibration]) -> None:
    function = FloatFunction(name="odd", inputs=("classes",), function=np.tanh)
    other = FloatNetwork("test", made[0].input_shape, (*made[0].layers, function))
    with pytest.raises(FitError, match="layer 'odd' is a function"):
        FloatModule(other)


def renamed(network: FloatNetwork, names: dict[str, str]) -> FloatNetwork:
    """The network with other names for some layers."""
    layers = tuple(
        dataclasses.replace(
            layer,
            name=names.get(layer.name, layer.name),
            inputs=tuple(names.get(source, source) for source in layer.inputs),
        )
        for layer in network.layers
    )
    return dataclasses.replace(network, layers=layers)


def test_names_that_are_the_same_in_pytorch_are_refused(
    made: tuple[FloatNetwork, Calibration], rng: np.random.Generator
) -> None:
    found = renamed(made[0], {"first": "a.b", "second": "a_b"})
    with pytest.raises(FitError, match="two layers would be called 'a_b'"):
        FloatModule(found)
    with pytest.raises(FitError, match="two layers would be called 'a_b'"):
        Student(found, {}, calibration(found, rng))
    found = renamed(made[0], {"first": "a_basis", "second": "a"})
    choices = {"a": Choice(kernels=7, qu=3, qv=5, factored=True)}
    with pytest.raises(FitError, match=r"two layers would be called 'a\.basis'"):
        Student(found, choices, calibration(found, rng))


def test_a_layer_may_be_called_as_anothers_bias(
    made: tuple[FloatNetwork, Calibration], rng: np.random.Generator
) -> None:
    found = renamed(made[0], {"first": "a", "second": "a_bias"})
    x = rng.uniform(0, 1, (4, SIZE, SIZE, 3)).astype(np.float32)
    batch = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    assert torch.equal(FloatModule(found)(batch), FloatModule(made[0])(batch))
    check_against_golden(Student(found, {}, calibration(found, rng)), rng)
