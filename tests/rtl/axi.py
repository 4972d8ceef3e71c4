"""AXI test partners nobody here wrote: cocotbext-axi, with the pauses of `sim.patterns`."""

from __future__ import annotations

from random import Random
from typing import Any

import cocotb
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiResp,
    AxiStreamBus,
    AxiStreamFrame,
    AxiStreamSink,
    AxiStreamSource,
)

from sim import PATTERNS, Bench, WishboneError

__all__ = ["AxiLite", "Streams", "pause", "watch"]


def pause(bench: Bench, *channels: Any) -> None:
    """Give each channel the pauses that the test asks for, a sequence of its own each."""
    pattern = PATTERNS[bench.parameters["pause"]]
    for channel in channels:
        channel.set_pause_generator(pattern(Random(bench.rng.getrandbits(64))))


def watch(bench: Bench, prefix: str, valid: str, ready: str, *payload: str) -> None:
    """Check that what is offered stays, and the same, until it is taken."""
    ports = {name: getattr(bench.dut, f"{prefix}{name}") for name in (valid, ready, *payload)}

    async def run() -> None:
        offered: tuple[int, ...] | None = None
        while True:
            await bench.clock.edge
            now = tuple(int(ports[name].value) for name in payload) if ports[valid].value else None
            assert offered in (None, now), f"{prefix}{valid}: offered {offered}, then {now}"
            offered = None if ports[ready].value else now

    cocotb.start_soon(run())


class AxiLite:
    """A manager on port `axi`, with the calls of `sim.WishboneMaster`: addresses are in words."""

    def __init__(self, bench: Bench) -> None:
        dut = bench.dut
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "axi_"), dut.clk, dut.rst)
        write, read = self.master.write_if, self.master.read_if
        for interface in (write, read):
            interface.log.setLevel("WARNING")
        pause(bench, write.aw_channel, write.w_channel, write.b_channel)
        pause(bench, read.ar_channel, read.r_channel)
        watch(bench, "axi__", "bvalid", "bready", "bresp")
        watch(bench, "axi__", "rvalid", "rready", "rresp", "rdata")

    async def write_burst(self, address: int, words: list[int]) -> None:
        data = b"".join(word.to_bytes(4, "little") for word in words)
        self._check("write", address, (await self.master.write(4 * address, data)).resp)

    async def read_burst(self, address: int, count: int) -> list[int]:
        answer = await self.master.read(4 * address, 4 * count)
        self._check("read", address, answer.resp)
        return [int.from_bytes(answer.data[at : at + 4], "little") for at in range(0, 4 * count, 4)]

    async def write(self, address: int, word: int) -> None:
        await self.write_burst(address, [word])

    async def read(self, address: int) -> int:
        return (await self.read_burst(address, 1))[0]

    @staticmethod
    def _check(way: str, address: int, answer: AxiResp) -> None:
        if answer != AxiResp.OKAY:
            raise WishboneError(f"{way} at word {address:#x}: {answer.name}")


class Streams:
    """A transmitter on `s_axis` and a receiver on `m_axis`: frames are bytes, four a word."""

    def __init__(self, bench: Bench) -> None:
        dut = bench.dut
        self._source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis_"), dut.clk, dut.rst)
        self._sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis_"), dut.clk, dut.rst)
        for end in (self._source, self._sink):
            end.log.setLevel("WARNING")
        pause(bench, self._source, self._sink)
        watch(bench, "m_axis__", "tvalid", "tready", "tdata", "tlast", "tuser")

    def send(self, data: bytes) -> None:
        """Queue a frame; returns at once."""
        self._source.send_nowait(AxiStreamFrame(data))

    def stall(self, stalled: bool) -> None:
        """Take nothing, or all that comes, from now on."""
        self._sink.clear_pause_generator()
        self._sink.pause = stalled

    async def receive(self) -> tuple[bytes, list[bool]]:
        """The next frame: its bytes, and `tuser` of each word."""
        frame = await self._sink.recv(compact=False)
        return bytes(frame.tdata), [bool(user) for user in frame.tuser[::4]]
