"""The coefficient memory: a stream of words and 32-bit words from one port, each its share."""

from __future__ import annotations

from dataclasses import replace

import cocotb
import pytest

import sim
from rtl.coefficient_decoder import word_delay, word_marks_layout
from rtl.coefficient_memory import WORD_TURNS, CoefficientMemory, fetch_layout
from sim import Bench, testbench
from tests.rtl.weights import CONFIGURATIONS as SHARED
from tests.rtl.weights import PAUSES, column, join, refuses_other_configurations

WORDS = 32
CONFIGURATIONS = {
    **SHARED,
    # Slow words of one part and of two, of which there are four and more elsewhere.
    **{
        f"slow {port}": replace(
            SHARED["ecp5-25f"],
            name=f"slow {port}",
            lanes=8,
            width=1,
            activation_word=8,
            coefficient_bytes=1 << 10,
            coefficient_port=port,
        )
        for port in (32, 64)
    },
}
NAMES = ["sim-8x1", "up5k", "ecp5-45f", "least", "slow 32", "slow 64"]


class Reader:
    """Reads 32-bit words."""

    def __init__(self, bench: Bench, addresses: list[int], pause: str) -> None:
        self.words: list[int] = []
        self.cycles: list[int] = []
        """The cycle of each grant."""
        self.arrivals: list[int] = []
        """The cycle of each word."""
        self._bench = bench
        self._pattern = sim.PATTERNS[pause](bench.rng)
        self.done = cocotb.start_soon(self._read(addresses))

    async def _read(self, addresses: list[int]) -> None:
        dut, bench = self._bench.dut, self._bench
        cocotb.start_soon(self._take())
        for address in addresses:
            dut.words__address.value = address
            dut.words__request.value = 0
            while next(self._pattern):
                await bench.cycles()
            dut.words__request.value = 1
            await bench.cycles()
            while not dut.words__grant.value:  # A request stays until it is granted.
                await bench.cycles()
            self.cycles.append(bench.cycle)
        dut.words__request.value = 0
        while len(self.words) < len(addresses):
            await bench.cycles()

    async def _take(self) -> None:
        while True:
            await self._bench.cycles()
            if self._bench.dut.words__valid.value:
                self.words.append(int(self._bench.dut.words__data.value))
                self.arrivals.append(self._bench.cycle)


class Words:
    """What the port `word` has in each cycle."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._words: dict[int, int] = {}
        cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        while True:
            await self._bench.cycles()
            self._words[self._bench.cycle] = int(self._bench.dut.word.value)

    def of(self, cycles: list[int], late: int) -> list[int]:
        """The words of marks that were taken in `cycles`."""
        return [self._words[cycle + late] for cycle in cycles]


async def fill(bench: Bench, parts: int) -> list[list[int]]:
    """Write a few words through the host's port: [word][part]."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    addresses = bench.rng.sample(range(config.coefficient_words), WORDS)
    content = {a: [bench.rng.getrandbits(32) for _ in range(parts)] for a in addresses}
    writes = [(a * parts + n, w) for a, row in content.items() for n, w in enumerate(row)]
    bench.rng.shuffle(writes)
    for address, word in writes:
        bench.dut.host_write.value = 1
        bench.dut.host_address.value = address
        bench.dut.host_data.value = word
        await bench.cycles()
    bench.dut.host_write.value = 0
    bench.dut.host_data.value = bench.rng.getrandbits(32)
    await bench.cycles()
    return content


@testbench
async def reads(bench: Bench) -> None:
    """Both kinds of reads at once, with pauses."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    parts = config.coefficient_port // 32
    idle, stall, asking = (bench.parameters[name] for name in ("idle", "stall", "asking"))
    source, sink, contents = bench.source("fetch", idle), bench.sink("o", stall), Words(bench)
    content = await fill(bench, parts)
    rows, count = list(content), 200
    fetches = [
        {
            "address": bench.rng.choice(rows),
            "segment": bench.rng.randrange(4),
            "final": bench.rng.randrange(2),
        }
        for _ in range(count)
    ]
    addresses = [bench.rng.choice(rows) * parts + bench.rng.randrange(parts) for _ in range(50)]
    reader = Reader(bench, addresses, asking)
    source.send(join(fetch_layout(config), **fetch) for fetch in fetches)
    got = await sink.receive(count)
    await reader.done
    layout = word_marks_layout()
    expected = [content[fetch["address"]] for fetch in fetches]
    await bench.cycles(2)
    taken = contents.of(sink.cycles, word_delay(config))
    words = [sim.unpack(w, parts, 32, signed=False) for w in taken]
    bench.compare(expected, words, axes=["word", "part"], what="stream")
    for name in ("segment", "final"):
        marks = column(layout, got, name)
        bench.compare([fetch[name] for fetch in fetches], marks, axes=["word"], what=name)
    expected = [content[address // parts][address % parts] for address in addresses]
    bench.compare(expected, reader.words, axes=["word"], what="32-bit words")
    await bench.cycles(10)
    assert len(sink.payloads) == count, "words too many"


@testbench
async def shares(bench: Bench) -> None:
    """Alone, each has every cycle; together, 32-bit words have every fourth."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    source, sink = bench.source("fetch"), bench.sink("o")
    content = await fill(bench, config.coefficient_port // 32)
    address = next(iter(content))
    fetches = [join(fetch_layout(config), address=address)] * 100

    source.send(fetches)
    await sink.receive(100)
    assert sink.cycles[0] == source.cycles[0] + 2 + 2 * config.slow_memory
    assert set(sim.intervals(source.cycles)) == set(sim.intervals(sink.cycles)) == {1}

    reader = Reader(bench, [0] * 50, "never")
    await reader.done
    assert set(sim.intervals(reader.cycles)) == {1}
    latency = 3 + (config.coefficient_port > 32) + 2 * config.slow_memory
    assert [cycle + latency for cycle in reader.cycles] == reader.arrivals

    await bench.cycles(10)
    source.send(fetches)
    reader = Reader(bench, [0] * 20, "never")
    await sink.receive(100)
    await reader.done
    assert set(sim.intervals(reader.arrivals)) == {WORD_TURNS}
    assert set(sim.intervals(sink.cycles[100:])) == {1, 2}


@pytest.mark.parametrize("config", NAMES)
@pytest.mark.parametrize(("idle", "stall"), PAUSES)
@pytest.mark.parametrize("asking", ["never", "often"])
def test_reads(config: str, idle: str, stall: str, asking: str, seed: int) -> None:
    parameters = {"config": config, "idle": idle, "stall": stall, "asking": asking}
    dut = CoefficientMemory(CONFIGURATIONS[config])
    sim.run(dut, __name__, "reads", parameters=parameters, seed=seed)


@pytest.mark.parametrize("config", NAMES)
def test_shares(config: str) -> None:
    dut = CoefficientMemory(CONFIGURATIONS[config])
    sim.run(dut, __name__, "shares", parameters={"config": config})


def test_refuses() -> None:
    refuses_other_configurations(CoefficientMemory)
