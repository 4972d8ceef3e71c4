"""Evaluation over a set: figures against their definition, LiteRT and ONNX Runtime as they are."""

import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from golden.network import run
from insitu.errors import InputError, ModelError
from insitu.evaluate import evaluate, read_inputs
from insitu.litert import LiteRT
from insitu.models import load_model
from insitu.network import save
from insitu.onnx_runtime import ONNXRuntime
from tests.golden.graphs import every_kind
from tests.insitu.models import chain, example
from tests.insitu.onnx_models import Quantised
from tests.insitu.tflite_models import classifier

SAMPLES = 230
"""More than two batches."""


@pytest.fixture
def model(tmp_path, seed):
    path = tmp_path / "net.tflite"
    path.write_bytes(classifier(np.random.default_rng(seed)))
    return load_model(path)


@pytest.fixture
def integers(seed):
    return np.random.default_rng(seed).integers(-128, 128, (SAMPLES, 7, 6, 1)).astype(np.int8)


def inputs(tmp_path, model, **arrays):
    np.savez(tmp_path / "inputs.npz", **arrays)
    last = model.channels_last
    return read_inputs(tmp_path / "inputs.npz", model.network, channels_last=last)


def test_accuracy_and_agreement(model, integers, tmp_path):
    outputs = run(model.network, integers).reshape(SAMPLES, -1)
    labels = outputs.argmax(axis=1)
    labels[:23] = (labels[:23] + 1) % 5
    steps = []
    found = inputs(tmp_path, model, inputs=integers, labels=labels)
    report = evaluate(model, found, compare=True, progress=lambda *step: steps.append(step[:2]))
    assert report["samples"] == SAMPLES
    assert report["accuracy"] == pytest.approx(0.9)
    assert steps == [(0, 230), (100, 230), (200, 230), (230, 230)]
    reference = report["comparison"]["kernels"]["reference"]
    assert reference["accuracy"] == pytest.approx(0.9)
    assert reference["equal_outputs"] == reference["same_class"] == 1
    assert reference["layers"] == {
        name: {"values": SAMPLES * size, "different": 0, "largest": 0, "samples": 0}
        for name, size in (("conv_0", 48), ("pool_1", 24), ("dense_3", 5))
    }
    default = report["comparison"]["kernels"]["default"]
    assert default["layers"].keys() == reference["layers"].keys()
    assert default["layers"]["conv_0"]["different"] < 0.1 * SAMPLES * 48


def test_what_differs_is_counted(model, integers, tmp_path):
    first, *others = model.network.layers
    bias = first.bias.copy()
    bias[1] += round(3 * 2.0 ** (31 + int(first.shift[1])) / int(first.multiplier[1]))
    spoilt = replace(model.network, layers=(replace(first, bias=bias), *others))
    right, wrong = (run(network, integers, keep=True) for network in (model.network, spoilt))
    found = inputs(tmp_path, model, inputs=integers)
    report = evaluate(replace(model, network=spoilt), found, compare=True)
    reference = report["comparison"]["kernels"]["reference"]
    assert "accuracy" not in report
    assert "accuracy" not in reference
    for layer, a, b in zip(spoilt.layers, right, wrong, strict=True):
        apart = np.abs(a.astype(int) - b.astype(int))
        assert reference["layers"][layer.name] == {
            "values": a.size,
            "different": np.count_nonzero(apart),
            "largest": apart.max(),
            "samples": np.count_nonzero(apart.reshape(SAMPLES, -1).any(axis=1)),
        }
    different = reference["layers"]["dense_3"]["samples"]
    assert different > 0
    assert reference["equal_outputs"] == pytest.approx(1 - different / SAMPLES)
    same = right[-1].reshape(SAMPLES, -1).argmax(axis=1) == wrong[-1].reshape(SAMPLES, -1).argmax(
        axis=1
    )
    assert reference["same_class"] == pytest.approx(same.mean())


def test_pruned_network_against_all_of_the_tensors(model, integers, tmp_path):
    """Channels that are left, in their order, of tensors that have all."""
    kept = {"conv_0": [1, 3], "pool_1": [1, 3]}
    first, pool, last = model.network.layers
    W = first.weights.W[[1, 3]]
    fields = {name: getattr(first, name)[[1, 3]] for name in ("bias", "multiplier", "shift")}
    smaller = replace(first, weights=replace(first.weights, W=W), **fields)
    W = last.weights.W[:, [1, 3]]
    rest = replace(last, weights=replace(last.weights, W=W))
    network = replace(model.network, layers=(smaller, pool, rest))
    pruned = replace(
        model,
        network=network,
        kept={name: np.array(channels) for name, channels in kept.items()},
    )
    report = evaluate(pruned, inputs(tmp_path, model, inputs=integers), compare=True)
    layers = report["comparison"]["kernels"]["reference"]["layers"]
    assert [layers[name]["different"] for name in kept] == [0, 0]
    assert layers["conv_0"]["values"] == SAMPLES * 24
    assert layers["dense_3"]["different"] > 0


@pytest.mark.parametrize("shape", [(SAMPLES, 7, 6, 1), (SAMPLES, 7, 6), (SAMPLES, 1, 7, 6, 1)])
def test_integers_are_taken_as_they_are(model, integers, shape, tmp_path):
    found = inputs(tmp_path, model, inputs=integers.reshape(shape))
    np.testing.assert_array_equal(found.integers, integers)
    assert found.real is None
    assert found.labels is None


def test_real_inputs_are_quantised(model, integers, tmp_path):
    scale, zero_point = model.network.input_scale, model.network.input_zero_point
    real = ((integers.astype(np.float64) - zero_point) * scale).astype(np.float32)
    found = inputs(tmp_path, model, inputs=real)
    np.testing.assert_array_equal(found.integers, integers)


def test_integer_network_takes_real_inputs_of_either_order(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path / "net.onnx"
    onnx.save(example(rng), path)
    x = rng.random((5, 3, 9, 8), np.float32)
    np.savez(tmp_path / "calibration.npz", inputs=x)
    save(load_model(path).network, tmp_path / "net.npz")
    model = load_model(tmp_path / "net.npz")
    first = inputs(tmp_path, model, inputs=x)
    last = inputs(tmp_path, model, inputs=x.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(first.integers, last.integers)
    np.testing.assert_array_equal(first.real, x.transpose(0, 2, 3, 1))
    with pytest.raises(InputError, match=r"have shape \(5, 9, 3, 8\), the network takes"):
        inputs(tmp_path, model, inputs=x.transpose(0, 2, 1, 3))
    with pytest.raises(InputError, match=r"have shape \(5, 9, 8, 3\), the network takes"):
        inputs(tmp_path, load_model(path), inputs=x.transpose(0, 2, 3, 1))


def test_inputs_that_could_be_either_have_channels_first(tmp_path, seed):
    rng = np.random.default_rng(seed)
    builder = Quantised()
    x = builder.input((3, 3, 3), 0.1, 4)
    weights = rng.integers(-64, 65, (3, 3, 1, 1))
    y = builder.linear("Conv", x, weights, np.float32(0.01), None, 0.2, 0)
    onnx.save(builder.build(y), tmp_path / "net.onnx")
    network = load_model(tmp_path / "net.onnx").network
    cubes = rng.random((4, 3, 3, 3)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", inputs=cubes)
    found = read_inputs(tmp_path / "inputs.npz", network)
    np.testing.assert_array_equal(found.real, cubes.transpose(0, 2, 3, 1))


def test_pixels_of_a_tflite_have_a_scale(model, integers, tmp_path):
    scale, zero_point = model.network.input_scale, model.network.input_zero_point
    pixels = np.maximum(integers.astype(int) - zero_point, 0).astype(np.uint8)
    found = inputs(tmp_path, model, inputs=pixels, scale=scale)
    np.testing.assert_array_equal(found.integers, np.maximum(integers, zero_point))


@pytest.mark.parametrize("last", [False, True])
def test_integer_network_takes_pixels_with_a_scale_in_either_order(last, tmp_path, seed):
    rng = np.random.default_rng(seed)
    network = every_kind(rng)
    save(network, tmp_path / "net.npz")
    pixels = rng.integers(0, 256, (2, *network.input_shape)).astype(np.uint8)
    given = pixels if last else pixels.transpose(0, 3, 1, 2)
    scale = 3 * network.input_scale
    found = inputs(tmp_path, load_model(tmp_path / "net.npz"), inputs=given, scale=scale)
    expected = np.minimum(3 * pixels.astype(int) + network.input_zero_point, 127)
    np.testing.assert_array_equal(found.integers, expected)


def test_outputs_of_many_pixels_are_no_classes(quantised, tmp_path, seed):
    x = np.zeros((2, 6, 5, 3), np.int8)
    with pytest.raises(InputError, match="gives 6 x 5 pixels of 4 channels, which are not number"):
        inputs(tmp_path, quantised, inputs=x, labels=np.zeros(2, int))
    rng = np.random.default_rng(seed)
    weights = {"w": rng.standard_normal((4, 3, 1, 1)).astype(np.float32)}
    nodes = [("Conv", ["w"], {}), ("Flatten", [], {})]
    onnx.save(chain(nodes, (3, 6, 5), weights), tmp_path / "floats.onnx")
    np.savez(tmp_path / "calibration.npz", inputs=rng.random((9, 3, 6, 5)))
    model = load_model(tmp_path / "floats.onnx")
    assert "stays height, width, channels" in model.notes[0]
    with pytest.raises(InputError, match="of 4 channels, which cannot be compared as classes"):
        evaluate(model, inputs(tmp_path, model, inputs=rng.random((2, 3, 6, 5))), compare=True)


def test_fewer_samples(model, integers, tmp_path):
    np.savez(tmp_path / "inputs.npz", inputs=integers, labels=np.arange(SAMPLES))
    found = read_inputs(tmp_path / "inputs.npz", model.network, samples=7)
    assert len(found.integers) == 7
    assert found.labels.tolist() == list(range(7))
    with pytest.raises(InputError, match="hold 230 samples, not 231"):
        read_inputs(tmp_path / "inputs.npz", model.network, samples=231)


@pytest.mark.parametrize(
    ("arrays", "cause"),
    [
        ({"images": np.zeros(3)}, "have no array 'inputs', only images"),
        (
            {"inputs": np.zeros((3, 7, 6, 1), np.uint8)},
            "are of uint8 without a scale",
        ),
        ({"inputs": np.zeros((3, 6, 7, 1), np.int8)}, r"have shape \(3, 6, 7, 1\), the network"),
        ({"inputs": np.zeros((0, 7, 6, 1), np.int8)}, r"have shape \(0, 7, 6, 1\)"),
        ({"inputs": np.zeros((3, 7, 6, 1), np.int32)}, "are of int32"),
        ({"inputs": np.full((3, 7, 6, 1), np.inf)}, "infinities or NaN"),
        (
            {"inputs": np.zeros((3, 7, 6, 1), np.int8), "labels": np.zeros(2, int)},
            r"has labels of int64 \(2,\), not integers \(3,\)",
        ),
    ],
)
def test_wrong_inputs_are_named(model, arrays, cause, tmp_path):
    with pytest.raises(InputError, match=cause) as error:
        inputs(tmp_path, model, **arrays)
    assert error.value.next_step


def test_onnx(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path / "net.onnx"
    onnx.save(example(rng), path)
    x = rng.random((40, 3, 9, 8), np.float32)
    np.savez(tmp_path / "calibration.npz", inputs=x)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    labels = session.run(None, {"x": x})[0].argmax(axis=1)
    model = load_model(path)
    found = inputs(tmp_path, model, inputs=x, labels=labels)
    report = evaluate(model, found, compare=True)
    comparison = report["comparison"]
    assert comparison["runtime"].startswith("ONNX Runtime 1.")
    assert comparison["accuracy"] == 1
    assert comparison["same_class"] == report["accuracy"] > 0.8
    whole = inputs(tmp_path, model, inputs=np.zeros((2, 9, 8, 3), np.int8))
    with pytest.raises(InputError, match=r"this \.onnx runs in floating point"):
        evaluate(model, whole, compare=True)


@pytest.fixture
def quantised(tmp_path, seed):
    """Two convolutions and their sum, quantised, as a file."""
    rng = np.random.default_rng(seed)
    builder = Quantised()
    x = builder.input((3, 6, 5), 0.1, 4)
    maps = [
        builder.linear("Conv", x, weights, np.float32(0.0097), None, 0.1713, point)
        for weights, point in ((rng.integers(-64, 65, (4, 3, 1, 1)), p) for p in (-5, 9))
    ]
    onnx.save(builder.build(builder.operator("Add", maps, 0.2039, 3)), tmp_path / "net.onnx")
    return load_model(tmp_path / "net.onnx")


def test_quantised_onnx(quantised, tmp_path, seed):
    rng = np.random.default_rng(seed)
    names = [layer.name for layer in quantised.network.layers]
    x = rng.integers(-128, 128, (30, 6, 5, 3)).astype(np.int8)
    found = inputs(tmp_path, quantised, inputs=x)
    comparison = evaluate(quantised, found, compare=True)["comparison"]
    assert comparison["runtime"].startswith("ONNX Runtime 1.")
    kernels = comparison["kernels"]
    assert list(kernels["reference"]["layers"]) == names
    assert list(kernels["default"]["layers"]) == names[-1:]
    for one in (*kernels.values(), comparison["alone"]):
        for layer in one["layers"].values():
            assert layer["values"] == 30 * 120
            assert layer["different"] <= 3  # Halves, and roundings of single precision.
            assert layer["largest"] <= 1
    assert min(one["equal_outputs"] for one in kernels.values()) >= 0.9
    real = ((x.astype(np.float32) - 4) * np.float32(0.1)).transpose(0, 3, 1, 2)
    again = inputs(tmp_path, quantised, inputs=real)
    assert evaluate(quantised, again, compare=True)["comparison"] == comparison


def test_a_layer_alone_is_not_blamed_for_those_before_it(quantised, tmp_path, seed):
    first, *others = quantised.network.layers
    spoilt = replace(quantised.network, layers=(replace(first, bias=first.bias + 40), *others))
    x = np.random.default_rng(seed).integers(-128, 128, (30, 6, 5, 3)).astype(np.int8)
    found = inputs(tmp_path, quantised, inputs=x)
    report = evaluate(replace(quantised, network=spoilt), found, compare=True)
    different = [
        [one["different"] > 3 for one in kernels["layers"].values()]
        for kernels in (report["comparison"]["kernels"]["reference"], report["comparison"]["alone"])
    ]
    assert different == [[True, False, True], [True, False, False]]
    assert report["comparison"]["kernels"]["default"]["equal_outputs"] < 0.9


def test_without_onnx_runtime(quantised, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = inputs(tmp_path, quantised, inputs=np.zeros((2, 6, 5, 3), np.int8))
    with pytest.raises(InputError, match=r"ONNX Runtime, which .* is not installed") as error:
        evaluate(quantised, found, compare=True)
    assert error.value.next_step == "install it: pip install onnxruntime"


def test_onnx_runtime_says_what_it_does_not_take(quantised, tmp_path):
    with pytest.raises(ModelError, match="ONNX Runtime does not take model"):
        ONNXRuntime(quantised.path, ["no such tensor"])


def test_sums_of_more_than_32_bits_are_named(model, tmp_path):
    first, *others = model.network.layers
    full = replace(first, bias=np.full_like(first.bias, 2**31 - 1))
    network = replace(model.network, layers=(full, *others))
    found = inputs(tmp_path, model, inputs=np.full((2, 7, 6, 1), 127, np.int8))
    with pytest.raises(ModelError, match=r"net\.tflite has sums .*: layer 'conv_0': accumulator"):
        evaluate(replace(model, network=network), found)


def test_own_format_has_no_runtime(tmp_path, seed):
    network = every_kind(np.random.default_rng(seed))
    save(network, tmp_path / "net.npz")
    model = load_model(tmp_path / "net.npz")
    found = inputs(tmp_path, model, inputs=np.zeros((2, 3, 6, 5), np.uint8))
    assert evaluate(model, found)["samples"] == 2
    with pytest.raises(InputError, match="no other runtime runs it"):
        evaluate(model, found, compare=True)


def test_without_the_runtime(model, integers, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    found = inputs(tmp_path, model, inputs=integers)
    with pytest.raises(InputError, match=r"LiteRT, which .* is not installed") as error:
        evaluate(model, found, compare=True)
    assert error.value.next_step == "install it: pip install ai-edge-litert"


def test_litert_says_what_it_does_not_take(tmp_path, seed):
    path = tmp_path / "net.tflite"
    model = bytearray(classifier(np.random.default_rng(seed)))
    path.write_bytes(model[: len(model) // 2])
    with pytest.raises(ModelError, match="LiteRT does not take model"):
        LiteRT(path, reference=True)
