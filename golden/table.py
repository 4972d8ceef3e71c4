"""Functions of one int8 value as tables of 256 entries: hard-swish, sigmoid and the like."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from golden.checks import array, integer

__all__ = ["look_up", "tabulate"]

Int8 = NDArray[np.int8]
Floats = NDArray[np.float64]


def look_up(x: Int8, table: Int8) -> Int8:
    """table[x + 128] for each element.

    Parameters
    ----------
    x : int8 array
    table : int8 [256]
        The entry for -128 first.

    Raises
    ------
    TypeError, ValueError
        For another type or shape.
    """
    array("table", table, np.int8, "256")
    if len(table) != 256:
        raise ValueError(f"table must have 256 entries, not {len(table)}")
    if not isinstance(x, np.ndarray) or x.dtype != np.int8:
        kind = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise TypeError(f"x must be an array of int8, not {kind}")
    # Entry 0 becomes that for 0: the bits of x, read as unsigned, are then the index.
    return np.roll(table, 128)[x.view(np.uint8)]


def tabulate(
    function: Callable[[Floats], Floats],
    scale: float,
    zero_point: int,
    output_scale: float,
    output_zero_point: int,
) -> Int8:
    """The table of a real function: clamp(round(function(x) / output_scale) + output_zero_point).

    Halves are rounded to even.

    Parameters
    ----------
    function : callable
        Takes and gives float64 [256].
    scale, output_scale : float
        Of input and output, positive.
    zero_point, output_zero_point : int
        -128..127.

    Returns
    -------
    int8 [256]

    Raises
    ------
    TypeError, ValueError
        For values outside these, or a function that gives no finite number somewhere.
    """
    for name, value in (("scale", scale), ("output_scale", output_scale)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, not {value!r}")
    zero_point = integer("zero_point", zero_point, -128, 127)
    output_zero_point = integer("output_zero_point", output_zero_point, -128, 127)
    x = (np.arange(-128, 128, dtype=np.float64) - zero_point) * float(scale)
    y = np.asarray(function(x), np.float64)
    if y.shape != x.shape or not np.isfinite(y).all():
        raise ValueError("function must give one finite number for each of 256 inputs")
    return np.clip(np.rint(y / output_scale) + output_zero_point, -128, 127).astype(np.int8)
