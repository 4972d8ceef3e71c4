"""The networks of MLPerf Tiny on the RTL: every layer equal to golden, as fast as they must be.

Where they are: `tests/insitu/test_mlperf_tiny.py`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from golden.network import Convolution, Network, shapes
from insitu.import_tflite import import_tflite
from insitu.pack import make_image
from insitu.plan import plan
from insitu.prune import prune
from insitu.simulate import Simulation, simulate_image
from rtl.config import configuration
from tests.insitu.test_mlperf_tiny import FOLDER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not FOLDER.is_dir(),
        reason=f"no folder {FOLDER}: name one with the networks in INSITU_MLPERF_TINY",
    ),
]


def simulated(
    name: str, config: str, samples: int, seed: int, *, pruned: bool = False
) -> tuple[Network, Simulation]:
    network = import_tflite(FOLDER / f"{name}_int8.tflite").network
    if pruned:
        network = prune(network).network
    planned = plan(network, configuration(config), name=name)
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (samples, *network.input_shape)).astype(np.int8)
    result = simulate_image(make_image(planned), x, layers=True, network=network)
    assert not result.mismatches, result.first
    for layer in result.layers:
        assert abs(layer.cycles - layer.predicted) <= max(16, 0.01 * layer.cycles), layer
    assert result.cycles == pytest.approx(result.predicted, rel=0.001)
    return network, result


@pytest.mark.parametrize(
    ("name", "samples", "ratio"),
    [("kws", 10, 1.05), ("ic", 10, 1.05), ("ad", 10, 1.10), ("vww", 2, 1.05), ("ic2", 2, 1.05)],
)
def test_on_eight_lanes(name: str, samples: int, ratio: float, seed: int) -> None:
    _, result = simulated(name, "sim-8x1", samples, seed)
    assert result.cycles <= ratio * result.ideal


@pytest.mark.parametrize(("name", "share"), [("ic", 0.9), ("kws", 0.5), ("vww", 0.5)])
def test_on_sixteen_lanes_of_four(name: str, share: float, seed: int) -> None:
    """Multiplications that the network needs, of those that the array could do in that time."""
    network, result = simulated(name, "sim-16x4", 1, seed)
    sizes = shapes(network)[1:]
    needed = sum(
        math.prod(size[:2]) * layer.weights.W.size
        for layer, size in zip(network.layers, sizes, strict=True)
        if isinstance(layer, Convolution)
    )
    assert needed >= share * result.cycles * 16 * 4


@pytest.mark.parametrize("config", ["up5k", "ecp5-25f", "ecp5-45f", "ecp5-85f"])
def test_keyword_spotting_fits_the_boards(config: str, seed: int) -> None:
    simulated("kws", config, 1, seed)


@pytest.mark.parametrize(("name", "samples", "pruned"), [("vww", 2, True), ("ad", 10, False)])
def test_on_the_largest_board(name: str, samples: int, pruned: bool, seed: int) -> None:
    simulated(name, "ecp5-85f", samples, seed, pruned=pruned)
