"""The Wishbone master, on a memory, and beside a master written elsewhere."""

from __future__ import annotations

import pytest
from cocotbext.wishbone.driver import WBOp
from cocotbext.wishbone.driver import WishboneMaster as OtherMaster

import sim
from sim import Bench, testbench
from tests.sim.duts import WishboneMemory

WORDS = 256


@testbench
async def remembers(bench: Bench) -> None:
    """What is written is read back, at the rate the slave allows."""
    bus = bench.wishbone("bus", bench.parameters["pause"])
    words = [bench.rng.getrandbits(32) for _ in range(WORDS)]
    await bus.write_burst(0, words)
    written = bench.cycle
    bench.compare(words, await bus.read_burst(0, WORDS), axes=["address"])
    await bus.write(17, 0xFFFF_FFFF)
    assert await bus.read(17) == 0xFFFF_FFFF
    assert await bus.read(18) == words[18]
    bench.record["cycles_to_write"] = written


@testbench
async def agrees_with_other_master(bench: Bench) -> None:
    """A master from PyPI writes what ours reads, and reads what ours writes."""
    names = {"datwr": "dat_w", "datrd": "dat_r"}
    names |= {name: name for name in ("cyc", "stb", "we", "adr", "ack", "sel")}
    ports = {ours: f"bus__{theirs}" for ours, theirs in names.items()}
    other = OtherMaster(bench.dut, None, bench.dut.clk, signals_dict=ports)
    words = [bench.rng.getrandbits(32) for _ in range(20)]
    await other.send_cycle([WBOp(address, word) for address, word in enumerate(words)])
    bus = bench.wishbone("bus")
    bench.compare(words, await bus.read_burst(0, len(words)), axes=["address"])
    await bus.write_burst(100, words)
    answers = await other.send_cycle([WBOp(100 + address) for address in range(len(words))])
    bench.compare(words, [int(answer.datrd) for answer in answers], axes=["address"])


@testbench
async def fails(bench: Bench) -> None:
    """No answer and err are errors that name the address."""
    bus = bench.wishbone("bus", patience=20)
    with pytest.raises(sim.WishboneError, match=bench.parameters["says"]):
        await bus.read(bench.parameters["address"])


@pytest.mark.parametrize("acknowledge", ["at once", "late"])
@pytest.mark.parametrize("pause", sim.PATTERNS)
def test_remembers(acknowledge: str, pause: str, seed: int) -> None:
    dut, parameters = WishboneMemory(acknowledge), {"pause": pause}
    record = sim.run(dut, __name__, "remembers", parameters=parameters, seed=seed).record
    if pause == "never":
        assert record["cycles_to_write"] == (WORDS if acknowledge == "at once" else 2 * WORDS)


@pytest.mark.parametrize("acknowledge", ["at once", "late"])
def test_agrees_with_other_master(acknowledge: str) -> None:
    sim.run(WishboneMemory(acknowledge), __name__, "agrees_with_other_master")


@pytest.mark.parametrize(
    ("acknowledge", "address", "says"),
    [("at once", 0x120, "read at word 0x120: err"), ("never", 3, "word 0x3: no ack in 20 cycles")],
)
def test_failures(acknowledge: str, address: int, says: str) -> None:
    parameters = {"address": address, "says": says}
    sim.run(WishboneMemory(acknowledge), __name__, "fails", parameters=parameters)
