"""The multipliers, inferred and as iCE40's primitive, against products of integers."""

from __future__ import annotations

import numpy as np
import pytest

import sim
from rtl.multiplier import LATENCY, ByteMultipliers
from sim import Bench, testbench
from tests.rtl.primitives import ICE40

EDGES = [-128, -127, -1, 0, 1, 127]


@testbench
async def multiplies_bytes(bench: Bench) -> None:
    """Edges and random operands, with the clock enabled or not."""
    rng = np.random.default_rng(bench.seed)
    edges = np.array(np.meshgrid(EDGES, EDGES, EDGES)).reshape(3, -1).T
    operands = np.concatenate([edges, rng.integers(-128, 128, (800, 3))])
    dut, got = bench.dut, []
    for n in range(len(operands) + LATENCY):
        common, *factors = operands[min(n, len(operands) - 1)].tolist()
        dut.enable.value = 1
        dut.common.value = common
        dut.factors.value = sim.pack(factors, 8)
        await bench.cycles()
        while bench.rng.random() < 0.3:
            dut.enable.value = 0
            dut.common.value = bench.rng.randint(-128, 127)
            dut.factors.value = bench.rng.getrandbits(16)
            await bench.cycles()
        await bench.settle()
        got.append(sim.unpack(int(dut.products.value), 2, 16, signed=True))
    expected = operands[:, :1] * operands[:, 1:]
    got = got[LATENCY - 1 :][: len(operands)]
    bench.compare(expected, got, axes=["pair", "factor"])


@pytest.mark.parametrize("technology", ["sim", "ice40"])
def test_multiplies_bytes(technology: str, seed: int) -> None:
    dut = ByteMultipliers(technology)
    sim.run(dut, __name__, "multiplies_bytes", seed=seed, extra_sources=ICE40)
