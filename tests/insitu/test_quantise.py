"""Calibration, inputs and quantisation."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from golden.network import Network, chain, run, zero_points
from insitu.errors import FileError, InputError, ModelError
from insitu.float_network import FloatConvolution, FloatNetwork, FloatPooling
from insitu.import_onnx import import_onnx
from insitu.quantise import (
    Calibration,
    calibrate,
    check_inputs,
    correct_bias,
    has_shape,
    load_inputs,
    quantise,
    quantise_inputs,
    quantised_layer,
    round_weights,
    spread,
)
from tests.insitu.models import branches, example


@pytest.fixture
def network(seed, tmp_path):
    onnx.save(example(np.random.default_rng(seed)), tmp_path / "model.onnx")
    return import_onnx(tmp_path / "model.onnx")


def run_layer(layer, x):
    """Output of one layer, int8 [N, H', W', Co], for x int8 [N, H, W, Ci]."""
    single = Network(
        layers=chain((layer,)),
        input_shape=x.shape[1:],
        input_scale=1.0,
        input_zero_point=layer.input_zero_point,
        output_scale=1.0,
    )
    return run(single, x)


def samples(seed, shape, n=64):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, *shape)).astype(np.float32)


@pytest.mark.parametrize(("q", "most"), [(8, 0.03), (6, 0.08), (4, 0.3)])
def test_quantised_network_computes_nearly_what_the_float_one_does(network, seed, q, most):
    calibration = calibrate(network, samples(seed, network.input_shape))
    quantised = quantise(network, calibration, q)
    assert all(layer.weights.q == q for layer in quantised.layers)
    x = samples(seed + 1, network.input_shape)
    integers = quantise_inputs(x, quantised.input_scale, quantised.input_zero_point)
    y = run(quantised, integers).astype(float)
    got = (y - quantised.output_zero_point) * quantised.output_scale
    expected = network.run(x)
    assert np.linalg.norm(got - expected) < most * np.linalg.norm(expected)


def test_quantisation_is_tflites(network, seed):
    calibration = calibrate(network, samples(seed, network.input_shape))
    quantised = quantise(network, calibration)
    first, second, last = quantised.layers
    scales = list(calibration.scales)
    for index, (layer, original) in enumerate(zip(quantised.layers, network.layers, strict=True)):
        assert layer.multiplier.min() >= 1 << 30
        assert layer.shift.min() >= 0
        assert layer.input_zero_point == calibration.zero_points[index]
        real = layer.multiplier * 2.0 ** (-31.0 - layer.shift)
        weight_scale = real * scales[index + 1] / scales[index]
        largest = np.abs(original.weights).max(axis=(1, 2))
        np.testing.assert_allclose(weight_scale, largest / 127, rtol=1e-8)
        error = layer.weights.W * weight_scale[:, None, None] - original.weights
        assert (np.abs(error) <= 0.5001 * weight_scale[:, None, None]).all()
        sums = layer.weights.W.astype(int).sum(axis=(1, 2))
        bias = (layer.bias + layer.input_zero_point * sums) * weight_scale * scales[index]
        np.testing.assert_allclose(bias, original.bias, atol=weight_scale.max() * scales[index])
    # ReLU and ReLU6 are clamps; convolutions round twice, fully connected layers once.
    assert first.activation_min == first.output_zero_point == -128
    six = round(6 / scales[2]) + second.output_zero_point
    assert second.activation_max == min(127, six)
    assert (last.activation_min, last.activation_max) == (-128, 127)
    assert [layer.rounding for layer in quantised.layers] == ["twice", "twice", "up"]


@pytest.fixture
def graph(seed, tmp_path):
    onnx.save(branches(np.random.default_rng(seed)), tmp_path / "graph.onnx")
    return import_onnx(tmp_path / "graph.onnx")


@pytest.mark.parametrize(("q", "most"), [(8, 0.08), (6, 0.15), (4, 0.6)])
def test_quantised_graph_computes_nearly_what_the_float_one_does(graph, seed, q, most):
    """Every map, against how far it spreads."""
    calibration = calibrate(graph, samples(seed, graph.input_shape))
    quantised = quantise(graph, calibration, q)
    assert {layer.kind for layer in quantised.layers} == {
        "add",
        "concatenation",
        "convolution",
        "mean",
        "multiply",
        "pad",
        "pooling",
        "table",
    }
    assert [layer.name for layer in quantised.layers] == [layer.name for layer in graph.layers]
    x = samples(seed + 1, graph.input_shape)
    integers = quantise_inputs(x, quantised.input_scale, quantised.input_zero_point)
    points = zero_points(quantised)[1:]
    outputs = run(quantised, integers, keep=True)
    scales = calibration.scales[1:]
    for (layer, expected), y, scale, point in zip(
        graph.maps(x), outputs, scales, points, strict=True
    ):
        error = (y.astype(float) - point) * scale - expected
        relative = np.sqrt(np.square(error).mean()) / expected.std()
        assert relative < most, f"layer {layer.name}: {relative}"


def test_calibration_in_parts_is_the_same(graph, seed, monkeypatch):
    x = samples(seed, graph.input_shape)
    whole = calibrate(graph, x)
    monkeypatch.setattr("insitu.quantise._AT_A_TIME", 9 * 8 * 16 * 7)
    parts = calibrate(graph, x)
    assert parts.zero_points == whole.zero_points
    np.testing.assert_allclose(parts.scales, whole.scales, rtol=1e-5)


def test_maps_that_are_copied_have_one_scale(graph, seed):
    calibration = calibrate(graph, samples(seed, graph.input_shape))
    names = ["input", *(layer.name for layer in graph.layers)]
    found = dict(
        zip(names, zip(calibration.scales, calibration.zero_points, strict=True), strict=True)
    )
    tied = ["HardSwish1", "Mul8", "Concat9", "Pad10", "MaxPool11", "AveragePool12"]
    assert len({found[name] for name in tied}) == 1
    assert len(set(found.values())) == len(found) - len(tied) + 1


def test_pooling_keeps_a_scale_that_had_to_be_widened(seed):
    """A convolution whose sums are coarser than its output's scale, and what copies it."""
    layer = one_layer(np.full((1, 1, 1), 2.0), np.zeros(1))
    window = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0)}
    pool = FloatPooling(name="pool", inputs=("one",), mode="maximum", **window)
    network = FloatNetwork("n", (2, 2, 1), (layer, pool))
    x = np.full((2, 2, 2, 1), 0.5, np.float32)
    calibration = Calibration(x, (0.5, 0.01, 0.01), (0, -128, -128))
    quantised = quantise(network, calibration, 2)
    assert [layer.kind for layer in quantised.layers] == ["convolution", "pooling"]
    assert quantised.output_scale == pytest.approx(1.0)


def test_weights_that_are_quantised_already_stay(graph, seed):
    """In a model whose maps are in floating point."""
    first, *others = graph.layers
    stored, scale = round_weights(first.weights, 5)
    weights = stored.W * scale[:, None, None]
    given = replace(first, weights=weights, weight_scale=scale)
    network = replace(graph, layers=(given, *others))
    quantised = quantise(network, calibrate(network, samples(seed, graph.input_shape)))
    np.testing.assert_array_equal(quantised.layers[0].weights.W, stored.W)


def test_bits_are_chosen_by_layer(network, seed):
    calibration = calibrate(network, samples(seed, network.input_shape))
    quantised = quantise(network, calibration, {"Conv2": 5})
    assert [layer.weights.q for layer in quantised.layers] == [8, 5, 8]


@pytest.mark.parametrize("q", range(1, 9))
def test_rounded_weights_are_near(q, seed):
    weights = np.random.default_rng(seed).standard_normal((6, 5, 9))
    weights[3] = 0
    stored, scale = round_weights(weights, q)
    assert stored.q == q
    error = np.linalg.norm(stored.W * scale[:, None, None] - weights)
    most = {1: 0.65, 2: 0.5, 3: 0.3, 4: 0.15}.get(q, 2.5 / 2**q)
    assert error < most * np.linalg.norm(weights)


def one_layer(weights, bias, **options):
    return FloatConvolution(name="one", kernel=(1, 1), weights=weights, bias=bias, **options)


def test_dead_channel_keeps_its_bias():
    layer = one_layer(np.array([[[1.0]], [[0.0]]]), np.array([0.0, 3.0]))
    stored, scale = round_weights(layer.weights, 8)
    integer, (output_scale, zero_point) = quantised_layer(
        layer, stored, scale, (0.05, -3), (0.1, 5)
    )
    y = run_layer(integer, np.array([[[[17]]]], np.int8)).reshape(-1)
    np.testing.assert_array_equal((y - zero_point) * output_scale, [1.0, 3.0])


def test_coarse_accumulator_widens_the_output(seed):
    layer = one_layer(np.full((1, 1, 1), 2.0), np.zeros(1), low=0.0)
    stored, scale = round_weights(layer.weights, 2)
    integer, (output_scale, zero_point) = quantised_layer(
        layer, stored, scale, (0.5, 0), (0.01, -128)
    )
    assert output_scale == pytest.approx(1.0)
    assert zero_point == -128
    y = run_layer(integer, np.array([[[[9]]]], np.int8))
    assert (int(y[0, 0, 0, 0]) + 128) * output_scale == pytest.approx(9.0, abs=1e-6)


def test_a_channel_far_smaller_than_a_coarse_one():
    """Its multiplier stays within the requantiser's shifts where the output is widened."""
    layer = one_layer(np.array([[[1.0]], [[1e-12]]]), np.array([0.0, 3.0]))
    stored, _ = round_weights(layer.weights, 8)
    scale = np.array([1.0, 1e-12])
    integer, (output_scale, zero_point) = quantised_layer(layer, stored, scale, (1.0, 0), (1e-3, 0))
    assert output_scale == 1.0
    y = run_layer(integer, np.zeros((1, 1, 1, 1), np.int8)).reshape(-1)
    assert (y - zero_point).tolist() == [0, 3]


def test_the_bias_of_a_channel_of_tiny_weights_fits_its_word():
    layer = one_layer(np.array([[[1.0]], [[1e-9]]]), np.array([0.0, 3.0]))
    stored, scale = round_weights(layer.weights, 8)
    integer, (output_scale, zero_point) = quantised_layer(
        layer, stored, scale, (0.05, -3), (0.1, 5)
    )
    assert 1 << 20 < integer.bias[1] < 1 << 26
    y = run_layer(integer, np.array([[[[-128]]], [[[127]]]], np.int8))[..., 1]
    np.testing.assert_allclose((y - zero_point) * output_scale, 3.0, atol=1e-6)


@pytest.mark.parametrize("wide", [0, 1, 5, 15])
def test_every_channel_counts_in_a_maps_scale(wide, seed):
    """Whichever the one is that has large values."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((16, 1, 1))
    weights[:] = 0.02
    weights[wide] = 1.0
    first = one_layer(weights, np.zeros(16), low=0.0)
    last = replace(first, name="last", inputs=("one",), weights=np.eye(16)[:, :, None])
    network = FloatNetwork("wide", (32, 32, 1), (first, last))
    inputs = rng.uniform(0, 1, (256, 32, 32, 1)).astype(np.float32)
    assert 255 * calibrate(network, inputs).scales[1] > 0.9


def test_some_values_are_of_every_place(seed):
    period = 16 * 8 * 8
    values = np.arange(500 * period) % period
    some = spread(values, 10 * period, period)
    assert len(some) == pytest.approx(10 * period, rel=0.1)
    assert set(some) == set(range(period))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_maps_that_are_not_finite_are_named(value):
    layer = one_layer(np.full((2, 1, 1), value), np.zeros(2))
    network = FloatNetwork("odd", (2, 2, 1), (layer,))
    with pytest.raises(ModelError, match="output of layer 'one' is infinite or NaN"):
        calibrate(network, np.ones((4, 2, 2, 1), np.float32))


def test_bias_is_corrected_for_the_mean(seed):
    rng = np.random.default_rng(seed)
    layer = one_layer(rng.standard_normal((3, 4, 1)), rng.standard_normal(3))
    x = rng.uniform(0, 2, (50, 3, 3, 4)).astype(np.float32)
    wanted = layer.sums(x).mean(axis=(0, 1, 2))
    stored, scale = round_weights(layer.weights, 2)
    integer, (output_scale, zero_point) = quantised_layer(
        layer, stored, scale, (2 / 255, -128), (0.05, 0)
    )
    integers = quantise_inputs(x, 2 / 255, -128)

    def mean(layer):
        return (run_layer(layer, integers).mean(axis=(0, 1, 2)) - zero_point) * output_scale

    corrected = correct_bias(integer, integers, wanted, output_scale)
    assert np.abs(mean(corrected) - wanted).max() < 0.02 < np.abs(mean(integer) - wanted).max()


def test_uint8_inputs_are_quantised_exactly():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    x = check_inputs(pixels, (16, 16, 1))
    layer = FloatConvolution(name="a", kernel=(1, 1), weights=np.ones((1, 1, 1)), bias=np.zeros(1))
    calibration = calibrate(FloatNetwork("n", (16, 16, 1), (layer,)), x)
    assert calibration.zero_points[0] == -128
    assert calibration.scales[0] == pytest.approx(1 / 255, rel=1e-7)
    np.testing.assert_array_equal(
        calibration.integers().reshape(-1), np.arange(-128, 128).astype(np.int8)
    )


def test_dead_map_is_named():
    layer = one_layer(np.ones((1, 1, 1)), np.array([-9.0]), low=0.0)
    x = np.random.default_rng(0).uniform(0, 1, (5, 2, 2, 1)).astype(np.float32)
    with pytest.raises(ModelError, match="output of layer 'one' is zero for all samples"):
        calibrate(FloatNetwork("n", (2, 2, 1), (layer,)), x)


def test_inputs_come_from_a_file(tmp_path, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (5, 3, 4, 2)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", inputs=pixels, labels=np.arange(5, dtype=np.uint8))
    x, labels = load_inputs(tmp_path / "x.npz", (4, 2, 3), labels=True)
    np.testing.assert_array_equal(np.rint(x * 255), pixels.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(labels, range(5))
    reals = rng.standard_normal((5, 4, 2))
    np.savez(tmp_path / "y.npz", inputs=reals)
    x, labels = load_inputs(tmp_path / "y.npz", (4, 2, 1))
    assert labels is None
    np.testing.assert_array_equal(x[..., 0], reals.astype(np.float32))


@pytest.mark.parametrize("last", [False, True])
def test_pixels_may_have_a_scale(last, tmp_path, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 3, 4, 2)).astype(np.uint8)
    given = pixels if last else pixels.transpose(0, 3, 1, 2)
    np.savez(tmp_path / "x.npz", inputs=given, scale=0.5)
    x, _ = load_inputs(tmp_path / "x.npz", (3, 4, 2), channels_last=last)
    np.testing.assert_array_equal(x, pixels / 2)


BAD = {
    "no inputs": ({"images": np.zeros(3)}, "have no array 'inputs', only images"),
    "scale": ({"inputs": np.zeros((5, 3, 4, 2)), "scale": 0.5}, "have a scale, which is for uint8"),
    "no scale": (
        {"inputs": np.zeros((5, 3, 4, 2), np.uint8), "scale": 0},
        r"have scale array\(0\)",
    ),
    "type": ({"inputs": np.zeros((5, 3, 4, 2), np.int16)}, "are of int16"),
    "shape": ({"inputs": np.zeros((5, 4, 2, 3), np.uint8)}, r"the network takes \(N, 3, 4, 2\)"),
    "rank": ({"inputs": np.zeros((5, 24), np.uint8)}, r"have shape \(5, 24\)"),
    "none": ({"inputs": np.zeros((0, 3, 4, 2), np.uint8)}, r"have shape \(0, 3, 4, 2\)"),
    "nan": ({"inputs": np.full((5, 3, 4, 2), np.nan)}, "infinities or NaN"),
    "no labels": ({"inputs": np.zeros((5, 3, 4, 2), np.uint8)}, "no array 'labels'"),
    "labels": (
        {"inputs": np.zeros((5, 3, 4, 2), np.uint8), "labels": np.zeros(4, int)},
        r"labels of int64 \(4,\), not integers \(5,\)",
    ),
    "real labels": (
        {"inputs": np.zeros((5, 3, 4, 2), np.uint8), "labels": np.zeros(5)},
        "labels of float64",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_inputs_are_named(case, tmp_path):
    arrays, message = BAD[case]
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=message) as error:
        load_inputs(tmp_path / "x.npz", (4, 2, 3), labels=True)
    assert error.value.next_step


def test_pixels_with_the_channels_last_must_have_a_scale(tmp_path):
    np.savez(tmp_path / "x.npz", inputs=np.zeros((5, 3, 4, 2), np.uint8))
    with pytest.raises(InputError, match="are of uint8 without a scale"):
        load_inputs(tmp_path / "x.npz", (3, 4, 2), channels_last=True)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_what_is_not_finite_as_float32_is_refused(channels_last, value):
    inputs = np.full((5, 4, 4, 4), value)
    with pytest.raises(InputError, match="hold infinities or NaN"):
        check_inputs(inputs, (4, 4, 4), channels_last=channels_last)


@pytest.mark.parametrize(
    ("given", "shape", "has"),
    [
        ((5, 4, 3, 2), (4, 3, 2), True),
        ((5, 4, 3, 1), (4, 3, 1), True),
        ((5, 4, 3), (1, 4, 3), True),
        ((5,), (1, 1, 1), True),
        ((), (1, 1, 1), False),
        ((0, 4, 3, 2), (4, 3, 2), False),
        ((5, 3, 4, 2), (4, 3, 2), False),
    ],
)
def test_axes_of_length_1_may_be_left_out(given, shape, has):
    assert has_shape(np.zeros(given), shape) == has


def test_damaged_input_files_are_named(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, inputs=np.zeros((5, 3, 4, 2), np.uint8))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"truncated, corrupt or not an \.npz archive"):
        load_inputs(path, (4, 2, 3))
    with pytest.raises(FileError, match="does not exist"):
        load_inputs(tmp_path / "none.npz", (4, 2, 3))
