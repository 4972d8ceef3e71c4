"""Drivers and checks for Amaranth streams in cocotb.

A stream member ``x`` of a component arrives in Verilog as the ports ``x__payload``, ``x__valid``
and ``x__ready``, whatever the payload's layout: payloads are plain non-negative integers here,
and :mod:`sim.bits` turns them into numbers and back.

The rules of a stream, checked every cycle: once valid, it stays valid with the same payload until
it is ready. That valid must not wait for ready is provoked with ``StreamSink(hesitant=True)``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import pairwise
from random import Random
from typing import Any

import cocotb
from cocotb.simtime import get_sim_time
from cocotb.triggers import Event

from .patterns import Pattern, never


class Cycles:
    """The clock of a testbench: its edges and their count."""

    def __init__(self, clk: Any, period: int) -> None:
        self.edge = clk.rising_edge
        self._period = period
        self._start = 0

    def restart(self) -> None:
        """Make this cycle number 0."""
        self._start = get_sim_time("step")

    @property
    def now(self) -> int:
        """Cycles since the reset ended; taken at an edge, the number of that edge."""
        return int(get_sim_time("step") - self._start) // self._period


class StreamRuleError(AssertionError):
    """A stream broke the protocol."""


class _Stream:
    """The three ports of a stream, the rules it must keep, and a log of its transfers."""

    def __init__(self, dut: Any, name: str, cycles: Cycles, rng: Random) -> None:
        self.name = name
        self.cycles: list[int] = []
        """The cycle of each transfer."""
        self._clock = cycles
        self._rng = rng
        self._valid = getattr(dut, f"{name}__valid")
        # No port: the ready of a push, a payload of no bits.
        self._ready = getattr(dut, f"{name}__ready", None)
        self._payload = getattr(dut, f"{name}__payload", None)
        self._width = 0 if self._payload is None else len(self._payload)
        self._offered: int | None = None

    def _read(self) -> int:
        return 0 if self._payload is None else int(self._payload.value)

    def _check(self, valid: bool, ready: bool) -> int | None:
        """Check the rules at an edge; the payload if one is transferred there."""
        payload = self._read() if valid else None
        if self._offered is not None and payload != self._offered:
            rule = "was taken back" if payload is None else f"changed to {payload:#x}"
            raise StreamRuleError(
                f"stream {self.name!r}, cycle {self._clock.now}: payload {self._offered:#x} was "
                f"valid and not ready, then {rule}"
            )
        self._offered = None if ready else payload
        return payload if ready else None


class StreamSource(_Stream):
    """Drives an input stream of the design.

    Parameters
    ----------
    pause
        When to idle between payloads. While idle the payload is random.
    """

    def __init__(
        self, dut: Any, name: str, cycles: Cycles, rng: Random, pause: Pattern = never
    ) -> None:
        super().__init__(dut, name, cycles, rng)
        self._pause = pause(rng)
        self._queue: deque[int | None] = deque()
        self._wake = Event()
        self._drained = Event()
        self._valid.value = 0
        cocotb.start_soon(self._drive())

    def send(self, payloads: int | Iterable[int | None]) -> None:
        """Queue payloads, None for a cycle without one; returns at once."""
        self._queue.extend([payloads] if isinstance(payloads, int) else payloads)
        if self._queue:
            self._drained.clear()
            self._wake.set()

    async def drain(self) -> None:
        """Wait until everything queued has been transferred."""
        if self._queue:
            await self._drained.wait()

    @property
    def progress(self) -> str:
        """For messages."""
        return f"source {self.name!r}: {len(self.cycles)} sent, {len(self._queue)} left"

    async def _drive(self) -> None:
        edge, queue, valid = self._clock.edge, self._queue, False
        while True:
            if not queue:
                self._drained.set()
                self._valid.value = 0
                self._scramble()
                self._wake.clear()
                await self._wake.wait()
                valid = False
            if not valid:
                valid = not next(self._pause) and queue[0] is not None
                self._valid.value = int(valid)
                if not valid:
                    self._scramble()
                elif self._payload is not None:
                    self._payload.value = queue[0]
            gap = queue[0] is None
            await edge
            if gap:
                queue.popleft()
            elif valid and (self._ready is None or self._ready.value):
                queue.popleft()
                self.cycles.append(self._clock.now)
                valid = False

    def _scramble(self) -> None:
        if self._payload is not None:
            self._payload.value = self._rng.getrandbits(self._width)


class StreamSink(_Stream):
    """Takes an output stream of the design, and checks its rules.

    Parameters
    ----------
    pause
        When to stall.
    hesitant
        Be ready only after valid was seen: a design whose valid waits for ready then hangs, and
        meets the cycle limit.
    """

    def __init__(
        self,
        dut: Any,
        name: str,
        cycles: Cycles,
        rng: Random,
        pause: Pattern = never,
        *,
        hesitant: bool = False,
    ) -> None:
        super().__init__(dut, name, cycles, rng)
        self.payloads: list[int] = []
        """Everything received."""
        self._pause = pause(rng)
        self._hesitant = hesitant
        self._wanted = 0
        self._taken = 0
        self._arrived = Event()
        if self._ready is None and (pause is not never or hesitant):
            raise ValueError(f"stream {name!r} has no ready: it cannot be stalled")
        self._write(ready=False)
        cocotb.start_soon(self._drive())

    async def receive(self, count: int) -> list[int]:
        """The next ``count`` payloads, waiting for them as long as it takes."""
        self._wanted = self._taken + count
        while len(self.payloads) < self._wanted:
            self._arrived.clear()
            await self._arrived.wait()
        start, self._taken = self._taken, self._wanted
        return self.payloads[start : self._taken]

    @property
    def progress(self) -> str:
        """For messages."""
        wanted = f" of {self._wanted} wanted" if self._wanted > self._taken else ""
        return f"sink {self.name!r}: {len(self.payloads)} received{wanted}"

    async def _drive(self) -> None:
        edge, ready = self._clock.edge, False
        while True:
            willing = not next(self._pause)
            if self._hesitant:
                willing = willing and self._offered is not None
            if willing != ready:
                ready = willing
                self._write(ready)
            await edge
            payload = self._check(bool(self._valid.value), ready)
            if payload is not None:
                self.payloads.append(payload)
                self.cycles.append(self._clock.now)
                if len(self.payloads) >= self._wanted:
                    self._arrived.set()

    def _write(self, ready: bool) -> None:
        if self._ready is not None:
            self._ready.value = int(ready)


class StreamMonitor(_Stream):
    """Watches a stream between two blocks, checks its rules and logs its payloads.

    Needs the internals of the design: ``sim.run(..., internals=True)``.
    """

    def __init__(self, dut: Any, name: str, cycles: Cycles, rng: Random) -> None:
        super().__init__(dut, name, cycles, rng)
        self.payloads: list[int] = []
        """Everything transferred."""
        cocotb.start_soon(self._watch())

    @property
    def progress(self) -> str:
        """For messages."""
        return f"monitor {self.name!r}: {len(self.payloads)} seen"

    async def _watch(self) -> None:
        while True:
            await self._clock.edge
            ready = self._ready is None or bool(self._ready.value)
            payload = self._check(bool(self._valid.value), ready)
            if payload is not None:
                self.payloads.append(payload)
                self.cycles.append(self._clock.now)


def intervals(cycles: Iterable[int]) -> Iterator[int]:
    """Cycles between successive transfers: all 1 at full throughput."""
    return (later - earlier for earlier, later in pairwise(cycles))
