"""From layers in real numbers to layers of `golden`, for maps whose scales are given.

ONNX Runtime's arithmetic: what a layer gives is its exact real value over the output's scale,
rounded once with halves to even, in single precision. Multipliers are therefore those of single
precision and the requantisers round so; what is left are additions, which round at 2**-20 of a step
before they round, and halves that single precision misses.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from golden.network import (
    Add,
    Concatenation,
    Convolution,
    Layer,
    Mean,
    Multiply,
    Pad,
    Pooling,
    Requantise,
    Rounding,
    Scaling,
    Shape,
    Stored,
    Table,
)
from insitu.errors import ModelError
from insitu.exact import lines
from insitu.float_network import (
    FloatAdd,
    FloatConcatenation,
    FloatConvolution,
    FloatFunction,
    FloatLayer,
    FloatLimit,
    FloatMean,
    FloatMultiply,
    FloatPad,
    FloatPooling,
    Quantisation,
)
from insitu.import_tflite import quantise_multiplier

__all__ = ["integer_layers", "integer_range"]

_AGAIN = "quantise the model again, with samples like those it was trained with"
_LARGEST_BIAS = 2.0**29
"""Of scales that are chosen here."""


def integer_layers(
    layer: FloatLayer, sources: Sequence[Quantisation], result: Quantisation, shape: Shape
) -> list[Layer]:
    """The layers that compute one; the last has its name, those before it change scales.

    Parameters
    ----------
    layer : FloatLayer
    sources : sequence of Quantisation
        Of the maps that it reads.
    result : Quantisation
        Of the map that it gives.
    shape : (int, int, int)
        Of the first map that it reads.

    Raises
    ------
    ModelError
        If the scales are too far apart, or a bias does not fit int32.
    """
    given = sources[0]
    low, high = integer_range(layer, result)
    if isinstance(layer, FloatConvolution):
        return [_convolution(layer, given, result)]
    if isinstance(layer, FloatPooling):
        return _pooling(layer, given, result)
    if isinstance(layer, FloatMean):
        pixels = np.float32(shape[0] * shape[1])
        real = np.float32(given.scale) / (np.float32(result.scale) * pixels)
        return [
            Mean(
                name=layer.name,
                inputs=layer.inputs,
                input_zero_point=given.zero_point,
                output_scaling=_scaling(layer, real, result.zero_point),
                rounding=Rounding.EVEN,
            )
        ]
    if isinstance(layer, FloatAdd):
        return [_add(layer, sources, result)]
    if isinstance(layer, FloatMultiply):
        a, b = sources
        real = np.float32(a.scale) * np.float32(b.scale) / np.float32(result.scale)
        return [
            Multiply(
                name=layer.name,
                inputs=layer.inputs,
                input_zero_points=(a.zero_point, b.zero_point),
                output_scaling=_scaling(layer, real, result.zero_point),
                activation_min=low,
                activation_max=high,
                rounding=Rounding.EVEN,
            )
        ]
    if isinstance(layer, FloatConcatenation):
        return _concatenation(layer, sources, result)
    if isinstance(layer, FloatFunction):
        table = _table(layer, given, result)
        return [
            Table(
                name=layer.name,
                inputs=layer.inputs,
                table=table,
                output_zero_point=result.zero_point,
            )
        ]
    if isinstance(layer, FloatLimit):
        return [_requantise(layer, layer.name, layer.inputs[0], given, result)]
    if isinstance(layer, FloatPad):
        name = layer.name if given == result else f"{layer.name}/unscaled"
        made = Pad(
            name=name,
            inputs=layer.inputs,
            padding=layer.padding,
            input_zero_point=given.zero_point,
        )
        return _rescaled(layer, made, given, result)
    raise TypeError(f"layer {layer.name!r} is a {type(layer).__name__}, of no known kind")


def integer_range(layer: FloatLayer, result: Quantisation) -> tuple[int, int]:
    """A layer's limits in the integers of its map."""

    def limit(value: float, otherwise: int) -> int:
        if math.isinf(value):
            return otherwise
        steps = np.rint(np.float32(value) / np.float32(result.scale))
        return int(np.clip(steps + result.zero_point, -128, 127))

    return limit(layer.low, -128), limit(layer.high, 127)


def _multiplier(layer: FloatLayer, real: float) -> tuple[int, int]:
    multiplier, shift = quantise_multiplier(real)
    if shift < -30:
        raise ModelError(f"layer {layer.name!r} multiplies its sums by {real:g}", _AGAIN)
    return multiplier, shift


def _scaling(layer: FloatLayer, real: np.float32 | float, zero_point: int) -> Scaling:
    return Scaling(zero_point, *_multiplier(layer, float(real)))


def _requantise(
    layer: FloatLayer, name: str, source: str, given: Quantisation, result: Quantisation
) -> Requantise:
    low, high = integer_range(layer, result)
    real = np.float32(given.scale) / np.float32(result.scale)
    return Requantise(
        name=name,
        inputs=(source,),
        input_zero_point=given.zero_point,
        output_scaling=_scaling(layer, real, result.zero_point),
        activation_min=low,
        activation_max=high,
        rounding=Rounding.EVEN,
    )


def _rescaled(
    layer: FloatLayer, made: Layer, given: Quantisation, result: Quantisation
) -> list[Layer]:
    """A layer that keeps its input's scale, and what changes it where it must."""
    if given == result:
        return [made]
    return [made, _requantise(layer, layer.name, made.name, given, result)]


def _integer_weights(
    layer: FloatConvolution, input_scale: float
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Weights and their scale a channel: the model's own, or as fine as 8 bits allow."""
    weights = layer.weights.astype(np.float64)
    if layer.weight_scale is not None:
        scale = layer.weight_scale.astype(np.float64)
    else:
        scale = np.abs(weights).max(axis=(1, 2)) / 127
        # A channel without weights, or with very small ones, still has a bias to express.
        scale = np.maximum(scale, np.abs(layer.bias) / (input_scale * _LARGEST_BIAS))
        scale[scale == 0] = 1
    integers = np.rint(weights / scale[:, np.newaxis, np.newaxis])
    return integers.astype(np.int8), scale


def _convolution(layer: FloatConvolution, given: Quantisation, result: Quantisation) -> Convolution:
    W, scale = _integer_weights(layer, given.scale)
    unit = np.float32(given.scale) * scale.astype(np.float32)
    pairs = [_multiplier(layer, real) for real in (unit / np.float32(result.scale)).tolist()]
    multiplier, shift = (np.array(values, np.int64) for values in zip(*pairs, strict=True))
    bias = np.rint(layer.bias / unit.astype(np.float64))
    low, high = integer_range(layer, result)
    if layer.weight_scale is None and W[0].size == 1:
        # A scale and an offset for each channel, as batch normalisation is.
        gain = layer.weights[:, 0, 0] * given.scale / result.scale
        usual = (np.abs(W[:, 0, 0]) == 127) & (np.abs(gain) < 64)
        offset = layer.bias[usual] / result.scale
        found = lines(gain[usual], offset, given.zero_point, result.zero_point, low, high)
        W[usual, 0, 0], bias[usual] = found.weight, found.bias
        for channel, real in zip(np.flatnonzero(usual), found.factor.tolist(), strict=True):
            multiplier[channel], shift[channel] = _multiplier(layer, real)
    bias -= given.zero_point * W.astype(np.int64).sum(axis=(1, 2))
    bias[multiplier == 0] = 0
    if (np.abs(bias) >= 1 << 31).any():
        raise ModelError(f"layer {layer.name!r} has a bias that does not fit int32", _AGAIN)
    return Convolution(
        name=layer.name,
        inputs=layer.inputs,
        kernel=layer.kernel,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        weights=Stored(W, 8),
        bias=bias.astype(np.int32),
        multiplier=multiplier.astype(np.int32),
        shift=shift.astype(np.int8),
        input_zero_point=given.zero_point,
        output_zero_point=result.zero_point,
        activation_min=low,
        activation_max=high,
        rounding=Rounding.EVEN,
        groups=layer.groups,
    )


def _pooling(layer: FloatPooling, given: Quantisation, result: Quantisation) -> list[Layer]:
    """Pooling; an average of several pixels changes the scale as it is rounded."""
    kept = given == result
    average = layer.mode == "average" and layer.kernel != (1, 1)
    low, high = integer_range(layer, result) if kept or average else (-128, 127)
    scaling = None
    if average:
        real = np.float32(given.scale) / np.float32(result.scale)
        scaling = _scaling(layer, real, result.zero_point)
    made = Pooling(
        name=layer.name if kept or average else f"{layer.name}/unscaled",
        inputs=layer.inputs,
        mode=layer.mode,
        kernel=layer.kernel,
        stride=layer.stride,
        padding=layer.padding,
        activation_min=low,
        activation_max=high,
        input_zero_point=given.zero_point,
        output_scaling=scaling,
    )
    return [made] if average else _rescaled(layer, made, given, result)


def _add(layer: FloatAdd, sources: Sequence[Quantisation], result: Quantisation) -> Add:
    """A sum, with the ratios of scales in single precision, as ONNX Runtime has them."""
    ratios = [float(np.float32(one.scale) / np.float32(result.scale)) for one in sources]
    # A power of two times the smaller one, so that it has no error and often both have none.
    base = math.ldexp(min(ratios), math.frexp(max(ratios) / min(ratios))[1])
    if base >= 1 << 20:
        raise ModelError(
            f"layer {layer.name!r} has an output scale of {result.scale:g}, far below its inputs'",
            _AGAIN,
        )
    low, high = integer_range(layer, result)
    a, b = (
        _scaling(layer, ratio / base, source.zero_point)
        for ratio, source in zip(ratios, sources, strict=True)
    )
    return Add(
        name=layer.name,
        inputs=layer.inputs,
        scalings=(a, b),
        output_scaling=_scaling(layer, math.ldexp(base, -20), result.zero_point),
        activation_min=low,
        activation_max=high,
        rounding=Rounding.EVEN,
    )


def _concatenation(
    layer: FloatConcatenation, sources: Sequence[Quantisation], result: Quantisation
) -> list[Layer]:
    made: list[Layer] = []
    inputs = []
    for number, (name, given) in enumerate(zip(layer.inputs, sources, strict=True)):
        if given != result:
            made.append(_requantise(layer, f"{layer.name}/input{number}", name, given, result))
            name = made[-1].name
        inputs.append(name)
    return [*made, Concatenation(name=layer.name, inputs=tuple(inputs))]


def _table(layer: FloatFunction, given: Quantisation, result: Quantisation) -> NDArray[np.int8]:
    x = (np.arange(-128, 128) - given.zero_point).astype(np.float32) * np.float32(given.scale)
    steps = np.rint(layer.function(x) / np.float32(result.scale)) + result.zero_point
    return np.clip(steps, -128, 127).astype(np.int8)
