"""The sequencer: programs read, layers started in order, tiles before pixels, faults told."""

from __future__ import annotations

from collections import deque

import cocotb
import numpy as np
import pytest

import sim
from rtl.config import configuration
from rtl.record import (
    CROSS,
    FIELDS,
    FIRST_WALK_WORD,
    OP_END,
    OP_LAYER,
    RECORD_WORDS,
    STORED,
    TILE,
    WALK_WORDS,
    field_bits,
    pack_record,
    pack_step,
)
from rtl.sequencer import Sequencer, record_layout
from sim import Bench, testbench
from tests.rtl.weights import refuses_other_configurations

CONFIG = configuration("up5k")
RECORDS = 64
"""32-bit word address of the first record."""


def drawn_record(rng: np.random.Generator, dataflow: int, groups: int) -> dict[str, int]:
    """A value for every field that the hardware can keep."""
    values = {}
    for name, bits in field_bits(CONFIG).items():
        low = -(1 << bits - 1) if FIELDS[name].signed else 0
        values[name] = int(rng.integers(low, low + (1 << bits)))
    return values | {"dataflow": dataflow, "groups": groups - 1}


class Memory:
    """The word port of a coefficient memory that grants as it likes.

    Where it always does, words take `delay` cycles from their reads, as `words_delay` counts them.
    """

    def __init__(self, bench: Bench, words: dict[int, int], grants: float, delay: int = 2) -> None:
        self.bench, self.words, self.grants, self.delay = bench, words, grants, delay
        cocotb.start_soon(self.serve())

    async def serve(self) -> None:
        dut, rng = self.bench.dut, self.bench.rng
        due: deque[tuple[int, int]] = deque()  # not before this cycle, this word
        while True:
            dut.words__grant.value = rng.random() < self.grants
            await self.bench.cycles()
            now = self.bench.cycle
            if dut.words__request.value and dut.words__grant.value:
                delay = self.delay if self.grants == 1 else rng.randint(2, 5)
                due.append((now + delay, self.words.get(int(dut.words__address.value), 0)))
            here = bool(due) and due[0][0] <= now
            dut.words__valid.value = int(here)
            dut.words__data.value = due.popleft()[1] if here else rng.getrandbits(32)


async def until(bench: Bench, signal: str) -> None:
    """Wait for the edge at which an output is high."""
    while not getattr(bench.dut, signal).value:
        await bench.cycles()


async def pulse(bench: Bench, signal: str) -> None:
    """Raise an input for one cycle, some cycles from now."""
    await bench.cycles(bench.rng.randint(1, 4))
    getattr(bench.dut, signal).value = 1
    await bench.cycles()
    getattr(bench.dut, signal).value = 0


@testbench
async def runs(bench: Bench) -> None:
    """Layers, of which two are on the tile, are started as their records say."""
    dut, layout = bench.dut, record_layout(CONFIG)
    rng = np.random.default_rng(bench.seed)
    layers = [
        drawn_record(rng, STORED, 3),
        drawn_record(rng, CROSS, 2),
        drawn_record(rng, TILE, 1),
        drawn_record(rng, STORED, 1),
    ]
    words = {len(layers): pack_step(OP_END)}
    for index, values in enumerate(layers):
        at = RECORDS + index * RECORD_WORDS
        words[index] = pack_step(OP_LAYER, at)
        words |= {at + n: word for n, word in enumerate(pack_record(**values))}
    delay = bench.parameters["delay"]
    Memory(bench, words, bench.parameters["grants"], delay)

    await pulse(bench, "start")
    started = bench.cycle
    for index, values in enumerate(layers):
        walk_words = {}
        while not dut.layer_start.value:
            if dut.steps__write.value:
                walk_words[int(dut.steps__entry.value)] = int(dut.steps__data.value)
            await bench.cycles()
        if bench.parameters["grants"] == 1 and index == 0:
            # A step, its record, and what lies between.
            assert bench.cycle - started == RECORD_WORDS + 4 + 2 * delay
        at = RECORDS + index * RECORD_WORDS + FIRST_WALK_WORD
        expected = [words[at + entry] for entry in range(len(WALK_WORDS))]
        bench.compare(expected, [walk_words.get(n) for n in range(len(WALK_WORDS))], what="steps")
        record = int(dut.record.value)
        for name, field in layout:
            got = record >> field.offset & (1 << field.width) - 1
            bench.compare(values[name] & (1 << field.width) - 1, got, what=f"field {name}")

        cross = values["dataflow"] == CROSS
        for _ in range(values["groups"] + 1 if cross else 1):
            if cross:
                await until(bench, "tile")
                assert dut.permit.value
                assert not dut.walk.value
                await pulse(bench, "fetching")
                await bench.cycles()
                assert not dut.permit.value, "a lane group is permitted once"
                await pulse(bench, "tile_complete")
            if values["dataflow"] == TILE:
                await bench.cycles(5)
                assert not dut.walk.value, "the parameters are not there"
                await pulse(bench, "fetching")
            await until(bench, "walk")
            assert not dut.tile.value
            await pulse(bench, "written")
    while dut.busy.value:
        await bench.cycles()
    assert not dut.fault.value
    cycles = int(dut.cycles.value)
    await bench.cycles(3)
    assert int(dut.cycles.value) == cycles, "cycles stand still after the end"


@testbench
async def faults(bench: Bench) -> None:
    """An unknown operation ends the program with a fault; the next start is as good as new."""
    dut = bench.dut
    words = {0: 7 << 28}
    Memory(bench, words, 1)
    await pulse(bench, "start")
    await until(bench, "fault")
    await bench.cycles(2)
    assert not dut.busy.value
    words[0] = pack_step(OP_END)
    await pulse(bench, "start")
    await bench.cycles()
    assert dut.busy.value
    while dut.busy.value:
        assert not dut.fault.value
        await bench.cycles()


@pytest.mark.parametrize(("grants", "delay"), [(1, 2), (1, 3), (1, 5), (0.5, 2), (0.1, 2)])
def test_runs(grants: float, delay: int, seed: int) -> None:
    parameters = {"grants": grants, "delay": delay}
    sim.run(Sequencer(CONFIG), __name__, "runs", parameters=parameters, seed=seed)


def test_faults(seed: int) -> None:
    sim.run(Sequencer(CONFIG), __name__, "faults", seed=seed)


def test_refuses() -> None:
    refuses_other_configurations(Sequencer)
