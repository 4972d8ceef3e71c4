"""Networks on boards: figures against what can be counted by hand, and what does not fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import insitu.bench
from golden.network import Network
from insitu.bench import EXAMPLES, bench, dense
from insitu.errors import InputError
from insitu.network import load, save
from insitu.plan import plan
from rtl.config import CONFIGURATIONS
from tests.insitu.networks import random_generated, random_network, random_stored
from tests.insitu.test_bands import short

__all__ = ["short"]

UP5K = CONFIGURATIONS["up5k"]


def board(name="this", clock=24.0, configuration="up5k"):
    """A board of the catalogue."""
    area = {"lut": {"used": 3000}, "dsp": {"used": 8}}
    build = None if clock is None else {"clock_mhz": clock, "utilisation": area}
    return {"board": name, "configuration": configuration, "build": build}


def factored(rng) -> Network:
    """A layer of 3 x 3 taps and stride 2 as basis kernels and a pointwise layer; one behind it."""
    layers = [
        {
            "weights": random_generated(rng, 5, 4, 9, terms=2, s1=0),
            "kernel": (3, 3),
            "stride": (2, 2),
            "padding": (1, 1, 1, 1),
        },
        {"weights": random_stored(rng, 12, 5, 1, 3), "kernel": (1, 1)},
        {"weights": random_stored(rng, 6, 12, 12, 4), "kernel": (4, 3)},
    ]
    made = random_network(rng, layers, (8, 6, 4))
    first, second, last = made.layers
    first = replace(first, name="conv.basis")
    second = replace(second, name="conv", inputs=("conv.basis",))
    return replace(made, layers=(first, second, replace(last, inputs=("conv",))))


def fully_factored(rng) -> Network:
    """The same with a pointwise layer before a depthwise one in place of the basis kernels."""
    layers = [
        {"weights": random_stored(rng, 6, 4, 1, 4), "kernel": (1, 1)},
        {
            "weights": random_stored(rng, 6, 1, 9, 3),
            "kernel": (3, 3),
            "stride": (2, 2),
            "padding": (1, 1, 1, 1),
            "groups": 6,
        },
        {"weights": random_stored(rng, 12, 6, 1, 3), "kernel": (1, 1)},
    ]
    made = random_network(rng, layers, (8, 6, 4))
    names = "conv.coefficients", "conv.basis", "conv"
    inputs = "input", *names[:2]
    return replace(
        made,
        layers=tuple(
            replace(layer, name=name, inputs=(before,))
            for layer, name, before in zip(made.layers, names, inputs, strict=True)
        ),
    )


def test_fully_factored_layers_are_joined(seed):
    network = fully_factored(np.random.default_rng(seed))
    U, B, V = (layer.weights.W.astype(int) for layer in network.layers)
    (joined,) = dense(network).layers
    assert (joined.name, joined.inputs, joined.kernel) == ("conv", ("input",), (3, 3))
    assert (joined.stride, joined.padding, joined.groups) == ((2, 2), (1, 1, 1, 1), 1)
    assert joined.input_zero_point == network.layers[0].input_zero_point
    products = np.zeros((12, 4, 9))
    for o in range(12):
        for j in range(6):
            products[o] += V[o, j, 0] * np.outer(U[j, :, 0], B[j, 0])
    scale = max(1, np.abs(products).max() / 15)
    np.testing.assert_array_equal(joined.weights.W, np.round(products / scale).astype(np.int8))


def test_factored_layers_are_joined(seed):
    network = factored(np.random.default_rng(seed))
    joined, last = dense(network).layers
    basis, mixed, _ = network.layers
    assert (joined.name, joined.inputs, joined.kernel) == ("conv", basis.inputs, (3, 3))
    assert (joined.stride, joined.padding) == ((2, 2), (1, 1, 1, 1))
    assert joined.input_zero_point == basis.input_zero_point
    assert joined.weights.shape == (12, 4, 9)
    assert joined.weights.q == last.weights.q == 8
    products = np.zeros((12, 4, 9))
    for o in range(12):
        for b in range(5):
            products[o] += int(mixed.weights.W[o, b, 0]) * basis.weights.W[b].astype(int)
    scale = max(1, np.abs(products).max() / 15)
    assert np.abs(joined.weights.W - products / scale).max() <= 0.5
    np.testing.assert_array_equal(last.weights.W, network.layers[2].weights.W)


def test_an_example_becomes_the_network_it_was_compressed_from():
    layers = dense(load(EXAMPLES[1])).layers
    weights = sum(one.weights.W.size for one in layers if hasattr(one, "weights"))
    pooling = 160 * 64
    assert weights - pooling == 479_480  # docs/compression.md


def test_other_layers_stay(seed):
    network = factored(np.random.default_rng(seed))
    first, *rest = network.layers
    network = replace(
        network,
        layers=(
            replace(first, name="other"),
            replace(rest[0], inputs=("other",)),
            *rest[1:],
        ),
    )
    assert [layer.name for layer in dense(network).layers] == [
        layer.name for layer in network.layers
    ]


def test_figures(tmp_path, seed):
    network = factored(np.random.default_rng(seed))
    save(network, tmp_path / "net.npz")
    report = bench([tmp_path / "net.npz"], [board(), board("faster", clock=30.0)])
    slow, fast = report["rows"]
    assert (slow["network"], slow["board"], fast["board"]) == ("net", "this", "faster")
    small, large = slow["compressed"], slow["stored"]
    # A map of 4 x 3 pixels, then one pixel.
    assert small["macs"] == 12 * (5 * 4 * 9 + 12 * 5) + 6 * 12 * 12
    assert large["macs"] == 12 * 12 * 4 * 9 + 6 * 12 * 12
    assert (small["weights"], large["weights"]) == (5 * 36 + 60 + 864, 12 * 36 + 864)
    for figures, form in ((small, network), (large, dense(network))):
        planned = plan(form, UP5K)
        assert figures["cycles"] == planned.cycles
        assert figures["source"] == "cost model"
        assert figures["frames_per_second"] == pytest.approx(24e6 / planned.cycles, abs=0.05)
        assert figures["mac_utilisation"] == pytest.approx(
            figures["macs"] / 8 / planned.cycles, abs=1e-4
        )
        assert figures["payload_bytes"] == planned.payload_bytes
        assert figures["fits"]
    assert fast["stored"]["frames_per_second"] == pytest.approx(30e6 / large["cycles"], abs=0.05)
    assert report["mismatches"] == 0


def test_weights_that_do_not_fit_are_timed_all_the_same(tmp_path, seed):
    rng = np.random.default_rng(seed)
    layers = [{"weights": random_stored(rng, 160, 64, 9, 4), "kernel": (3, 3)}]
    save(random_network(rng, layers, (4, 4, 64)), tmp_path / "net.npz")
    (row,) = bench([tmp_path / "net.npz"], [board()])["rows"]
    small, large = row["compressed"], row["stored"]
    assert small["fits"]
    assert not large["fits"]
    assert large["payload_bytes"] >= 160 * 64 * 9 > large["coefficient_bytes"] == 65536
    # Weights come at 32 bits a cycle: four, for eight lanes.
    assert large["cycles"] > 4 * 160 * 64 * 9 / 4 > small["cycles"]


def test_a_shorter_program_in_bands_of_rows_fits(short, tmp_path, monkeypatch):
    config, network = short
    save(network, tmp_path / "net.npz")
    some = replace(config, coefficient_bytes=8 << 10)
    monkeypatch.setattr(insitu.bench, "configuration", lambda name: some)
    (row,) = bench([tmp_path / "net.npz"], [board()])["rows"]
    planned = plan(network, some)
    assert row["compressed"]["fits"]
    assert row["compressed"]["payload_bytes"] == planned.payload_bytes
    assert row["compressed"]["cycles"] == planned.cycles


def test_maps_that_do_not_fit_are_named(tmp_path, seed):
    rng = np.random.default_rng(seed)
    layers = [{"weights": random_stored(rng, 4, 3, 1, 4), "kernel": (1, 1)}]
    save(random_network(rng, layers, (160, 150, 3)), tmp_path / "net.npz")
    (row,) = bench([tmp_path / "net.npz"], [board()])["rows"]
    assert "activation memory" in row["compressed"]["misfit"]
    assert "frames_per_second" not in row["compressed"]


def test_a_board_that_was_never_built_has_no_clock():
    with pytest.raises(InputError, match="that was never placed and routed") as error:
        bench(EXAMPLES, [board("that", clock=None)])
    assert "insitu build --board that" in error.value.next_step


def test_cycles_of_the_rtl(tmp_path, seed, monkeypatch):
    network = factored(np.random.default_rng(seed))
    save(network, tmp_path / "net.npz")
    ran = []

    def simulate(image, inputs, *, network, progress):
        assert inputs.shape == (1, 8, 6, 4)
        ran.append(image.metadata["configuration"])
        return type("Result", (), {"cycles": 1000 * len(ran), "mismatches": 2})

    monkeypatch.setattr(insitu.bench, "simulate_image", simulate)
    monkeypatch.setattr(insitu.bench, "prepare", lambda config, progress: None)
    report = bench([tmp_path / "net.npz"], [board()], rtl=True)
    (row,) = report["rows"]
    assert ran == ["up5k", "up5k"]
    assert (row["compressed"]["cycles"], row["stored"]["cycles"]) == (1000, 2000)
    assert row["compressed"]["source"] == "RTL"
    assert report["mismatches"] == 4


@pytest.mark.slow
def test_the_rtl_agrees(tmp_path: Path, seed):
    save(factored(np.random.default_rng(seed)), tmp_path / "net.npz")
    paper, real = (bench([tmp_path / "net.npz"], [board()], rtl=rtl) for rtl in (False, True))
    assert real["mismatches"] == 0
    for form in ("compressed", "stored"):
        before, after = (report["rows"][0][form]["cycles"] for report in (paper, real))
        assert abs(after - before) <= 16 * 3
