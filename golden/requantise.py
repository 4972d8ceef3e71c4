"""Requantisation of int32 accumulators to int8.

Source: TFLite's int8 quantisation specification and its reference kernels
(MultiplyByQuantizedMultiplier): convolution and depthwise convolution round twice, fully
connected layers once. ONNX's QuantizeLinear rounds once, halves to even.
"""

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.checks import integer

__all__ = [
    "LARGEST_MULTIPLIER",
    "SHIFTS",
    "Rounding",
    "Scaling",
    "divided",
    "requantise",
    "rescale",
]

LARGEST_MULTIPLIER = (1 << 31) - 1
SHIFTS = -30, 31
"""Least and greatest shift; a negative one is to the left."""


class Rounding(StrEnum):
    """How `rescale` rounds.

    `UP` once, halves up; `EVEN` once, halves to even; `TWICE` after the multiplication and again
    after the shift.
    """

    UP = "up"
    TWICE = "twice"
    EVEN = "even"

    @classmethod
    def _missing_(cls, value: object) -> "Rounding":
        raise ValueError(f"rounding must be one of {', '.join(cls)}, not {value!r}")


class Scaling(NamedTuple):
    """How a map's integers become those of another scale.

    Parameters
    ----------
    zero_point : int
        -128..127.
    multiplier, shift : int
        As in `rescale`.
    """

    zero_point: int
    multiplier: int
    shift: int


def divided(scaling: Scaling, count: int) -> Scaling:
    """The scaling of a sum of `count` values whose mean is wanted.

    With as many bits of the quotient as a multiplier holds, halves up: exact for powers of two.
    """
    zero_point, multiplier, shift = scaling
    for places in range(min(count.bit_length(), SHIFTS[1] - shift), -1, -1):
        quotient = ((multiplier << places + 1) + count) // (2 * count)
        if quotient <= LARGEST_MULTIPLIER:
            break
    return Scaling(zero_point, quotient, shift + places)


def _parameter(name: str, value: ArrayLike, low: int, high: int) -> NDArray[np.int64]:
    checked = np.asarray(value)
    if checked.dtype.kind not in "iu":
        raise TypeError(f"{name} must be of integers, not {checked.dtype}")
    for wrong in checked[(checked < low) | (checked > high)].flat:
        raise ValueError(f"{name} must be in {low}..{high}, not {wrong}")
    return checked.astype(np.int64)


def rescale(
    acc: NDArray[np.int32], multiplier: ArrayLike, shift: ArrayLike, *, rounding: Rounding
) -> NDArray[np.int64]:
    """acc * multiplier / 2**(31 + shift), rounded.

    `UP`: (acc * multiplier + 2**(30 + shift)) >> (31 + shift).
    `EVEN`: the same, less 1 where that is odd and was half-way.
    `TWICE`: h = (acc * multiplier + 2**30) >> 31, which is gemmlowp's
    SaturatingRoundingDoublingHighMul (its one saturating case needs a negative multiplier); then
    h / 2**shift with halves away from zero, gemmlowp's RoundingDivideByPOT. A shift to the left
    comes before all this and keeps the low 32 bits, as the reference kernels do.

    Parameters
    ----------
    acc : int32 array
        Channels last.
    multiplier, shift : int or integer array
        0..2**31 - 1 and -30..31; arrays broadcast against `acc`, so [Co] is one a channel.
    rounding : Rounding

    Returns
    -------
    int64 array, within int32 unless what is rounded once is shifted to the left.

    Raises
    ------
    TypeError, ValueError
        For a type or value outside these; the message quotes it.
    """
    if not isinstance(acc, np.ndarray) or acc.dtype != np.int32:
        kind = acc.dtype if isinstance(acc, np.ndarray) else type(acc).__name__
        raise TypeError(f"acc must be an array of int32, not {kind}")
    factor = _parameter("multiplier", multiplier, 0, LARGEST_MULTIPLIER)
    places = _parameter("shift", shift, *SHIFTS)
    rounding = Rounding(rounding)
    if rounding is Rounding.TWICE and (places < 0).any():
        acc = np.left_shift(acc.astype(np.int64), np.maximum(-places, 0)).astype(np.int32)
        places = np.maximum(places, 0)
    product = acc * factor  # at most 2**62, and 2**61 more to round: int64 holds it
    if rounding is not Rounding.TWICE:
        product += np.left_shift(np.int64(1), 30 + places)
        whole = np.left_shift(np.int64(1), 31 + places)
        halves = (product & (whole - 1)) == 0 if rounding is Rounding.EVEN else None
        product >>= 31 + places
        if halves is not None:
            product &= ~halves.astype(np.int64)
        return product
    product += 1 << 30
    product >>= 31
    # (h + half - 1) >> shift takes halves of a negative h down, away from zero.
    product -= (product < 0) & (places > 0)
    product += np.left_shift(np.int64(1), places) >> 1
    product >>= places
    return product


def requantise(
    acc: NDArray[np.int32],
    multiplier: ArrayLike,
    shift: ArrayLike,
    zero_point: int,
    activation_min: int,
    activation_max: int,
    *,
    rounding: Rounding,
) -> NDArray[np.int8]:
    """clamp(rescale(acc) + zero_point, activation_min, activation_max).

    Parameters
    ----------
    acc : int32 array
        Accumulators, bias included, channels last.
    multiplier, shift, rounding
        As in `rescale`.
    zero_point, activation_min, activation_max : int
        -128..127.

    Returns
    -------
    int8 array of the shape of `acc`.

    Raises
    ------
    TypeError, ValueError
        For a type or value outside these; the message quotes it.
    """
    zero_point = integer("zero_point", zero_point, -128, 127)
    low = integer("activation_min", activation_min, -128, 127)
    high = integer("activation_max", activation_max, low, 127)
    result = rescale(acc, multiplier, shift, rounding=rounding)
    result += zero_point
    np.clip(result, low, high, out=result)
    return result.astype(np.int8)
