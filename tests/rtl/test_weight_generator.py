"""The weight generator: the intra level against golden, in all its uses, at its pace."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cocotb
import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

import sim
from golden.generate import intra
from rtl.basis_buffer import basis_delay
from rtl.coefficient_decoder import Segment, vector_delay
from rtl.config import Configuration
from rtl.weight_generator import WeightGenerator, blocks_ahead, blocks_layout, weight_delay
from sim import Bench, testbench
from sim.patterns import PATTERNS
from tests.rtl.weights import (
    CONFIGURATIONS,
    PAUSES,
    Vector,
    VectorSource,
    column,
    draw,
    refuses_other_configurations,
    values,
)

LAYERS = 24


@dataclass
class Work:
    """A lane group's coefficients, and what becomes of them.

    `cross` holds channels of kernels in blocks, otherwise there is one block, and the channels
    come in groups of `width`.
    """

    config: Configuration
    cross: bool
    U: NDArray[np.int8]  # [kernel, channel, term]
    B: NDArray[np.int8]  # [kernel, term, tap]
    shift: int
    junk: Generator

    @property
    def blocks(self) -> int:
        return len(self.U) // self.config.lanes

    @property
    def slot_vectors(self) -> int:
        """Vectors that fill a slot."""
        terms = self.U.shape[2]
        return -(-terms // self.config.width) * self.blocks if self.cross else terms

    def basis(self) -> list[int]:
        """Words of the basis buffer, tap by tap, block by block; junk where there is no term."""
        config, (_, terms, taps) = self.config, self.B.shape
        bits = config.generator_b_bits
        shape = (taps, self.blocks, config.generator_terms, config.lanes)
        words = self.junk.integers(1 << bits, size=shape)
        ordered = self.B.reshape(self.blocks, config.lanes, terms, taps).transpose(3, 0, 2, 1)
        words[:, :, :terms] = recode(ordered, bits)
        return sim.pack_rows(words.reshape(taps * self.blocks, -1), bits)

    def stream(self, *, final: bool) -> list[Vector]:
        """Vectors of U; `final` marks those of the last pass, of the cross level the last channel.

        Terms that do not exist are zero (docs/image-format.md).
        """
        config, (kernels, channels, terms) = self.config, self.U.shape
        lanes, width, blocks = config.lanes, config.width, self.blocks
        if self.cross:
            groups = -(-terms // width)
            shape = (channels, blocks, groups, lanes, width)
            padded = np.zeros((kernels, channels, groups * width), np.int8)
            padded[:, :, :terms] = self.U
            parts = padded.reshape(blocks, lanes, channels, groups, width).transpose(2, 0, 3, 1, 4)
        else:
            shape = (channels // width, terms, lanes, width)
            parts = self.U.reshape(lanes, channels // width, width, terms).transpose(1, 3, 0, 2)
        rows = sim.pack_rows(parts.reshape(-1, config.stripes), 8)
        assert len(rows) == np.prod(shape[:-2])
        passing = len(rows) // channels if self.cross else len(rows)
        return [
            Vector(row, Segment.STREAM, final=final and n >= len(rows) - passing)
            for n, row in enumerate(rows)
        ]

    def weights(self) -> NDArray[np.int8]:
        """What comes out, in order: [vector, stripe], of the cross level [vector, lane]."""
        config, W1 = self.config, intra(self.U, self.B, self.shift)
        _, channels, taps = W1.shape
        lanes, width = config.lanes, config.width
        if self.cross:
            ordered = W1.reshape(self.blocks, lanes, channels, taps).transpose(2, 3, 0, 1)
            return ordered.reshape(-1, lanes)
        ordered = W1.reshape(lanes, channels // width, width, taps).transpose(1, 3, 0, 2)
        return ordered.reshape(-1, lanes * width)

    def marks(self, *, final: bool) -> list[tuple[int, int]]:
        """`last` and `final` of what comes out."""
        count = len(self.weights())
        slot = self.blocks * self.B.shape[2]
        last = [n % self.blocks == self.blocks - 1 for n in range(count)]
        ends = [n % slot == slot - 1 for n in range(count)]
        begin = count - slot if self.cross else 0
        return [
            (int(a), int(final and b and n >= begin))
            for n, (a, b) in enumerate(zip(last, ends, strict=True))
        ]


def recode(number: NDArray[np.int8], bits: int) -> NDArray[np.int64]:
    """As the basis buffer does it (`rtl.fixed.recoded`): ones below the top bit mean minus."""
    below = (1 << bits - 1) - 1
    return (number.astype(np.int64) - 1 ^ below) & (1 << bits) - 1


def draw_work(config: Configuration, rng: Generator, layer: int) -> list[Work]:
    """The lane groups of a layer: intra level alone, cross level, or cross level with stored W1."""
    cross, flat = layer % 3 != 0, layer % 3 == 2
    depth = config.basis_depth if cross else config.basis_depth // 2
    terms = 1 if flat else int(rng.integers(1, config.generator_terms, endpoint=True))
    blocks = int(rng.integers(1, min(config.basis_blocks, 4), endpoint=True)) if cross else 1
    taps = 1 if flat else int(rng.integers(1, min(9, depth // blocks), endpoint=True))
    kernels = blocks * config.lanes
    channels = int(rng.integers(1, 5)) * (1 if cross else config.width)
    shift = 0 if flat else int(rng.integers(config.generator_max_shift, endpoint=True))
    u_bits, b_bits = (
        int(rng.integers(1, most, endpoint=True))
        for most in (config.generator_u_bits, config.generator_b_bits)
    )
    works = []
    for _ in range(int(rng.integers(1, 5))):
        U = draw(rng, (kernels, channels, terms), u_bits)
        B = np.ones((kernels, 1, 1), np.int8) if flat else draw(rng, (kernels, terms, taps), b_bits)
        works.append(Work(config, cross, U, B, shift, rng))
    return works


class Basis:
    """A basis buffer."""

    def __init__(self, bench: Bench, config: Configuration) -> None:
        self.words = [bench.rng.getrandbits(20) for _ in range(config.basis_depth)]
        self._bench = bench
        self._config = config
        self._delay = basis_delay(config)
        cocotb.start_soon(self._serve())

    async def _serve(self) -> None:
        dut = self._bench.dut
        due = deque([None] * (self._delay - 1))
        while True:
            await self._bench.cycles()
            enable, address = dut.basis__enable.value, dut.basis__address.value
            due.append(self.words[int(address)] if enable else None)
            if (word := due.popleft()) is not None:
                dut.basis__data.value = word

    async def load(self, words: list[int], half: int, of_all: bool) -> None:
        """Write words where and when the basis buffer may."""
        busy = 3 if of_all else 1 << half
        while int(self._bench.dut.busy.value) & busy:
            await self._bench.cycles()
        await self._bench.cycles(vector_delay(self._config))
        start = 0 if of_all else half * len(self.words) // 2
        self.words[start : start + len(words)] = words


class Weights:
    """Takes what the generator makes: as soon as permitted, or at the cross level its stream."""

    def __init__(self, bench: Bench, config: Configuration, stall: str) -> None:
        self._bench = bench
        self._delay = weight_delay(config)
        self._stall = PATTERNS[stall](bench.rng)
        self._due: deque[bool] = deque([False] * self._delay)
        self._stream = bench.sink("o", stall)
        self.permitted: list[NDArray[np.int64]] = []
        self.permitted_cycles: list[int] = []
        cocotb.start_soon(self._permit())

    async def _permit(self) -> None:
        dut = self._bench.dut
        while True:
            dut.permit.value = int(not next(self._stall))
            await self._bench.clock.edge
            self._due.append(bool(dut.issued.value))
            if self._due.popleft():
                self.permitted.append(int(dut.weights.value))
                self.permitted_cycles.append(self._bench.cycle)

    def count(self, cross: bool) -> int:
        """How many have come."""
        return len(self._stream.payloads if cross else self.permitted)

    def cycles(self, cross: bool) -> list[int]:
        """When they came."""
        return self._stream.cycles if cross else self.permitted_cycles

    async def receive(self, count: int, cross: bool) -> list[int]:
        """The next payloads."""
        if cross:
            return await self._stream.receive(count)
        while len(self.permitted) < count:
            await self._bench.cycles()
        got, self.permitted[:count] = self.permitted[:count], []
        return got


def set_layer(bench: Bench, work: Work) -> None:
    bench.dut.cross_level.value = int(work.cross)
    bench.dut.terms.value = work.U.shape[2] - 1
    bench.dut.taps.value = work.B.shape[2] - 1
    bench.dut.blocks.value = work.blocks - 1
    bench.dut.shift.value = work.shift


@testbench
async def generates(bench: Bench) -> None:
    """Layers of all kinds; the lane groups of a layer follow each other closely."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    rng = np.random.default_rng(bench.seed)
    layout = blocks_layout(config)
    source = VectorSource(bench, bench.parameters["idle"])
    sink = Weights(bench, config, bench.parameters["stall"])
    basis = Basis(bench, config)
    for layer in range(LAYERS):
        works = draw_work(config, rng, layer)
        cross, passes = works[0].cross, 1 if works[0].cross else 2
        set_layer(bench, works[0])
        expected, marks = [], []
        for group, work in enumerate(works):
            half = group % 2
            await basis.load(work.basis(), half, cross)
            bench.dut.half.value = half
            for repeat in range(passes):
                final = repeat == passes - 1
                source.send(work.stream(final=final))
                expected.append(work.weights())
                marks += work.marks(final=final)
            await source.drain()
        got = await sink.receive(len(marks), cross)
        if cross:
            stripes = values(layout, got)
        else:
            stripes = np.array([sim.unpack(word, config.stripes, 8, signed=True) for word in got])
        what = f"layer {layer}, U {works[0].U.shape}, B {works[0].B.shape}, cross {cross}"
        bench.compare(np.concatenate(expected), stripes, axes=["vector", "stripe"], what=what)
        if cross:
            got_marks = list(
                zip(*(column(layout, got, name) for name in ("last", "final")), strict=True)
            )
            bench.compare(marks, got_marks, axes=["vector", "mark"], what=f"marks, {what}")
        assert bench.dut.busy.value == 0
    received = [sink.count(cross) for cross in (False, True)]
    await bench.cycles(30)
    assert [sink.count(cross) for cross in (False, True)] == received, "weights too many"


@testbench
async def keeps_pace(bench: Bench) -> None:
    """Weights come without a gap, as long as U can keep up.

    At the cross level they come one at a time, but where memory is slow.
    """
    config = CONFIGURATIONS[bench.parameters["config"]]
    rng = np.random.default_rng(bench.seed)
    source, sink = VectorSource(bench), Weights(bench, config, "never")
    basis = Basis(bench, config)
    checked = {False: 0, True: 0}
    for layer in range(LAYERS):
        work = draw_work(config, rng, layer)[0]
        set_layer(bench, work)
        await basis.load(work.basis(), 0, work.cross)
        sent, received = len(source.cycles), len(sink.cycles(work.cross))
        source.send(work.stream(final=True) * 3)
        await sink.receive(3 * len(work.weights()), work.cross)
        delay = weight_delay(config)
        late = work.cross and blocks_ahead(config) > 1
        pace = delay + 1 if work.cross and not late else 1
        slot = work.blocks * work.B.shape[2] * pace
        cycles = sink.cycles(work.cross)[received:]
        assert cycles[0] == source.cycles[sent + work.slot_vectors - 1] + 2 + delay + late
        if work.slot_vectors < slot:
            checked[work.cross] += 1
            assert set(sim.intervals(cycles)) <= {pace}
        else:
            starts = set(sim.intervals(cycles[:: slot // pace]))
            assert starts <= {work.slot_vectors, work.slot_vectors + 1}
    least = config.basis_depth == 2  # No room for two taps.
    assert checked[True]
    assert checked[False] or least


@pytest.mark.parametrize("config", CONFIGURATIONS)
@pytest.mark.parametrize(("idle", "stall"), PAUSES)
def test_generates(config: str, idle: str, stall: str, seed: int) -> None:
    parameters = {"config": config, "idle": idle, "stall": stall}
    dut = WeightGenerator(CONFIGURATIONS[config])
    sim.run(dut, __name__, "generates", parameters=parameters, seed=seed)


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_keeps_pace(config: str, seed: int) -> None:
    dut = WeightGenerator(CONFIGURATIONS[config])
    sim.run(dut, __name__, "keeps_pace", parameters={"config": config}, seed=seed)


def test_refuses() -> None:
    refuses_other_configurations(WeightGenerator)
