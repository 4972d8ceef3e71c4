"""Integer weights and a requantisation that give, for every input, exactly what is asked for.

The engine knows sums of products, a bias, a multiplier and a shift. What other kinds of layer
compute with roundings of their own is brought into that form by search: candidates are tried on
every input there is, of which there are few.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from golden.add import LEFT_SHIFT, add
from golden.requantise import LARGEST_MULTIPLIER, Rounding, Scaling, requantise
from rtl.record import SUM_SHIFT

__all__ = ["Exact", "Lines", "addition", "average", "digits", "lines", "rescaling"]

Floats = NDArray[np.float64]

LARGEST_WEIGHT = 127
"""Of 8 bits."""

LARGEST_SUMMAND = LARGEST_WEIGHT << SUM_SHIFT
"""What two weights make, the first of which counts 2**SUM_SHIFT times."""

_CLEAR = 2.0**-28
"""Range of factors, relative to them, in which a multiplier of 31 bits surely finds its place."""

_CANDIDATES = 400
"""Pairs of weights tried for an addition."""


@dataclass(frozen=True)
class Exact:
    """What was found.

    Parameters
    ----------
    weights : tuple of int
        One for each map.
    bias : int
    multiplier, shift : int
    rounding : Rounding
    """

    weights: tuple[int, ...]
    bias: int
    multiplier: int
    shift: int
    rounding: Rounding


def _factors(real: float) -> tuple[int, int] | None:
    """The real factor as multiplier and shift to the right, if it is one below 1."""
    if not 0 < real < 1:
        return None
    shift = min(31, max(0, -math.frexp(real)[1]))
    multiplier = round(real * 2.0 ** (31 + shift))
    return (multiplier, shift) if multiplier <= LARGEST_MULTIPLIER else None


def _attempts(real: float) -> Iterator[tuple[int, int, Rounding]]:
    factors = _factors(real)
    if factors is not None:
        for rounding in (Rounding.TWICE, Rounding.UP, Rounding.EVEN):
            yield (*factors, rounding)


@lru_cache(maxsize=256)
def average(count: int, low: int, high: int, accumulator_bits: int) -> Exact | None:
    """The mean of `count` values, halves away from zero, limited to `low`..`high`.

    Returns
    -------
    Exact or None
        With one weight, that of each value.
    """
    sums = np.arange(-128 * count, 127 * count + 1, dtype=np.int64)
    means = np.sign(sums) * ((np.abs(sums) + count // 2) // count)
    targets = np.clip(means, low, high).astype(np.int8)
    return _one_weight(sums, targets, 1 / count, 0, 0, low, high, accumulator_bits)


@lru_cache(maxsize=256)
def rescaling(
    input_zero_point: int,
    scaling: Scaling,
    low: int,
    high: int,
    rounding: Rounding,
    accumulator_bits: int,
) -> Exact | None:
    """Another scale of one map: `golden.layers.Requantise`, with one weight."""
    sums = np.arange(-128, 128, dtype=np.int64)
    targets = requantise(
        (sums - input_zero_point).astype(np.int32),
        scaling.multiplier,
        scaling.shift,
        scaling.zero_point,
        low,
        high,
        rounding=rounding,
    )
    real = scaling.multiplier * 2.0 ** -(31 + scaling.shift)
    return _one_weight(
        sums, targets, real, input_zero_point, scaling.zero_point, low, high, accumulator_bits
    )


def _one_weight(
    sums: NDArray[np.int64],
    targets: NDArray[np.int8],
    real: float,
    zero_in: int,
    zero_out: int,
    low: int,
    high: int,
    accumulator_bits: int,
) -> Exact | None:
    for weight in range(1, LARGEST_WEIGHT + 1):
        if weight * int(np.abs(sums).max()) >= 1 << accumulator_bits - 1:
            break
        x = (weight * (sums - zero_in)).astype(np.int32)
        for multiplier, shift, rounding in _attempts(real / weight):
            got = requantise(x, multiplier, shift, zero_out, low, high, rounding=rounding)
            if np.array_equal(got, targets):
                return Exact((weight,), -weight * zero_in, multiplier, shift, rounding)
    return None


@lru_cache(maxsize=256)
def addition(
    a: Scaling,
    b: Scaling,
    output: Scaling,
    low: int,
    high: int,
    rounding: Rounding,
    accumulator_bits: int,
) -> Exact | None:
    """The sum of two maps of different scales: `golden.add`, with a weight for each.

    `golden.add` rounds three times; that a single rounding of `A*a + B*b` gives the same for all
    65,536 pairs takes weights whose ratio is very near to that of the scales.
    """
    values = np.arange(-128, 128, dtype=np.int8)
    left, right = (x.ravel() for x in np.meshgrid(values, values, indexing="ij"))
    targets = add(left, right, a, b, output, low, high, rounding=rounding)
    factors = [
        one.multiplier
        * 2.0 ** (LEFT_SHIFT - 31 - one.shift)
        * output.multiplier
        * 2.0 ** (-31 - output.shift)
        for one in (a, b)
    ]
    if min(factors) <= 0:
        return None
    wide_a, wide_b = left.astype(np.int64), right.astype(np.int64)
    for weight_a, weight_b in _pairs(factors[0] / factors[1]):
        if 128 * (weight_a + weight_b) >= 1 << accumulator_bits - 1:
            continue
        bias = -weight_a * a.zero_point - weight_b * b.zero_point
        x = (weight_a * wide_a + weight_b * wide_b + bias).astype(np.int32)
        each = [factors[0] / weight_a, factors[1] / weight_b]
        for real in dict.fromkeys([sum(each) / 2, *each]):
            for multiplier, shift, way in _attempts(real):
                got = requantise(x, multiplier, shift, output.zero_point, low, high, rounding=way)
                if np.array_equal(got, targets):
                    return Exact((weight_a, weight_b), bias, multiplier, shift, way)
    return None


def _pairs(ratio: float) -> list[tuple[int, int]]:
    """Weights in nearly that ratio, nearest first; of equals the smallest."""
    b = np.arange(1, LARGEST_SUMMAND + 1)
    a = np.rint(b * ratio).astype(np.int64)
    usable = (a >= 1) & (a <= LARGEST_SUMMAND)
    a, b = a[usable], b[usable]
    order = np.lexsort((a + b, np.abs(a / (b * ratio) - 1)))
    return [(int(a[n]), int(b[n])) for n in order[:_CANDIDATES]]


class Lines(NamedTuple):
    """Weight, bias and factor of each channel, float64 [C], of which two are integers."""

    weight: Floats
    bias: Floats
    factor: Floats


def lines(gain: Floats, offset: Floats, zero_in: int, zero_out: int, low: int, high: int) -> Lines:
    """For each channel what gives round(gain * (x - zero_in) + offset) + zero_out, limited.

    That is round(factor * (weight * (x - zero_in) + bias)). For nearly all gains and offsets there
    is a weight with which a factor gives the same for all 256 inputs; for the others it is one that
    differs for few.

    Parameters
    ----------
    gain, offset : float64 [C]
        In steps of the output; gains are not 0 and their magnitudes below 64.
    zero_in, zero_out, low, high : int
        -128..127; the limits are those of the output.
    """
    x = np.arange(-128.0, 128) - zero_in
    least, most = low - zero_out, high - zero_out
    targets = np.clip(np.rint(gain[:, np.newaxis] * x + offset[:, np.newaxis]), least, most)
    # Between which a product must lie to be rounded to its target.
    floor = np.where(targets > least, targets - 0.5, -np.inf)
    ceiling = np.where(targets < most, targets + 0.5, np.inf)
    found = Lines(*np.zeros((3, len(gain))))
    left = np.arange(len(gain))
    for magnitude in range(LARGEST_WEIGHT, 0, -1):
        weight = np.copysign(magnitude, gain[left])
        slope = gain[left] / weight
        bias = np.rint(offset[left] / slope)
        sums = weight[:, np.newaxis] * x + bias[:, np.newaxis]
        ends = np.stack([floor[left], ceiling[left]])
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.sort(ends / sums, axis=0)
        usable = sums != 0
        begin = np.max(ends[0], axis=1, where=usable, initial=0)
        end = np.min(ends[1], axis=1, where=usable, initial=1 - 2.0**-31)
        inside = (usable | ((floor[left] <= 0) & (ceiling[left] >= 0))).all(axis=1)
        good = inside & (end - begin > _CLEAR * slope)
        quarter = np.maximum(end - begin, 0) / 4
        factor = np.clip(slope, begin + quarter, end - quarter)
        for array, values in zip(found, (weight, bias, factor), strict=True):
            array[left[good]] = values[good]
        left = left[~good]
        if not len(left):
            break
    magnitudes = np.arange(LARGEST_WEIGHT, 0, -1)
    for channel in left:
        # The offset as it is, or a unit further: what differs for the fewest inputs.
        weight = np.copysign(np.tile(magnitudes, 2), gain[channel])
        mantissa, exponent = np.frexp(gain[channel] / weight)
        slope = np.ldexp(np.rint(np.ldexp(mantissa, 31)), exponent - 31)
        bias = np.floor(offset[channel] / slope) + np.repeat([0, 1], LARGEST_WEIGHT)
        sums = weight[:, np.newaxis] * x + bias[:, np.newaxis]
        results = np.clip(np.rint(slope[:, np.newaxis] * sums), least, most)
        best = np.argmin(np.count_nonzero(results != targets[channel], axis=1))
        for array, values in zip(found, (weight, bias, slope), strict=True):
            array[channel] = values[best]
    return found


def digits(weight: int) -> tuple[int, int]:
    """`weight` as two weights, of which the first counts 2**SUM_SHIFT times."""
    low = (weight + (1 << SUM_SHIFT - 1)) % (1 << SUM_SHIFT) - (1 << SUM_SHIFT - 1)
    return (weight - low) >> SUM_SHIFT, low
