"""The networks for CIFAR-10 that examples/mlperf_tiny holds, on `up5k`."""

import numpy as np
import pytest

from golden.network import run
from insitu.network import load
from insitu.pack import make_image
from insitu.plan import plan
from insitu.simulate import simulate_image
from rtl.config import configuration
from sim.build import ROOT

FOLDER = ROOT / "examples" / "mlperf_tiny"
UP5K = configuration("up5k")


@pytest.mark.parametrize("name", ["resnet20_up5k", "ic2_up5k", "ic2_46kb", "ic2_solver"])
def test_fits_as_documented(name):
    planned = plan(load(FOLDER / f"{name}.npz"), UP5K, name=name)
    text = (ROOT / "docs" / "compression.md").read_text()
    assert f"{planned.cycles:,}" in text
    assert f"{planned.payload_bytes:,}" in text
    assert UP5K.clock_hz / planned.cycles >= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "apart"),
    [("resnet20_up5k", 0), ("ic2_up5k", 0), ("ic2_solver", 10)],  # It has a depthwise layer.
)
def test_the_rtl_computes_what_golden_does(name, apart, seed):
    network = load(FOLDER / f"{name}.npz")
    image = make_image(plan(network, UP5K, name=name))
    x = np.random.default_rng(seed).integers(-128, 128, (1, *network.input_shape)).astype(np.int8)
    found = simulate_image(image, x)
    assert found.mismatches == 0
    np.testing.assert_array_equal(found.outputs, run(network, x))
    assert abs(found.cycles - found.predicted) <= apart
