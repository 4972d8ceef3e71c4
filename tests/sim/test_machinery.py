"""Bit vectors, pause patterns and the comparison, without a simulator."""

from __future__ import annotations

from itertools import islice
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

import sim
from tests.sim.duts import Beat


@st.composite
def _numbers(draw: st.DrawFn) -> tuple[list[int], int, bool]:
    width, signed = draw(st.integers(1, 62)), draw(st.booleans())
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
    return draw(st.lists(st.integers(low, high), min_size=1, max_size=20)), width, signed


@given(_numbers())
def test_pack_places_the_first_lowest_and_unpack_reverses_it(
    case: tuple[list[int], int, bool],
) -> None:
    values, width, signed = case
    vector = sim.pack(values, width)
    mask = (1 << width) - 1
    assert vector == sum((value & mask) << i * width for i, value in enumerate(values))
    assert sim.unpack(vector, len(values), width, signed=signed) == values


def test_rows_are_packed_one_by_one() -> None:
    rows = np.arange(-12, 12).reshape(6, 4)
    vectors = sim.pack_rows(rows, 7)
    assert vectors == [sim.pack(row, 7) for row in rows]
    np.testing.assert_array_equal(sim.unpack_rows(vectors, 4, 7, signed=True), rows)


@pytest.mark.parametrize(
    ("values", "width", "says"),
    [
        ([8], 3, r"values must fit in 3 bits, not span 8\.\.8"),
        ([-5], 3, r"values must fit in 3 bits, not span -5\.\.-5"),
        ([1.0, -0.9], 4, r"values must be integers, not \[\[1.0, -0.9\]\]"),
        (np.array([2**64 - 1], np.uint64), 4, r"values must fit in 4 bits, not span 1844"),
        ([1 << 64], 4, r"values must fit in 4 bits, not span 1844"),
        ([0], 63, "width must be 1 to 62 bits, not 63"),
        ([0], 0, "width must be 1 to 62 bits, not 0"),
    ],
)
def test_pack_refuses(values: ArrayLike, width: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sim.pack(values, width)


def test_pack_rows_refuses_one_dimension() -> None:
    with pytest.raises(ValueError, match="values must have two dimensions, not 1"):
        sim.pack_rows([1, 2], 8)


def test_structured_payloads() -> None:
    vector = sim.encode(Beat, {"sum": -2, "parts": [1, 2, 3]})
    assert vector == 0x321FE
    assert sim.decode(Beat, vector) == {"sum": -2, "parts": {0: 1, 1: 2, 2: 3}}


@pytest.mark.parametrize("name", sim.PATTERNS)
def test_patterns_repeat_by_seed_and_end_every_pause(name: str) -> None:
    first, second = (list(islice(sim.PATTERNS[name](Random(4)), 1000)) for _ in range(2))
    assert first == second
    assert False in first
    assert (True in first) == (name != "never")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: sim.randomly(1.0), r"probability must be in \[0, 1\), not 1.0"),
        (lambda: sim.bursts(0, 3), "active must be a positive integer, not 0"),
        (lambda: sim.bursts(3, -1), "paused must be a positive integer, not -1"),
    ],
)
def test_patterns_refuse(make: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_equal_passes() -> None:
    sim.compare(np.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]])


def test_difference_is_located() -> None:
    with pytest.raises(AssertionError) as caught:
        sim.compare(
            np.zeros((3, 4), int),
            np.eye(3, 4, dtype=int),
            axes=["pixel", "lane"],
            what="sums",
            seed=9,
            parameters={"bits": 3},
        )
    assert str(caught.value).splitlines() == [
        "sums: 3 of 12 elements differ",
        "seed 9, parameters {'bits': 3}",
        "  [pixel 0, lane 0] expected 0, got 1",
        "  [pixel 1, lane 1] expected 0, got 1",
        "  [pixel 2, lane 2] expected 0, got 1",
    ]


def test_many_differences_are_cut() -> None:
    with pytest.raises(AssertionError) as caught:
        sim.compare(range(20), range(1, 21))
    lines = str(caught.value).splitlines()
    assert lines[2] == "  [axis 0 0] expected 0, got 1"
    assert lines[-1] == "  ..."
    assert len(lines) == 11


@pytest.mark.parametrize("got", [[0, 1], [0, 1, 2, 3]])
def test_short_or_long_is_a_difference(got: list[int]) -> None:
    with pytest.raises(AssertionError, match=r"expected shape \(3,\), got shape"):
        sim.compare([0, 1, 2], got)


def test_wrong_rank_is_a_difference() -> None:
    with pytest.raises(AssertionError, match="got shape"):
        sim.compare([[0]], [0])


@pytest.mark.parametrize("large", [1 << 62, (1 << 64) - 1, 1 << 100])
def test_large_integers_are_compared_exactly(large: int) -> None:
    sim.compare([1, large], [1, large])
    with pytest.raises(AssertionError, match=f"expected {large}, got {large - 1}"):
        sim.compare([1, large], [1, large - 1])


def test_fractions_are_compared_exactly() -> None:
    sim.compare([0.5, 1.0], np.array([0.5, 1.0]))
    with pytest.raises(AssertionError, match=r"\[axis 0 1\]"):
        sim.compare([0.5, 1.0], [0.5, 1.5])
