"""Integer layers from real ones and scales; ONNX Runtime checks whole ones elsewhere."""

from dataclasses import replace

import numpy as np
import pytest

from golden.network import Requantise
from insitu.errors import ModelError
from insitu.float_network import (
    FloatAdd,
    FloatConcatenation,
    FloatConvolution,
    FloatLayer,
    FloatLimit,
    FloatPad,
    Quantisation,
)
from insitu.integer_layers import integer_layers, integer_range

SHAPE = (4, 5, 6)
GIVEN = Quantisation(0.0371, -9)
RESULT = Quantisation(0.0523, 12)


def scaling(gain, bias):
    gain = np.asarray(gain, float).reshape(-1, 1, 1)
    return FloatConvolution(
        name="scale", kernel=(1, 1), weights=gain, bias=np.asarray(bias, float), groups=len(gain)
    )


@pytest.mark.parametrize(("largest", "low"), [(2, -np.inf), (2, 0.2), (15, -np.inf)])
def test_scale_and_offset_of_a_channel(largest, low, seed):
    """What all 256 inputs give is the real value rounded, but for one input of few channels."""
    rng = np.random.default_rng(seed)
    gain, bias = rng.uniform(-largest, largest, 1000), rng.uniform(-3, 3, 1000)
    real = replace(scaling(gain, bias), low=low)
    (layer,) = integer_layers(real, [GIVEN], RESULT, SHAPE)
    x = np.arange(-128, 128)[:, np.newaxis]
    y = layer.compute(np.broadcast_to(x, (256, 1000)).astype(np.int8).reshape(256, 1, 1, 1000))
    exact = np.maximum(gain * (x - GIVEN.zero_point) * GIVEN.scale + bias, low)
    wanted = np.clip(np.rint(exact / RESULT.scale) + RESULT.zero_point, -128, 127)
    apart = np.abs(y.reshape(256, 1000) - wanted)
    assert apart.max() <= 1
    assert np.count_nonzero(apart) <= 40


@pytest.mark.parametrize("gain", [0.5, -0.25, 1.0])
def test_halves_of_a_channel_go_to_even(gain):
    same = Quantisation(0.25, 3)
    (layer,) = integer_layers(scaling([gain], [0]), [same], same, SHAPE)
    x = np.arange(-128, 128)
    y = layer.compute(x.astype(np.int8).reshape(256, 1, 1, 1)).reshape(-1)
    np.testing.assert_array_equal(y, np.clip(np.rint(gain * (x - 3)) + 3, -128, 127))


def test_channels_of_a_small_gain_or_none_keep_their_offset():
    layer = scaling([0, 1e-12, 1e-3, 0], [1.5, -2, 0.25, 0])
    (made,) = integer_layers(layer, [GIVEN], RESULT, SHAPE)
    for value in (-128, 127):
        y = made.compute(np.full((1, 1, 1, 4), value, np.int8)).reshape(-1).astype(float)
        real = (y - RESULT.zero_point) * RESULT.scale
        x = (value - GIVEN.zero_point) * GIVEN.scale
        expected = np.array([1.5, -2, 0.25 + 1e-3 * x, 0])
        assert np.abs(real - expected).max() <= 0.51 * RESULT.scale


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-np.inf, np.inf, (-128, 127)),
        (0, np.inf, (12, 127)),
        (0, 2, (12, 12 + 38)),
        (-100, 100, (-128, 127)),
        (50, 60, (127, 127)),
    ],
)
def test_range(low, high, expected):
    assert integer_range(FloatLimit(name="l", low=low, high=high), RESULT) == expected


def test_concatenation_changes_only_what_has_another_scale():
    layer = FloatConcatenation(name="c", inputs=("a", "b", "a"))
    changed, joined = integer_layers(layer, [RESULT, GIVEN, RESULT], RESULT, SHAPE)
    assert isinstance(changed, Requantise)
    assert (changed.name, changed.inputs) == ("c/input1", ("b",))
    assert joined.inputs == ("a", "c/input1", "a")


def test_padding_with_another_scale_is_two_layers():
    layer = FloatPad(name="p", inputs=("a",), padding=(1, 1, 0, 0))
    first, second = integer_layers(layer, [GIVEN], RESULT, SHAPE)
    assert (first.name, second.name, second.inputs) == ("p/unscaled", "p", ("p/unscaled",))
    assert [one.name for one in integer_layers(layer, [GIVEN], GIVEN, SHAPE)] == ["p"]


@pytest.mark.parametrize(
    ("layer", "sources", "cause"),
    [
        (scaling([1e12], [0]), [GIVEN], r"layer 'scale' multiplies its sums by 5"),
        (scaling([1e-9], [0]), [Quantisation(1e30, 0)], "'scale' multiplies its sums by"),
        (
            FloatAdd(name="sum", inputs=("a", "b")),
            [GIVEN, Quantisation(1e6, 0)],
            "layer 'sum' has an output scale of 0.0523, far below its inputs'",
        ),
    ],
)
def test_scales_too_far_apart(layer, sources, cause):
    with pytest.raises(ModelError, match=cause) as error:
        integer_layers(layer, sources, RESULT, SHAPE)
    assert error.value.next_step.startswith("quantise the model again")


def test_unknown_kind():
    with pytest.raises(TypeError, match="'x' is a FloatLayer, of no known kind"):
        integer_layers(FloatLayer(name="x"), [GIVEN], RESULT, SHAPE)
