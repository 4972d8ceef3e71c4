"""Placement of shapes: never an overlap, and as few bytes as there can be where that is known."""

import itertools

import numpy as np
import pytest

from insitu.shapes import Part, alive, place_shapes


def overlap(shapes, addresses):
    """A byte and a step that two shapes have, found by filling a table; None if there is none."""
    size = max(a + p.offset + p.size for s, a in zip(shapes, addresses, strict=True) for p in s)
    steps = max(p.last for s in shapes for p in s) + 1
    owner = np.full((size, steps), -1)
    for number, (shape, address) in enumerate(zip(shapes, addresses, strict=True)):
        for part in shape:
            begin = address + part.offset
            area = owner[begin : begin + part.size, part.first : part.last + 1]
            if ((area != -1) & (area != number)).any():
                return number, part
            area[:] = number
    return None


def random_shape(rng):
    """Rows that come, and go, one after the other; or anything."""
    if rng.integers(2):
        rows, size = int(rng.integers(1, 6)), int(rng.integers(1, 5))
        first = np.sort(rng.integers(0, 10, rows))
        last = np.sort(np.maximum(first, rng.integers(0, 10, rows)))
        return [
            Part(n * size, size, int(a), int(b))
            for n, (a, b) in enumerate(zip(first, last, strict=True))
        ]
    parts = []
    for _ in range(int(rng.integers(1, 4))):
        first, last = sorted(rng.integers(0, 10, 2).tolist())
        parts.append(Part(int(rng.integers(0, 6)), int(rng.integers(1, 6)), first, last))
    return parts


@pytest.mark.parametrize("number", range(40))
def test_shapes_never_overlap(number, seed):
    rng = np.random.default_rng([seed, number])
    shapes = [random_shape(rng) for _ in range(int(rng.integers(1, 9)))]
    enough = int(rng.choice([0, 10, 20]))
    addresses, peak = place_shapes(shapes, enough)
    assert min(addresses) >= 0
    assert overlap(shapes, addresses) is None, f"seed {seed}, number {number}"
    ends = [a + max(p.offset + p.size for p in s) for s, a in zip(shapes, addresses, strict=True)]
    assert peak == max(ends)
    assert (addresses, peak) == place_shapes(shapes, enough)


@pytest.mark.parametrize("number", range(20))
def test_few_shapes_take_as_little_as_can_be(number, seed):
    rng = np.random.default_rng([seed, number])
    shapes = [random_shape(rng) for _ in range(3)]
    _, peak = place_shapes(shapes, 0)
    reach = range(peak - 1)
    for addresses in itertools.product(reach, repeat=3):
        ends = [
            a + max(p.offset + p.size for p in s) for s, a in zip(shapes, addresses, strict=True)
        ]
        if max(ends) < peak:
            assert overlap(shapes, addresses) is not None, f"seed {seed}, number {number}"


def test_what_is_written_follows_what_has_been_read():
    rows = 10
    read = [Part(8 * n, 8, 0, n) for n in range(rows)]
    written = [Part(8 * n, 8, n, rows) for n in range(rows)]
    assert alive([read, written], rows + 1).tolist() == [88] * rows + [80]
    _, peak = place_shapes([read, written], 0)
    assert peak == 8 * (rows + 1)


def test_the_search_ends_where_it_is_enough():
    shapes = [[Part(0, 8, 0, 1)], [Part(0, 8, 1, 2)], [Part(0, 8, 2, 3)]]
    assert place_shapes(shapes, 0)[1] == 16
    assert place_shapes(shapes, 100)[1] <= 100
