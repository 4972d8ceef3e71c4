"""Average and maximum pooling of int8 maps, channels last. Taps outside the map do not count.

Source: TFLite's reference kernels for int8, which leave the scale as it is; `rescaled_average` is
ONNX's AveragePool between a DequantizeLinear and a QuantizeLinear.
"""

import numpy as np
from numpy.typing import NDArray

from golden.checks import array, integer
from golden.requantise import Rounding, Scaling, divided, requantise
from golden.windows import output_size, pad, tap_slices

__all__ = ["average", "maximum", "rescaled_average"]

Int8 = NDArray[np.int8]
Pair = tuple[int, int]
Padding = tuple[int, int, int, int]


def average(
    x: Int8,
    kernel: Pair,
    stride: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    activation_min: int = -128,
    activation_max: int = 127,
) -> Int8:
    """Mean over each window, halves away from zero, clamped.

    Parameters
    ----------
    x : int8 [N, H, W, C]
        Input.
    kernel, stride : (int, int)
        Size and steps of the window (y, x), at least 1.
    padding : (int, int, int, int)
        Pixels at top, left, bottom, right; they are not part of the mean.
    activation_min, activation_max : int
        Range that outputs saturate to, within -128..127.

    Returns
    -------
    int8 [N, Ho, Wo, C]

    Raises
    ------
    TypeError, ValueError
        For types, shapes or values outside these, or a window wholly in the padding.
    """
    size, counts = _check(x, kernel, stride, padding)
    low, high = _limits(activation_min, activation_max)
    sums = _sums(x, size, kernel, stride, padding)
    means = np.sign(sums) * ((np.abs(sums) + counts // 2) // counts)
    result: Int8 = np.clip(means, low, high).astype(np.int8)
    return result


def rescaled_average(
    x: Int8,
    kernel: Pair,
    stride: Pair,
    padding: Padding,
    zero_point: int,
    output_scaling: Scaling,
    activation_min: int = -128,
    activation_max: int = 127,
) -> Int8:
    """Mean over each window in another scale, rounded once with halves to even, clamped.

    For a window that holds n pixels of the map requantise(sum of (x - zero_point)) with
    `divided(output_scaling, n)`.

    Parameters
    ----------
    x, kernel, stride, padding, activation_min, activation_max
        As for `average`.
    zero_point : int
        -128..127, of the input.
    output_scaling : Scaling
        Of the output; the multiplier is input scale / output scale.

    Returns
    -------
    int8 [N, Ho, Wo, C]

    Raises
    ------
    TypeError, ValueError
        For types, shapes or values outside these, or a window wholly in the padding.
    """
    size, counts = _check(x, kernel, stride, padding)
    zero_point = integer("zero_point", zero_point, -128, 127)
    wide = _sums(x, size, kernel, stride, padding) - counts * zero_point
    sums = wide.astype(np.int32)
    result = np.empty(sums.shape, np.int8)
    for count in np.unique(counts).tolist():
        there = counts[..., 0] == count
        output_zero_point, multiplier, shift = divided(output_scaling, count)
        result[:, there] = requantise(
            sums[:, there],
            multiplier,
            shift,
            output_zero_point,
            activation_min,
            activation_max,
            rounding=Rounding.EVEN,
        )
    return result


def maximum(
    x: Int8,
    kernel: Pair,
    stride: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    activation_min: int = -128,
    activation_max: int = 127,
) -> Int8:
    """Greatest element of each window, clamped; parameters and errors as for `average`."""
    size, _ = _check(x, kernel, stride, padding)
    low, high = _limits(activation_min, activation_max)
    result = np.full((len(x), *size, x.shape[3]), -128, np.int8)
    padded = pad(x, padding, -128)
    for rows, columns in tap_slices(size, kernel, stride):
        np.maximum(result, padded[:, rows, columns], out=result)
    return np.clip(result, low, high)


def _limits(activation_min: int, activation_max: int) -> tuple[int, int]:
    low = integer("activation_min", activation_min, -128, 127)
    return low, integer("activation_max", activation_max, low, 127)


def _sums(x: Int8, size: Pair, kernel: Pair, stride: Pair, padding: Padding) -> NDArray[np.int64]:
    """Sum of the pixels of the map in each window, int64 [N, Ho, Wo, C]."""
    sums = np.zeros((len(x), *size, x.shape[3]), np.int64)
    padded = pad(x, padding, 0)
    for rows, columns in tap_slices(size, kernel, stride):
        sums += padded[:, rows, columns]
    return sums


def _check(x: Int8, kernel: Pair, stride: Pair, padding: Padding) -> tuple[Pair, NDArray[np.int64]]:
    """Output size, and how many pixels of each window lie in the map, [Ho, Wo, 1]."""
    array("x", x, np.int8, "N", "H", "W", "C")
    size = output_size((x.shape[1], x.shape[2]), kernel, stride, padding)
    inside = pad(np.ones((1, *x.shape[1:3], 1), np.int8), padding, 0)
    counts = np.zeros((*size, 1), np.int64)
    for rows, columns in tap_slices(size, kernel, stride):
        counts += inside[0, rows, columns]
    if not counts.all():
        raise ValueError(f"padding must leave part of the map in each window, not {padding}")
    return size, counts
