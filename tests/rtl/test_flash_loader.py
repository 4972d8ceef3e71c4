"""The flash loader with a host port behind it: what is loaded, what is refused, and who waits."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

import sim
from rtl.config import Configuration, configuration
from rtl.flash_loader import FlashLoader, FlashSignature
from rtl.host_port import HostPort, MemoryPort
from rtl.registers import COEFFICIENTS, FIELDS, STATUS_BITS, SelfLoad
from rtl.wishbone import WishboneSignature
from sim import Bench, testbench
from tests.rtl.flash import Flash, contents
from tests.rtl.host import Engine, Master, Memories

SMALL = replace(
    configuration("up5k"), name="small", coefficient_bytes=1 << 10, activation_bytes=1 << 10
)
CONFIGURATIONS = {
    "small": SMALL,
    "odd": replace(SMALL, name="odd", coefficient_bytes=3 << 10, activation_bytes=2 << 10),
}
OFFSET = 0x2A5F04
TURNS = 32
LOCKED = 1 << STATUS_BITS["locked"].number
FIELD = FIELDS["STATUS"]["self_load"]


class Loading(wiring.Component):
    """A loader in front of a host port; the host is at `bus`."""

    def __init__(self, config: Configuration):
        self.config = config
        super().__init__(
            {
                "bus": In(WishboneSignature()),
                "flash": Out(FlashSignature()),
                "memory": Out(MemoryPort()),
                "start": Out(1),
                "busy": In(1),
                "cycles": In(32),
                "fault": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.loader = loader = FlashLoader(self.config, OFFSET)
        m.submodules.port = port = HostPort(self.config, serial_bits=32 // TURNS)
        connect(m, flipped(self.bus), loader.host)
        connect(m, loader.bus, port.bus)
        connect(m, loader.flash, flipped(self.flash))
        connect(m, port.memory, flipped(self.memory))
        m.d.comb += [
            self.start.eq(port.start),
            port.busy.eq(self.busy),
            port.cycles.eq(self.cycles),
            port.fault.eq(self.fault),
        ]
        return m


class World:
    """A device, what is in its flash, and a host."""

    def __init__(self, bench: Bench, *, slowest: int = 0, gaps: int = 0) -> None:
        self.bench = bench
        self.config = CONFIGURATIONS[bench.parameters["config"]]
        self.memory = bench.rng.randbytes(self.config.coefficient_bytes)
        good = contents(self.config, self.memory, lambda: bench.rng.getrandbits(32))
        content = SPOILT[bench.parameters.get("spoilt", "not")](good, bench.rng)
        self.flash = Flash(bench, OFFSET, content)
        self.memories = Memories(bench, slowest)
        self.engine = Engine(bench, 100)
        self.host = Master(bench, gaps)

    async def state(self) -> tuple[SelfLoad, int]:
        """What STATUS says of the loader, and its other bits."""
        value = await self.host.read("STATUS")
        mask = (1 << FIELD.bits) - 1
        return SelfLoad(value >> FIELD.low & mask), value & ~(mask << FIELD.low)

    async def end(self) -> SelfLoad:
        """Ask until it has ended, checking that nothing else shows; how it ended."""
        while True:
            state, others = await self.state()
            if state != SelfLoad.READING:
                assert others == LOCKED
                return state
            assert not others & ~(LOCKED | 1 << STATUS_BITS["crc_busy"].number)

    def loaded(self) -> bool:
        """Whether the memory holds what it should."""
        words = struct.unpack(f"<{len(self.memory) // 4}I", self.memory)
        return self.memories.words == {COEFFICIENTS + 4 * n: w for n, w in enumerate(words)}


def _flip(first: int, last: int) -> Callable[[bytes, Random], bytes]:
    """A bit of the words from `first` to `last`; negative ones count from the end."""

    def spoil(good: bytes, rng: Random) -> bytes:
        count = len(good) // 4
        bit = rng.randrange(32 * (first % count), 32 * (last % count) + 32)
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        return bytes(data)

    return spoil


SPOILT: dict[str, Callable[[bytes, Random], bytes]] = {
    "not": lambda good, rng: good,
    "blank": lambda good, rng: b"",
    "zero": lambda good, rng: bytes(len(good)),
    "identity": _flip(0, 0),
    "version": _flip(1, 1),
    "geometry": _flip(2, 2),
    "digest": _flip(3, 3),
    "another program": lambda good, rng: rng.randbytes(len(good)),
    "memory": _flip(7, -12),
    "crc": _flip(-1, -1),
    "zero behind its head": lambda good, rng: good[:28] + bytes(len(good) - 28),
    "truncated": lambda good, rng: good[: rng.randrange(4 * 7, len(good) - 44)],
}
"""What may have become of a flash's contents."""

NONE_FOUND = ("blank", "zero", "identity", "version", "geometry", "digest", "another program")
CRC_WRONG = ("memory", "crc", "truncated", "zero behind its head")


@testbench
async def loads(bench: Bench) -> None:
    """Whatever the memories' waits, and however often the host asks."""
    world = World(bench, slowest=bench.parameters["slowest"], gaps=bench.parameters["gaps"])
    assert (await world.state())[0] == SelfLoad.READING
    assert await world.end() == SelfLoad.LOADED
    assert world.loaded()
    assert world.flash.bits_read // 32 == len(world.memory) // 4 + 18
    # From here on the device is the host's.
    for register in ("STATUS", "CONTROL", "LOCK"):
        assert await world.host.read(register) == SelfLoad.LOADED << FIELD.low | LOCKED
    assert await world.host.read("IDENTITY") == int.from_bytes(b"inst", "little")
    at = COEFFICIENTS + 4 * (STATUS_AT := 4)
    assert await world.host.read(at) == struct.unpack_from("<I", world.memory, 4 * STATUS_AT)[0]
    assert (await world.host.access(COEFFICIENTS, 1)).kind == "err"
    await world.host.write("CONTROL", 1)
    await bench.cycles(3)
    assert world.engine.starts == 1
    assert not bench.dut.flash__cs.value


@testbench
async def refuses(bench: Bench) -> None:
    """What is no image for this device leaves the memory alone; what is damaged is not run."""
    world = World(bench, slowest=3, gaps=200)
    state = await world.end()
    if bench.parameters["spoilt"] in NONE_FOUND:
        assert state == SelfLoad.NONE_FOUND
        assert not world.memories.accesses
    else:
        assert state == SelfLoad.CRC_WRONG
        assert world.loaded() == (bench.parameters["spoilt"] == "crc")
    assert not bench.dut.flash__cs.value
    assert (await world.host.access(COEFFICIENTS, 1)).kind == "err"


@testbench
async def needs_no_idle_master(bench: Bench) -> None:
    """A master that keeps its cycle between accesses does not keep the loader from the bus."""
    world = World(bench)
    bench.dut.bus__cyc.value = 1
    while world.flash.bits_read // 32 < len(world.memory) // 4 + 18:
        await bench.cycles(1000)
    bench.dut.bus__cyc.value = 0
    assert await world.end() == SelfLoad.LOADED
    assert world.loaded()


@testbench
async def takes_the_time_that_it_says(bench: Bench) -> None:
    """The cycles of the docstrings, with nobody else on the bus and memories that never wait."""
    world = World(bench)
    read, write, memory = TURNS + 3, 2, 3
    checked = (len(world.memory) // 4) * (1 + TURNS + 4)
    # STATUS and CONTROL are read, and so are CYCLES.
    head = 6 * read + write
    expected = 128 * (64 + 3) + (7 + len(world.memory) // 4 + 11 - 1) * (128 + 2)
    expected += head + len(world.memory) // 4 * memory + head + 2 + 2 * write
    bench.record["expected"] = expected
    while bench.dut.flash__cs.value or bench.cycle < 10_000:
        await bench.cycles()
    # The check begins when CRC_LENGTH is written, and the next word is read meanwhile.
    assert expected + checked - 140 < bench.cycle < expected + checked + 50, (expected, checked)
    assert await world.end() == SelfLoad.LOADED


@pytest.mark.parametrize(
    ("config", "slowest", "gaps"), [("small", 0, 0), ("small", 7, 300), ("odd", 2, 1000)]
)
def test_loads(config: str, slowest: int, gaps: int, seed: int) -> None:
    _run("loads", seed, config=config, slowest=slowest, gaps=gaps)


@pytest.mark.parametrize("spoilt", [*NONE_FOUND, *CRC_WRONG])
def test_refuses(spoilt: str, seed: int) -> None:
    _run("refuses", seed, config="small", spoilt=spoilt)


def test_needs_no_idle_master(seed: int) -> None:
    _run("needs_no_idle_master", seed, config="small")


def test_takes_the_time_that_it_says(seed: int) -> None:
    _run("takes_the_time_that_it_says", seed, config="small")


def _run(test: str, seed: int, **parameters: Any) -> None:
    sim.run(
        Loading(CONFIGURATIONS[parameters["config"]]),
        __name__,
        test,
        seed=seed,
        parameters=parameters,
        timeout_cycles=400_000,
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("up5k", 0), TypeError, "config must be a Configuration, not 'up5k'"),
        ((SMALL, 1 << 24), ValueError, "offset must be an address of 24 bits, not 16777216"),
        ((SMALL, -1), ValueError, "offset must be an address of 24 bits, not -1"),
        ((SMALL, "1M"), ValueError, "offset must be an address of 24 bits, not '1M'"),
    ],
)
def test_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FlashLoader(*arguments)
