"""What a testbench works with, inside the simulator.

    @testbench
    async def streams_through(bench):
        source = bench.source("i", bench.parameter("idle"))
        sink = bench.sink("o", bench.parameter("stall"))
        source.send(payloads)
        bench.compare(expected, await sink.receive(len(expected)), axes=["beat"])

The coroutine is started by :func:`sim.run` and named without ``test_``, so that pytest leaves it
alone. Clock, reset and the cycle limit are there already.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.handle import Immediate
from cocotb.triggers import SimTimeoutError, Timer, with_timeout
from numpy.typing import ArrayLike

from . import scoreboard
from .patterns import PATTERNS, Pattern, never
from .streams import Cycles, StreamMonitor, StreamSink, StreamSource
from .wishbone import WishboneMaster

SETTINGS = "INSITU_SIM"
"""The environment variable with the settings of a run, as JSON."""

_PERIOD = 10_000
"""Of the clock, in simulator steps: 10 ns."""

_RESET_CYCLES = 2


class Bench:
    """A design under test with its clock, and how this run was parametrised.

    Attributes
    ----------
    dut
        cocotb's handle of the top module.
    seed, rng
        The seed of the run and a generator seeded with it.
    parameters
        What :func:`sim.run` was given.
    directory
        A folder of this run, for files from and to the caller.
    record
        JSON values to hand back to the caller of :func:`sim.run`.
    """

    def __init__(self, dut: Any) -> None:
        settings = json.loads(os.environ[SETTINGS])
        self.dut = dut
        self.seed: int = settings["seed"]
        self.rng = Random(self.seed)
        self.parameters: dict[str, Any] = settings["parameters"]
        self.directory = Path(settings["directory"])
        self.record: dict[str, Any] = {}
        self.timeout_cycles: int = settings["timeout_cycles"]
        self._inputs: list[str] = settings["inputs"]
        self._ends: list[StreamSource | StreamSink | StreamMonitor | WishboneMaster] = []
        self._cycles = Cycles(dut.clk, _PERIOD) if "clk" in self._inputs else None

    # --- parts ---

    def source(self, name: str, pause: Pattern | str = never) -> StreamSource:
        """A driver for input stream ``name``."""
        source = StreamSource(self.dut, name, self.clock, self._fork(), _pattern(pause))
        self._ends.append(source)
        return source

    def sink(
        self, name: str, pause: Pattern | str = never, *, hesitant: bool = False
    ) -> StreamSink:
        """A taker for output stream ``name``, which checks the rules of streams as well."""
        pattern = _pattern(pause)
        sink = StreamSink(self.dut, name, self.clock, self._fork(), pattern, hesitant=hesitant)
        self._ends.append(sink)
        return sink

    def monitor(self, name: str, inside: Any = None) -> StreamMonitor:
        """A watcher of stream ``name``, by default of the top module."""
        parent = self.dut if inside is None else inside
        monitor = StreamMonitor(parent, name, self.clock, self._fork())
        self._ends.append(monitor)
        return monitor

    def wishbone(
        self, name: str, pause: Pattern | str = never, *, patience: int = 1000
    ) -> WishboneMaster:
        """A master for the Wishbone slave ``name``."""
        pattern = _pattern(pause)
        master = WishboneMaster(
            self.dut, name, self.clock, self._fork(), pattern, patience=patience
        )
        self._ends.append(master)
        return master

    # --- time ---

    @property
    def clock(self) -> Cycles:
        """The edges of the clock, and their count."""
        if self._cycles is None:
            raise ValueError("the design has no port 'clk': it has no sync domain")
        return self._cycles

    @property
    def cycle(self) -> int:
        """Cycles since the reset ended."""
        return self.clock.now

    async def cycles(self, count: int = 1) -> None:
        """Wait for ``count`` rising edges, without work in Python on those between."""
        if count > 1:
            await Timer(_PERIOD * (count - 1) + _PERIOD // 2)
        if count > 0:
            await self.clock.edge

    async def settle(self) -> None:
        """Let a design without a clock take in its inputs."""
        await Timer(1)

    # --- verdicts ---

    def compare(
        self,
        expected: ArrayLike,
        got: ArrayLike,
        *,
        axes: Sequence[str] = (),
        what: str = "result",
    ) -> None:
        """Raise unless equal, with seed, parameters, index, expected and got."""
        scoreboard.compare(
            expected, got, axes=axes, what=what, seed=self.seed, parameters=self.parameters
        )

    # --- running ---

    async def start(self) -> None:
        """Zero the inputs, start the clock, reset."""
        for name in self._inputs:
            getattr(self.dut, name).value = 0
        if self._cycles is None:
            return await self.settle()
        has_reset = "rst" in self._inputs
        if has_reset:
            self.dut.rst.value = 1
        # Any other way of setting the clock makes Verilator evaluate twice for each edge.
        clock = Clock(self.dut.clk, _PERIOD, impl="gpi", set_action=Immediate)
        clock.start(start_high=False)
        for _ in range(_RESET_CYCLES):
            await self._cycles.edge
        if has_reset:
            self.dut.rst.value = 0
        self._cycles.restart()
        return None

    async def run(self, body: Callable[[Bench], Awaitable[None]]) -> None:
        """Run ``body`` to its end, or to the cycle limit."""
        await self.start()
        task = cocotb.start_soon(_as_coroutine(body(self)))
        try:
            await with_timeout(task, self.timeout_cycles * _PERIOD)
        except SimTimeoutError:
            progress = "; ".join(end.progress for end in self._ends) or "no streams"
            message = f"not done after timeout_cycles={self.timeout_cycles}; {progress}"
            raise AssertionError(message) from None
        (self.directory / "record.json").write_text(json.dumps(self.record))

    def _fork(self) -> Random:
        """A generator of its own for each part, so that parts do not disturb each other."""
        return Random(self.rng.getrandbits(64))


def testbench(body: Callable[[Bench], Awaitable[None]]) -> Any:
    """Decorate a coroutine that takes a :class:`Bench`, for :func:`sim.run` to start by name."""

    @cocotb.test
    @functools.wraps(body)
    async def start(dut: Any) -> None:
        await Bench(dut).run(body)

    return start


testbench.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


async def _as_coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable


def _pattern(pause: Pattern | str) -> Pattern:
    return PATTERNS[pause] if isinstance(pause, str) else pause
