"""Argument checks shared by the golden models; every message names and quotes the value."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["array", "bias", "integer", "integers", "keep"]


def array(name: str, value: object, dtype: DTypeLike, *dims: str) -> NDArray[Any]:
    """`value` if it is an array of `dtype` with one axis for each name in `dims`, none empty.

    Raises
    ------
    TypeError
        If it is not a NumPy array of that type.
    ValueError
        If it has other axes, or an axis of length 0.
    """
    if not isinstance(value, np.ndarray) or value.dtype != np.dtype(dtype):
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{name} must be an array of {np.dtype(dtype)}, not {kind}")
    if value.ndim != len(dims) or 0 in value.shape:
        raise ValueError(f"{name} must be [{', '.join(dims)}], not of shape {value.shape}")
    return value


def bias(value: object, channels: int) -> NDArray[np.int32]:
    """`value` if it is an int32 array with one element for each of `channels` channels."""
    checked = array("bias", value, np.int32, "Co")
    if len(checked) != channels:
        raise ValueError(
            f"bias must have one element for each of {channels} output channels, not {len(checked)}"
        )
    return checked


def integer(name: str, value: object, low: int, high: int) -> int:
    """`value` as an int if it is an integer in `low`..`high`.

    Raises
    ------
    TypeError
        If it is not an integer (a bool is not).
    ValueError
        If it is outside the range.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    number = int(value)
    if not low <= number <= high:
        raise ValueError(f"{name} must be in {low}..{high}, not {number}")
    return number


def integers(name: str, value: object, count: int, low: int) -> tuple[int, ...]:
    """`value` as a tuple if it is a sequence of `count` integers of at least `low`.

    Raises
    ------
    TypeError
        If it is not a sequence of integers.
    ValueError
        If it has another length, or an element is too small.
    """
    if not isinstance(value, Sequence) or any(
        not isinstance(item, Integral) or isinstance(item, bool) for item in value
    ):
        raise TypeError(f"{name} must be {count} integers, not {value!r}")
    if len(value) != count or any(item < low for item in value):
        raise ValueError(f"{name} must be {count} integers of at least {low}, not {value!r}")
    return tuple(int(item) for item in value)


def keep(target: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass; an array as a read-only copy."""
    if isinstance(value, np.ndarray):
        value = value.copy()
        value.setflags(write=False)
    object.__setattr__(target, name, value)
