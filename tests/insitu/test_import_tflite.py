"""Import of `.tflite` files: single layers against LiteRT's reference kernels, value for value, and
a message for everything that cannot be imported."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from golden.network import Convolution, Pad, Pooling, Requantise, Table, run
from golden.requantise import Rounding, rescale
from insitu.errors import FileError, FitError, ModelError
from insitu.import_tflite import fold_constant_channels, import_tflite, quantise_multiplier
from insitu.plan import plan
from rtl.config import CONFIGURATIONS
from tests.insitu.tflite_models import (
    NONE,
    RELU,
    RELU6,
    SAME,
    VALID,
    Builder,
    classifier,
    dilated,
    linear,
    output_size,
    run_all,
    window,
)

STRIDES = ((1, 1), (2, 2), (1, 3), (3, 2))
DILATIONS = ((1, 1), (2, 2), (1, 3))
KERNELS = ((1, 1), (3, 3), (2, 5))


def samples(rng, shape, zero_point, count=3):
    """Random inputs, then what is extreme."""
    x = rng.integers(-128, 128, (count + 3, *shape)).astype(np.int8)
    x[-3], x[-2], x[-1] = -128, 127, zero_point
    return x


def imported(model, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(model)
    return import_tflite(path)


def agree(model, tmp_path, rng, case="", *, distinct=3):
    """Import a model and compare every layer of it with LiteRT; the imported model.

    At least `distinct` values must occur in the output for random inputs.
    """
    made = imported(model, tmp_path)
    network = made.network
    x = samples(rng, network.input_shape, network.input_zero_point)
    outputs = run(network, x, keep=True)
    for number, sample in enumerate(x):
        given = sample.reshape(_input_shape(model))
        tensors = run_all(model, given)
        for layer, output in zip(network.layers, outputs, strict=True):
            expected = tensors[made.tensors[layer.name]]
            np.testing.assert_array_equal(
                output[number].reshape(-1),
                expected.reshape(-1),
                f"{case}: layer {layer.name}, sample {number}",
            )
    assert len(np.unique(outputs[-1][:-3])) >= distinct, f"{case}: shows little"
    return made


def _input_shape(model):
    from insitu.tflite_file import _Reader

    graph = _Reader(model, "model").graph()
    return graph.tensors[graph.inputs[0]].shape


# Single layers


@pytest.mark.parametrize("padding", [SAME, VALID])
@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D"])
def test_windows(kind, padding, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for number, (stride, dilation, kernel) in enumerate(product(STRIDES, DILATIONS, KERNELS)):
        size = tuple(int(n) for n in rng.integers(13, 17, 2))
        activation = number % 4
        channels = int(rng.integers(1, 6))
        outputs = channels * int(rng.integers(1, 4)) if kind != "CONV_2D" else 5
        model = linear(
            rng,
            kind,
            size,
            channels,
            outputs,
            kernel,
            zero_points=tuple(int(n) for n in rng.integers(-128, 128, 2)),
            per_channel=bool(number % 2),
            **dilated(stride, padding, dilation, fusedActivationFunction=activation),
            **({"depthMultiplier": outputs // channels} if kind != "CONV_2D" else {}),
        )
        agree(
            model, tmp_path, rng, (stride, dilation, kernel, size), distinct=1 if activation else 3
        )


def test_groups(tmp_path, seed):
    rng = np.random.default_rng(seed)
    options = dilated((1, 1), SAME, (1, 1))
    made = agree(linear(rng, "CONV_2D", (5, 6), 6, 9, (3, 3), groups=3, **options), tmp_path, rng)
    assert made.network.layers[0].groups == 3


@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D"])
@pytest.mark.parametrize("largest", [300, (1 << 31) - 60000])
def test_scales_of_every_size(kind, largest, tmp_path, seed):
    """Multipliers from 2**-40 to 2**20, and sums up to the ends of int32."""
    rng = np.random.default_rng(seed)
    channels = 400
    scale = 2.0 ** rng.uniform(-40, 20, channels)
    options = dilated((1, 1), VALID, (1, 1))
    inputs = channels if kind != "CONV_2D" else 1
    if kind != "CONV_2D":
        options["depthMultiplier"] = 1
    model = linear(
        rng, kind, (2, 2), inputs, channels, scale=scale, largest_bias=largest, **options
    )
    layer = agree(model, tmp_path, rng).network.layers[0]
    assert layer.shift.min() < -5
    # Where the multiplier is small, all inputs give one output: a constant, but the right one.
    assert not layer.weights.W.any(axis=(1, 2)).all()


def test_sums_at_the_ends_of_int32_that_are_shifted_left(tmp_path, seed):
    """The reference kernels keep the low 32 bits."""
    rng = np.random.default_rng(seed)
    options = dilated((1, 1), VALID, (1, 1))
    for places in (1, 3, 12):
        model = linear(
            rng,
            "CONV_2D",
            (3, 3),
            1,
            200,
            scale=np.full(200, 2.0**places),
            largest_bias=(1 << 31) - 60000,
            zero_points=(0, 0),
            **options,
        )
        made = agree(model, tmp_path, rng, places, distinct=2)
        with pytest.raises(FitError, match=r"shifted to the left, of output channel \d+ reaches"):
            plan(made.network, CONFIGURATIONS["sim-8x1"])


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("activation", [NONE, RELU, RELU6])
def test_fully_connected(per_channel, activation, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for gain in (0.001, 1, 30):
        model = linear(
            rng,
            "FULLY_CONNECTED",
            (),
            60,
            400,
            gain=gain,
            per_channel=per_channel,
            fusedActivationFunction=activation,
        )
        made = agree(model, tmp_path, rng, gain, distinct=1)
        assert made.network.layers[0].rounding is Rounding.UP


def test_fully_connected_rounds_once_and_convolutions_twice(tmp_path, seed):
    """Enough values that the other rounding would show."""
    rng = np.random.default_rng(seed)
    options = dilated((1, 1), VALID, (1, 1))
    for model in (
        linear(rng, "FULLY_CONNECTED", (), 8, 4000),
        linear(rng, "CONV_2D", (3, 3), 8, 2000, **options),
    ):
        network = agree(model, tmp_path, rng).network
        (layer,) = network.layers
        wrong = Rounding.UP if layer.rounding is Rounding.TWICE else Rounding.TWICE
        other = replace(layer, rounding=wrong)
        x = samples(rng, network.input_shape, network.input_zero_point)
        assert (run(network, x) != run(replace(network, layers=(other,)), x)).any()


def test_fully_connected_on_every_pixel(tmp_path, seed):
    rng = np.random.default_rng(seed)
    model = linear(rng, "FULLY_CONNECTED", (3, 4), 6, 9, keepNumDims=True)
    assert agree(model, tmp_path, rng).network.layers[0].kernel == (1, 1)


@pytest.mark.parametrize("padding", [SAME, VALID])
@pytest.mark.parametrize("kind", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
def test_pooling(kind, padding, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for number, (stride, kernel) in enumerate(product(STRIDES, (*KERNELS, (9, 8)))):
        builder = Builder()
        size = 9, int(rng.integers(8, 12))
        scale, zero_point = 0.05, int(rng.integers(-128, 128))
        options = window(stride, padding, fusedActivationFunction=(NONE, RELU6)[number % 2])
        height, width = output_size(kind, size, kernel, options)
        x = builder.tensor((1, *size, 5), scale, zero_point)
        y = builder.tensor((1, height, width, 5), scale, zero_point)
        options |= {"filterHeight": kernel[0], "filterWidth": kernel[1]}
        builder.operator(kind, [x], [y], version=2, **options)
        case = stride, kernel, zero_point
        agree(builder.build([x], [y]), tmp_path, rng, case, distinct=1)


def _branches(rng, scales, zero_points):
    """A builder with two maps made from the input x by rescaling: (builder, x, a, b)."""
    builder = Builder()
    x = builder.tensor((1, 4, 5, 6), 0.1, 4)
    maps = []
    for scale, zero_point in zip(scales, zero_points, strict=True):
        maps.append(builder.tensor((1, 4, 5, 6), scale, zero_point))
        builder.operator("QUANTIZE", [x], [maps[-1]], version=2)
    return builder, x, *maps


@pytest.mark.parametrize("activation", [NONE, RELU, RELU6])
def test_add(activation, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for number in range(12):
        scales = 0.1 * 4.0 ** rng.uniform(-1, 1, 2)
        zero_points = rng.integers(-128, 128, 2)
        if number == 0:
            scales[1], zero_points[1] = scales[0], zero_points[0]
        builder, x, a, b = _branches(rng, scales, zero_points)
        y = builder.tensor((1, 4, 5, 6), rng.uniform(0.05, 0.5), int(rng.integers(-128, 100)))
        builder.operator("ADD", [a, b], [y], version=2, fusedActivationFunction=activation)
        agree(builder.build([x], [y]), tmp_path, rng, (scales, zero_points), distinct=2)


def test_add_of_very_different_scales(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for ratio in (1e-2, 1e-4, 1e-8):
        builder = Builder()
        x = builder.tensor((1, 4, 5, 6), 0.1, 4)
        a = builder.tensor((1, 4, 5, 6), 0.1 * ratio, -9)
        builder.operator("QUANTIZE", [x], [a], version=2)
        y = builder.tensor((1, 4, 5, 6), 0.12, -7)
        builder.operator("ADD", [a, x], [y], version=2)
        agree(builder.build([x], [y]), tmp_path, rng, ratio)


@pytest.mark.parametrize("single", [False, True])
def test_multiply(single, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for _ in range(10):
        builder, x, a, b = _branches(
            rng, 0.1 * 2.0 ** rng.uniform(-1, 1, 2), rng.integers(-128, 128, 2)
        )
        if single:
            axes = builder.tensor((2,), data=np.array([1, 2], np.int32))
            pixel = builder.tensor((1, 1, 1, 6), 0.02, int(rng.integers(-20, 20)))
            builder.operator("MEAN", [b, axes], [pixel], version=2, keepDims=True)
            b = pixel
        y = builder.tensor((1, 4, 5, 6), rng.uniform(0.1, 1), int(rng.integers(-128, 100)))
        builder.operator("MUL", [a, b], [y], version=2, fusedActivationFunction=NONE)
        agree(builder.build([x], [y]), tmp_path, rng)


@pytest.mark.parametrize("operator", ["QUANTIZE", "RELU", "RELU6"])
def test_requantisation(operator, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for number in range(20):
        builder = Builder()
        scale = 0.1 if number < 2 else 0.1 * 2.0 ** rng.uniform(-3, 3)
        x = builder.tensor((1, 8, 8, 3), 0.1, int(rng.integers(-128, 128)))
        zero_point = int(rng.integers(-128, 128))
        y = builder.tensor((1, 8, 8, 3), scale, zero_point)
        builder.operator(operator, [x], [y], version=2)
        made = agree(builder.build([x], [y]), tmp_path, rng, (scale, zero_point), distinct=1)
        assert isinstance(made.network.layers[0], Requantise)


@pytest.mark.parametrize("operator", ["HARD_SWISH", "LOGISTIC", "TANH"])
def test_functions(operator, tmp_path, seed):
    rng = np.random.default_rng(seed)
    every = np.arange(-128, 128, dtype=np.int8).reshape(1, 16, 16, 1)
    for number in range(60):
        builder = Builder()
        scale, zero_point = 10 ** rng.uniform(-3, 0.5), int(rng.integers(-128, 128))
        x = builder.tensor((1, 16, 16, 1), scale, zero_point)
        result = {
            "HARD_SWISH": (scale * 10 ** rng.uniform(-1.5, 1), int(rng.integers(-128, 128))),
            "LOGISTIC": (1 / 256, -128),
            "TANH": (1 / 128, 0),
        }[operator]
        y = builder.tensor((1, 16, 16, 1), *result)
        builder.operator(operator, [x], [y], version=1 if operator == "HARD_SWISH" else 2)
        model = builder.build([x], [y])
        made = imported(model, tmp_path)
        case = f"{number}: scale {scale}, zero point {zero_point}, output {result}"
        np.testing.assert_array_equal(run(made.network, every), run_all(model, every)[y], case)
    assert isinstance(made.network.layers[0], Table)


def test_hard_swish_of_scales_too_far_apart(tmp_path):
    builder = Builder()
    x, y = builder.tensor((1, 4, 4, 3), 1.0, 0), builder.tensor((1, 4, 4, 3), 1e-3, 0)
    builder.operator("HARD_SWISH", [x], [y])
    with pytest.raises(ModelError, match=r"cannot be tabulated: scales .* are too far apart"):
        imported(builder.build([x], [y]), tmp_path)


def test_multipliers_of_products_are_of_single_precision(tmp_path):
    """Scales and values at which double precision would give another product."""
    builder = Builder()
    x = builder.tensor((1, 1, 1, 1), 0.5, 0)
    maps = []
    # Weights of 0 and a bias make a constant.
    for scale, zero_point, value in (
        (0.7241714596748352, 102, 59),
        (0.8976711630821228, 65, -66),
    ):
        maps.append(builder.tensor((1, 1, 1, 1), scale, zero_point))
        w = builder.tensor((1, 1, 1, 1), 2 * scale, data=np.zeros((1, 1, 1, 1), np.int8))
        bias = builder.tensor((1,), scale, data=np.array([value - zero_point], np.int32))
        options = dilated((1, 1), VALID, (1, 1))
        builder.operator("CONV_2D", [x, w, bias], maps[-1:], version=3, **options)
    y = builder.tensor((1, 1, 1, 1), 72.52275085449219, -76)
    builder.operator("MUL", maps, [y], version=2)
    rng = np.random.default_rng(0)
    layer = agree(builder.build([x], [y]), tmp_path, rng, distinct=1).network.layers[-1]
    scales = [float(np.float32(n)) for n in (0.7241714596748352, 0.8976711630821228)]
    double = quantise_multiplier(scales[0] * scales[1] / 72.52275085449219)
    product = np.array([(59 - 102) * (-66 - 65)], np.int32)
    values = [
        rescale(product, *pair, rounding=Rounding.TWICE).item()
        for pair in (layer.output_scaling[1:], double)
    ]
    assert values[0] != values[1]


@pytest.mark.parametrize("keep", [False, True])
def test_mean(keep, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for size in ((7, 7), (3, 5), (8, 8), (1, 1), (30, 40)):
        for same in (False, True):
            builder = Builder()
            x = builder.tensor((1, *size, 40), 0.1, -5)
            axes = builder.tensor((2,), data=np.array([2, -3], np.int32))
            scaling = (0.1, -5) if same else (rng.uniform(0.005, 0.1), 11)
            y = builder.tensor((1, 1, 1, 40) if keep else (1, 40), *scaling)
            builder.operator("MEAN", [x, axes], [y], version=2, keepDims=keep)
            agree(builder.build([x], [y]), tmp_path, rng, (size, scaling))


def test_concatenation(tmp_path, seed):
    rng = np.random.default_rng(seed)
    builder, x, a, b = _branches(rng, (0.2, 0.2), (3, 3))
    y = builder.tensor((1, 4, 5, 18), 0.2, 3)
    builder.operator("CONCATENATION", [a, b, a], [y], version=2, axis=-1)
    agree(builder.build([x], [y]), tmp_path, rng)


# Graphs


def padded(rng, kind="CONV_2D", padding=VALID, twice=False):
    """A PAD, and what reads it: a convolution or a pooling, or two convolutions."""
    builder = Builder()
    x = builder.tensor((1, 7, 6, 3), 0.1, -9)
    pads = builder.tensor((4, 2), data=np.array([[0, 0], [1, 2], [0, 3], [0, 0]], np.int32))
    p = builder.tensor((1, 10, 9, 3), 0.1, -9)
    builder.operator("PAD", [x, pads], [p])
    options = window((2, 2), padding)
    size = output_size(kind, (10, 9), (3, 3), options)
    results = []
    for _ in range(1 + twice):
        if kind == "CONV_2D":
            w = builder.tensor(
                (3, 3, 3, 3), 0.01, data=rng.integers(-127, 128, (3, 3, 3, 3)).astype(np.int8)
            )
            b = builder.tensor((3,), 0.001, data=rng.integers(-900, 900, 3).astype(np.int32))
            results.append(builder.tensor((1, *size, 3), 0.2, 5))
            options |= {"dilationHFactor": 1, "dilationWFactor": 1}
            builder.operator(kind, [p, w, b], results[-1:], version=3, **options)
        else:
            results.append(builder.tensor((1, *size, 3), 0.1, -9))
            filters = {"filterHeight": 3, "filterWidth": 3}
            builder.operator(kind, [p], results[-1:], version=2, **options, **filters)
    if twice:
        results.append(builder.tensor((1, *size, 3), 0.3, 0))
        builder.operator("ADD", results[:2], results[-1:], version=2)
    return builder.build([x], results[-1:])


@pytest.mark.parametrize("padding", [SAME, VALID])
def test_pad_goes_into_the_convolution(padding, tmp_path, seed):
    rng = np.random.default_rng(seed)
    made = agree(padded(rng, padding=padding), tmp_path, rng)
    (layer,) = made.network.layers
    assert isinstance(layer, Convolution)
    # 10 x 9 pixels: SAME adds one below, and one at both sides.
    assert layer.padding == ((1, 0, 2, 3) if padding == VALID else (1, 1, 3, 4))
    assert made.notes == ("operator 0 (PAD) is done by operator 1",)


def test_pad_that_something_else_reads_stays(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for model in (padded(rng, "MAX_POOL_2D"), padded(rng, twice=True)):
        assert isinstance(agree(model, tmp_path, rng).network.layers[0], Pad)


@pytest.mark.parametrize("flat_input", [False, True])
def test_classifier(flat_input, tmp_path, seed):
    rng = np.random.default_rng(seed)
    made = agree(classifier(rng, flat_input=flat_input), tmp_path, rng)
    network = made.network
    kinds = [layer.kind for layer in network.layers]
    assert kinds == ["convolution", "pooling", "convolution"]
    assert isinstance(network.layers[1], Pooling)
    assert network.layers[2].kernel == (2, 3)
    assert network.input_shape == (7, 6, 1)
    assert network.output_scale == pytest.approx(0.04)
    assert "SOFTMAX) is left to the host" in made.notes[-1]


# Constant channels


def test_channels_that_are_constant_are_folded(tmp_path, seed):
    """Weights of 0, a multiplier of 0 with a bias near 2**30, and sums that always saturate."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(-127, 128, (6, 1, 1, 3))
    weights[0] = 0
    scale = np.array([0.01, 1e-12, 0.01, 0.02, 1e-10, 0.01])
    builder = Builder()
    x = builder.tensor((1, 4, 4, 3), 0.1, -9)
    w = builder.tensor((6, 1, 1, 3), scale, data=weights.astype(np.int8))
    bias = np.array([3000, 1 << 30, 5, 1 << 24, -(1 << 30), -(1 << 24)], np.int32)
    b = builder.tensor((6,), 0.1 * scale, data=bias)
    y = builder.tensor((1, 4, 4, 6), 0.1, 5)
    options = dilated((1, 1), SAME, (1, 1))
    builder.operator("CONV_2D", [x, w, b], [y], version=3, **options)
    made = agree(builder.build([x], [y]), tmp_path, rng)
    (layer,) = made.network.layers
    folded = ~layer.weights.W.any(axis=(1, 2))
    assert folded.tolist() == [True, True, False, True, True, True]
    assert np.abs(layer.bias[folded]).max() <= 512
    assert (layer.multiplier[folded] == 1 << 30).all()
    assert "5 of 6 output channels are constant" in made.notes[0]
    assert fold_constant_channels(layer)[1] == 0


def test_folding_does_not_touch_sums_that_wrap_around(tmp_path, seed):
    """Both ends shifted left leave int32, and what is left of them may be anything."""
    rng = np.random.default_rng(seed)
    model = linear(
        rng,
        "CONV_2D",
        (3, 3),
        1,
        100,
        scale=np.full(100, 2.0**8),
        largest_bias=(1 << 31) - 60000,
        **dilated((1, 1), VALID, (1, 1)),
    )
    made = agree(model, tmp_path, rng, distinct=2)
    assert made.network.layers[0].weights.W.any(axis=(1, 2)).sum() > 90


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        (0.5, (1 << 30, 0)),
        (1.0, (1 << 30, -1)),
        (0.75, (3 << 29, 0)),
        (2.0**-32, (1 << 30, 31)),
        (2.0**-33, (0, 0)),
        (0.0, (0, 0)),
        (1 - 2.0**-40, (1 << 30, -1)),
        (3.0, (3 << 29, -2)),
    ],
)
def test_quantise_multiplier(real, expected):
    assert quantise_multiplier(real) == expected


# Refusals


def broken(rng, change):
    """A convolution with something changed: `change` gets the builder and its tensors."""
    builder = Builder()
    x = builder.tensor((1, 4, 4, 3), 0.1, -9, name="x")
    w = builder.tensor(
        (5, 1, 1, 3), 0.01, data=rng.integers(-127, 128, (5, 1, 1, 3)).astype(np.int8), name="w"
    )
    b = builder.tensor((5,), 0.001, data=np.zeros(5, np.int32), name="b")
    y = builder.tensor((1, 4, 4, 5), 0.1, 5, name="y")
    builder.operator("CONV_2D", [x, w, b], [y], version=3, **dilated((1, 1), SAME, (1, 1)))
    graph = builder.graph
    ends = change(builder, *graph.tensors) or ([x], [y])
    return builder.build(*ends)


def follow(name, **options):
    """Put another operator behind the convolution."""

    def change(builder, x, w, b, y):
        z = builder.tensor((1, 4, 4, 5), 0.1, 5, name="z")
        builder.operator(name, [3], [z], **options)
        return [0], [z]

    return change


def put(tensor, **values):
    """Change fields of a tensor."""

    def change(builder, *tensors):
        for key, value in values.items():
            setattr(tensors["xwby".index(tensor)], key, value)

    return change


def quantisation(tensor, **values):
    def change(builder, *tensors):
        for key, value in values.items():
            setattr(tensors["xwby".index(tensor)].quantization, key, value)

    return change


def option(**values):
    def change(builder, *_):
        for key, value in values.items():
            setattr(builder.graph.operators[0].builtinOptions, key, value)

    return change


def float_model(builder, *tensors):
    for tensor in tensors:
        tensor.type, tensor.quantization = 0, None
    for buffer, count in zip(builder.model.buffers[1:], (15, 5), strict=True):
        buffer.data = np.zeros(4 * count, np.uint8)


def version(builder, *_):
    builder.model.operatorCodes[0].version = 99


def minus_128(builder, *_):
    builder.model.buffers[1].data = builder.model.buffers[1].data.copy()
    builder.model.buffers[1].data[4] = 128


def no_options(builder, *_):
    builder.graph.operators[0].builtinOptions = None
    builder.graph.operators[0].builtinOptionsType = 0


def two_outputs(builder, *_):
    return [0], [3, 3]


def softmax_in_the_middle(builder, *_):
    s = builder.tensor((1, 4, 4, 5), 1 / 256, -128)
    builder.operator("SOFTMAX", [3], [s], beta=1.0)
    z = builder.tensor((1, 4, 4, 5), 1 / 256, -128)
    builder.operator("RELU", [s], [z])
    return [0], [z]


def add_shapes(builder, *_):
    z = builder.tensor((1, 4, 4, 5), 0.1, 5)
    builder.operator("ADD", [0, 3], [z])
    return [0], [z]


def constant_operand(builder, *_):
    c = builder.tensor((1, 4, 4, 5), 0.1, 5, data=np.zeros((1, 4, 4, 5), np.int8), name="c")
    z = builder.tensor((1, 4, 4, 5), 0.1, 5)
    builder.operator("ADD", [3, c], [z])
    return [0], [z]


def mean_over_channels(builder, *_):
    axes = builder.tensor((1,), data=np.array([3], np.int32))
    z = builder.tensor((1, 4, 4, 1), 0.1, 5)
    builder.operator("MEAN", [3, axes], [z], keepDims=True)
    return [0], [z]


def pad_channels(builder, *_):
    pads = builder.tensor((4, 2), data=np.array([[0, 0], [0, 0], [0, 0], [1, 0]], np.int32))
    z = builder.tensor((1, 4, 4, 6), 0.1, 5)
    builder.operator("PAD", [3, pads], [z])
    return [0], [z]


def reshape(builder, *_):
    z = builder.tensor((1, 8, 2, 5), 0.1, 5)
    builder.operator("RESHAPE", [3], [z], newShape=[1, 8, 2, 5])
    return [0], [z]


def concatenate_rows(builder, *_):
    z = builder.tensor((1, 8, 4, 5), 0.1, 5)
    builder.operator("CONCATENATION", [3, 3], [z], axis=1)
    return [0], [z]


REFUSALS = {
    "operator": (
        follow("LEAKY_RELU"),
        r"operator 1 \(LEAKY_RELU, output 'z'\) is an operator that insitu cannot run",
        "use RELU",
    ),
    "operator without advice": (follow("ABS"), r"operator 1 \(ABS, output 'z'\) is", "CONV_2D"),
    "version": (version, r"operator 0 .* has version 99, the newest known is 8", "older converter"),
    "float": (float_model, "the input 'x' is float32, not int8", "convert it to full int8"),
    "dynamic": (put("x", shapeSignature=[1, -1, 4, 3]), "has a dynamic shape: axes", "fixed shape"),
    "input shape": (put("x", shape=[2, 4, 2, 3]), r"has shape \[2, 4, 2, 3\]", "one input"),
    "output shape": (
        put("y", shape=[1, 2, 8, 5]),
        r"gives \[4, 4, 5\], the file says \[1, 2, 8, 5\]",
        "",
    ),
    "input type": (put("x", type=3), "the input 'x' is uint8, not int8", "convert it to int8"),
    "output type": (put("y", type=7), "output 'y' is int16, not int8", "int8"),
    "flat input": (
        put("x", shape=[1, 48]),
        r"reads 'x', a map of shape|has shape|takes 3 channels",
        "",
    ),
    "weight type": (put("w", type=3), "has 'w' of uint8, not int8", ""),
    "bias type": (put("b", type=0), "has 'b' of float32, not int32", ""),
    "no scale": (put("x", quantization=None), "the input 'x' has no scale, not one", ""),
    "scales": (quantisation("y", scale=[1, 2], zeroPoint=[0, 0]), "has 2 scales, not one", ""),
    "zero scale": (quantisation("x", scale=[0]), "has scale 0.0 and zero point -9", ""),
    "zero point": (quantisation("x", zeroPoint=[200]), "zero point 200", ""),
    "weight scales": (
        quantisation("w", scale=[1, 1], zeroPoint=[0, 0]),
        "have 2 scales along axis 0, not one or 5",
        "",
    ),
    "weight axis": (
        quantisation("w", scale=[1] * 5, zeroPoint=[0] * 5, quantizedDimension=3),
        "have 5 scales along axis 3, not one or 5 along axis 0",
        "",
    ),
    "weight zero point": (quantisation("w", zeroPoint=[1]), "or a zero point that is not 0", ""),
    "weight of -128": (minus_128, "hold -128", "quantise weights to -127..127"),
    "bias scale": (quantisation("b", scale=[7.0]), "whose scale is not input times weights", ""),
    "variable": (put("x", isVariable=True), "the input 'x' is a variable", ""),
    "stride": (option(strideH=0), "has StrideH 0, not 1 to", ""),
    "padding": (option(padding=5), "has Padding 5, not 0 to 1", ""),
    "activation": (option(fusedActivationFunction=4), "has the fused activation 4", "use RELU"),
    "no options": (no_options, "has no options", ""),
    "too large": (
        put("x", shape=[1, 4, 4, 2]),
        "takes 3 channels a group and gives 5, its input has 2",
        "",
    ),
    "outputs": (two_outputs, "has 1 inputs and 2 outputs", "one of each"),
    "softmax": (softmax_in_the_middle, r"\(SOFTMAX, .* is not at the end", "left to the host"),
    "add": (add_shapes, r"adds maps of shapes \(4, 4, 3\) and \(4, 4, 5\)", "same shape"),
    "constant": (constant_operand, "reads the constant 'c' as a map", "fold the constant"),
    "mean": (mean_over_channels, r"takes the mean over axes \[3\] of 4", "height and width"),
    "pad": (pad_channels, "pads samples or channels", "height and width only"),
    "reshape": (reshape, r"makes a map of shape \[1, 8, 2, 5\] from \[4, 4, 5\]", "flatten"),
    "concatenation": (concatenate_rows, "concatenates along axis 1 of 4", "channels"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_imported_is_named(case, tmp_path, seed):
    change, cause, next_step = REFUSALS[case]
    model = broken(np.random.default_rng(seed), change)
    with pytest.raises(ModelError, match=cause) as error:
        imported(model, tmp_path)
    assert next_step in error.value.next_step
    assert "model.tflite" in error.value.cause


def test_the_model_that_refusals_are_made_from_is_fine(tmp_path, seed):
    rng = np.random.default_rng(seed)
    agree(broken(rng, lambda *_: None), tmp_path, rng)


def test_hybrid_model_is_refused(tmp_path, seed):
    """Weights are int8, but the network computes in floating point."""
    builder = Builder()
    x = builder.tensor((1, 4, 4, 3), dtype=np.float32)
    w = np.random.default_rng(seed).integers(-127, 128, (5, 1, 1, 3)).astype(np.int8)
    w = builder.tensor((5, 1, 1, 3), 0.01, data=w)
    b = builder.tensor((5,), data=np.zeros(5, np.float32))
    y = builder.tensor((1, 4, 4, 5), dtype=np.float32, name="y")
    builder.operator("CONV_2D", [x, w, b], [y], version=2, **dilated((1, 1), SAME, (1, 1)))
    cause = r"operator 0 \(CONV_2D, output 'y'\) computes in floating .* \(a hybrid model\)"
    with pytest.raises(ModelError, match=cause) as error:
        imported(builder.build([x], [y]), tmp_path)
    assert "full int8" in error.value.next_step


def flattened(name, shape, **options):
    """Maps of 2 x 2 pixels, flattened without saying so, and an operator that reads two of them."""

    def change(builder, *_):
        w = builder.tensor((1, 2, 2, 3), 0.02, data=np.ones((1, 2, 2, 3), np.int8), axis=3)
        b = builder.tensor((3,), 0.002, data=np.zeros(3, np.int32))
        c = builder.tensor((1, 2, 2, 3), 0.1, 5)
        strides = dilated((2, 2), VALID, (1, 1), depthMultiplier=1)
        builder.operator("DEPTHWISE_CONV_2D", [0, w, b], [c], version=3, **strides)
        f = builder.tensor((1, 1, 1, 12), 0.1, 5)
        builder.operator("RESHAPE", [c], [f], newShape=[1, 1, 1, 12])
        z = builder.tensor(shape, 0.1, 5)
        inputs = [f, f] if name != "MEAN" else [f, axes(builder)]
        builder.operator(name, inputs, [z], **options)
        builder.graph.operators.pop(0)
        return [0], [z]

    return change


def axes(builder):
    return builder.tensor((2,), data=np.array([1, 2], np.int32))


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [("CONCATENATION", (1, 1, 1, 24), {"axis": 3}), ("MEAN", (1, 1, 1, 12), {"keepDims": True})],
)
def test_flattened_maps_are_not_taken_for_pixels(name, shape, options, tmp_path, seed):
    """In what order the values would come is another matter than how many there are."""
    model = broken(np.random.default_rng(seed), flattened(name, shape, **options))
    with pytest.raises(ModelError, match=r"a map of shape \(2, 2, 3\) that was flattened"):
        imported(model, tmp_path)


def test_flattened_maps_can_be_added(tmp_path, seed):
    rng = np.random.default_rng(seed)
    agree(broken(rng, flattened("ADD", (1, 1, 1, 12))), tmp_path, rng)


def test_missing_empty_and_other_files(tmp_path):
    with pytest.raises(FileError, match="does not exist"):
        import_tflite(tmp_path / "none.tflite")
    for content in (b"", b"TFL3", b"\x1c\0\0\0TFL2" + bytes(100), bytes(100)):
        with pytest.raises(ModelError, match="is truncated or no TensorFlow Lite model"):
            imported(content, tmp_path)
    with pytest.raises(ModelError, match="is truncated or corrupt"):
        imported(b"\x1c\0\0\0TFL3", tmp_path)


def test_any_truncation_is_found(tmp_path, seed):
    model = classifier(np.random.default_rng(seed))
    for size in range(0, len(model), 7):
        with pytest.raises(ModelError):
            imported(model[:size], tmp_path)


def test_flipped_bytes_are_found_or_give_a_network(tmp_path, seed):
    rng = np.random.default_rng(seed)
    model = classifier(rng)
    for position in range(0, len(model), 3):
        damaged = bytearray(model)
        damaged[position] ^= int(rng.integers(1, 256))
        try:
            made = imported(bytes(damaged), tmp_path)
        except ModelError:
            continue
        assert made.network.layers
