"""Exact comparison that says where, and how to get there again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

_SHOWN = 8


def compare(
    expected: ArrayLike,
    got: ArrayLike,
    *,
    axes: Sequence[str] = (),
    what: str = "result",
    seed: int | None = None,
    parameters: Mapping[str, object] | None = None,
) -> None:
    """Raise unless ``got`` equals ``expected`` in shape and in every element.

    Parameters
    ----------
    axes
        Names of the dimensions, such as ``("pixel", "channel")``, for the message.
    what
        What is compared, for the message.
    seed, parameters
        How the run was made, for the message; ``Bench.compare`` fills them in.

    Raises
    ------
    AssertionError
        With seed, parameters, and index, expected and got of the first differences.
    """
    want, have = _exact(expected), _exact(got)
    lines = [f"seed {seed}, parameters {dict(parameters or {})}"]
    if want.shape != have.shape:
        lines.insert(0, f"{what}: expected shape {want.shape}, got shape {have.shape}")
        if want.ndim != have.ndim:
            raise AssertionError("\n".join(lines))
        common = tuple(slice(min(pair)) for pair in zip(want.shape, have.shape, strict=True))
        want, have = want[common], have[common]
    wrong = np.argwhere(want != have)
    if not len(wrong) and len(lines) == 1:
        return
    if len(lines) == 1:
        lines.insert(0, f"{what}: {len(wrong)} of {want.size} elements differ")
    lines += [_difference(tuple(index), axes, want, have) for index in wrong[:_SHOWN].tolist()]
    lines += ["  ..."] if len(wrong) > _SHOWN else []
    raise AssertionError("\n".join(lines))


def _exact(values: ArrayLike) -> np.ndarray:
    """An array of the values as they are: NumPy makes floating point of large integers."""
    found = np.asarray(values)
    if found is values or found.dtype.kind != "f":
        return found
    return np.asarray(values, dtype=object)


def _difference(
    index: tuple[int, ...], axes: Sequence[str], want: np.ndarray, have: np.ndarray
) -> str:
    names = [*axes, *(f"axis {i}" for i in range(len(axes), want.ndim))]
    place = ", ".join(f"{name} {i}" for name, i in zip(names, index, strict=False))
    return f"  [{place}] expected {want[index]}, got {have[index]}"
