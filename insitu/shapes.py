"""Placement of shapes in a memory: regions that give up bytes, or take more, as time goes by.

A shape is a set of parts, each at an offset of its own for some steps of a program; the whole keeps
one address. So the rows of a map that have been read make room for those of another.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Part", "alive", "place_shapes"]

CHANGES = 400
"""Changes to the best order that are tried."""

_UPHILL = 0.05
"""Share of changes for the worse that are kept, to get away from where all are."""


@dataclass(frozen=True)
class Part:
    """Bytes that a shape needs during some steps.

    Parameters
    ----------
    offset, size : int
        Bytes from the shape's address on. Where all are multiples of an alignment, so are all
        addresses.
    first, last : int
        Steps, both inclusive.
    """

    offset: int
    size: int
    first: int
    last: int


Shape = Sequence[Part]


def alive(shapes: Sequence[Shape], steps: int) -> NDArray[np.int64]:
    """Bytes in use at each of so many steps: what no placement can beat.

    Parts of one shape that need the same bytes at one step count twice.
    """
    changes = np.zeros(steps + 1, np.int64)
    for part in (part for shape in shapes for part in shape):
        changes[part.first] += part.size
        changes[part.last + 1] -= part.size
    return np.cumsum(changes)[:steps]


def place_shapes(shapes: Sequence[Shape], enough: int) -> tuple[list[int], int]:
    """Place shapes so that they take few bytes.

    Parameters
    ----------
    shapes : sequence of sequence of Part
    enough : int
        Bytes with which the search may end.

    Returns
    -------
    list of int
        Byte address of each shape, in order. Parts whose steps overlap never share a byte, unless
        they are of one shape.
    int
        Bytes in use at most: the end of the shape that ends last.
    """
    ends = [max(part.offset + part.size for part in shape) for shape in shapes]
    apart = [[_apart(one, other) for other in shapes] for one in shapes]

    def fit(order: Sequence[int], above: frozenset[int]) -> tuple[list[int], int]:
        addresses = _first_fit(order, above, apart, ends, enough)
        return addresses, max(address + end for address, end in zip(addresses, ends, strict=True))

    none: frozenset[int] = frozenset()
    tried = [(*fit(order, none), order) for order in _orders(shapes, ends)]
    best, least, order = min(tried, key=lambda one: one[1])
    addresses, used, above = best, least, none
    rng = random.Random(0)
    for _ in range(CHANGES):
        if least <= enough:
            break
        highest = [i for i, end in enumerate(ends) if addresses[i] + end == used]
        moved = rng.choice(highest)
        changed = [i for i in order if i != moved]
        changed.insert(rng.randrange(max(order.index(moved), 1)), moved)
        turned = above ^ {rng.randrange(len(ends))}
        found, peak = fit(changed, turned)
        if peak <= used or rng.random() < _UPHILL:
            addresses, used, order, above = found, peak, changed, turned
        if used < least:
            best, least = addresses, used
    return best, least


def _apart(one: Shape, other: Shape) -> list[tuple[int, int]]:
    """What the address of `one` less that of `other` cannot be: open intervals."""
    a, b = (np.array([(p.offset, p.size, p.first, p.last) for p in s]).T for s in (one, other))
    offset, size, first, last = (values[:, np.newaxis] for values in a)
    together = (first <= b[3]) & (b[2] <= last)
    lows = (b[0] - offset - size)[together]
    highs = (b[0] + b[1] - offset)[together]
    result: list[tuple[int, int]] = []
    for low, high in sorted(zip(lows.tolist(), highs.tolist(), strict=True)):
        if result and low < result[-1][1]:
            result[-1] = result[-1][0], max(high, result[-1][1])
        else:
            result.append((low, high))
    return result


def _orders(shapes: Sequence[Shape], ends: Sequence[int]) -> list[list[int]]:
    """Orders that do well: the largest or longest first."""
    first = [min(part.first for part in shape) for shape in shapes]
    last = [max(part.last for part in shape) for shape in shapes]
    keys: list[Callable[[int], tuple[int, ...]]] = [
        lambda i: (-ends[i], first[i] - last[i]),
        lambda i: (ends[i] * (first[i] - last[i]),),
        lambda i: (first[i] - last[i], -ends[i]),
        lambda i: (first[i], -ends[i]),
        lambda i: (-last[i], -ends[i]),
    ]
    return [sorted(range(len(shapes)), key=key) for key in keys]


def _first_fit(
    order: Sequence[int],
    above: frozenset[int],
    apart: Sequence[Sequence[Sequence[tuple[int, int]]]],
    ends: Sequence[int],
    limit: int,
) -> list[int]:
    """Addresses with each shape, in `order`, at the lowest that is free.

    Those in `above` at the highest with which they end at `limit` or before, if there is one.
    """
    addresses = [0] * len(order)
    done: list[int] = []
    for i in order:
        taken = [
            (addresses[j] + low, addresses[j] + high) for j in done for low, high in apart[i][j]
        ]
        address = -1
        if i in above:
            address = limit - ends[i]
            for low, high in sorted(taken, key=lambda one: -one[1]):
                if low < address < high:
                    address = low
                elif high <= address:
                    break
        if address < 0:
            address = 0
            for low, high in sorted(taken):
                if low < address < high:
                    address = high
                elif low >= address:
                    break
        addresses[i] = address
        done.append(i)
    return addresses
