"""The networks of examples/onnx: what they are, and how golden agrees with ONNX Runtime on them."""

import numpy as np
import onnx
import pytest

from examples.onnx import networks
from insitu.evaluate import evaluate, read_inputs
from insitu.import_onnx import import_onnx
from insitu.models import load_model
from insitu.pack import make_image
from insitu.plan import plan
from insitu.simulate import simulate_image
from rtl.config import CONFIGURATIONS

PARAMETERS = {
    "resnet18": 11_173_962,
    "densenet121": 6_956_298,
    "mobilenetv2": 3_504_872,
    "mobilenetv3": 2_542_856,
}
"""Trained ones, of the well-known implementations in PyTorch."""


def made(name, rng, size):
    build, _, classes = networks.NETWORKS[name]
    builder = networks.Builder(rng, networks.images(rng, 2, size))
    build(builder)
    return builder.model(name, classes)


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_are_those_that_were_published(name, tmp_path, seed):
    """Their number of parameters; on small images, which need the same."""
    model = made(name, np.random.default_rng(seed), 32)
    onnx.checker.check_model(model, full_check=True)
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    trained = {"BatchNormalization": slice(1, 3), "Conv": slice(1, None), "Gemm": slice(1, None)}
    count = sum(
        sizes[tensor]
        for node in model.graph.node
        if node.op_type in trained
        for tensor in node.input[trained[node.op_type]]
    )
    assert count == PARAMETERS[name]
    onnx.save(model, tmp_path / "net.onnx")
    assert import_onnx(tmp_path / "net.onnx").input_shape == (32, 32, 3)


def test_the_same_seed_makes_the_same_file(seed):
    first, again = (made("mobilenetv3", np.random.default_rng(seed), 32) for _ in range(2))
    assert first.SerializeToString() == again.SerializeToString()
    assert first != made("mobilenetv3", np.random.default_rng(seed + 1), 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3"])
def test_every_layer_agrees_with_onnx_runtime(name, tmp_path):
    networks.write(name, tmp_path, 4, 0)
    for form in ("qdq", "qlinear"):
        model = load_model(tmp_path / f"{name}_{form}.onnx")
        inputs = read_inputs(tmp_path / f"{name}_inputs.npz", model.network)
        comparison = evaluate(model, inputs, compare=True)["comparison"]
        layers = comparison["alone"]["layers"]
        assert list(layers) == [layer.name for layer in model.network.layers]
        for layer, found in layers.items():
            assert found["largest"] <= 1, layer
            assert found["different"] <= max(1, 1e-4 * found["values"]), layer
        assert comparison["kernels"]["reference"]["same_class"] >= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("form", ["", "_qdq", "_qlinear"])
def test_the_rtl_equals_golden(form, tmp_path):
    """From ONNX Runtime's quantiser, and from floating point, to the RTL."""
    networks.write("small", tmp_path, 4, 0)
    samples = tmp_path / "small_calibration.npz"
    options = {} if form else {"calibration": samples}
    network = load_model(tmp_path / f"small{form}.onnx", **options).network
    x = read_inputs(tmp_path / "small_inputs.npz", network).integers[:2]
    planned = plan(network, CONFIGURATIONS["sim-8x1"])
    result = simulate_image(make_image(planned), x, layers=True, network=network)
    assert result.values >= 2 * 14_000
    assert result.mismatches == 0
