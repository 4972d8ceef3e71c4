"""Fixed point: the rounding and the ranges that every block shares."""

from typing import overload

import numpy as np
from numpy.typing import NDArray

from golden.checks import integer

__all__ = ["clamp8", "in_range", "round_shift", "symmetric_range"]


@overload
def round_shift(x: int, s: int) -> int: ...


@overload
def round_shift(x: NDArray[np.integer], s: int) -> NDArray[np.int64]: ...


def round_shift(x: int | NDArray[np.integer], s: int) -> int | NDArray[np.int64]:
    """x / 2**s rounded to nearest, halves up: (x + (1 << s >> 1)) >> s.

    Parameters
    ----------
    x : int or integer array
        An array is taken to int64 first and must be at most 2**62 in magnitude.
    s : int
        0 (identity) to 62.

    Raises
    ------
    TypeError, ValueError
        If `s` is not an integer in its range.
    """
    s = integer("shift", s, 0, 62)
    if isinstance(x, np.ndarray):
        x = x.astype(np.int64)
    return (x + (1 << s >> 1)) >> s


def clamp8(x: NDArray[np.integer]) -> NDArray[np.int8]:
    """`x` saturated to -127..127."""
    clipped: NDArray[np.int8] = np.clip(x, -127, 127).astype(np.int8)
    return clipped


def symmetric_range(q: int) -> tuple[int, int]:
    """Least and greatest coefficient of `q` bits (1..8): -m and m with m = 2**(q-1) - 1.

    For q = 1 they are -1 and 1, and 0 between them is not a coefficient.

    Raises
    ------
    TypeError, ValueError
        If `q` is not an integer in 1..8.
    """
    q = integer("precision", q, 1, 8)
    largest = max(1, (1 << (q - 1)) - 1)
    return -largest, largest


def in_range(name: str, x: NDArray[np.int8], q: int) -> None:
    """Check that every element of `x` is a coefficient of `q` bits.

    Raises
    ------
    ValueError
        If not; the message quotes `name`, the first offending value and its index.
    """
    low, high = symmetric_range(q)
    wrong = (x < low) | (x > high)
    if q == 1:
        wrong |= x == 0
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        allowed = "-1 or +1" if q == 1 else f"in {low}..{high}"
        raise ValueError(f"{name} of {q} bits must be {allowed}, not {x[index]} at {list(index)}")
