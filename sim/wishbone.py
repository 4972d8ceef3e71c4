"""A Wishbone B4 master (classic cycles) for a bus of 32-bit words.

Member ``bus`` of a component arrives in Verilog as ``bus__adr``, ``bus__dat_w``, ``bus__dat_r``,
``bus__sel``, ``bus__cyc``, ``bus__stb``, ``bus__we``, ``bus__ack`` and, if it has one,
``bus__err``. Addresses are those on the bus: words, not bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

from .patterns import Pattern, never
from .streams import Cycles

WORD_BYTES = 4


class WishboneError(Exception):
    """The slave answered with err, or not at all."""


class WishboneMaster:
    """Drives a slave of the design, one word a cycle if it acknowledges at once.

    Parameters
    ----------
    pause
        When to let go of the strobe between the words of a burst.
    patience
        Cycles without an answer after which a transfer has failed.
    """

    def __init__(
        self,
        dut: Any,
        name: str,
        cycles: Cycles,
        rng: Random,
        pause: Pattern = never,
        *,
        patience: int = 1000,
    ) -> None:
        self.name = name
        self._edge = cycles.edge
        self._pauses = None if pause is never else pause(rng)
        self._patience = patience
        ports = ("adr", "dat_w", "dat_r", "sel", "cyc", "stb", "we", "ack")
        self._port = {port: getattr(dut, f"{name}__{port}") for port in ports}
        self._err = getattr(dut, f"{name}__err", None)
        self.progress = f"wishbone {name!r}: idle"
        """For messages."""

    async def write(self, address: int, word: int) -> None:
        """Write one word."""
        await self.write_burst(address, [word])

    async def read(self, address: int) -> int:
        """Read one word."""
        return (await self.read_burst(address, 1))[0]

    async def write_burst(self, address: int, words: Iterable[int]) -> None:
        """Write ``words`` to successive addresses within one bus cycle."""
        self._begin(write=True)
        adr, dat_w, ack, edge = *self._ports("adr", "dat_w", "ack"), self._edge
        for at, word in enumerate(words, address):
            if self._pauses is not None:
                await self._pause()
            adr.value = at
            dat_w.value = word
            await edge
            if not ack.value:
                await self._answer("write", at)
        self._end()

    async def read_burst(self, address: int, count: int) -> list[int]:
        """Read ``count`` words from successive addresses within one bus cycle."""
        self._begin(write=False)
        adr, dat_r, ack, edge = *self._ports("adr", "dat_r", "ack"), self._edge
        words = []
        for at in range(address, address + count):
            if self._pauses is not None:
                await self._pause()
            adr.value = at
            await edge
            if not ack.value:
                await self._answer("read", at)
            words.append(int(dat_r.value))
        self._end()
        return words

    def _ports(self, *names: str) -> tuple[Any, ...]:
        return tuple(self._port[name] for name in names)

    def _begin(self, *, write: bool) -> None:
        self._port["cyc"].value = 1
        self._port["stb"].value = 1
        self._port["we"].value = int(write)
        self._port["sel"].value = (1 << WORD_BYTES) - 1

    def _end(self) -> None:
        self._port["cyc"].value = 0
        self._port["stb"].value = 0
        self.progress = f"wishbone {self.name!r}: idle"

    async def _answer(self, way: str, address: int) -> None:
        """Wait for ack, which was not there at this edge."""
        self.progress = f"wishbone {self.name!r}: {way} at word {address:#x} waits for ack"
        for _ in range(self._patience):
            if self._err is not None and self._err.value:
                self._end()
                raise WishboneError(f"{way} at word {address:#x}: err")
            await self._edge
            if self._port["ack"].value:
                return
        self._end()
        raise WishboneError(f"{way} at word {address:#x}: no ack in {self._patience} cycles")

    async def _pause(self) -> None:
        if self._pauses is not None and next(self._pauses):
            self._port["stb"].value = 0
            while True:
                await self._edge
                if not next(self._pauses):
                    break
            self._port["stb"].value = 1
