"""The host port: every register, refusals, waiting, and CRCs against zlib."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import pytest

import sim
from rtl.config import configuration
from rtl.host_port import HostPort
from rtl.registers import (
    ACTIVATIONS,
    COEFFICIENTS,
    CONTROL_BITS,
    REGISTERS,
    STATUS_BITS,
    UNLOCK,
    geometry,
    markdown,
)
from sim import Bench, testbench
from sim.build import ROOT
from tests.rtl.host import Engine, Master, Memories

SMALL = replace(
    configuration("up5k"), name="small", coefficient_bytes=1 << 10, activation_bytes=1 << 12
)
CONFIGURATIONS = {
    "small": SMALL,
    "mirrored": replace(
        SMALL, name="mirrored", coefficient_bytes=3 << 10, activation_bytes=1 << 10
    ),
    "up5k": configuration("up5k"),
    "sim-8x1": configuration("sim-8x1"),
}
VARIANTS = [("small", 4), ("mirrored", 2), ("up5k", 1), ("sim-8x1", 8)]
START, CLEAR = (1 << CONTROL_BITS[name].number for name in ("start", "clear"))


class World:
    """A host port with everything around it."""

    def __init__(self, bench: Bench, *, slowest: int = 0, gaps: int = 0, run: int = 100) -> None:
        self.bench = bench
        self.rng = bench.rng
        self.config = CONFIGURATIONS[bench.parameters["config"]]
        self.turns = 32 // bench.parameters["serial_bits"]
        self.memories = Memories(bench, slowest)
        self.engine = Engine(bench, run)
        self.host = Master(bench, gaps)
        self.sizes = {
            COEFFICIENTS: self.config.coefficient_bytes,
            ACTIVATIONS: self.config.activation_bytes,
        }

        self.wrap = 1 << (max(self.sizes.values()) - 1).bit_length()

    async def status(self) -> set[str]:
        """Names of the bits of STATUS that are set."""
        value = await self.host.read("STATUS")
        assert value >> len(STATUS_BITS) == 0
        return {name for name, bit in STATUS_BITS.items() if value >> bit.number & 1}

    async def crc(self, address: int, words: int) -> int:
        """CRC of a range by the hardware, waiting for it as a bus does."""
        await self.host.write("CRC_ADDRESS", address)
        await self.host.write("CRC_LENGTH", words)
        return await self.host.read("CRC_VALUE")

    def expected_crc(self, address: int, words: int) -> int:
        """The same by zlib."""
        base = COEFFICIENTS if address < ACTIVATIONS else ACTIVATIONS
        wrap = self.wrap
        crc = 0
        for n in range(words):
            word = self.memories.read(base + (address - base + 4 * n) % wrap)
            crc = zlib.crc32(struct.pack("<I", word), crc)
        return crc


@testbench
async def has_registers(bench: Bench) -> None:
    """Values at reset, latencies, and that read-only means that."""
    world = World(bench)
    host = world.host
    digest = world.config.digest
    values = {
        "IDENTITY": 0x7473_6E69,
        "VERSION": 0x0002_0001,
        "GEOMETRY": geometry(world.config),
        "DIGEST": digest,
        "STATUS": 1 << STATUS_BITS["locked"].number,
        "CONTROL": 1 << STATUS_BITS["locked"].number,
        "LOCK": 1 << STATUS_BITS["locked"].number,
    }
    bench.dut.cycles.value = 0xA5C3_0F1E
    values["CYCLES"] = 0xA5C3_0F1E
    assert await world.crc(COEFFICIENTS, 0) == 0
    for name in REGISTERS:
        answer = await host.access(REGISTERS[name].offset)
        assert answer.kind == "ack"
        assert answer.cycles == (2 if name == "CYCLES" else world.turns + 3), name
        assert answer.data == values.get(name, 0), name
    for name in ("IDENTITY", "VERSION", "GEOMETRY", "DIGEST", "STATUS", "CYCLES", "CRC_VALUE"):
        assert await host.write(name, 0xFFFF_FFFF) == 2
    for name in REGISTERS:
        assert await host.read(name) == values.get(name, 0), name
    for offset in range(max(register.offset for register in REGISTERS.values()) + 4, 0x40, 4):
        assert await host.write(offset, 0xFFFF_FFFF) == 2
        assert await host.read(offset) == 0, "reserved registers read as CRC_VALUE"
    assert await world.status() == {"locked"}
    assert world.memories.accesses == []
    assert world.engine.starts == 0


@testbench
async def locks(bench: Bench) -> None:
    """Coefficients are written unlocked only, the program started locked only."""
    world = World(bench)
    host, word = world.host, COEFFICIENTS + 8
    before = world.memories.read(word)

    async def refuses() -> None:
        answer = await host.access(word, 0x1234_5678)
        assert answer.kind == "err"
        assert answer.cycles == 2
        assert world.memories.words == {}
        assert await world.status() == {"locked", "write_refused"}
        await host.write("CONTROL", CLEAR)
        assert await world.status() == {"locked"}

    await refuses()
    assert await host.read(word) == before
    keys = [UNLOCK ^ 1 << bit for bit in range(32)] + [0, 0xFFFF_FFFF, 1]
    for key in keys:
        await host.write("LOCK", key)
        assert "locked" in await world.status(), hex(key)
    await refuses()
    await host.write("LOCK", UNLOCK)
    assert await world.status() == set()
    assert await host.write(word, 0x1234_5678) == 3
    assert world.memories.words == {word: 0x1234_5678}
    assert await host.read(word) == 0x1234_5678

    await host.write("CONTROL", START)
    assert await world.status() == {"start_refused"}
    await host.write("CONTROL", START | CLEAR)
    assert await world.status() == {"start_refused"}
    await host.write("CONTROL", CLEAR)
    assert await world.status() == set()
    assert world.engine.starts == 0
    for key in keys:
        await host.write("LOCK", UNLOCK)
        await host.write("LOCK", key)
        assert "locked" in await world.status(), hex(key)
    world.memories.words.clear()
    await refuses()


@testbench
async def runs(bench: Bench) -> None:
    """Start, busy, done, cycles, fault; what must wait for the engine, and what need not."""
    world = World(bench, run=1000)
    host = world.host
    at_once = ACTIVATIONS + 4
    await host.write(at_once, 42)
    await host.write("CONTROL", START)
    begun = bench.cycle
    assert await world.status() == {"busy", "locked"}
    assert await host.read("IDENTITY") == 0x7473_6E69
    assert await host.read("CYCLES") < 1000
    await host.write("CONTROL", START)
    assert await world.status() == {"busy", "locked", "start_refused"}
    # A master that does not want to wait can give up; nothing has happened.
    done = len(world.memories.accesses)
    assert (await host.access(at_once, 43, patience=50)).kind is None
    assert (await host.access(at_once, patience=50)).kind is None
    await host.write("CRC_ADDRESS", at_once)
    await host.write("CRC_LENGTH", 1)
    assert await world.status() == {"busy", "locked", "start_refused", "crc_busy"}
    assert (await host.access(REGISTERS["CRC_VALUE"].offset, patience=50)).kind is None
    assert len(world.memories.accesses) == done
    assert bench.cycle < begun + 900
    # One that waits is served right after the run and the range.
    answer = await host.access(at_once)
    assert answer.data == 42
    assert begun + 1000 <= bench.cycle <= begun + 1000 + 2 * world.turns + 15
    assert await host.read("CRC_VALUE") == zlib.crc32(struct.pack("<I", 42))
    assert await world.status() == {"done", "locked", "start_refused"}
    assert await host.read("CYCLES") == 1000
    await host.write("CONTROL", CLEAR)
    assert await world.status() == {"locked"}

    # A range at work keeps the engine from starting.
    await host.write("CRC_LENGTH", 4)
    await host.write("CONTROL", START)
    assert "start_refused" in await world.status()
    await host.read("CRC_VALUE")
    assert world.engine.starts == 1
    await host.write("CONTROL", CLEAR)

    world.engine.cycles = 1
    await host.write("CONTROL", START)
    await bench.cycles(5)
    assert await world.status() == {"done", "locked"}
    assert world.engine.starts == 2
    bench.dut.fault.value = 1
    await bench.cycles(1)
    bench.dut.fault.value = 0
    assert await world.status() == {"done", "locked", "fault"}
    world.engine.cycles = 500
    await host.write("CONTROL", START)
    assert await world.status() == {"busy", "locked"}
    bench.dut.fault.value = 1
    await bench.cycles(1)
    bench.dut.fault.value = 0
    assert await world.status() == {"busy", "locked", "fault"}
    await host.write("CONTROL", CLEAR)
    assert await world.status() == {"busy", "locked"}


@testbench
async def refuses_what_is_not_there(bench: Bench) -> None:
    """`err` for addresses without anything and for parts of words, and nothing else happens."""
    world = World(bench)
    host = world.host
    await host.write("LOCK", UNLOCK)
    spaces = {0: 64} | world.sizes
    good = [base + at for base, size in spaces.items() for at in (0, size - 4)]
    for address in good:
        for sel in range(15):
            for data in (None, UNLOCK ^ 1):
                answer = await host.access(address, data, sel=sel)
                assert answer.kind == "err", (hex(address), sel, data)
                assert answer.cycles == 2
    assert await world.status() == {"access_error"}
    await host.write("CONTROL", CLEAR)
    assert await world.status() == set()
    bad = [0x30_0000, 0x30_0000 + 4 * 5, 0x3F_FFFC]
    for base, size in spaces.items():
        bad += [base + size] if size < 1 << 20 else []
        bad += [base + (1 << bit) for bit in range((size - 1).bit_length(), 20)]
        bad += [base + 0xF_FFFC] if size < 1 << 20 else []
    for address in bad:
        for data in (None, 1):
            answer = await host.access(address, data)
            assert answer.kind == "err", hex(address)
            assert await world.status() == {"access_error"}
            await host.write("CONTROL", CLEAR)
    assert world.memories.accesses == []
    # Not the engine, but the address is at fault: no waiting.
    await host.write("LOCK", 0)
    world.engine.cycles = 200
    await host.write("CONTROL", START)
    for address in (0x30_0000, REGISTERS["CRC_VALUE"].offset + 0x40):
        assert (await host.access(address)).cycles == 2
    assert (await host.access(COEFFICIENTS, sel=7)).cycles == 2
    assert await world.status() == {"busy", "locked", "access_error"}
    for address in good[2:]:
        await host.read(address)
    assert world.memories.accesses == [(address, False) for address in good[2:]]


@testbench
async def checks_ranges(bench: Bench) -> None:
    """CRC of ranges against zlib, the time they take, and what is held up by them."""
    world = World(bench)
    host, rng = world.host, world.rng
    assert await world.crc(ACTIVATIONS, 1) == world.expected_crc(ACTIVATIONS, 1)
    for base, size in world.sizes.items():
        starts = [0, size - 4] + [rng.randrange(size // 4) * 4 for _ in range(4)]
        for start in starts:
            words = rng.choice([0, 1, 2, rng.randint(3, 60)])
            crc = await world.crc(base + start, words)
            assert crc == world.expected_crc(base + start, words), (hex(base + start), words)
            assert await host.read("CRC_LENGTH") == await host.read("CRC_ADDRESS") == crc
        assert len(world.memories.accesses) > 1
    # Extremes of data.
    for word in (0, 0xFFFF_FFFF, 1, 0x8000_0000):
        world.memories.words = {ACTIVATIONS: word, ACTIVATIONS + 4: word}
        assert await world.crc(ACTIVATIONS, 2) == zlib.crc32(struct.pack("<2I", word, word))

    await host.write("CRC_ADDRESS", COEFFICIENTS)
    await host.write("CRC_LENGTH", 20)
    begun = bench.cycle
    crc = await host.read("CRC_VALUE")
    assert bench.cycle - begun == 20 * (world.turns + 5) + world.turns + 4
    assert crc == world.expected_crc(COEFFICIENTS, 20)

    # Registers come in between, and disturb nothing; memories wait.
    await host.write("CRC_ADDRESS", COEFFICIENTS)
    await host.write("CRC_LENGTH", 80)
    for _ in range(8):
        assert await world.status() == {"locked", "crc_busy"}
        await bench.cycles(rng.randint(1, world.turns + 8))
        answer = await host.access(REGISTERS["DIGEST"].offset)
        assert answer.data == world.config.digest
        assert answer.cycles <= 2 * world.turns + 8
    seen = len(world.memories.accesses)
    assert await host.read(ACTIVATIONS) == world.memories.read(ACTIVATIONS)
    assert len(world.memories.accesses) > seen + 1
    assert world.memories.accesses[-1] == (ACTIVATIONS, False)
    assert await world.status() == {"locked"}
    assert await host.read("CRC_VALUE") == world.expected_crc(COEFFICIENTS, 80)


@testbench
async def checks_while_polled(bench: Bench) -> None:
    """A master that asks without a pause does not keep the range from being checked."""
    world = World(bench)
    await world.host.write("CRC_ADDRESS", ACTIVATIONS)
    await world.host.write("CRC_LENGTH", 10)
    port = bench.dut
    port.bus__adr.value = REGISTERS["STATUS"].offset // 4
    port.bus__we.value, port.bus__sel.value = 0, 15
    port.bus__cyc.value = port.bus__stb.value = 1
    await bench.cycles(10 * (2 * world.turns + 10) + 5)
    assert len(world.memories.accesses) == 10


@testbench
async def checks_all(bench: Bench) -> None:
    """The whole of each memory, and a range that wraps."""
    world = World(bench)
    for base, size in world.sizes.items():
        assert await world.crc(base, size // 4) == world.expected_crc(base, size // 4)
        last = base + world.wrap - 8
        assert await world.crc(last, 5) == world.expected_crc(last, 5)
        # Words count modulo twice the larger memory.
        assert await world.crc(base, world.wrap // 2 + 5) == world.expected_crc(base, 5)
        assert await world.crc(base, 1 << 31 | world.wrap // 2) == 0


@testbench
async def accesses_memories(bench: Bench) -> None:
    """Random accesses, with and without patience, on slow memories."""
    world = World(bench, slowest=bench.parameters["slowest"], gaps=bench.parameters["gaps"], run=60)
    host, rng, turns = world.host, world.rng, world.turns
    model: dict[int, set[int]] = {}
    locked = True
    kinds = ["read", "write", "abandon", "lock", "register", "crc", "start"]
    weights = [8, 8, 4, 1, 2, 1, 1]
    addresses = [
        base + rng.choice([0, size - 4, rng.randrange(size // 4) * 4])
        for base, size in world.sizes.items()
        for _ in range(8)
    ]
    for _ in range(400):
        kind = rng.choices(kinds, weights)[0]
        address, word = rng.choice(addresses), rng.getrandbits(32)
        known = model.setdefault(address, {world.memories.read(address)})
        refused = locked and address < ACTIVATIONS
        if kind == "read":
            got = await host.read(address)
            assert got in known, f"{address:#x}: {got:#x}, not {known}"
            model[address] = {got}
        elif kind == "write":
            answer = await host.access(address, word)
            assert answer.kind == ("err" if refused else "ack")
            if not refused:
                model[address] = {word}
        elif kind == "abandon":
            patience = rng.randint(1, 8)
            if rng.random() < 0.5:
                answer = await host.access(address, word, patience=patience)
                if answer.kind == "ack":
                    model[address] = {word}
                elif not refused:
                    model[address] = known | {word}
            else:
                answer = await host.access(address, patience=patience)
                assert answer.kind is None or answer.data in known
        elif kind == "lock":
            locked = not locked
            await host.write("LOCK", word if locked else UNLOCK)
        elif kind == "register":
            await host.access(
                REGISTERS[rng.choice(["STATUS", "CRC_VALUE"])].offset,
                patience=rng.randint(1, 2 * turns),
            )
            assert await host.read("DIGEST") == world.config.digest
        elif kind == "crc":
            words = rng.randint(0, 4)
            got = await world.crc(address, words)
            assert got == world.expected_crc(address, words)
        elif kind == "start" and rng.random() < 0.5:
            await host.write("CONTROL", START | CLEAR)
    for address, known in model.items():
        assert await host.read(address) in known, hex(address)
    assert {address for address, _ in world.memories.accesses} >= set(model)
    bench.record["starts"] = world.engine.starts


def run(name: str, config: str, serial_bits: int, seed: int, **more: object) -> sim.Run:
    dut = HostPort(CONFIGURATIONS[config], serial_bits=serial_bits)
    parameters = {"config": config, "serial_bits": serial_bits, **more}
    return sim.run(dut, __name__, name, parameters=parameters, seed=seed, timeout_cycles=1_000_000)


@pytest.mark.parametrize(("config", "serial_bits"), VARIANTS)
@pytest.mark.parametrize(
    "name",
    [
        "has_registers",
        "locks",
        "runs",
        "refuses_what_is_not_there",
        "checks_ranges",
        "checks_while_polled",
    ],
)
def test_host_port(name: str, config: str, serial_bits: int, seed: int) -> None:
    run(name, config, serial_bits, seed)


@pytest.mark.parametrize(("config", "serial_bits"), VARIANTS)
@pytest.mark.parametrize(("slowest", "gaps"), [(0, 0), (1, 3), (9, 0)])
def test_memories(slowest: int, gaps: int, config: str, serial_bits: int, seed: int) -> None:
    record = run("accesses_memories", config, serial_bits, seed, slowest=slowest, gaps=gaps).record
    assert record["starts"] > 0


@pytest.mark.parametrize(("config", "serial_bits"), VARIANTS[:2])
def test_whole_memories(config: str, serial_bits: int, seed: int) -> None:
    run("checks_all", config, serial_bits, seed)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="config must be a Configuration, not 'up5k'"):
        HostPort("up5k")
    with pytest.raises(ValueError, match="serial_bits must be 1, 2, 4 or 8, not 3"):
        HostPort(configuration("up5k"), serial_bits=3)


def test_registers_are_documented() -> None:
    assert markdown() in (ROOT / "docs" / "host.md").read_text()
    offsets = [register.offset for register in REGISTERS.values()]
    assert offsets == list(range(0, 4 * len(offsets), 4))
