"""golden.requantise against TFLite's arithmetic transcribed to Python integers."""

from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.requantise import LARGEST_MULTIPLIER, Rounding, Scaling, divided, requantise, rescale
from tests.golden import brute
from tests.golden.brute import INT32_MAX, INT32_MIN

# Near 0, where halves and signs meet, as well as anywhere.
ACC = st.integers(INT32_MIN, INT32_MAX) | st.integers(-100, 100)
MULTIPLIER = st.integers(0, INT32_MAX) | st.sampled_from([1 << n for n in range(31)])


@settings(deadline=None, max_examples=500)
@given(
    st.lists(ACC, min_size=1, max_size=8),
    MULTIPLIER,
    st.integers(-30, 31),
    st.sampled_from(Rounding),
)
def test_rescale(acc: list[int], multiplier: int, shift: int, rounding: Rounding) -> None:
    result = rescale(np.array(acc, np.int32), multiplier, shift, rounding=rounding)
    assert result.dtype == np.int64
    assert result.tolist() == [brute.rescale(a, multiplier, shift, rounding) for a in acc]


@pytest.mark.parametrize("rounding", Rounding)
def test_rescale_extremes(rounding: Rounding) -> None:
    accs = [INT32_MIN, INT32_MIN + 1, -(1 << 30), -1, 0, 1, (1 << 30) - 1, 1 << 30, INT32_MAX]
    acc = np.array(accs, np.int32)
    for multiplier, shift in product((0, 1, 1 << 30, INT32_MAX), range(-30, 32)):
        result = rescale(acc, multiplier, shift, rounding=rounding)
        assert result.tolist() == [brute.rescale(a, multiplier, shift, rounding) for a in accs]


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("shift", [-30, -3, 0, 1, 2, 5])
def test_rescale_near_zero(rounding: Rounding, shift: int) -> None:
    accs = list(range(-300, 301))
    result = rescale(np.array(accs, np.int32), 1 << 30, shift, rounding=rounding)
    assert result.tolist() == [brute.rescale(a, 1 << 30, shift, rounding) for a in accs]


def test_where_the_roundings_differ() -> None:
    acc = np.array([-6, -2, -1, 1, 2, 6], np.int32)
    # acc / 4: halves up once; to even; or to halves first, then halves away from zero.
    assert rescale(acc, 1 << 30, 1, rounding=Rounding.UP).tolist() == [-1, 0, 0, 0, 1, 2]
    assert rescale(acc, 1 << 30, 1, rounding=Rounding.EVEN).tolist() == [-2, 0, 0, 0, 0, 2]
    assert rescale(acc, 1 << 30, 1, rounding=Rounding.TWICE).tolist() == [-2, -1, 0, 1, 1, 2]


def test_halves_to_even_as_numpy_does() -> None:
    """Halves of every size, and their neighbours, against what doubles hold exactly."""
    acc = np.arange(-2000, 2000, dtype=np.int32)
    for multiplier, shift in ((1 << 30, 0), (1 << 30, 3), (3 << 28, 2), (1 << 30, -1), (1, -30)):
        exact = acc * (multiplier * 2.0 ** -(31 + shift))
        assert (rescale(acc, multiplier, shift, rounding=Rounding.EVEN) == np.rint(exact)).all()


def test_a_shift_to_the_left_keeps_32_bits_or_all() -> None:
    """What the reference kernels do where a multiplier of 1 or more takes a sum out of int32."""
    acc = np.array([3, (1 << 28) + 3, -(1 << 28) - 3], np.int32)
    twice = {"multiplier": 1 << 30, "shift": -4}
    assert rescale(acc, **twice, rounding=Rounding.TWICE).tolist() == [24, 24, -24]
    exact = [24, (1 << 31) + 24, -(1 << 31) - 24]
    assert rescale(acc, **twice, rounding=Rounding.UP).tolist() == exact
    limits = {"zero_point": -5, "activation_min": -128, "activation_max": 127}
    result = requantise(acc, **twice, **limits, rounding=Rounding.UP)
    assert result.tolist() == [19, 127, -128]


@settings(deadline=None, max_examples=300)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(Rounding),
    st.integers(-128, 127),
    st.tuples(st.integers(-128, 127), st.integers(-128, 127)).map(sorted),
)
def test_requantise(seed: int, rounding: Rounding, zero_point: int, limits: list[int]) -> None:
    low, high = limits
    rng = np.random.default_rng(seed)
    multiplier = rng.integers(0, 1 << 31, 3).astype(np.int32)
    shift = rng.integers(0, 32, 3).astype(np.int8)
    # Products of every size around the int8 range.
    acc = (rng.uniform(-300, 300, (2, 4, 3)) * 2.0**shift).clip(INT32_MIN, INT32_MAX)
    acc = acc.astype(np.int32)
    result = requantise(acc, multiplier, shift, zero_point, low, high, rounding=rounding)
    assert result.dtype == np.int8
    assert result.shape == acc.shape
    for index in np.ndindex(acc.shape):
        c = index[-1]
        value = brute.rescale(int(acc[index]), int(multiplier[c]), int(shift[c]), rounding)
        assert result[index] == brute.clamp(value + zero_point, low, high), (index, acc[index])


@settings(deadline=None)
@given(st.integers(1 << 30, LARGEST_MULTIPLIER), st.integers(-30, 20), st.integers(1, 400))
def test_divided_is_the_quotient_to_31_bits(multiplier: int, shift: int, count: int) -> None:
    zero_point, quotient, places = divided(Scaling(7, multiplier, shift), count)
    assert zero_point == 7
    exact = Fraction(multiplier, count) / Fraction(2) ** (31 + shift)
    found = quotient / Fraction(2) ** (31 + places)
    assert 1 << 30 <= quotient <= LARGEST_MULTIPLIER
    assert abs(found / exact - 1) <= Fraction(1, 1 << 31)
    assert found == exact or count & (count - 1)


def test_divided_within_the_greatest_shift() -> None:
    assert divided(Scaling(0, 1 << 30, 31), 4) == (0, 1 << 28, 31)
    assert divided(Scaling(0, 0, 0), 4)[1] == 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"acc": np.zeros(2, np.int64)}, TypeError, "acc must be an array of int32, not int64"),
        ({"acc": [1, 2]}, TypeError, "acc must be an array of int32, not list"),
        ({"multiplier": -1}, ValueError, "multiplier must be in 0..2147483647, not -1"),
        (
            {"multiplier": 1 << 31},
            ValueError,
            "multiplier must be in 0..2147483647, not 2147483648",
        ),
        ({"multiplier": 0.5}, TypeError, "multiplier must be of integers, not float64"),
        ({"shift": np.array([0, 32])}, ValueError, "shift must be in -30..31, not 32"),
        ({"shift": np.array([0, -31])}, ValueError, "shift must be in -30..31, not -31"),
        (
            {"rounding": "down"},
            ValueError,
            "rounding must be one of up, twice, even, not 'down'",
        ),
        ({"zero_point": 128}, ValueError, "zero_point must be in -128..127, not 128"),
        ({"zero_point": 0.0}, TypeError, "zero_point must be an integer, not 0.0"),
        ({"activation_min": -129}, ValueError, "activation_min must be in -128..127, not -129"),
        ({"activation_min": 5}, ValueError, "activation_max must be in 5..127, not 4"),
        ({"activation_max": 128}, ValueError, "activation_max must be in -128..127, not 128"),
    ],
)
def test_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "acc": np.zeros(2, np.int32),
        "multiplier": 1,
        "shift": 0,
        "zero_point": 0,
        "activation_min": -128,
        "activation_max": 4,
        "rounding": Rounding.UP,
    }
    with pytest.raises(error, match=f"^{message}$"):
        requantise(**(arguments | changes))
