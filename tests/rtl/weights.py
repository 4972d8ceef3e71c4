"""What the tests of the weight path share: configurations, pauses, payloads and segments."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cocotb
import numpy as np
import pytest
from amaranth.lib import data
from numpy.random import Generator
from numpy.typing import NDArray

import sim
from golden.code import Code
from golden.decode import encode_segment
from golden.fixed import symmetric_range
from rtl.coefficient_decoder import Segment, vector_delay, word_delay, word_marks_layout
from rtl.config import CONFIGURATIONS as NAMED
from rtl.config import Configuration, configuration
from sim.patterns import PATTERNS

_UP5K = configuration("up5k")

CONFIGURATIONS = {
    **NAMED,
    # 32 bits a stripe; the smallest generator, basis buffer and tile.
    "least": replace(
        _UP5K,
        name="least",
        lanes=4,
        coefficient_bytes=1 << 10,
        coefficient_port=128,
        tile_bytes=4,
        generator_terms=1,
        generator_u_bits=2,
        generator_b_bits=2,
        basis_depth=2,
        basis_blocks=1,
    ),
    # 2 bits a stripe; a lane is as wide as there are lanes; odd numbers of terms and bits.
    "square": replace(
        _UP5K,
        name="square",
        lanes=4,
        width=4,
        coefficient_bytes=1 << 10,
        tile_bytes=160,
        generator_terms=3,
        generator_u_bits=5,
        generator_b_bits=3,
        basis_depth=64,
        basis_blocks=4,
    ),
    # 1 bit a stripe; the largest generator.
    "bitwise": replace(
        _UP5K,
        name="bitwise",
        lanes=16,
        width=2,
        coefficient_bytes=1 << 10,
        tile_bytes=32 * 24,
        generator_terms=8,
        generator_u_bits=8,
        generator_b_bits=5,
        basis_depth=64,
        basis_blocks=2,
    ),
}

PAUSES = [("never", "never"), ("often", "never"), ("rarely", "often"), ("bursts", "bursts")]
"""Pairs of idle and stall that every streaming block is run with."""


def refuses_other_configurations(block: Callable[[object], object]) -> None:
    """Claim that `block` says what is wrong with a configuration that is none."""
    with pytest.raises(TypeError, match="config must be a Configuration, not 'up5k'"):
        block("up5k")


def join(layout: data.StructLayout, **fields: int) -> int:
    """A payload of `layout` as an integer; fields left out are 0."""
    payload = 0
    for name, value in fields.items():
        field = layout[name]
        assert 0 <= value < 1 << field.width, f"{name} cannot hold {value}"
        payload |= int(value) << field.offset
    return payload


def column(layout: data.StructLayout, payloads: Sequence[int], name: str) -> list[int]:
    """One field of every payload."""
    field = layout[name]
    return [payload >> field.offset & (1 << field.width) - 1 for payload in payloads]


def values(layout: data.StructLayout, payloads: Sequence[int]) -> NDArray[np.int64]:
    """The field `values`, signed bytes, of every payload: [payload, value]."""
    count = layout["values"].width // 8
    return sim.unpack_rows(column(layout, payloads, "values"), count, 8, signed=True)


def draw(rng: Generator, shape: Sequence[int], precision: int) -> NDArray[np.int8]:
    """Coefficients: any, or all least, all greatest or all zero."""
    low, high = symmetric_range(precision)
    kind = rng.integers(8)
    if kind < 3:
        extreme = (low, high, 0 if precision > 1 else high)[kind]
        return np.full(shape, extreme, np.int8)
    drawn = rng.integers(low, high, shape, np.int8, endpoint=True)
    return np.where(drawn, drawn, np.int8(high)) if precision == 1 else drawn


def draw_powers(rng: Generator, shape: Sequence[int]) -> NDArray[np.int8]:
    """Coefficients that are powers of two: any, or all the same."""
    values = np.array([-4, -2, -1, 0, 1, 2, 4], np.int8)
    return np.full(shape, rng.choice(values)) if rng.integers(4) == 0 else rng.choice(values, shape)


def words(
    config: Configuration,
    vectors: NDArray[np.int8],
    precision: int,
    segment: Segment,
    final: bool = False,
    code: Code = Code.UNIFORM,
) -> list[tuple[int, int]]:
    """A segment as the decoder is given it: marks and content of its words."""
    marks = join(word_marks_layout(), segment=segment.value, final=final)
    rows = encode_segment(vectors, precision, config.stripe_bits, code)
    return [(marks, int.from_bytes(row.tobytes(), "little")) for row in rows]


class WordSource:
    """Offers words to the decoder: marks to its port `i`; contents, `word_delay` later, to `word`.

    Where no word is offered that port is random.
    """

    def __init__(self, bench: sim.Bench, pause: str = "never") -> None:
        self._bench = bench
        self._words: list[int] = []
        self._taken = 0
        self._late = word_delay(CONFIGURATIONS[bench.parameters["config"]])
        self._marks = bench.source("i", pause)
        self.cycles = self._marks.cycles
        """The cycle in which the marks of each word were taken."""
        cocotb.start_soon(self._drive())

    def send(self, words: Sequence[tuple[int, int]]) -> None:
        """Queue words; returns at once."""
        self._marks.send(marks for marks, _ in words)
        self._words.extend(word for _, word in words)
        if not self._late:
            self._show()

    def _show(self) -> None:
        port = self._bench.dut.word
        offered = self._taken < len(self._words)
        port.value = self._words[self._taken] if offered else self._bench.rng.getrandbits(len(port))

    async def _drive(self) -> None:
        dut = self._bench.dut
        while True:
            if not self._late:
                self._show()
            await self._bench.cycles()
            if self._late:
                self._show()
            self._taken += bool(dut.i__valid.value and dut.i__ready.value)


@dataclass
class Vector:
    """A vector of the decoder: its values as bytes side by side, and its announcement."""

    values: int
    segment: Segment
    final: bool = False
    last: bool = False


class VectorSource:
    """Announces vectors to a block with the ports `vectors` and `room`; values follow.

    While there is nothing to announce, and where no values are due, the ports are random.
    """

    def __init__(self, bench: sim.Bench, pause: str = "never") -> None:
        self.cycles: list[int] = []
        """The edge that ends each announcement."""
        self._bench = bench
        self._pause = PATTERNS[pause](bench.rng)
        self._queue: deque[Vector] = deque()
        self._due: deque[Vector | None] = deque(
            [None] * vector_delay(CONFIGURATIONS[bench.parameters["config"]])
        )
        cocotb.start_soon(self._drive())

    def send(self, vectors: Sequence[Vector]) -> None:
        """Queue vectors; returns at once."""
        self._queue.extend(vectors)

    async def drain(self) -> None:
        """Wait until the values of all that was queued have been there."""
        while self._queue or any(self._due):
            await self._bench.clock.edge

    async def _drive(self) -> None:
        bench, dut, rng = self._bench, self._bench.dut, self._bench.rng
        width = len(dut.vectors__values)
        taken = False
        while True:
            await bench.clock.edge
            if taken:
                self.cycles.append(bench.cycle)
            await bench.settle()
            taken = bool(self._queue) and not next(self._pause) and bool(dut.room.value)
            vector = self._queue.popleft() if taken else None
            dut.vectors__taken.value = int(taken)
            shown = vector or Vector(0, rng.choice([*Segment]), rng.random() < 0.5, True)
            dut.vectors__segment.value = shown.segment.value
            dut.vectors__final.value = int(shown.final)
            dut.vectors__last.value = int(shown.last)
            due = self._due.popleft()
            dut.vectors__values.value = due.values if due else rng.getrandbits(width)
            self._due.append(vector)
