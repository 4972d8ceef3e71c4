"""Import of `.tflite` files in floating point: every layer against LiteRT."""

import os
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from golden.network import run
from insitu.errors import ModelError
from insitu.evaluate import evaluate, read_inputs
from insitu.import_float_tflite import holds_floats, import_float_tflite
from insitu.import_tflite import import_tflite
from insitu.models import load_model
from insitu.tflite_file import read_tflite
from sim.build import ROOT
from tests.insitu.tflite_models import (
    NONE,
    RELU,
    RELU6,
    SAME,
    VALID,
    Builder,
    classifier,
    dilated,
    run_all,
    window,
)

FOLDER = Path(os.environ.get("INSITU_MLPERF_TINY", ROOT.parent / "shared" / "mlperf_tiny"))
INPUT_RANGES = {"ic": (0, 255), "ic2": (0, 255), "kws": (-120, 26), "vww": (0, 1), "ad": (-80, 20)}
KWS_SCALE, KWS_ZERO_POINT = 0.5847029, 83


class Graph:
    """A model in floating point, operator by operator."""

    def __init__(self, rng, shape):
        self.rng = rng
        self.builder = Builder()
        self.input = self.current = self.tensor(shape)

    def tensor(self, shape, data=None):
        return self.builder.tensor(shape, data=data, dtype=np.float32)

    def constant(self, *shape):
        data = self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return self.tensor(shape, data.astype(np.float32))

    def add(self, name, shape, *more, first=None, **options):
        y = self.tensor(shape)
        x = self.current if first is None else first
        self.builder.operator(name, [x, *more], [y], **options)
        self.current = y
        return y

    def build(self):
        return self.builder.build([self.input], [self.current])


def every_operator(rng):
    graph = Graph(rng, (1, 9, 8, 3))
    pads = graph.builder.tensor((4, 2), data=np.array([[0, 0], [1, 0], [0, 2], [0, 0]], np.int32))
    graph.add("PAD", (1, 10, 10, 3), pads)
    weights, bias = graph.constant(6, 3, 3, 3), graph.constant(6)
    options = dilated((2, 2), SAME, (1, 1), fusedActivationFunction=RELU6)
    a = graph.add("CONV_2D", (1, 5, 5, 6), weights, bias, **options)
    weights = graph.constant(1, 3, 3, 6)
    options = dilated((1, 1), SAME, (1, 1), fusedActivationFunction=NONE, depthMultiplier=1)
    b = graph.add("DEPTHWISE_CONV_2D", (1, 5, 5, 6), weights, graph.constant(6), **options)
    c = graph.add("HARD_SWISH", (1, 5, 5, 6))
    d = graph.add("LOGISTIC", (1, 5, 5, 6), first=b)
    graph.add("MUL", (1, 5, 5, 6), d, first=c, fusedActivationFunction=NONE)
    e = graph.add("TANH", (1, 5, 5, 6))
    graph.add("ADD", (1, 5, 5, 6), e, first=a, fusedActivationFunction=RELU)
    pool = window((1, 1), SAME, filterHeight=2, filterWidth=3, fusedActivationFunction=NONE)
    f = graph.add("AVERAGE_POOL_2D", (1, 5, 5, 6), **pool)
    g = graph.add("MAX_POOL_2D", (1, 5, 5, 6), **pool)
    graph.add("CONCATENATION", (1, 5, 5, 12), g, first=f, axis=3, fusedActivationFunction=NONE)
    edges = graph.builder.tensor((4, 2), data=np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
    graph.add("PAD", (1, 7, 7, 12), edges)
    graph.add("RELU", (1, 7, 7, 12))
    graph.add("RELU6", (1, 7, 7, 12))
    weights = graph.constant(8, 2, 2, 12)
    options = dilated((1, 2), VALID, (1, 1), fusedActivationFunction=NONE)
    graph.add("CONV_2D", (1, 6, 3, 8), weights, graph.constant(8), **options)
    shape = graph.builder.tensor((2,), data=np.array([1, 144], np.int32))
    graph.add("RESHAPE", (1, 144), shape)
    graph.add("FULLY_CONNECTED", (1, 5), graph.constant(5, 144), -1)
    graph.add("SOFTMAX", (1, 5), beta=1.0)
    return graph.build()


def meaned(rng):
    graph = Graph(rng, (1, 4, 5, 3))
    axes = graph.builder.tensor((2,), data=np.array([1, 2], np.int32))
    graph.add("MEAN", (1, 1, 1, 3), axes, keepDims=True)
    return graph.build()


def without_int8(model):
    """A file with float32 constants in place of its int8 ones.

    LiteRT's kernels for int8 weights round each layer's input to 8 bits; those for float32 do not.
    """
    made = schema.ModelT.InitFromPackedBuf(model, 0)
    for tensor in made.subgraphs[0].tensors:
        data = made.buffers[tensor.buffer].data
        if tensor.type != schema.TensorType.INT8 or data is None:
            continue
        values = np.asarray(data, np.uint8).view(np.int8).reshape(tensor.shape)
        quantised = tensor.quantization
        values = np.moveaxis(values, quantised.quantizedDimension, -1)
        values = np.moveaxis(values * np.asarray(quantised.scale), -1, quantised.quantizedDimension)
        made.buffers[tensor.buffer].data = np.frombuffer(
            values.astype(np.float32).tobytes(), np.uint8
        )
        tensor.type = schema.TensorType.FLOAT32
        tensor.quantization = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def agree(path, x):
    """Compare every layer with LiteRT; the network."""
    network = import_float_tflite(path)
    graph = read_tflite(path)
    model = without_int8(path.read_bytes())
    shape = graph.tensors[graph.inputs[0]].shape
    for sample in x:
        tensors = run_all(model, sample.reshape(shape))
        for layer, y in network.maps(sample[np.newaxis]):
            number = int(layer.name.split("_")[-1])
            (output,) = graph.operators[number].outputs
            expected = tensors[output].reshape(-1)
            np.testing.assert_allclose(
                y.reshape(-1), expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max() + 1e-6
            )
    return network


@pytest.fixture
def path(tmp_path, seed):
    path = tmp_path / "net.tflite"
    path.write_bytes(every_operator(np.random.default_rng(seed)))
    return path


def test_every_operator(path, seed):
    x = np.random.default_rng(seed).standard_normal((5, 9, 8, 3)).astype(np.float32)
    network = agree(path, 3 * x)
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds == [
        "FloatConvolution",
        "FloatConvolution",
        "FloatFunction",
        "FloatFunction",
        "FloatMultiply",
        "FloatFunction",
        "FloatAdd",
        "FloatPooling",
        "FloatPooling",
        "FloatConcatenation",
        "FloatPad",
        "FloatLimit",
        "FloatLimit",
        "FloatConvolution",
        "FloatConvolution",
    ]
    assert [layer.dense for layer in (network.layers[0], network.layers[-1])] == [False, True]
    assert network.layers[0].padding == (1, 0, 1, 3)
    assert [note.split(" is ")[0] for note in network.notes] == [
        "operator 0 (PAD)",
        "operator 17 (SOFTMAX)",
    ]


def test_mean(tmp_path, seed):
    rng = np.random.default_rng(seed)
    (tmp_path / "net.tflite").write_bytes(meaned(rng))
    agree(tmp_path / "net.tflite", rng.standard_normal((3, 4, 5, 3)).astype(np.float32))


def test_becomes_a_model(path, tmp_path, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((30, 9, 8, 3)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", inputs=x)
    assert holds_floats(path)
    model = load_model(path, calibration=tmp_path / "samples.npz")
    assert model.channels_last
    assert not model.tensors
    found = read_inputs(tmp_path / "samples.npz", model.network, channels_last=True)
    report = evaluate(model, found, compare=True)["comparison"]
    assert report["runtime"].startswith("LiteRT")
    assert report["same_class"] > 0.8


def test_integers_are_none(tmp_path, seed):
    (tmp_path / "net.tflite").write_bytes(classifier(np.random.default_rng(seed)))
    assert not holds_floats(tmp_path / "net.tflite")


def with_nan(rng):
    graph = Graph(rng, (1, 4, 4, 2))
    weights = graph.tensor((3, 1, 1, 2), np.full((3, 1, 1, 2), np.nan, np.float32))
    options = dilated((1, 1), SAME, (1, 1), fusedActivationFunction=NONE)
    graph.add("CONV_2D", (1, 4, 4, 3), weights, -1, **options)
    return graph.build()


def with_integers(rng):
    graph = Graph(rng, (1, 4, 4, 2))
    y = graph.builder.tensor((1, 4, 4, 2), 0.1, 3)
    graph.builder.operator("QUANTIZE", [graph.current], [y])
    graph.current = y
    return graph.build()


def hybrid(rng, *, scales=(0.01, 0.02, 0.005)):
    """A convolution, a depthwise one and a fully connected layer with weights of int8."""
    graph = Graph(rng, (1, 4, 4, 2))

    def weights(*shape, scale, axis):
        data = rng.integers(-127, 128, shape).astype(np.int8)
        return graph.builder.tensor(shape, scale, data=data, axis=axis)

    options = dilated((1, 1), SAME, (1, 1), fusedActivationFunction=NONE)
    first = weights(3, 1, 1, 2, scale=scales, axis=0)
    graph.add("CONV_2D", (1, 4, 4, 3), first, graph.constant(3), **options)
    second = weights(1, 3, 3, 3, scale=(0.01, 0.03, 0.02), axis=3)
    graph.add(
        "DEPTHWISE_CONV_2D", (1, 4, 4, 3), second, graph.constant(3), **options, depthMultiplier=1
    )
    shape = graph.builder.tensor((2,), data=np.array([1, 48], np.int32))
    graph.add("RESHAPE", (1, 48), shape)
    graph.add("FULLY_CONNECTED", (1, 5), weights(5, 48, scale=0.02, axis=0), -1)
    return graph.build()


def hybrid_without_scale(rng):
    return hybrid(rng, scales=0)


def hybrid_of_two_scales(rng):
    return hybrid(rng, scales=(1, 2))


def test_int8_weights_are_dequantised(tmp_path, seed):
    rng = np.random.default_rng(seed)
    (tmp_path / "net.tflite").write_bytes(hybrid(rng))
    network = agree(tmp_path / "net.tflite", rng.standard_normal((3, 4, 4, 2)).astype(np.float32))
    assert sum("were dequantised" in note for note in network.notes) == 3


def wrong_shape(rng):
    graph = Graph(rng, (1, 4, 4, 2))
    options = dilated((1, 1), SAME, (1, 1), fusedActivationFunction=NONE)
    graph.add("CONV_2D", (1, 3, 3, 3), graph.constant(3, 1, 1, 2), -1, **options)
    return graph.build()


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (with_nan, r"operator 0 \(CONV_2D, output 'tensor2'\) has infinities or NaN in 'tensor1'"),
        (with_integers, "quantises a map of a network in floating point"),
        (hybrid_without_scale, "a scale that is not positive"),
        (hybrid_of_two_scales, "have 2 scales along axis 0, not one or 3 along axis 0"),
        (wrong_shape, r"gives \[4, 4, 3\], the file says \[1, 3, 3, 3\]"),
    ],
)
def test_refuses(tmp_path, seed, make, cause):
    (tmp_path / "net.tflite").write_bytes(make(np.random.default_rng(seed)))
    with pytest.raises(ModelError, match=cause):
        import_float_tflite(tmp_path / "net.tflite")


needs_networks = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason=f"no folder {FOLDER}: name one with the networks in INSITU_MLPERF_TINY",
)


@needs_networks
@pytest.mark.parametrize("name", INPUT_RANGES)
def test_mlperf_tiny(name, seed):
    path = FOLDER / f"{name}_float32.tflite"
    shape = import_float_tflite(path).input_shape
    x = np.random.default_rng(seed).uniform(*INPUT_RANGES[name], (3, *shape)).astype(np.float32)
    agree(path, x)


@needs_networks
def test_keyword_spotting_is_as_right_as_in_int8():
    """Its weights are int8; MLPerf's int8 network is right on 90.6 % of these samples."""
    with np.load(FOLDER / "kws01_even.npz") as file:
        integers, labels = file["inputs"][..., np.newaxis], file["labels"]
    x = (integers.astype(np.float32) - KWS_ZERO_POINT) * np.float32(KWS_SCALE)
    found = import_float_tflite(FOLDER / "kws_float32.tflite").run(x).reshape(500, -1).argmax(1)
    other = run(import_tflite(FOLDER / "kws_int8.tflite").network, integers)
    assert (found == other.reshape(500, -1).argmax(1)).mean() >= 0.95
    assert 0.9 <= (found == labels).mean() <= 0.93
