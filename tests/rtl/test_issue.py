"""The issue of steps: operands meet, sums keep their distance, and nothing is lost."""

from __future__ import annotations

from collections import deque

import cocotb
import numpy as np
import pytest

import sim
from rtl.activation_buffer import values_delay
from rtl.coefficient_decoder import vector_delay
from rtl.config import Configuration
from rtl.issue import Issue, sources_are_silent
from rtl.mac_array import marks_layout, operands_layout
from rtl.weight_generator import weight_delay
from sim import Bench, testbench
from sim.patterns import PATTERNS
from tests.rtl.activations import MARKS, compare_marks, field, rows
from tests.rtl.weights import CONFIGURATIONS, PAUSES, refuses_other_configurations

SOURCES = ["decoder", "generator", "tile"]
STEPS = 60


class WeightsSource:
    """Plays the source at work: has weights at times, and delivers those that were issued."""

    def __init__(self, bench: Bench, config: Configuration, kind: str, stall: str) -> None:
        self.issued: list[int] = []
        """The weights of each step, in order."""
        self.cycles: list[int] = []
        self.kind = kind
        self._bench = bench
        self._stall = PATTERNS[stall](bench.rng)
        self._bits = 8 * config.stripes
        self._silent = sources_are_silent(config)
        self._delay = {
            "decoder": vector_delay(config),
            "generator": weight_delay(config),
            "tile": vector_delay(config),
        }
        cocotb.start_soon(self._serve())

    async def _serve(self) -> None:
        bench, dut, rng = self._bench, self._bench.dut, self._bench.rng
        due: deque[int | None] = deque()
        while True:
            await bench.clock.edge
            await bench.settle()
            kind = self.kind
            due.extend([None] * (self._delay[kind] - len(due)))
            while len(due) > self._delay[kind]:
                due.popleft()
            if kind == "tile":
                issued = bool(dut.tile_next.value)
            else:
                issued = bool(dut.permit.value) and not next(self._stall)
            dut.taken.value = int(issued and kind == "decoder")
            dut.issued.value = int(issued and kind == "generator")
            weights = rng.getrandbits(self._bits) if issued else None
            if weights is not None:
                self.issued.append(weights)
                self.cycles.append(bench.cycle)
            due.append(weights)
            arrived = due.popleft()
            ports = {"decoder": "coefficients", "generator": "generated", "tile": "tile"}
            for source, name in ports.items():
                here = kind == source and arrived is not None
                # Of decoder and tile, the one that is not at work may have to be silent.
                silent = source != kind and "generator" not in (source, kind) and self._silent
                other = 0 if silent else rng.getrandbits(self._bits)
                getattr(dut, name).value = arrived if here else other


class Values:
    """Plays the ring: gives the values of step after step, each when it is taken."""

    def __init__(self, bench: Bench, config: Configuration) -> None:
        self.rows: deque[int] = deque()
        self._bench = bench
        self._lead = values_delay(config)
        cocotb.start_soon(self._serve())

    async def _serve(self) -> None:
        dut, rng = self._bench.dut, self._bench.rng
        taken = deque([False] * (self._lead - 1))
        while True:
            await self._bench.clock.edge
            width = len(dut.activations__values)
            taken.append(bool(dut.activations__take.value))
            here = taken.popleft()
            dut.activations__values.value = self.rows.popleft() if here else rng.getrandbits(width)


@testbench
async def issues(bench: Bench) -> None:
    """From every source in turn: operands together, in order, each once, sums apart."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    dut, rng = bench.dut, np.random.default_rng(bench.seed)
    idle, stall = bench.parameters["idle"], bench.parameters["stall"]
    steps, ring = bench.source("activations__marks", idle), Values(bench, config)
    sink = bench.sink("o")
    source = WeightsSource(bench, config, "decoder", stall)
    apart = config.lanes // config.requantiser_outputs
    for kind in SOURCES * 2:
        await bench.cycles(10 + apart)  # Until nothing of the other source is on its way.
        source.kind = kind
        dut.from_generator.value = int(kind == "generator")
        dut.from_tile.value = int(kind == "tile")
        values = rng.integers(-128, 128, (STEPS, config.activation_word))
        marks = {name: rng.random(STEPS) < 0.3 for name in MARKS}
        begun = len(source.issued)
        ring.rows.extend(sim.pack_rows(values, 8))
        steps.send(rows(marks_layout(), **marks))
        got = await sink.receive(STEPS)
        layout = operands_layout(config)
        shown = field(layout, got, "activations", count=config.activation_word)
        bench.compare(values, shown, axes=["step", "channel"], what=f"activations, {kind}")
        compare_marks(bench, layout, marks, got)
        weights = [payload >> layout["weights"].offset for payload in got]
        mask = (1 << layout["weights"].width) - 1
        bench.compare(
            [f"{row:x}" for row in source.issued[begun:]],
            [f"{row & mask:x}" for row in weights],
            axes=["step"],
            what=f"weights, {kind}",
        )
        cycles = np.array(source.cycles[begun:])
        assert (np.diff(cycles[marks["last"]]) >= apart).all()
        if idle == stall == "never":
            # Nothing else makes a step wait.
            free = np.ones(STEPS, int)
            since = apart
            for n in range(1, STEPS):
                since = 1 if marks["last"][n - 1] else since + free[n - 1]
                free[n] = max(1, apart - since + 1) if marks["last"][n] else 1
            bench.compare(free[1:], np.diff(cycles), axes=["step"], what=f"pace, {kind}")
    received = len(sink.payloads)
    await bench.cycles(20)
    assert len(sink.payloads) == received, "a step too many"


@pytest.mark.parametrize("config", CONFIGURATIONS)
@pytest.mark.parametrize(("idle", "stall"), PAUSES)
def test_issues(config: str, idle: str, stall: str, seed: int) -> None:
    parameters = {"config": config, "idle": idle, "stall": stall}
    sim.run(Issue(CONFIGURATIONS[config]), __name__, "issues", parameters=parameters, seed=seed)


def test_refuses() -> None:
    refuses_other_configurations(Issue)
