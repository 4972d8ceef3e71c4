"""The AXI4-Lite bridge between a manager nobody here wrote and a Wishbone slave of the test."""

from __future__ import annotations

from random import Random
from typing import Any

import cocotb
import pytest
from cocotb.triggers import Timer
from cocotbext.axi import AxiResp

import sim
from rtl.axi_lite import AxiLiteBridge
from sim import Bench, testbench
from tests.rtl.axi import AxiLite

TRANSFERS = 200
BROKEN = 0x80
"""A bit of word addresses that this slave answers with `err`."""


class Slave:
    """A Wishbone slave that takes its time: words by address, and what was asked of it."""

    def __init__(self, bench: Bench, slowest: int) -> None:
        self.words: dict[int, int] = {}
        self.accesses: list[tuple[bool, int, int]] = []
        """Direction, word address and byte selection of each access."""
        self._bench = bench
        self._slowest = slowest
        self._rng = Random(bench.rng.getrandbits(64))
        cocotb.start_soon(self._serve())

    def read(self, address: int) -> int:
        return self.words.get(address, address * 0x9E3779B1 & 0xFFFF_FFFF)

    async def _serve(self) -> None:
        dut, rng = self._bench.dut, self._rng
        held: tuple[int, ...] | None = None
        wait = 0
        while True:
            await self._bench.clock.edge
            await Timer(1)
            dut.bus__ack.value = dut.bus__err.value = 0
            dut.bus__dat_r.value = rng.getrandbits(32)
            assert dut.bus__cyc.value == dut.bus__stb.value
            if not dut.bus__stb.value:
                assert held is None, "a cycle ended without an answer"
                continue
            ports = (dut.bus__we, dut.bus__adr, dut.bus__sel)
            now = tuple(int(port.value) for port in ports)
            now += (int(dut.bus__dat_w.value),) if now[0] else ()
            assert held in (None, now), f"an access changed from {held} to {now}"
            if held is None:
                wait = rng.randint(0, self._slowest)
            held = now
            if wait:
                wait -= 1
                continue
            held = None
            self._answer(*now)

    def _answer(self, write: int, address: int, sel: int, data: int = 0) -> None:
        dut = self._bench.dut
        self.accesses.append((bool(write), address, sel))
        if address & BROKEN:
            dut.bus__err.value = 1
            return
        dut.bus__ack.value = 1
        if write:
            mask = sum(0xFF << 8 * byte for byte in range(4) if sel >> byte & 1)
            self.words[address] = self.read(address) & ~mask | data & mask
        else:
            dut.bus__dat_r.value = self.read(address)


@testbench
async def transfers(bench: Bench) -> None:
    """Reads and writes at once, of whole words and of parts, some of them refused."""
    master = AxiLite(bench).master
    slave = Slave(bench, bench.parameters["slowest"])
    rng = bench.rng

    async def transfer(base: int) -> None:
        """Within 128 words of one's own, so that what is read is known."""
        model: dict[int, int] = {}
        for _ in range(TRANSFERS):
            word = base | rng.randrange(256)
            expected = AxiResp.SLVERR if word & BROKEN else AxiResp.OKAY
            offset = rng.choice([0, 0, 0, 1, 2, 3])
            size = rng.randint(1, 4 - offset) if offset or rng.random() < 0.3 else 4
            if rng.random() < 0.5:
                data = rng.randbytes(size)
                answer = await master.write(4 * word + offset, data)
                if expected == AxiResp.OKAY:
                    old = bytearray(model.get(word, slave.read(word)).to_bytes(4, "little"))
                    old[offset : offset + size] = data
                    model[word] = int.from_bytes(old, "little")
            else:
                answer = await master.read(4 * word + offset, size)
                if expected == AxiResp.OKAY:
                    known = model.get(word, slave.read(word)).to_bytes(4, "little")
                    assert answer.data == known[offset : offset + size], hex(word)
            assert answer.resp == expected, hex(word)

    tasks = [cocotb.start_soon(transfer(base)) for base in (0, 0x5_5500, 0xF_FF00)]
    for task in tasks:
        await task
    assert len(slave.accesses) == len(tasks) * TRANSFERS
    assert {sel for write, _, sel in slave.accesses if not write} == {15}
    assert len({sel for write, _, sel in slave.accesses if write}) == 10


@testbench
async def takes_turns(bench: Bench) -> None:
    """Many reads and many writes asked for at once are carried out in turn."""
    manager = AxiLite(bench)
    slave = Slave(bench, 3)
    written = cocotb.start_soon(manager.write_burst(0, list(range(40))))
    await manager.read_burst(0x100, 40)
    await written
    kinds = [write for write, *_ in slave.accesses[4:76]]
    assert kinds == [kinds[0], not kinds[0]] * 36


@testbench
async def waits_for_no_other_channel(bench: Bench) -> None:
    """Each channel is taken without the others, and a response offered before it is wanted."""
    dut: Any = bench.dut
    slave = Slave(bench, 0)

    async def send(channel: str, **payload: int) -> None:
        for name, value in payload.items():
            getattr(dut, f"axi__{name}").value = value
        getattr(dut, f"axi__{channel}valid").value = 1
        await bench.clock.edge
        assert getattr(dut, f"axi__{channel}ready").value
        getattr(dut, f"axi__{channel}valid").value = 0

    async def latency(valid: Any) -> int:
        begun = bench.cycle
        while not valid.value:
            await bench.clock.edge
            assert bench.cycle < begun + 20
        return bench.cycle - begun

    for first, second in (("aw", "w"), ("w", "aw")):
        payload = {"aw": {"awaddr": 0x54}, "w": {"wdata": 0x1234_5678, "wstrb": 15}}
        await send(first, **payload[first])
        await bench.cycles(5)
        assert not getattr(dut, f"axi__{first}ready").value
        assert not slave.accesses
        await send(second, **payload[second])
        # One cycle on the bus.
        assert await latency(dut.axi__bvalid) == 3
        # A response that nobody takes holds up writes only, and the next waits in its registers.
        await send("aw", awaddr=0x58)
        await send("w", wdata=1)
        await send("ar", araddr=0x54)
        assert await latency(dut.axi__rvalid) == 3
        assert dut.axi__rdata.value == 0x1234_5678
        await bench.cycles(5)
        assert slave.accesses == [(True, 0x15, 15), (False, 0x15, 15)]
        dut.axi__bready.value = dut.axi__rready.value = 1
        await bench.cycles(6)
        assert slave.accesses[2:] == [(True, 0x16, 15)]
        dut.axi__bready.value = dut.axi__rready.value = 0
        assert not dut.axi__bvalid.value
        assert not dut.axi__rvalid.value
        slave.accesses.clear()


@pytest.mark.parametrize("slowest", [0, 7])
@pytest.mark.parametrize("pause", sim.PATTERNS)
def test_transfers(pause: str, slowest: int, seed: int) -> None:
    parameters = {"pause": pause, "slowest": slowest}
    sim.run(AxiLiteBridge(), __name__, "transfers", parameters=parameters, seed=seed)


def test_takes_turns(seed: int) -> None:
    parameters = {"pause": "never"}
    sim.run(AxiLiteBridge(), __name__, "takes_turns", parameters=parameters, seed=seed)


def test_waits_for_no_other_channel(seed: int) -> None:
    sim.run(AxiLiteBridge(), __name__, "waits_for_no_other_channel", seed=seed)
