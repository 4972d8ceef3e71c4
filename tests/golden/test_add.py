"""golden.add against TFLite's arithmetic transcribed to Python integers."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.add import add
from golden.requantise import Rounding, Scaling
from tests.golden import brute

ZERO_POINT = st.integers(-128, 127)
MULTIPLIER = st.integers(1 << 30, (1 << 31) - 1)


@st.composite
def scalings(draw: st.DrawFn) -> tuple[Scaling, Scaling, Scaling]:
    """Of a, b and the output, whose shift undoes the left shift of 20.

    Large shifts of a and b leave so few bits that each of their roundings shows.
    """
    common = draw(st.integers(0, 20))
    shifts = [draw(st.integers(common, common + 5)) for _ in range(2)]
    shifts.append(max(0, 20 - common - draw(st.integers(0, 4))))
    a, b, output = ((draw(ZERO_POINT), draw(MULTIPLIER), shift) for shift in shifts)
    return a, b, output


def brute_add(a: int, b: int, scaling: tuple[Scaling, Scaling, Scaling], rounding: Rounding) -> int:
    total = 0
    for value, (zero_point, multiplier, shift) in zip((a, b), scaling[:2], strict=True):
        total += brute.rescale((value - zero_point) * (1 << 20), multiplier, shift, "twice")
    zero_point, multiplier, shift = scaling[2]
    return brute.rescale(total, multiplier, shift, rounding) + zero_point


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1), scalings())
def test_add(seed: int, scaling: tuple[Scaling, Scaling, Scaling]) -> None:
    a, b = np.random.default_rng(seed).integers(-128, 128, (2, 3, 4), dtype=np.int8)
    a[0, :2], b[0, :2] = [-128, 127], [-128, 127]
    for rounding, (low, high) in product(Rounding, ((-128, 127), (-5, 90))):
        result = add(a, b, *scaling, low, high, rounding=rounding)
        assert result.dtype == np.int8
        for index in np.ndindex(a.shape):
            value = brute_add(int(a[index]), int(b[index]), scaling, rounding)
            assert result[index] == brute.clamp(value, low, high), (index, a[index], b[index])


def test_equal_scales() -> None:
    """What TFLite prepares for scales 1, 1 and 2: a mean, halves away from zero, or to even."""
    a, b = np.array([3, -3, 127, -128], np.int8), np.array([4, -4, 127, -128], np.int8)
    half = (0, 1 << 30, 0)
    scaling = half, half, (0, 1 << 30, 19)
    assert add(a, b, *scaling).tolist() == [4, -4, 127, -128]
    a[2:], b[2:] = (2, -2), (3, -3)
    assert add(a, b, *scaling, rounding=Rounding.EVEN).tolist() == [4, -4, 2, -2]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"a": np.zeros(2)}, TypeError, "a must be an array of int8, not float64"),
        ({"b": [0, 0]}, TypeError, "b must be an array of int8, not list"),
        (
            {"b": np.zeros(1, np.int8)},
            ValueError,
            r"a and b must have the same shape, not \(2,\) and \(1,\)",
        ),
        ({"b_scaling": (128, 1, 0)}, ValueError, "zero point of b must be in -128..127, not 128"),
        ({"a_scaling": (0, -1, 0)}, ValueError, "multiplier must be in 0..2147483647, not -1"),
        (
            {"output_scaling": (0, 1, 32)},
            ValueError,
            "shift of the output must be in 0..31, not 32",
        ),
        ({"a_scaling": (0, 1, -1)}, ValueError, "shift of a must be in 0..31, not -1"),
        ({"activation_max": -129}, ValueError, "activation_max must be in -128..127, not -129"),
    ],
)
def test_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "a": np.zeros(2, np.int8),
        "b": np.zeros(2, np.int8),
        "a_scaling": (0, 1, 0),
        "b_scaling": (0, 1, 0),
        "output_scaling": (0, 1, 0),
    }
    with pytest.raises(error, match=f"^{message}$"):
        add(**(arguments | changes))
