"""The weight broadcast: blocks of kernels become steps for all lanes, in order."""

from __future__ import annotations

import numpy as np
import pytest

import sim
from rtl.activation_buffer import kernels_layout
from rtl.weight_broadcast import WeightBroadcast
from rtl.weight_generator import blocks_layout
from sim import Bench, testbench
from tests.rtl.weights import (
    CONFIGURATIONS,
    PAUSES,
    column,
    join,
    refuses_other_configurations,
    values,
)

WEIGHTS = 12


@testbench
async def broadcasts(bench: Bench) -> None:
    """Weights of 1 to 3 blocks of kernels."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    idle, stall = bench.parameters["idle"], bench.parameters["stall"]
    rng = np.random.default_rng(bench.seed)
    source, sink = bench.source("i", idle), bench.sink("o", stall)
    full = config.lanes // config.width
    for last_steps in {1, full // 2 or 1, full}:
        bench.dut.last_block_steps.value = last_steps - 1
        sent, received = len(source.cycles), len(sink.cycles)
        steps, marks = [], []
        for weight in range(WEIGHTS):
            blocks = int(rng.integers(1, 4))
            for block in range(blocks):
                last = block == blocks - 1
                final = last and bool(rng.integers(2))
                lanes = rng.integers(-127, 128, config.lanes)
                if weight < 2:
                    lanes[:] = (-127, 127)[weight]
                payload = sim.pack(lanes, 8)
                source.send(join(blocks_layout(config), values=payload, last=last, final=final))
                kernels = lanes.reshape(full, config.width)
                steps.append(kernels[: last_steps if last else full])
                marks += [(0, 0)] * (len(steps[-1]) - 1) + [(int(last), int(final))]
        got = await sink.receive(len(marks))
        layout = kernels_layout(config)
        what = f"{last_steps} steps of the last block"
        axes = ["step", "kernel"]
        bench.compare(np.concatenate(steps), values(layout, got), axes=axes, what=what)
        rows = column(layout, got, "marks")
        got_marks = zip(
            *(column(layout["marks"].shape, rows, name) for name in ("last", "final")), strict=True
        )
        bench.compare(marks, list(got_marks), axes=["step", "mark"], what=f"last, final, {what}")
        if idle == stall == "never":
            cycles = sink.cycles[received:]
            assert cycles[0] == source.cycles[sent] + 1
            assert set(sim.intervals(cycles)) == {1}
        await bench.cycles(3)
    assert not bench.dut.o__valid.value, "a step too many"


@pytest.mark.parametrize("config", CONFIGURATIONS)
@pytest.mark.parametrize(("idle", "stall"), [("never", "never"), *PAUSES[1:]])
def test_broadcasts(config: str, idle: str, stall: str, seed: int) -> None:
    parameters = {"config": config, "idle": idle, "stall": stall}
    dut = WeightBroadcast(CONFIGURATIONS[config])
    sim.run(dut, __name__, "broadcasts", parameters=parameters, seed=seed)


def test_refuses() -> None:
    refuses_other_configurations(WeightBroadcast)
