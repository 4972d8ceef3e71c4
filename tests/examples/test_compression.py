"""The scripts of examples/compression: what they count, and what they run instead of golden."""

from dataclasses import replace

import numpy as np
import pytest

from examples.compression import ablation, budgets, intermediates, resnet18, summing, up5k
from golden.network import run
from insitu.choice import Choice
from insitu.compress import compress, compress_weights
from insitu.errors import FitError, InputError
from insitu.float_network import FloatConvolution, FloatNetwork
from insitu.network import load, save, to_bytes
from insitu.plan import plan
from insitu.quantise import calibrate, quantise
from rtl.config import CONFIGURATIONS
from sim.build import ROOT
from tests.insitu import test_menu
from tests.insitu.networks import random_convolution
from tests.insitu.test_bands import short
from tests.insitu.test_menu import calibrated, few

__all__ = ["few", "short"]

PAPER = resnet18.Bits(kernels=44, qb=3, qu=6, qv=3)


def layer(co, ci, taps, **options):
    side = int(taps**0.5)
    return FloatConvolution(
        name="a", kernel=(side, side), weights=np.ones((co, ci, taps)), bias=np.zeros(co), **options
    )


def test_bits_are_the_papers():
    """By hand: a layer of both levels, one without the intra level, and the last layer."""
    network = FloatNetwork(
        "net", (8, 8, 64), (layer(64, 64, 9), layer(128, 64, 1), layer(10, 128, 1, dense=True))
    )
    assert resnet18.paper_bits(network, PAPER) == {
        "convolutions": 44 * 2 * (64 * 6 + 9 * 3) + 64 * 44 * 3 + 44 * 64 * 3 + 128 * 44 * 3,
        "normalisation": 2 * (64 + 128) * 32,
        "last layer": 8 * 1280,
        "bias": 320,
    }
    assert network.weights == 64 * 64 * 9 + 128 * 64 + 1280
    assert resnet18.float_bits(network) == 32 * (network.weights + 2 * (64 + 128) + 10)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("stored", 64 * 64 * 9 * 16),
        ("generated", 64 * 64 * 9 * (16 + 44)),
        ("factored", (44 * 64 * 9 + 64 * 44) * 16),
        ("fully factored", 88 * 64 * 64 + (88 * 9 + 64 * 88) * 16),
    ],
)
def test_multiplications(form, expected):
    """A layer of stride 2: 64 pixels are read, 16 are made."""
    one = layer(64, 64, 9, stride=(2, 2))
    choice = resnet18.choice_for(one, PAPER, form)
    assert choice.dataflow == form.replace("generated", "cross")
    assert resnet18.macs(one, choice, 64, 16) == expected


def test_int8_intermediates_are_goldens(seed):
    network = load(ROOT / "examples" / "mlperf_tiny" / "ic2_up5k.npz")
    x = np.random.default_rng(seed).integers(-128, 128, (1, 32, 32, 3)).astype(np.int8)
    found = intermediates.with_intermediates(network, x, intermediates.int8)
    np.testing.assert_array_equal(found, run(network, x))
    exact = intermediates.with_intermediates(network, x, intermediates.FORMS["not rounded"])
    assert exact.shape == found.shape


def test_int8_intermediates_are_goldens_where_all_is_factored(seed):
    """Three layers of one: pointwise, depthwise, pointwise."""
    rng = np.random.default_rng(seed)
    settings = {"padding": (2, 0, 1, 3), "stride": (2, 2), "dilation": (2, 2), "low": 0.0}
    network = FloatNetwork(
        "n", (9, 8, 3), (random_convolution(rng, "a", "input", 16, 3, 3, **settings),)
    )
    calibration = calibrate(network, rng.uniform(0, 1, (30, 9, 8, 3)).astype(np.float32))
    choices = {"a": Choice(terms=2, kernels=8, qv=3, factored=True, fully=True)}
    made, _ = compress(network, calibration, choices, CONFIGURATIONS["sim-8x1"])
    made = intermediates.rounded_once(made)
    assert [layer.name for layer in made.layers] == ["a.coefficients", "a.basis", "a"]
    x = rng.integers(-128, 128, (5, 9, 8, 3)).astype(np.int8)
    found = intermediates.with_intermediates(made, x, intermediates.int8)
    np.testing.assert_array_equal(found, run(made, x))
    exact = intermediates.with_intermediates(made, x, intermediates.FORMS["not rounded"])
    apart = np.abs(exact.astype(int) - found)
    assert 0 < apart.max() < 20


def test_the_ablation_fits_as_compress_does(seed):
    """With the library's fit the integers of the whole network are those of the library."""
    rng = np.random.default_rng(seed)
    layers = []
    for name, co, ci in (("a", 6, 3), ("b", 5, 6)):
        weights = rng.normal(size=(co, ci, 9))
        layers.append(replace(layer(co, ci, 9), name=name, weights=weights, low=0.0))
    layers[1] = replace(layers[1], inputs=("a",))
    network = FloatNetwork("net", (6, 6, 3), tuple(layers))
    samples = rng.normal(size=(20, 6, 6, 3)).astype(np.float32)
    calibration, config = calibrate(network, samples), CONFIGURATIONS["sim-8x1"]
    choices = {"a": Choice(q=3), "b": Choice(terms=2, qb=4, qu=3)}
    made = ablation.built(network, calibration, choices, config, compress_weights)
    assert to_bytes(made) == to_bytes(compress(network, calibration, choices, config)[0])
    other = ablation.built(network, calibration, choices, config, ablation.svd_rounded)
    assert to_bytes(other) != to_bytes(made)


@pytest.mark.parametrize(
    ("choices", "what"),
    [
        ({}, "no form for layer 'a'"),
        ({"a": Choice(kernels=8, qv=4, q=4)}, "a second level for layer 'a'"),
        ({"a": Choice(kernels=8, qv=4, terms=2, qb=4, qu=4, factored=True)}, "a second level"),
    ],
)
def test_the_ablation_is_of_the_first_level(choices, what):
    network = FloatNetwork("net", (8, 8, 64), (layer(64, 64, 9),))
    with pytest.raises(InputError, match=what):
        ablation.check("some", choices, network)
    ablation.check("some", {"a": Choice(terms=2, qb=4, qu=4)}, network)


def test_integers_are_rounded_to_themselves(seed):
    rng = np.random.default_rng(seed)
    U, B = rng.integers(-3, 4, (5, 4, 2)), rng.integers(-7, 8, (5, 2, 9))
    U[:, 0], B[:, :, 0] = 3, 7
    scale = rng.uniform(0.1, 10, 5)
    wanted = scale[:, np.newaxis, np.newaxis] * (U @ B)
    choice = Choice(terms=2, qb=4, qu=3)
    real = scale[:, np.newaxis, np.newaxis] * U
    found, scales = ablation.rounded(real, B, wanted, choice, CONFIGURATIONS["sim-8x1"], None)
    np.testing.assert_array_equal(found.U, U)
    np.testing.assert_array_equal(found.B, B)
    np.testing.assert_allclose(scales[:, np.newaxis, np.newaxis] * found.W, wanted)


def test_documentation_has_the_table_of_where_terms_are_summed():
    text = (ROOT / "docs/compression.md").read_text()
    assert "\n".join(summing.rows()) in text


@pytest.mark.parametrize(("kilobytes", "says"), [(4, "7,096 too much"), (8, "fits")])
def test_what_is_too_large_for_up5k(short, kilobytes, says, tmp_path, monkeypatch):
    """Not what another program fits in."""
    config, network = short
    save(network, tmp_path / "net.npz")
    small = replace(config, coefficient_bytes=kilobytes << 10)
    monkeypatch.setattr(up5k, "CONFIG", small)
    cells = up5k.row(tmp_path / "net.npz", None).split(" | ")
    weights = sum(layer.weights.W.size for layer in network.layers if layer.kind == "convolution")
    packed = int(cells[2].split(" + ")[0].replace(",", ""))
    assert cells[1] == f"{8 * packed / weights:.2f}"
    assert cells[3] == says
    if says == "fits":
        assert cells[4].removesuffix(" |") == f"{plan(network, small).cycles:,}"


@pytest.fixture
def two(seed):
    """A network of two layers, and a calibration."""
    rng = np.random.default_rng(seed)
    first = test_menu.layer(rng, "first", "input", 16, 3, (3, 3), low=0.0)
    last = test_menu.layer(rng, "last", "first", 7, 16, (4, 4), dense=True)
    network = FloatNetwork("two", (6, 6, 3), (first, last))
    return network, calibrated(rng, network)


@pytest.mark.parametrize("plain", [False, True])
def test_budgets_are_of_everything(two, few, plain, tmp_path, monkeypatch):
    monkeypatch.setattr(budgets, "FITS", tmp_path)
    up5k = CONFIGURATIONS["up5k"]
    built = budgets.solved("two", *two, up5k, budget=1200, plain=plain)
    assert built.bytes + built.plan.parameters_base <= 1200
    counted = budgets.Counted
    weights = budgets.solved("two", *two, up5k, 1200, plain=plain, counted=counted.WEIGHTS)
    both = budgets.solved("two", *two, up5k, 1200, plain=plain, counted=counted.PARAMETERS)
    any_size = budgets.solved("two", *two, up5k, None, plain=plain)
    assert built.bytes < both.bytes < weights.bytes < any_size.bytes
    assert both.bytes <= 1200
    assert weights.plan.weight_bits // 8 <= 1200
    if not plain:
        fewer = any_size.plan.cycles - 1
        faster = budgets.solved("two", *two, up5k, None, plain=plain, cycles=fewer)
        assert faster.plan.cycles <= fewer


def test_what_exceeds_a_budget():
    memory = {"weights": 1000, "parameters": 200, "program": 30}
    for counted, size in zip(budgets.Counted, (1000, 1200, 1230), strict=True):
        assert not counted.exceeds(memory, size)
        assert counted.exceeds(memory, size - 1)
        assert not counted.exceeds(memory, None)


def test_cycles_of_stored_weights(two, monkeypatch):
    network, calibration = two
    up5k = CONFIGURATIONS["up5k"]
    cycles = budgets.cycles_stored(network, calibration, up5k)
    assert cycles == plan(quantise(network, calibration), up5k).cycles
    # As if memory were no matter, unless there is none so large.
    small = replace(up5k, coefficient_bytes=1024)
    assert budgets.cycles_stored(network, calibration, small) == cycles
    wide = replace(network.layers[0], dilation=(40, 40), padding=(80, 80, 80, 80))
    other = replace(network, layers=(wide, *network.layers[1:]))
    with pytest.raises(FitError, match="'first'"):
        budgets.cycles_stored(other, calibration, up5k)
    monkeypatch.setattr(budgets, "LARGEST_MEMORY", 1024)
    assert budgets.cycles_stored(network, calibration, up5k) is None
