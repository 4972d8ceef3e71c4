"""golden.fixed and golden.checks against Python integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden import checks
from golden.fixed import clamp8, in_range, round_shift, symmetric_range
from tests.golden.brute import rounded


@given(st.integers(-(1 << 61), 1 << 61), st.integers(0, 62))
def test_round_shift(x: int, s: int) -> None:
    expected = rounded(x, s)
    assert round_shift(x, s) == expected
    array = round_shift(np.array([x, -x]), s)
    assert array.dtype == np.int64
    assert array.tolist() == [expected, rounded(-x, s)]


@pytest.mark.parametrize(
    ("x", "s", "expected"), [(-3, 1, -1), (-1, 1, 0), (1, 1, 1), (3, 1, 2), (-6, 2, -1), (7, 0, 7)]
)
def test_round_shift_takes_halves_up(x: int, s: int, expected: int) -> None:
    assert round_shift(x, s) == expected


def test_round_shift_of_a_narrow_array_does_not_wrap() -> None:
    assert round_shift(np.array([127, -128], np.int8), 1).tolist() == [64, -64]
    assert round_shift(np.array([127, -128], np.int8), 9).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("s", "error", "message"),
    [
        (-1, ValueError, "shift must be in 0..62, not -1"),
        (63, ValueError, "shift must be in 0..62, not 63"),
        (1.0, TypeError, "shift must be an integer, not 1.0"),
        (True, TypeError, "shift must be an integer, not True"),
    ],
)
def test_round_shift_refuses(s: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}$"):
        round_shift(1, s)


def test_clamp8() -> None:
    x = np.array([-(1 << 40), -129, -128, -127, 0, 127, 128, 1 << 40])
    assert clamp8(x).tolist() == [-127, -127, -127, -127, 0, 127, 127, 127]
    assert clamp8(x).dtype == np.int8


def test_symmetric_range() -> None:
    largest = [1, 1, 3, 7, 15, 31, 63, 127]
    assert [symmetric_range(q) for q in range(1, 9)] == [(-m, m) for m in largest]


@pytest.mark.parametrize("q", [0, 9])
def test_symmetric_range_refuses(q: int) -> None:
    with pytest.raises(ValueError, match=f"^precision must be in 1..8, not {q}$"):
        symmetric_range(q)


@pytest.mark.parametrize("q", range(1, 9))
def test_in_range(q: int) -> None:
    low, high = symmetric_range(q)
    allowed = {-1, 1} if q == 1 else set(range(low, high + 1))
    for value in range(-128, 128):
        x = np.array([[low, high], [value, low]], np.int8)
        if value in allowed:
            in_range("U", x, q)
            continue
        text = "-1 or \\+1" if q == 1 else f"in {low}..{high}"
        with pytest.raises(ValueError, match=rf"^U of {q} bits must be {text}, not {value} at "):
            in_range("U", x, q)


def test_in_range_names_the_index() -> None:
    x = np.zeros((2, 3, 4), np.int8)
    x[1, 2, 3] = 4
    with pytest.raises(ValueError, match=r"^B of 3 bits must be in -3..3, not 4 at \[1, 2, 3\]$"):
        in_range("B", x, 3)


def test_checks_accept_numpy_integers() -> None:
    assert type(checks.integer("x", np.int16(3), 0, 3)) is int
    assert checks.integers("kernel", [np.int64(3), 1], 2, 1) == (3, 1)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (3, TypeError, "kernel must be 2 integers, not 3"),
        ((3, 1.0), TypeError, r"kernel must be 2 integers, not \(3, 1.0\)"),
        ((3, True), TypeError, r"kernel must be 2 integers, not \(3, True\)"),
        ((3,), ValueError, r"kernel must be 2 integers of at least 1, not \(3,\)"),
        ((3, 0), ValueError, r"kernel must be 2 integers of at least 1, not \(3, 0\)"),
    ],
)
def test_integers_refuse(value: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}$"):
        checks.integers("kernel", value, 2, 1)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([[1]], TypeError, "W must be an array of int8, not list"),
        (np.zeros((2, 2)), TypeError, "W must be an array of int8, not float64"),
        (np.zeros(2, np.int8), ValueError, r"W must be \[Co, T\], not of shape \(2,\)"),
        (np.zeros((2, 0), np.int8), ValueError, r"W must be \[Co, T\], not of shape \(2, 0\)"),
    ],
)
def test_array_refuses(value: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}$"):
        checks.array("W", value, np.int8, "Co", "T")
