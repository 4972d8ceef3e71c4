"""The large memories, inferred and of iCE40's primitives, against a list of words."""

from __future__ import annotations

from collections import deque

import pytest

import sim
from rtl.storage import Storage
from sim import Bench, testbench
from tests.rtl.primitives import ICE40


@testbench
async def remembers(bench: Bench) -> None:
    """Parts of words written and words read, in the order of a single port or of two."""
    bits, depth = bench.parameters["bits"], bench.parameters["depth"]
    single = bench.parameters["technology"] == "ice40"
    late = 2 if bench.parameters["slow"] else 0
    dut, rng = bench.dut, bench.rng
    parts = bits // 32
    memory: dict[int, list[int]] = {}
    addresses = [0, 1, depth - 1, depth // 2, depth // 2 - 1]
    addresses += [rng.randrange(depth) for _ in range(20)]
    expected = None
    due: deque[list[int] | None] = deque([None] * (late // 2))
    written: deque[int] = deque([-1] * max(1, late), max(1, late))
    for n in range(2000):
        fresh = n < len(addresses)
        address = addresses[n] if fresh else rng.choice(addresses)
        write = (1 << parts) - 1 if fresh else rng.getrandbits(parts) * rng.getrandbits(1)
        written.append(address if write else -1)
        others = [other for other in memory if other not in (address, *written)]
        read = bool(others) and rng.random() < 0.6 and not (write and single)
        words = [rng.getrandbits(32) for _ in range(parts)]
        dut.write__enable.value = write
        dut.write__address.value = address if write else rng.randrange(depth)
        dut.write__data.value = sim.pack(words, 32)
        dut.read__enable.value = read
        dut.read__address.value = source = rng.choice(others) if read else rng.randrange(depth)
        await bench.cycles()
        if write:
            line = memory.setdefault(address, [0] * parts)
            for part in range(parts):
                if write >> part & 1:
                    line[part] = words[part]
        due.append(list(memory[source]) if read else None)
        found = due.popleft()
        if found or late:
            expected = found
        elif write and single:
            expected = None  # a write ends what was read
        await bench.settle()
        if expected is not None:
            got = sim.unpack(int(dut.read__data.value), parts, 32, signed=False)
            bench.compare(expected, got, axes=["part"], what=f"access {n}")


@pytest.mark.parametrize("technology", ["sim", "ice40"])
@pytest.mark.parametrize(("bits", "depth"), [(32, 16384), (64, 32768), (32, 49152)])
def test_remembers(technology: str, bits: int, depth: int, seed: int) -> None:
    remember(technology, bits, depth, seed)


@pytest.mark.parametrize("slow", [False, True])
def test_remembers_in_banks(slow: bool, seed: int) -> None:
    remember("sim", 128, 2688, seed, slow)


@pytest.mark.parametrize("bits", [32, 64, 96, 256])
def test_remembers_behind_registers(bits: int, seed: int) -> None:
    remember("sim", bits, 1024, seed, slow=True)


def remember(technology: str, bits: int, depth: int, seed: int, slow: bool = False) -> None:
    parameters = {"bits": bits, "depth": depth, "technology": technology, "slow": slow}
    dut = Storage(bits, depth, technology, slow=slow)
    sim.run(dut, __name__, "remembers", parameters=parameters, seed=seed, extra_sources=ICE40)


def test_refuses_registers_before_spram() -> None:
    with pytest.raises(ValueError, match="SPRAM"):
        Storage(32, 16384, "ice40", slow=True)


@pytest.mark.parametrize("bits", [0, 8, 40, -32])
def test_refuses_bits(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits must be a positive multiple of 32, not {bits}"):
        Storage(bits, 16384, "sim")


@pytest.mark.parametrize(
    ("depth", "technology", "says"),
    [
        (8192, "ice40", "depth must be a multiple of 16384, not 8192"),
        (40000, "ice40", "depth must be a multiple of 16384, not 40000"),
        (1, "sim", "depth must be at least 2, not 1"),
        (0, "ice40", "depth must be at least 2, not 0"),
    ],
)
def test_refuses_depth(depth: int, technology: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Storage(32, depth, technology)
