"""Import of quantised ONNX models: layers against ONNX Runtime, as it computes them by default and
node by node, and a message for what cannot be imported."""

from itertools import product

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from golden.network import INPUT, Convolution, Mean, Pooling, Requantise, Table, run
from insitu.errors import ModelError
from insitu.import_onnx import import_onnx
from insitu.quantise import calibrate, quantise_inputs, quantised_network
from tests.insitu.onnx_models import Quantised, run_tensors

FORMS = [(form, dtype) for form in ("qdq", "qlinear") for dtype in (np.int8, np.uint8)]
STRIDES = ((1, 1), (2, 2), (1, 3), (3, 2))
DILATIONS = ((1, 1), (2, 2), (1, 3))
KERNELS = ((1, 1), (3, 3), (2, 5))
SHAPE = (6, 7, 8)

forms = pytest.mark.parametrize(
    ("form", "dtype"), FORMS, ids=[f"{form}-{np.dtype(dtype)}" for form, dtype in FORMS]
)


def imported(model, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    network = import_onnx(path)
    return network, quantised_network(network)


def samples(rng, network, count=12):
    """Integers, random and then extreme, and what they stand for, channels first."""
    x = rng.integers(-128, 128, (count + 3, *network.input_shape)).astype(np.int8)
    x[-3], x[-2], x[-1] = -128, 127, network.input_zero_point
    steps = x.astype(np.float32) - np.float32(network.input_zero_point)
    return x, (steps * np.float32(network.input_scale)).transpose(0, 3, 1, 2)


def agree(model, tmp_path, rng, case="", *, most=1e-3, distinct=3):
    """Compare each layer of a model with ONNX Runtime, on its maps; the integer network.

    At most a share of `most` may differ, or three values, and by 1; `distinct` values must occur in
    the output.
    """
    real, network = imported(model, tmp_path)
    x, given = samples(rng, network)
    if len(model.graph.input[0].type.tensor_type.shape.dim) == 2:
        given = given.reshape(len(given), -1)
    assert network.layers[-1].name in real.tensors
    for optimised in (False, True):
        found = run_tensors(model, real.tensors.values(), given, optimised=optimised)
        expected = dict(zip(real.tensors, found, strict=True))
        maps = {INPUT: x}
        for layer in network.layers:
            y = maps[layer.name] = layer.compute(*(maps[name] for name in layer.inputs))
            if layer.name not in expected:
                continue
            theirs = expected[layer.name]
            apart = np.abs(y.transpose(0, 3, 1, 2).reshape(theirs.shape).astype(int) - theirs)
            said = f"{case}: layer {layer.name}, optimised {optimised}"
            assert apart.max() <= 1, said
            # Where all pixels are the same, one half makes many of them.
            different = np.count_nonzero(apart[:-3])
            assert different <= max(3, most * y[:-3].size), f"{said}: {different} of {y.size}"
            channels_first = theirs.reshape(len(y), y.shape[3], *y.shape[1:3])
            maps[layer.name] = np.ascontiguousarray(channels_first.transpose(0, 2, 3, 1))
    assert len(np.unique(y[:-3])) >= distinct, f"{case}: shows little"
    return network


def linear(rng, builder, kind, source, shape, inputs, *, gain=1.0, per_channel=True, **attributes):
    """A layer whose outputs spread over int8, of weights of `shape`; its output.

    Weights are those of 7 bits: with larger ones ONNX Runtime saturates on processors that cannot
    add products of 8 bits in 32.
    """
    outputs = shape[1] if kind != "Conv" and not attributes.get("transB") else shape[0]
    input_scale = float(builder.constants[builder.scales[source][0]])
    scale = rng.uniform(0.01, 1)
    weight_scale = gain * scale / (input_scale * 45 * inputs**0.5)
    weight_scale = weight_scale * rng.uniform(0.3, 1.5, outputs if per_channel else ())
    bias = rng.integers(-5000, 5000, outputs) if kind != "MatMul" else None
    weights = rng.integers(-64, 65, shape)
    zero_point = int(rng.integers(-128, 128))
    return builder.linear(
        kind, source, weights, weight_scale, bias, scale, zero_point, **attributes
    )


# Single layers


@forms
@pytest.mark.parametrize("groups", ["one", "some", "depthwise"])
def test_convolution(form, dtype, groups, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for number, (stride, dilation, kernel) in enumerate(product(STRIDES, DILATIONS, KERNELS)):
        size = tuple(int(n) for n in rng.integers(13, 17, 2))
        channels = 6 if groups == "depthwise" else 2 * int(rng.integers(1, 4))
        count = {"one": 1, "some": 2, "depthwise": channels}[groups]
        builder = Quantised(form, dtype)
        x = builder.input((channels, *size), rng.uniform(0.01, 1), int(rng.integers(-128, 128)))
        shape = (count * int(rng.integers(1, 4)), channels // count, *kernel)
        y = linear(
            rng,
            builder,
            "Conv",
            x,
            shape,
            int(np.prod(shape[1:])),
            per_channel=bool(number % 2),
            group=count,
            strides=list(stride),
            dilations=list(dilation),
            pads=[int(n) for n in rng.integers(0, 3, 4)],
        )
        case = f"stride {stride}, dilation {dilation}, weights {shape}, size {size}"
        network = agree(builder.build(y), tmp_path, rng, case)
        assert network.layers[0].groups == count


@forms
@pytest.mark.parametrize("kind", ["Gemm", "MatMul"])
def test_fully_connected(kind, form, dtype, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for gain, per_channel in product((0.01, 1, 40), (False, True)):
        transposed = kind == "Gemm" and per_channel
        builder = Quantised(form, dtype)
        x = builder.input((60,), 0.05, -3)
        options = {"transB": 1} if transposed else {}
        shape = (400, 60) if transposed else (60, 400)
        y = linear(rng, builder, kind, x, shape, 60, gain=gain, per_channel=per_channel, **options)
        agree(builder.build(y, 2), tmp_path, rng, (gain, per_channel), distinct=2)


@forms
@pytest.mark.parametrize("kind", ["Add", "Mul", "Concat"])
def test_two_maps(kind, form, dtype, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for _ in range(8):
        builder = Quantised(form, dtype)
        x = builder.input(SHAPE, 0.1, 4)
        maps = [
            builder.quantise(builder.real(x), 0.1 * 2.0 ** rng.uniform(-2, 2), point)
            for point in rng.integers(-128, 128, 2)
        ]
        result = 0.2 * 2.0 ** rng.uniform(-1, 2), int(rng.integers(-128, 128))
        axis = {"axis": 1} if kind == "Concat" else {}
        y = operate(builder, kind, maps, *result, **axis)
        agree(builder.build(y), tmp_path, rng, distinct=2)


def operate(builder, kind, maps, *result, **attributes):
    if builder.form == "qdq":
        return builder.operator(kind, maps, *result, **attributes)
    return builder.microsoft(f"QLinear{kind}", maps, *result, **attributes)


@forms
def test_squeeze_and_excitation(form, dtype, tmp_path, seed):
    rng = np.random.default_rng(seed)
    builder = Quantised(form, dtype)
    x = builder.input(SHAPE, 0.1, 4)
    m = operate(builder, "GlobalAveragePool", [x], rng.uniform(0.01, 0.02), -20)
    e = linear(rng, builder, "Conv", m, (6, 6, 1, 1), 6)
    s = operate(builder, "Sigmoid", [e], 1 / 256, -128)
    y = operate(builder, "Mul", [x, s], rng.uniform(0.05, 0.07), 9)
    network = agree(builder.build(y), tmp_path, rng)
    kinds = [layer.kind for layer in network.layers]
    assert kinds == ["mean", "convolution", "table", "multiply"]
    assert isinstance(network.layers[0], Mean)


WINDOWS = {
    "2x2": {"kernel_shape": [2, 2], "strides": [2, 2]},
    "3x2": {"kernel_shape": [3, 2], "strides": [1, 2]},
    "padding left out": {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    "padded on two sides": {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 0, 0, 2]},
}
PADDED = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}


@forms
@pytest.mark.parametrize("case", WINDOWS)
def test_average_pooling_to_another_scale(case, form, dtype, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for scale in (0.073, 0.0137, 0.3037):
        builder = Quantised(form, dtype)
        x = builder.input(SHAPE, 0.1, 4)
        y = operate(builder, "AveragePool", [x], scale, 9, **WINDOWS[case])
        (layer,) = agree(builder.build(y), tmp_path, rng, scale).layers
        assert isinstance(layer, Pooling)


@forms
def test_average_pooling_of_padding_is_a_convolution(form, dtype, tmp_path, seed):
    rng = np.random.default_rng(seed)
    builder = Quantised(form, dtype)
    y = operate(builder, "AveragePool", [builder.input(SHAPE, 0.1, 4)], 0.073, 9, **PADDED)
    (layer,) = agree(builder.build(y), tmp_path, rng).layers
    assert isinstance(layer, Convolution)


@pytest.mark.parametrize(("scale", "most"), [(0.125, 0), (0.1, 0.09)])
@pytest.mark.parametrize("zero_point", [4, -7])
def test_average_pooling_at_one_scale(zero_point, scale, most, tmp_path, seed):
    """A quarter of all sums of four are halves: they go to even, counted from the zero point.

    Where the scale is no power of two single precision misses some of them.
    """
    rng = np.random.default_rng(seed)
    builder = Quantised()
    x = builder.input(SHAPE, scale, zero_point)
    y = builder.operator("AveragePool", [x], scale, zero_point, **WINDOWS["2x2"])
    agree(builder.build(y), tmp_path, rng, most=most)


def test_sums_of_halves_go_to_even(tmp_path, seed):
    """With scales that are powers of two a half of all sums are halves, or a quarter.

    ONNX Runtime's fused sum adds the zero point first: an even one makes no difference.
    """
    rng = np.random.default_rng(seed)
    for a, b, zero_point in ((0.25, 0.25, 4), (0.25, 0.125, -8)):
        builder = Quantised()
        x = builder.input(SHAPE, a, 3)
        other = builder.quantise(builder.real(x), b, -9)
        y = builder.operator("Add", [x, other], 0.5, zero_point)
        agree(builder.build(y), tmp_path, rng, (a, b), most=0)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("result", [(0.1, 4), (0.13, -5)])
def test_maximum_pooling(result, dtype, tmp_path, seed):
    rng = np.random.default_rng(seed)
    builder = Quantised("qdq", dtype)
    window = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 1, 0, 0]}
    y = builder.operator("MaxPool", [builder.input(SHAPE, 0.1, 4)], *result, **window)
    network = agree(builder.build(y), tmp_path, rng)
    assert len(network.layers) == (1 if result == (0.1, 4) else 2)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_operators_on_integers_that_keep_the_scale(dtype, tmp_path, seed):
    rng = np.random.default_rng(seed)
    builder = Quantised("qlinear", dtype)
    x = builder.input(SHAPE, 0.1, 4)
    zero = builder.scales[x][1]
    pads = builder.constant(np.array([0, 0, 1, 2, 0, 0, 0, 1]))
    p = builder.node("Pad", [x, pads, zero])
    m = builder.node("MaxPool", [p], kernel_shape=[2, 2])
    f = builder.node("Flatten", [m])
    builder.scales[f] = builder.scales[x]
    y = linear(rng, builder, "MatMul", f, (6 * 7 * 10, 5), 420)
    network = agree(builder.build(y, 2), tmp_path, rng)
    assert [layer.kind for layer in network.layers] == ["pad", "pooling", "convolution"]


@pytest.mark.parametrize("operator", ["HardSwish", "HardSigmoid", "Sigmoid", "Tanh"])
def test_functions(operator, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        builder = Quantised()
        scale = 10 ** rng.uniform(-2.5, 0)
        x = builder.input((1, 16, 16), scale, int(rng.integers(-128, 128)))
        result = (scale * 10 ** rng.uniform(-1, 0.5), int(rng.integers(-128, 128)))
        if operator != "HardSwish":
            result = (1 / 255, -128)
        y = builder.operator(operator, [x], *result)
        network = agree(builder.build(y), tmp_path, rng, (scale, result), distinct=1)
        assert isinstance(network.layers[0], Table)


@forms
@pytest.mark.parametrize("swapped", [False, True])
def test_product_with_a_function_of_the_same_map_is_one_table(swapped, form, dtype, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for _ in range(6):
        builder = Quantised(form, dtype)
        x = builder.input((1, 16, 16), 10 ** rng.uniform(-1.5, -0.5), int(rng.integers(-128, 128)))
        s = operate(builder, "Sigmoid", [x], 1 / 256, -128)
        maps = [s, x] if swapped else [x, s]
        y = operate(builder, "Mul", maps, 10 ** rng.uniform(-2, -0.5), int(rng.integers(-128, 128)))
        network = agree(builder.build(y), tmp_path, rng, distinct=2)
        assert [layer.kind for layer in network.layers] == ["table"]


def test_product_with_a_table_that_something_else_reads_stays(tmp_path, seed):
    rng = np.random.default_rng(seed)
    builder = Quantised()
    x = builder.input(SHAPE, 0.1, 4)
    s = builder.operator("Sigmoid", [x], 1 / 256, -128)
    m = builder.operator("Mul", [x, s], 0.07, 9)
    network = agree(builder.build(builder.operator("Add", [m, s], 0.083, 3)), tmp_path, rng)
    assert [layer.kind for layer in network.layers] == ["table", "multiply", "add"]


@pytest.mark.parametrize("limits", [("Relu", ()), ("Clip", (np.float32(-0.4), np.float32(2)))])
def test_limits(limits, tmp_path, seed):
    rng = np.random.default_rng(seed)
    operator, constants = limits
    builder = Quantised()
    x = builder.input(SHAPE, 0.1, 4)
    y = builder.operator(operator, [x], 0.03, -30, constants)
    network = agree(builder.build(y), tmp_path, rng)
    assert isinstance(network.layers[0], Requantise)


def test_what_lies_between_quantisations_is_one_layer(tmp_path, seed):
    """A convolution with its activation; batch normalisation in real numbers with its own."""
    rng = np.random.default_rng(seed)
    builder = Quantised()
    x = builder.input(SHAPE, 0.1, 4)
    w, scale = (rng.integers(-64, 65, (5, 6, 1, 1)).astype(np.int8), np.float32(0.00837))
    w = builder.node("DequantizeLinear", [builder.constant(w), builder.constant(scale)])
    c = builder.node("Relu", [builder.node("Conv", [builder.real(x), w])])
    c = builder.quantise(c, 0.1, -128)
    norm = [builder.constant(rng.uniform(0.2, 2, 5).astype(np.float32)) for _ in range(4)]
    n = builder.node("BatchNormalization", [builder.real(c), *norm])
    y = builder.quantise(builder.node("Relu", [n]), 0.04, -128)
    network = agree(builder.build(y), tmp_path, rng)
    assert [layer.groups for layer in network.layers] == [1, 5]
    assert [layer.activation_min for layer in network.layers] == [-128, -128]


def test_padding_of_the_same_scale_goes_into_the_convolution(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for result, layers in (((0.1, 4), 1), ((0.17, 4), 3)):
        builder = Quantised()
        x = builder.input(SHAPE, 0.1, 4)
        pads = np.array([0, 0, 1, 0, 0, 0, 2, 1])
        p = builder.operator("Pad", [x], *result, constants=(pads,))
        y = linear(rng, builder, "Conv", p, (4, 6, 3, 3), 54)
        network = agree(builder.build(y), tmp_path, rng, result)
        assert len(network.layers) == layers


def test_softmax_is_left_to_the_host(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for form in ("qdq", "qlinear"):
        builder = Quantised(form)
        x = builder.input((9,), 0.1, 4)
        c = linear(rng, builder, "Gemm", x, (9, 5), 9)
        y = operate(builder, "Softmax", [c], 1 / 256, -128, axis=-1)
        real, network = imported(builder.build(y, 2), tmp_path)
        assert [layer.kind for layer in network.layers] == ["convolution"]
        assert real.tensors == {network.layers[0].name: c}
        assert "(Softmax) is left to the host" in real.notes[0]


def test_large_weights_agree_with_the_standard(tmp_path, seed):
    """Products that ONNX Runtime's kernels on integers saturate on some processors."""
    rng = np.random.default_rng(seed)
    builder = Quantised("qdq", np.uint8)
    x = builder.input((64, 5, 5), 0.1, -128)
    weights = np.full((8, 64, 3, 3), 127)
    scale = np.full(8, 0.1 / 127 / 100, np.float32)
    y = builder.linear("Conv", x, weights, scale, rng.integers(-99, 99, 8), 0.1, -128)
    model = builder.build(y)
    _, network = imported(model, tmp_path)
    x, given = samples(rng, network)
    got = run(network, x).transpose(0, 3, 1, 2).astype(int)
    model.opset_import[0].version = 19  # The oldest that the evaluator knows these operators of.
    (node_by_node,) = run_tensors(model, [y], given, optimised=False)
    model.graph.output.append(onnx.ValueInfoProto(name=y))
    evaluated = ReferenceEvaluator(model).run([y], {"x": given})[0].astype(int) - 128
    for expected in (node_by_node, evaluated):
        assert np.abs(got - expected).max() <= 1
        assert (got != expected).mean() <= 1e-3
    assert len(np.unique(got)) > 5


def without_zero_point(builder, wanted):
    """Quantise the input to a type that an attribute names."""
    builder.opset = 21
    quantises, dequantises, *_ = builder.nodes
    del quantises.input[2], dequantises.input[2]
    kind = onnx.TensorProto.DataType.Value(wanted)
    quantises.attribute.append(onnx.helper.make_attribute("output_dtype", kind))


@pytest.mark.parametrize(
    ("wanted", "zero_point"), [("INT8", 0), ("UINT8", -128), ("UNDEFINED", -128)]
)
def test_without_a_zero_point_it_is_0_in_the_type_asked_for(wanted, zero_point, tmp_path, seed):
    rng = np.random.default_rng(seed)
    builder = Quantised()
    x = builder.input(SHAPE, 0.1, 0)
    y = linear(rng, builder, "Conv", x, (5, 6, 1, 1), 6, per_channel=True)
    without_zero_point(builder, wanted)
    network = agree(builder.build(y), tmp_path, rng, wanted)
    assert network.input_zero_point == zero_point


def test_maps_in_floating_point_are_calibrated(tmp_path, seed):
    """A mean over what batch normalisation gives, as the quantiser leaves it in DenseNet."""
    rng = np.random.default_rng(seed)
    builder = Quantised()
    # What is limited by the smallest integer alone, as the quantiser leaves activations.
    weights, scale = rng.integers(-64, 65, (6, 6, 1, 1)), np.float32(0.0097)
    x = builder.input(SHAPE, 0.1, 4)
    x = builder.linear("Conv", x, weights, scale, None, 0.05, -128)
    norm = [builder.constant(rng.uniform(0.5, 1.5, 6).astype(np.float32)) for _ in range(4)]
    n = builder.node("BatchNormalization", [builder.real(x), *norm])
    m = builder.node("GlobalAveragePool", [builder.node("Relu", [n])])
    model = builder.build(builder.quantise(m, 0.02, -128))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    real = import_onnx(path)
    assert (real.layers[0].low, real.layers[0].high) == (0, 255 * np.float32(0.05))
    with pytest.raises(ModelError, match="leaves what layer 'BatchNormalization_"):
        quantised_network(real)
    given = rng.uniform(-12, 12, (20, *SHAPE)).astype(np.float32)
    network = quantised_network(real, calibrate(real, given.transpose(0, 2, 3, 1)))
    *_, expected = run_tensors(model, real.tensors.values(), given, optimised=False)
    x = quantise_inputs(given.transpose(0, 2, 3, 1), 0.1, 4)
    apart = np.abs(run(network, x).transpose(0, 3, 1, 2).astype(int) - expected)
    assert apart.max() <= 2


# Refusals


def broken(form, change, dtype=np.int8):
    """A quantised convolution with something changed: `change` gets the builder."""
    builder = Quantised(form, dtype)
    x = builder.input((3, 4, 4), 0.1, -9)
    weights = np.ones((5, 3, 1, 1))
    scales = np.full(5, 0.0103, np.float32)
    y = builder.linear("Conv", x, weights, scales, np.zeros(5), 0.1, 5)
    end = change(builder, y) or y
    return builder.build(end)


def put(index, value):
    """Change the constant number `index`: the input's scale and zero point, weights, ..."""

    def change(builder, y):
        name = f"c{index}"
        builder.constants[name] = np.asarray(value)

    return change


def unquantised(builder, y):
    """A function between two others, with nothing quantised in between."""
    s = builder.node("Sigmoid", [builder.real(y)])
    return builder.quantise(builder.node("Tanh", [s]), 0.1, 0)


def on_integers(builder, y):
    z = builder.node("Transpose", [y], perm=[0, 1, 2, 3])
    r = builder.node("Relu", [z])
    builder.scales[r] = builder.scales[y]
    return r


def requantised(builder, y):
    builder.scales[y] = builder.scaling(0.3, 5)


def dynamic(builder, y):
    z = builder.node("QuantizeLinear", [builder.real(y), "x"])
    builder.scales[z] = builder.scales[y]
    return z


def real_input(builder, y):
    """The first layer reads the input as it is."""
    for node in builder.nodes:
        node.input[:] = ["x" if name == "t1" else name for name in node.input]
    builder.nodes = [node for node in builder.nodes if node.output[0] not in ("t0", "t1")]
    builder.nodes += [onnx.helper.make_node("Identity", ["x"], [name]) for name in ("t0", "t1")]


def leaky(builder, y):
    return builder.microsoft("QLinearLeakyRelu", [y], 0.1, 5)


def wide(builder, y):
    without_zero_point(builder, "INT16")


def narrow(builder, y):
    without_zero_point(builder, "INT4")


REFUSALS = {
    "scale": ("qdq", put(0, np.float32(0)), r"'QuantizeLinear_0' .* has the scale 0.0", "export"),
    "map scales": ("qdq", put(0, np.ones(3, np.float32)), "has 3 scales for a map", "one scale"),
    "int16": ("qdq", put(1, np.int16(3)), "quantises a map to int16", "int8 or uint8"),
    "int16 by attribute": ("qdq", wide, "quantises a map to int16", "int8 or uint8"),
    "int4": ("qdq", narrow, "quantises a map to int4", "int8 or uint8"),
    "other scale": ("qdq", requantised, "has scale 0.3 .* was quantised with 0.1", "check it"),
    "weights of int32": (
        "qdq",
        put(2, np.full((5, 3, 1, 1), 999, np.int32)),
        "has a weight of 999",
        "to int8",
    ),
    "weight of -128": (
        "qlinear",
        put(2, np.full((5, 3, 1, 1), -128, np.int8)),
        "has a weight of -128",
        "-127..127",
    ),
    "weight zero point": (
        "qdq",
        put(4, np.full(5, -127, np.int8)),
        "has a weight of 128 after its zero point",
        "a zero point of 0",
    ),
    "weight scales": (
        "qdq",
        put(3, np.full(4, 0.01, np.float32)),
        r"has 'c2' of int8 \(5, 3, 1, 1\) with 4 scales",
        "one an output channel",
    ),
    "negative scale": ("qdq", put(3, np.full(5, -1, np.float32)), "is not positive", "check it"),
    "large bias": (
        "qdq",
        put(5, np.full(5, 2**31 - 1, np.int32)),
        "layer 'Conv_4' has a bias that does not fit int32",
        "quantise the model again",
    ),
    "not quantised": (
        "qdq",
        unquantised,
        "leaves what layer 'Sigmoid_7' gives in floating point",
        "name sample inputs with --calibration",
    ),
    "integers": ("qlinear", on_integers, "'Relu_3' .* with the integers", "DequantizeLinear"),
    "dynamic": ("qdq", dynamic, "takes its scale from the graph", "statically"),
    "input": ("qdq", real_input, "but leaves the input in floating point", "--calibration"),
    "leaky": ("qlinear", leaky, r"\(QLinearLeakyRelu\) is an operator", "use Relu"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_imported_is_named(case, tmp_path):
    form, change, cause, next_step = REFUSALS[case]
    with pytest.raises(ModelError, match=cause) as error:
        imported(broken(form, change), tmp_path)
    assert next_step in error.value.next_step


def test_the_model_that_refusals_are_made_from_is_fine(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for form in ("qdq", "qlinear"):
        agree(broken(form, lambda *_: None), tmp_path, rng)
