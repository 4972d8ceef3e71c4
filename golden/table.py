"""Functions of one int8 value as tables of 256 entries: hard-swish, sigmoid and the like."""

import numpy as np
from numpy.typing import NDArray

from golden.checks import array

__all__ = ["look_up"]

Int8 = NDArray[np.int8]


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
