"""What surrounds a host port: the memories and the engine on one side, a bus master on the other.

The models look at the design just after each edge and answer within the same cycle.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import cocotb
from cocotb.triggers import Timer

from rtl.registers import ACTIVATIONS, COEFFICIENTS, REGISTERS
from sim import Bench

_BASES = (COEFFICIENTS, ACTIVATIONS)


class Memories:
    """Both memories behind a `MemoryPort`, and the rules of a request.

    ``words`` maps byte addresses on the bus to what was written there; the rest reads as a function
    of the address.
    """

    def __init__(self, bench: Bench, slowest: int) -> None:
        self.words: dict[int, int] = {}
        self.accesses: list[tuple[int, bool]] = []
        """Byte address and direction of each completed request."""
        self._slowest = slowest
        self._rng = Random(bench.rng.getrandbits(64))
        self._bench = bench
        cocotb.start_soon(self._serve())

    def read(self, address: int) -> int:
        """The word at a byte address."""
        return self.words.get(address, address * 0x9E3779B1 & 0xFFFF_FFFF)

    async def _serve(self) -> None:
        dut, rng = self._bench.dut, self._rng
        request: tuple[int, ...] | None = None
        wait = 0
        while True:
            await self._bench.clock.edge
            await Timer(1)
            dut.memory__acknowledge.value = 0
            dut.memory__data_r.value = rng.getrandbits(32)
            if not dut.memory__request.value:
                assert request is None, "a request was taken back"
                continue
            ports = (dut.memory__region, dut.memory__address, dut.memory__write)
            now = tuple(int(port.value) for port in ports)
            now += (int(dut.memory__data_w.value),) if now[2] else ()
            assert request in (None, now), f"a request changed from {request} to {now}"
            assert not dut.busy.value, "memory was accessed while the engine ran"
            if request is None:
                wait = rng.randint(0, self._slowest)
            request = now
            if wait:
                wait -= 1
                continue
            address = _BASES[now[0]] + 4 * now[1]
            self.accesses.append((address, bool(now[2])))
            if now[2]:
                self.words[address] = now[3]
            else:
                dut.memory__data_r.value = self.read(address)
            dut.memory__acknowledge.value = 1
            request = None


class Engine:
    """Runs for ``cycles`` cycles when started."""

    def __init__(self, bench: Bench, cycles: int) -> None:
        self.starts = 0
        self.cycles = cycles
        self._bench = bench
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        dut, edge = self._bench.dut, self._bench.clock.edge
        while True:
            await edge
            if not dut.start.value:
                continue
            self.starts += 1
            dut.busy.value = 1
            for cycle in range(self.cycles):
                dut.cycles.value = cycle
                await edge
                assert not dut.start.value, "started while it runs"
            dut.cycles.value = self.cycles
            dut.busy.value = 0


@dataclass(frozen=True)
class Answer:
    """How an access ended: by ``ack``, ``err`` or neither, after how many cycles, with what."""

    kind: str | None
    cycles: int
    data: int


class Master:
    """A bus master that may select some bytes only, and give up. Addresses are in bytes."""

    def __init__(self, bench: Bench, gaps: int = 0) -> None:
        self._bench = bench
        self._gaps = gaps
        self._rng = Random(bench.rng.getrandbits(64))
        self._port: dict[str, Any] = {
            name: getattr(bench.dut, f"bus__{name}")
            for name in ("adr", "dat_w", "dat_r", "sel", "cyc", "stb", "we", "ack", "err")
        }

    async def access(
        self, address: int, data: int | None = None, *, sel: int = 15, patience: int = 100_000
    ) -> Answer:
        """Write ``data``, or read; give up after ``patience`` cycles."""
        port, edge = self._port, self._bench.clock.edge
        port["adr"].value = address // 4
        port["sel"].value = sel
        port["we"].value = int(data is not None)
        port["dat_w"].value = self._rng.getrandbits(32) if data is None else data
        port["cyc"].value = port["stb"].value = 1
        answer = Answer(None, patience, 0)
        for cycle in range(patience):
            await edge
            ack, err = bool(port["ack"].value), bool(port["err"].value)
            assert not (ack and err)
            if ack or err:
                answer = Answer("ack" if ack else "err", cycle, int(port["dat_r"].value))
                break
        # Another byte selection, address and direction while nothing is asked for: no matter.
        for name in ("adr", "dat_w", "sel", "we"):
            port[name].value = self._rng.getrandbits(len(port[name]))
        port["cyc"].value = port["stb"].value = 0
        if answer.kind is None and self._rng.random() < 0.5:  # cyc without stb is no access either
            port["cyc"].value = 1
        for _ in range(1 if answer.kind is None else self._rng.randint(0, self._gaps)):
            await edge
            assert not port["err"].value
            assert not port["ack"].value
        return answer

    async def write(self, address: int | str, data: int) -> int:
        """Write a word or a register; the cycles it took."""
        answer = await self.access(_address(address), data)
        assert answer.kind == "ack", f"write to {address}: {answer}"
        return answer.cycles

    async def read(self, address: int | str) -> int:
        """Read a word or a register."""
        answer = await self.access(_address(address))
        assert answer.kind == "ack", f"read of {address}: {answer}"
        return answer.data


def _address(address: int | str) -> int:
    return REGISTERS[address].offset if isinstance(address, str) else address
