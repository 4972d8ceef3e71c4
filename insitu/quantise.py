"""Quantise a floating-point network to int8 activations and integer weights.

TFLite's int8 scheme: activations have one scale and zero point a map, weights one scale an output
channel and no zero point, biases the product of both scales. What the requantiser multiplies with
is `input_scale * weight_scale / output_scale`, as a 31-bit multiplier and a right shift.

`calibrate` finds the scales of the maps from sample inputs, `quantise` the integers;
`quantised_layer` is the step that `insitu.compress` shares.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.fixed import symmetric_range
from golden.network import (
    INPUT,
    Convolution,
    Generated,
    Layer,
    Multiply,
    Network,
    Rounding,
    Stored,
    Table,
)
from insitu.errors import InputError, ModelError
from insitu.files import read_arrays
from insitu.float_network import (
    FloatConcatenation,
    FloatConvolution,
    FloatLayer,
    FloatNetwork,
    FloatPad,
    FloatPooling,
    Quantisation,
)
from insitu.integer_layers import integer_layers
from rtl.record import PACKED_BIAS_BITS

__all__ = [
    "Builder",
    "Calibration",
    "Given",
    "are_classes",
    "calibrate",
    "check_classes",
    "check_inputs",
    "check_knowledge",
    "check_labels",
    "check_scale",
    "check_varied",
    "correct_bias",
    "has_shape",
    "in_order",
    "load_inputs",
    "map_quantisations",
    "quantise",
    "quantise_inputs",
    "quantised_layer",
    "quantised_network",
    "read_given",
    "round_weights",
    "spread",
]

Floats = NDArray[np.floating[Any]]
Int8 = NDArray[np.int8]

LARGEST_INPUT = 1e9
"""No network is trained with larger ones, and their squares would leave single precision."""
_FORMAT = "save them with numpy.savez(FILE, inputs=array), labels=classes where there are any"
_AT_A_TIME = 1 << 26
"""Values of the largest map that calibration has in memory."""
_KEPT = 200_000
"""Values of a map that its scale is chosen by."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scales of a network's maps, and the samples they were found with.

    Parameters
    ----------
    inputs : float32 [N, H, W, C]
    scales : tuple of float
        Of the input, then of each layer's output.
    zero_points : tuple of int
    """

    inputs: NDArray[np.float32]
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]

    def integers(self) -> Int8:
        """The samples, quantised."""
        return quantise_inputs(self.inputs, self.scales[0], self.zero_points[0])


@dataclass(frozen=True, eq=False)
class Given:
    """What a file of inputs holds.

    Parameters
    ----------
    source : str
        For messages.
    inputs : array
    labels : array or None
    scale : float or None
        What uint8 is multiplied with.
    """

    source: str
    inputs: NDArray[Any]
    labels: NDArray[Any] | None
    scale: float | None

    def needed_labels(self) -> NDArray[Any]:
        """The labels; an InputError where there are none."""
        if self.labels is None:
            raise InputError(f"{self.source} have no array 'labels'", "add the labels to the file")
        return self.labels


def read_given(path: str | Path, what: str = "inputs") -> Given:
    """Read an .npz file of `inputs`, and of `labels` and `scale` where there are any.

    Parameters
    ----------
    path : path
    what : str, optional
        What the file should be, for messages.

    Raises
    ------
    FileError
        If the file cannot be read.
    InputError
        If it is damaged, has no inputs, or a scale that is none.
    """
    arrays = read_arrays(path, what, InputError, _FORMAT)
    source = f"{what} {path}"
    if "inputs" not in arrays:
        raise InputError(
            f"{source} have no array 'inputs', only {', '.join(arrays) or 'nothing'}", _FORMAT
        )
    inputs, scale = arrays["inputs"], arrays.get("scale")
    if scale is not None and inputs.dtype != np.uint8:
        raise InputError(
            f"{source} are of {inputs.dtype} and have a scale, which is for uint8",
            "give inputs as the network takes them, without a scale",
        )
    if scale is not None and not (
        scale.size == 1 and scale.dtype.kind in "fiu" and 0 < scale.item() < np.inf
    ):
        raise InputError(f"{source} have scale {scale!r}", "give one positive number")
    return Given(source, inputs, arrays.get("labels"), None if scale is None else scale.item())


def load_inputs(
    path: str | Path,
    input_shape: tuple[int, int, int],
    *,
    labels: bool = False,
    channels_last: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """Read inputs, and labels where there are any, from an .npz file.

    Parameters
    ----------
    path : path
        `inputs`, as for `check_inputs`, and `scale`; `labels`: integers [N], optional.
    input_shape : (int, int, int)
        Height, width, channels.
    labels : bool, optional
        Whether labels must be there.
    channels_last : bool, optional
        Whether inputs are [N, H, W, C], as those of a `.tflite`.

    Returns
    -------
    (float32 [N, H, W, C], int64 [N] or None)

    Raises
    ------
    FileError
        If the file cannot be read.
    InputError
        If it is damaged, or its contents are not as above.
    """
    given = read_given(path)
    values = check_inputs(
        given.inputs, input_shape, given.source, channels_last=channels_last, scale=given.scale
    )
    found = given.needed_labels() if labels else given.labels
    return values, check_labels(found, len(values), given.source)


def check_labels(
    labels: NDArray[Any] | None, count: int, source: str = "inputs"
) -> NDArray[np.int64] | None:
    """Labels as int64 [count], checked; None where there are none.

    Raises
    ------
    InputError
        For another type or shape.
    """
    if labels is None:
        return None
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise InputError(
            f"{source} has labels of {labels.dtype} {labels.shape}, not integers ({count},)",
            "save one integer label for each input",
        )
    return labels.astype(np.int64)


def are_classes(shape: tuple[int, int, int]) -> bool:
    """Whether all models have outputs (H, W, C) in one order: of one pixel, or of one channel."""
    height, width, channels = shape
    return height * width == 1 or channels == 1


def check_classes(shape: tuple[int, int, int], source: str) -> None:
    """Check that outputs (H, W, C) can be numbered by labels.

    Raises
    ------
    InputError
        For several pixels of several channels.
    """
    height, width, channels = shape
    if not are_classes(shape):
        raise InputError(
            f"{source} have labels, and the network gives {height} x {width} pixels of {channels} "
            "channels, which are not numbered",
            "leave the labels out, or name a network that gives one pixel",
        )


def check_scale(scale: float | None, source: str, *, channels_last: bool) -> None:
    """Raise InputError if nobody knows what uint8 is multiplied with."""
    if scale is None and channels_last:
        raise InputError(
            f"{source} are of uint8 without a scale",
            "add to the file what they are multiplied with: scale=1.0 where the network takes "
            "pixels of 0 to 255",
        )


def check_inputs(
    inputs: NDArray[Any],
    input_shape: tuple[int, int, int],
    source: str = "inputs",
    *,
    channels_last: bool = False,
    scale: float | None = None,
) -> NDArray[np.float32]:
    """Real inputs, checked.

    Parameters
    ----------
    inputs : array
        [N, C, H, W], or [N, H, W, C] where `channels_last`; axes of length 1 may be left out. Float
        as the model takes them, or uint8, which stands for value * `scale`.
    input_shape : (int, int, int)
        Height, width, channels.
    source : str, optional
        For messages.
    channels_last : bool, optional
    scale : float, optional
        By default 1 / 255, but not where `channels_last`.

    Returns
    -------
    float32 [N, H, W, C]

    Raises
    ------
    InputError
        For another type or shape, infinities or NaN.
    """
    integers = inputs.dtype == np.uint8
    if integers:
        check_scale(scale, source, channels_last=channels_last)
    elif inputs.dtype not in (np.float32, np.float64):
        raise InputError(
            f"{source} are of {inputs.dtype}",
            "give float32, in the range that the model was trained with, or uint8 and a scale",
        )
    values = _finite(in_order(inputs, input_shape, source, channels_last=channels_last), source)
    if integers:
        values = values / np.float32(255) if scale is None else values * np.float32(scale)
    return np.ascontiguousarray(values)


def _finite(inputs: NDArray[Any], source: str) -> NDArray[np.float32]:
    """The same as float32, checked."""
    with np.errstate(over="ignore"):
        values = np.asarray(inputs, np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{source} hold infinities or NaN as float32", "give finite inputs")
    largest = float(np.abs(values).max(initial=0))
    if largest > LARGEST_INPUT:
        raise InputError(
            f"{source} reach {largest:g}", "give them in the range that the model was trained with"
        )
    return values


def check_varied(values: NDArray[np.float32], source: str) -> None:
    """Refuse calibration samples that are all one value."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise InputError(f"{source} hold nothing but {low:g}", "give some hundred typical inputs")


def check_knowledge(right: int, labels: NDArray[np.int64]) -> None:
    """Raise InputError if a network, right on so many samples, knows nothing of them."""
    count = len(labels)
    most = int(np.unique(labels, return_counts=True)[1].max())
    if right <= most < count:
        raise InputError(
            f"the network is right on {right / count:.1%} of the samples, of which "
            f"{most / count:.1%} have one and the same label: it knows nothing of them",
            "check the samples' range against what the model was trained with, and their labels",
        )


def has_shape(inputs: NDArray[Any], shape: tuple[int, ...]) -> bool:
    """Whether these are one or more inputs of a shape, but for axes of length 1."""
    squeezed = [n for n in inputs.shape[1:] if n != 1]
    return inputs.ndim > 0 and inputs.size > 0 and squeezed == [n for n in shape if n != 1]


def in_order(
    inputs: NDArray[Any],
    input_shape: tuple[int, int, int],
    source: str,
    *,
    channels_last: bool,
) -> NDArray[Any]:
    """Inputs [N, C, H, W], or [N, H, W, C] where `channels_last`, as [N, H, W, C].

    Axes of length 1 may be left out.

    Raises
    ------
    InputError
        For another shape; also without inputs.
    """
    height, width, channels = input_shape
    shape = input_shape if channels_last else (channels, height, width)
    if not has_shape(inputs, shape):
        raise InputError(
            f"{source} have shape {inputs.shape}, the network takes "
            f"(N, {', '.join(str(n) for n in shape)})",
            "give inputs in the shape that the model takes, with the channels last"
            if channels_last
            else "give inputs in the shape that the ONNX model takes",
        )
    inputs = inputs.reshape(-1, *shape)
    return inputs if channels_last else inputs.transpose(0, 2, 3, 1)


def quantise_inputs(inputs: NDArray[np.floating], scale: float, zero_point: int) -> Int8:
    """clamp(round(inputs / scale) + zero_point), int8."""
    integers = np.rint(np.asarray(inputs, np.float64) / scale) + zero_point
    return np.clip(integers, -128, 127).astype(np.int8)


def calibrate(network: FloatNetwork, inputs: NDArray[np.float32]) -> Calibration:
    """Scale and zero point of every map, from sample inputs.

    Each map's range is that of the samples, shrunk where this lowers the mean square error of
    quantising them. Maps that a pooling, a padding or a concatenation ties together have one.

    Parameters
    ----------
    network : FloatNetwork
    inputs : float32 [N, H, W, C]
        Some hundred typical inputs.

    Raises
    ------
    ModelError
        If a map is zero for all samples, or not finite for some.
    """
    ties = _ties(network)
    last = network.layers[-1].name
    seen: dict[str, list[_Sample]] = {}
    zero = dict.fromkeys(layer.name for layer in network.layers)
    batch = max(1, _AT_A_TIME // max(math.prod(shape) for shape in network.shapes.values()))
    for start in range(0, len(inputs), batch):
        samples = inputs[start : start + batch]
        most = _KEPT * len(samples) // len(inputs)
        seen.setdefault(ties[INPUT], []).append(_sample(samples, most))
        for layer, x in network.maps(samples):
            if not np.isfinite(x).all():
                raise ModelError(
                    f"the output of layer {layer.name!r} is infinite or NaN for some samples",
                    "check the samples' scale against what the model was trained with",
                )
            if x.any():
                zero.pop(layer.name, None)
            seen.setdefault(ties[layer.name], []).append(_sample(x, most))
    if zero:
        raise ModelError(
            f"the output of layer {next(iter(zero))!r} is zero for all samples",
            "check the samples' scale against what the model was trained with",
        )
    whole = {ties[INPUT], ties[last]}  # Inputs are not clipped, and outputs are what counts.
    found = {root: _range(maps, root not in whole) for root, maps in seen.items()}
    ranges = [found[ties[name]] for name in (INPUT, *(layer.name for layer in network.layers))]
    return Calibration(
        inputs, tuple(scale for scale, _ in ranges), tuple(zero_point for _, zero_point in ranges)
    )


def _ties(network: FloatNetwork) -> dict[str, str]:
    """For each map, by its layer's name, one that stands for all that share its scale."""
    root = {INPUT: INPUT}
    for layer in network.layers:
        root[layer.name] = layer.name
        if isinstance(layer, FloatConcatenation | FloatPad | FloatPooling):
            old = {root[name] for name in layer.inputs}
            root = {name: layer.name if found in old else found for name, found in root.items()}
    return root


@dataclass(frozen=True, eq=False)
class _Sample:
    """Range of a map, and some of its values."""

    low: float
    high: float
    values: NDArray[np.float64]


def _sample(x: NDArray[Any], most: int) -> _Sample:
    values = x.reshape(-1)
    some = spread(values, most, period=math.prod(x.shape[1:])).astype(np.float64)
    return _Sample(float(values.min()), float(values.max()), some)


def spread(values: NDArray[Any], most: int, period: int) -> NDArray[Any]:
    """About so many of values [n, ...], of all places of what repeats with a period.

    Every so-many-th alone would be of a few channels of a map, or of a few columns.
    """
    step = max(1, len(values) // max(1, most))
    while math.gcd(step, period) > 1:
        step += 1
    return values[::step]


def _range(maps: Sequence[_Sample], shrink: bool) -> tuple[float, int]:
    """Scale and zero point for all of some maps."""
    low = min(0.0, *(one.low for one in maps))
    high = max(0.0, *(one.high for one in maps))
    if high == low:
        high = 1.0
    values = np.concatenate([one.values for one in maps])
    best = (math.inf, 1.0, 0)
    for factor in np.linspace(1, 0.4, 25) if shrink else (1.0,):
        scale = (high - low) * factor / 255
        zero_point = int(np.clip(np.rint(-128 - low * factor / scale), -128, 127))
        integers = np.clip(np.rint(values / scale) + zero_point, -128, 127)
        error = float(np.square((integers - zero_point) * scale - values).sum())
        best = min(best, (error, scale, zero_point))
    return float(best[1]), best[2]


def round_weights(weights: Floats, q: int) -> tuple[Stored, Floats]:
    """Round weights to q bits with a scale an output channel.

    At 8 bits the scale is TFLite's, the largest weight being 127; below it is the one that
    minimises the square error.

    Parameters
    ----------
    weights : float64 [Co, Ci, T]
    q : int
        1..8.

    Returns
    -------
    (Stored, float64 [Co])
        The integers and their scales.
    """
    flat = weights.reshape(len(weights), -1)
    if q == 1:
        signs = np.where(flat < 0, -1, 1)
        scale = np.abs(flat).mean(axis=1)
        return Stored(signs.astype(np.int8).reshape(weights.shape), 1), scale
    high = symmetric_range(q)[1]
    largest = np.abs(flat).max(axis=1, keepdims=True)
    largest[largest == 0] = 1
    if q == 8:
        rounded = np.rint(flat * (high / largest)).astype(np.int8)
        return Stored(rounded.reshape(weights.shape), q), largest[:, 0] / high
    best_error = np.full(len(flat), np.inf)
    best_scale = np.zeros(len(flat))
    integers = np.zeros(flat.shape, np.int8)
    for factor in np.linspace(1, 0.3, 36):
        rounded = np.clip(np.rint(flat * (high / (factor * largest))), -high, high)
        power = np.square(rounded).sum(axis=1)
        scale = (flat * rounded).sum(axis=1) / np.maximum(power, 1)
        error = np.square(flat - scale[:, None] * rounded).sum(axis=1)
        better = (error < best_error) & ((scale > 0) | (power == 0))
        best_error[better] = error[better]
        best_scale[better] = scale[better]
        integers[better] = rounded[better]
    return Stored(integers.reshape(weights.shape), q), best_scale


def quantised_layer(
    layer: FloatConvolution,
    weights: Stored | Generated,
    weight_scale: Floats,
    input_quantisation: tuple[float, int],
    output_quantisation: tuple[float, int],
) -> tuple[Convolution, tuple[float, int]]:
    """The integer layer with given integer weights, and its output's scale and zero point.

    The requantiser cannot multiply by more than 1: where an accumulator unit is worth more than
    the output's scale, the output gets the larger scale.

    Parameters
    ----------
    layer : FloatConvolution
    weights : Stored or Generated
        Integers that, times `weight_scale`, stand for the layer's weights.
    weight_scale : float64 [Co]
        At least 0. Channels whose integers are all 0 may have any.
    input_quantisation, output_quantisation : (float, int)
        Scale and zero point; that of the output as calibrated.
    """
    input_scale, input_zero_point = input_quantisation
    output_scale, output_zero_point = output_quantisation
    integers = weights.W.astype(np.int64)
    # A channel without weights, or with very small ones, still has a bias to express, in no more
    # bits than every configuration has for it.
    least = np.abs(layer.bias) / (input_scale * 2.0 ** (PACKED_BIAS_BITS - 2))
    scale = np.maximum(weight_scale, np.maximum(least, output_scale / input_scale * 2.0**-30))
    dead = ~integers.any(axis=(1, 2))
    scale[dead] = np.maximum(least[dead], output_scale / input_scale / 4)
    unit = input_scale * float(scale.max())
    if unit > output_scale:
        low = (-128 - output_zero_point) * output_scale
        output_scale = unit
        output_zero_point = int(np.clip(np.rint(-128 - low / output_scale), -128, 127))
        scale = np.maximum(scale, output_scale / input_scale * 2.0**-30)
    real = input_scale * scale / output_scale
    mantissa, exponent = np.frexp(real)
    multiplier = np.rint(mantissa * 2.0**31)
    exponent = exponent + (multiplier == 2.0**31)
    multiplier[multiplier == 2.0**31] = 2.0**30
    # Rounding up at the very top would need a left shift.
    multiplier[exponent > 0] = 2.0**31 - 1
    exponent = np.minimum(exponent, 0)
    bias = np.rint(layer.bias / (input_scale * scale)).astype(np.int64)
    bias -= input_zero_point * integers.sum(axis=(1, 2))

    def limit(value: float, otherwise: int) -> int:
        if math.isinf(value):
            return otherwise
        return int(np.clip(round(value / output_scale) + output_zero_point, -128, 127))

    result = Convolution(
        name=layer.name,
        inputs=layer.inputs,
        kernel=layer.kernel,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        weights=weights,
        bias=bias.astype(np.int32),
        multiplier=multiplier.astype(np.int32),
        shift=(-exponent).astype(np.int8),
        input_zero_point=input_zero_point,
        output_zero_point=output_zero_point,
        activation_min=limit(layer.low, -128),
        activation_max=limit(layer.high, 127),
        rounding=Rounding.UP if layer.dense else Rounding.TWICE,
    )
    return result, (output_scale, output_zero_point)


def correct_bias(layer: Convolution, x: Int8, wanted: Floats, output_scale: float) -> Convolution:
    """Shift the biases so that the mean of each channel, before its limits, is as wanted.

    Parameters
    ----------
    layer : Convolution
    x : int8 [N, H, W, Ci]
        Its quantised inputs.
    wanted : float64 [Co]
        Mean of each output channel of the float network, before its limits.
    output_scale : float
    """
    sums = layer.sums(x)
    unit = output_scale * layer.multiplier * 2.0 ** (-31.0 - layer.shift)
    mean = sums.reshape(-1, sums.shape[-1]).mean(axis=0)
    bias = layer.bias + np.rint(wanted / unit - mean)
    return replace(layer, bias=np.clip(bias, -(1 << 30), (1 << 30)).astype(np.int32))


def quantise(
    network: FloatNetwork, calibration: Calibration, q: int | Mapping[str, int] = 8
) -> Network:
    """Quantise a network, all weights stored.

    Below 8 bits the biases are corrected for the mean error of the samples.

    Parameters
    ----------
    network : FloatNetwork
    calibration : Calibration
    q : int or mapping of layer name to int, optional
        Bits of the weights; layers that a mapping leaves out get 8.

    Raises
    ------
    ModelError
        If the scales are too far apart for the integers of a layer.
    """
    bits = {
        layer.name: q.get(layer.name, 8) if isinstance(q, Mapping) else q
        for layer in network.layers
    }
    # What layers give for the samples is needed to correct biases, and only for that.
    wanted = {}
    if min(bits.values()) < 8:
        for layer, sums in network.sums(calibration.inputs):
            wanted[layer.name] = sums.reshape(-1, sums.shape[-1]).mean(axis=0, dtype=np.float64)
    found = map_quantisations(network, calibration)
    builder = Builder(network, found)
    samples = {INPUT: calibration.integers()} if wanted else {}
    for layer in network.layers:
        if isinstance(layer, FloatPad | FloatPooling):
            found[layer.name] = found[layer.inputs[0]]
        if not isinstance(layer, FloatConvolution) or layer.weight_scale is not None:
            made = builder.add(layer)
        else:
            weights, scale = round_weights(layer.weights, bits[layer.name])
            integer, after = quantised_layer(
                layer, weights, scale, found[layer.inputs[0]], found[layer.name]
            )
            if bits[layer.name] < 8:
                x = samples[layer.inputs[0]]
                integer = correct_bias(integer, x, wanted[layer.name], after[0])
            found[layer.name] = Quantisation(*after)
            made = builder.append(integer)
        if wanted:
            for one in made:
                samples[one.name] = one.compute(*(samples[name] for name in one.inputs))
    return builder.network()


def quantised_network(network: FloatNetwork, calibration: Calibration | None = None) -> Network:
    """The integers of a network from a quantised model, with the model's own scales.

    Parameters
    ----------
    network : FloatNetwork
    calibration : Calibration, optional
        For maps that the model leaves in floating point.

    Raises
    ------
    ModelError
        If there are such maps and no calibration, or the scales are too far apart for the integers
        of a layer.
    """
    found = {} if calibration is None else map_quantisations(network, calibration)
    found |= network.quantisations
    for name in (INPUT, *(layer.name for layer in network.layers)):
        if name not in found:
            what = "the input" if name == INPUT else f"what layer {name!r} gives"
            raise ModelError(
                f"model {network.name!r} is quantised, but leaves {what} in floating point",
                "quantise that too, or name sample inputs with --calibration FILE.npz",
            )
    builder = Builder(network, found)
    for layer in network.layers:
        builder.add(layer)
    return builder.network()


def map_quantisations(network: FloatNetwork, calibration: Calibration) -> dict[str, Quantisation]:
    """Of the input and each layer's output, by name, as calibrated."""
    names = (INPUT, *(layer.name for layer in network.layers))
    pairs = map(Quantisation, calibration.scales, calibration.zero_points)
    return dict(zip(names, pairs, strict=True))


class Builder:
    """Puts a network of integers together.

    Parameters
    ----------
    network : FloatNetwork
    quantisations : mapping
        Of the input and each layer's output, by name; looked at when a layer is added.
    """

    def __init__(self, network: FloatNetwork, quantisations: Mapping[str, Quantisation]):
        self._network = network
        self._quantisations = quantisations
        self._shapes = network.shapes
        self._layers: list[Layer] = []

    def add(self, layer: FloatLayer) -> list[Layer]:
        """Add the integers of a layer, with the scales of the maps."""
        sources = [self._quantisations[name] for name in layer.inputs]
        result = self._quantisations[layer.name]
        shape = self._shapes[layer.inputs[0]]
        made = integer_layers(layer, sources, result, shape)
        self._layers += made
        return made

    def append(self, layer: Layer) -> list[Layer]:
        """Add a layer that is made already."""
        self._layers.append(layer)
        return [layer]

    def network(self) -> Network:
        """All of it."""
        given = self._quantisations[INPUT]
        try:
            return Network(
                layers=tuple(_products_as_tables(self._layers)),
                input_shape=self._network.input_shape,
                input_scale=given.scale,
                input_zero_point=given.zero_point,
                output_scale=self._quantisations[self._layers[-1].name].scale,
            )
        except ValueError as error:
            raise ModelError(
                f"network {self._network.name!r} is inconsistent: {error}", "check the model"
            ) from None


def _products_as_tables(layers: Sequence[Layer]) -> list[Layer]:
    """Layers with one table in place of a map's product with a table of itself.

    It gives the same values, and is what becomes of x * hard-sigmoid(x) and x * sigmoid(x).
    """
    readers = Counter(name for layer in layers for name in layer.inputs)
    tables = {layer.name: layer for layer in layers if isinstance(layer, Table)}
    result: dict[str, Layer] = {}
    for layer in layers:
        result[layer.name] = layer
        if not isinstance(layer, Multiply):
            continue
        for source, name in (layer.inputs, layer.inputs[::-1]):
            table = tables.get(name)
            if table is None or table.inputs != (source,) or readers[name] > 1:
                continue
            every = np.arange(-128, 128, dtype=np.int8).reshape(1, 1, 256, 1)
            maps = {source: every, name: table.compute(every)}
            result[layer.name] = Table(
                name=layer.name,
                inputs=(source,),
                table=layer.compute(*(maps[one] for one in layer.inputs)).reshape(256),
                output_zero_point=layer.output_scaling.zero_point,
            )
            del result[name]
            break
    return list(result.values())
