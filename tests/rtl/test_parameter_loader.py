"""The parameter loader: every parameter in its place, never more than one lane group ahead."""

from __future__ import annotations

from collections import deque
from random import Random

import cocotb
import pytest

import sim
from rtl.parameter_loader import ParameterLoader
from rtl.record import TABLE_WORDS
from sim import Bench, testbench
from tests.rtl.weights import CONFIGURATIONS, refuses_other_configurations

LAYERS = 8


class Memory:
    """Grants requests and delivers `address ^ KEY` for each, in order.

    It holds until the next is granted, and then is junk.
    """

    KEY = 0x5A17_3C00

    def __init__(self, bench: Bench, pause: str) -> None:
        self.granted: list[int] = []
        """The cycle of each grant."""
        self._bench = bench
        self._pattern = sim.PATTERNS[pause](Random(bench.seed))
        cocotb.start_soon(self._serve())

    async def _serve(self) -> None:
        dut, rng = self._bench.dut, self._bench.rng
        due: deque[tuple[int, int]] = deque()  # not before this cycle, this word
        while True:
            dut.words__grant.value = int(not next(self._pattern))
            await self._bench.cycles()
            now = self._bench.cycle
            if dut.words__request.value and dut.words__grant.value:
                self.granted.append(now)
                due.append((now + rng.randint(2, 5), int(dut.words__address.value) ^ self.KEY))
                dut.words__data.value = rng.getrandbits(32)
            here = bool(due) and due[0][0] <= now
            dut.words__valid.value = int(here)
            if here:
                dut.words__data.value = due.popleft()[1]


class Writes:
    """What is written, as (entry, kind, data), and (entry, data) of the table."""

    def __init__(self, bench: Bench) -> None:
        self.seen: list[tuple[int, int, int]] = []
        self.table: list[tuple[int, int]] = []
        self._bench = bench
        cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        dut = self._bench.dut
        while True:
            await self._bench.cycles()
            if dut.parameters__write.value:
                names = ("entry", "kind", "data")
                fields = (getattr(dut, f"parameters__{name}").value for name in names)
                self.seen.append(tuple(int(field) for field in fields))
            if dut.table__write.value:
                self.table.append((int(dut.table__entry.value), int(dut.table__data.value)))


@testbench
async def loads(bench: Bench) -> None:
    """Layers with a tile, a table or neither; lane groups take their time, or none."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    pause, lanes = bench.parameters["pause"], config.lanes
    dut, rng = bench.dut, bench.rng
    memory, writes = Memory(bench, pause), Writes(bench)
    size = config.parameter_words
    group_words = size * lanes
    for layer in range(LAYERS):
        tile, table, groups = layer % 3 == 1, layer % 3 == 2, rng.randint(1, 5)
        begin = rng.randrange(
            config.coefficient_bytes // 4 - (groups + 1) * group_words - TABLE_WORDS
        )
        base = begin + TABLE_WORDS * table
        entries = [2 * lanes] * tile
        entries += [n % (2 * lanes) for n in range(groups * lanes)]
        expected = [
            (entry, kind, base + size * n + kind ^ Memory.KEY)
            for n, entry in enumerate(entries)
            for kind in range(size)
        ]
        dut.base.value, dut.tile.value, dut.groups.value = begin, int(tile), groups - 1
        dut.look_up.value = int(table)
        writes.table.clear()
        first, granted = len(writes.seen), len(memory.granted)
        dut.start.value = 1
        await bench.cycles()
        dut.start.value = 0
        begun = bench.cycle

        working: deque[int] = deque()  # When each lane group that has started is done.
        started = done = 0
        start = False
        while done < groups:
            # As seen at the last edge, where a lane group may have started.
            start = bool(dut.loaded.value) and not start and rng.random() < 0.5
            finish = bool(working) and working[0] <= bench.cycle
            dut.started.value, dut.group_done.value = int(start), int(finish)
            if start:
                working.append(bench.cycle + rng.choice([1, 5, 3 * group_words]))
                started += 1
                # Written, or about to be in this cycle.
                needed = size * tile + started * group_words
                assert len(writes.seen) - first >= needed, "not loaded"
            if finish:
                working.popleft()
                done += 1
            await bench.cycles()
            written = len(writes.seen) - first - size * tile
            assert written <= (done + 2) * group_words, "overwritten in use"
        dut.started.value = dut.group_done.value = 0
        await bench.cycles(5)
        assert not dut.loaded.value
        assert started == groups
        what = f"layer {layer}, {groups} lane groups, tile {tile}, table {table}"
        words = [begin + n ^ Memory.KEY for n in range(TABLE_WORDS * table)]
        stored = b"".join(word.to_bytes(4, "little") for word in words)
        bench.compare(
            list(enumerate(stored)), writes.table, axes=["byte", "field"], what=f"table, {what}"
        )
        bench.compare(expected, writes.seen[first:], axes=["word", "field"], what=what)
        if pause == "never":
            assert memory.granted[granted] <= begun + 2
            asked = memory.granted[granted + TABLE_WORDS * table :]
            ahead = asked[: size * tile + min(groups, 2) * group_words]
            gaps = [gap for gap in sim.intervals(ahead) if gap != 1]
            assert gaps == [2] * (min(groups, 2) - 1 + tile)


@pytest.mark.parametrize("config", ["sim-8x1", "up5k", "ecp5-45f", "square"])
@pytest.mark.parametrize("pause", sim.PATTERNS)
def test_loads(config: str, pause: str, seed: int) -> None:
    parameters = {"config": config, "pause": pause}
    dut = ParameterLoader(CONFIGURATIONS[config])
    sim.run(dut, __name__, "loads", parameters=parameters, seed=seed)


def test_refuses() -> None:
    refuses_other_configurations(ParameterLoader)
