"""An SPI flash by its data sheet, and what `rtl.flash_loader` looks for in one."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from random import Random

import cocotb
from cocotb.utils import get_sim_time

from rtl.config import Configuration
from rtl.registers import IDENTITY, UNLOCK, geometry, version
from sim import Bench


def contents(config: Configuration, memory: bytes, other: Callable[[], int] = lambda: 0) -> bytes:
    """What the flash holds to load `memory`, the whole coefficient memory, by docs/host.md.

    `other` gives the words that do not matter.
    """
    head = [IDENTITY, version(), geometry(config), config.digest, other(), other()]
    tail = [*(other() for _ in range(10)), zlib.crc32(memory)]
    return struct.pack("<7I", *head, UNLOCK) + memory + struct.pack(f"<{len(tail)}I", *tail)


class Flash:
    """Commands 0xAB and 0x03 of a W25Q128JV (data sheet, revision F), asleep at first.

    Mode 0: bits are taken in at rising edges of the clock, those to send change after falling ones,
    here up to half a cycle of it late, and are noise until then. Asleep, and for tRES1 after it was
    woken, a read is an error. Where nothing was written a byte is 0xFF.

    A cycle is 10 ns: that of the FPGA with the fastest clock.
    """

    RES1_NS = 3000
    SELECT_NS = 5
    DESELECTED_NS = 50
    HALF_CLOCK_NS = 9

    def __init__(self, bench: Bench, offset: int, content: bytes) -> None:
        self.bits_read = 0
        self._bench, self._dut = bench, bench.dut
        self._offset, self._content = offset, content
        self._rng = Random(bench.rng.getrandbits(64))
        self._awake_ns: float | None = None
        self._next: int | None = None  # number of the next bit to send, while reading
        self._received: list[int] = []
        self._selected_ns = -self.DESELECTED_NS
        cocotb.start_soon(self._select())
        cocotb.start_soon(self._clock())

    def _now(self) -> float:
        return get_sim_time("ns")

    async def _select(self) -> None:
        cs, clk = self._dut.flash__cs, self._dut.flash__clk
        while True:
            await cs.rising_edge
            assert self._now() - self._selected_ns >= self.DESELECTED_NS
            self._selected_ns = self._now()
            await cs.falling_edge
            assert not clk.value, "deselected with the clock high"
            self._deselect()
            self._selected_ns = self._now()

    async def _clock(self) -> None:
        cs, clk, out = self._dut.flash__cs, self._dut.flash__clk, self._dut.flash__cipo
        rng, before, bit = self._rng, -self.HALF_CLOCK_NS, 0
        while True:
            await clk.rising_edge
            assert self._now() - before >= self.HALF_CLOCK_NS
            before = self._now()
            out.value = bit  # As late as this, it may be.
            if cs.value:
                assert before - self._selected_ns >= self.SELECT_NS
                self._take(int(self._dut.flash__copi.value))
            await clk.falling_edge
            assert self._now() - before >= self.HALF_CLOCK_NS
            before, bit = self._now(), rng.getrandbits(1)
            if cs.value and self._next is not None:
                bit = self._give()
            out.value = rng.choice((bit, rng.getrandbits(1)))

    def _take(self, bit: int) -> None:
        self._received.append(bit)
        if len(self._received) == 32 and self._code() == 0x03:
            assert self._awake_ns is not None, "read while asleep"
            assert self._selected_ns >= self._awake_ns, "read before it is awake"
            address = int("".join(map(str, self._received[8:])), 2)
            self._next = 8 * (address - self._offset)

    def _give(self) -> int:
        assert self._next is not None
        byte, bit = divmod(self._next, 8)
        self._next += 1
        self.bits_read += 1
        value = self._content[byte] if 0 <= byte < len(self._content) else 0xFF
        return value >> (7 - bit) & 1

    def _deselect(self) -> None:
        if len(self._received) >= 8 and self._code() == 0xAB:
            self._awake_ns = self._now() + self.RES1_NS
        self._received = []
        self._next = None

    def _code(self) -> int:
        return int("".join(map(str, self._received[:8])), 2)
