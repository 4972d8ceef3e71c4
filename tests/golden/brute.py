"""The arithmetic once more, in Python integers and loops, as its sources state it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import floor

import numpy as np
from numpy.typing import NDArray

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


def rounded(x: int, s: int) -> int:
    """x / 2**s to the nearest integer, halves up."""
    return floor(Fraction(x, 1 << s) + Fraction(1, 2)) if s else x


def clamp(x: int, low: int, high: int) -> int:
    return low if x < low else high if x > high else x


def divide(a: int, b: int) -> int:
    """C's integer division: towards zero."""
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def high_mul(a: int, b: int) -> int:
    """gemmlowp's SaturatingRoundingDoublingHighMul."""
    if a == b == INT32_MIN:
        return INT32_MAX
    product = a * b
    nudge = 1 << 30 if product >= 0 else 1 - (1 << 30)
    return divide(product + nudge, 1 << 31)


def divide_by_power(x: int, exponent: int) -> int:
    """gemmlowp's RoundingDivideByPOT."""
    mask = (1 << exponent) - 1
    remainder = x & mask
    threshold = (mask >> 1) + (1 if x < 0 else 0)
    return (x >> exponent) + (1 if remainder > threshold else 0)


def rescale(acc: int, multiplier: int, shift: int, rounding: str) -> int:
    """TFLite's MultiplyByQuantizedMultiplier in both its builds, and ONNX's rounding."""
    if rounding == "even":
        return round(Fraction(acc * multiplier, 1 << 31 + shift))  # as Python does
    if rounding == "twice":
        shifted = wrapped(acc << max(0, -shift))
        return divide_by_power(high_mul(shifted, multiplier), max(0, shift))
    return rounded(acc * multiplier, 31 + shift)


def wrapped(x: int) -> int:
    """The low 32 bits of `x`, as int32."""
    return (x - INT32_MIN) % (1 << 32) + INT32_MIN


def convolve(
    x: NDArray[np.int8],
    W: NDArray[np.int8],
    bias: NDArray[np.int32],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    zero_point: int,
    groups: int,
) -> list[list[list[int]]]:
    """Accumulators [Ho][Wo][Co] for x [H, W, Ci]."""
    height, width, _ = x.shape
    top, left, bottom, right = padding
    outputs, channels, _ = W.shape
    rows = []
    y = -top
    while y + dilation[0] * (kernel[0] - 1) < height + bottom:
        row = []
        x0 = -left
        while x0 + dilation[1] * (kernel[1] - 1) < width + right:
            pixel = []
            for o in range(outputs):
                group = o // (outputs // groups)
                acc = int(bias[o])
                for ky in range(kernel[0]):
                    for kx in range(kernel[1]):
                        iy, ix = y + ky * dilation[0], x0 + kx * dilation[1]
                        inside = 0 <= iy < height and 0 <= ix < width
                        for c in range(channels):
                            value = int(x[iy, ix, group * channels + c]) if inside else zero_point
                            acc += value * int(W[o, c, ky * kernel[1] + kx])
                pixel.append(acc)
            row.append(pixel)
            x0 += stride[1]
        rows.append(row)
        y += stride[0]
    return rows


def windows(
    x: NDArray[np.int8],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: Sequence[int],
) -> list[list[list[list[int]]]]:
    """Elements of x [H, W, C] in each window, [Ho][Wo][C][elements]; none from the padding."""
    height, width, channels = x.shape
    top, left, bottom, right = padding
    return [
        [
            [
                [
                    int(x[iy, ix, c])
                    for iy in range(max(0, y), min(height, y + kernel[0]))
                    for ix in range(max(0, x0), min(width, x0 + kernel[1]))
                ]
                for c in range(channels)
            ]
            for x0 in range(-left, width + right - kernel[1] + 1, stride[1])
        ]
        for y in range(-top, height + bottom - kernel[0] + 1, stride[0])
    ]


def mean(values: Sequence[int]) -> int:
    """Mean of integers, halves away from zero."""
    value = Fraction(sum(values), len(values))
    return floor(value + Fraction(1, 2)) if value > 0 else -floor(-value + Fraction(1, 2))
