"""The multipliers, inferred and as iCE40's primitive, against products of integers."""

from __future__ import annotations

import numpy as np
import pytest

import sim
from rtl.multiplier import LATENCY, ByteMultipliers, WideMultiplier, wide_latency
from sim import Bench, testbench
from tests.rtl.primitives import ECP5, ICE40

EDGES = [-128, -127, -1, 0, 1, 127]


async def products(
    bench: Bench, operands: list[dict[str, int]], latency: int, output: str
) -> list[int]:
    """What comes out for each operand, one a cycle."""
    got = []
    for ports in operands + operands[:1] * (latency - 1):
        for name, value in ports.items():
            getattr(bench.dut, name).value = value
        await bench.cycles()
        await bench.settle()
        got.append(int(getattr(bench.dut, output).value))
    return got[latency - 1 :]


@testbench
async def multiplies_bytes(bench: Bench) -> None:
    """Edges and random operands."""
    rng = np.random.default_rng(bench.seed)
    edges = np.array(np.meshgrid(EDGES, EDGES, EDGES, EDGES)).reshape(4, -1).T
    operands = np.concatenate([edges, rng.integers(-128, 128, (800, 4))])
    ports = [
        {"activations": sim.pack(row[:2], 8), "weights": sim.pack(row[2:], 8)}
        for row in operands.tolist()
    ]
    got = await products(bench, ports, LATENCY, "products")
    pairs = sim.unpack_rows(got, 2, 16, signed=True)
    bench.compare(operands[:, :2] * operands[:, 2:], pairs, axes=["pair", "product"])


@testbench
async def multiplies_wide(bench: Bench) -> None:
    """Edges of both operands and of their halves, and random ones."""
    rng = bench.rng
    halves = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF]
    words = [high << 16 | low for high in halves for low in halves]
    operands = [(a, b) for a in words for b in words if b < 1 << 31]
    operands += [(rng.getrandbits(32), rng.getrandbits(31)) for _ in range(1000)]
    operands = [(a - (a >> 31 << 32), b) for a, b in operands]
    ports = [{"a": a, "b": b} for a, b in operands]
    expected = {
        "product": [a * b >> 16 & (1 << 48) - 1 for a, b in operands],
        "inexact": [int(a * b % (1 << 16) != 0) for a, b in operands],
    }
    latency = wide_latency(bench.parameters.get("slow", False))
    for output, values in expected.items():
        got = await products(bench, ports, latency, output)
        bench.compare(values, got, axes=["operands"], what=output)


PRIMITIVES = {"sim": [], "ice40": ICE40, "ecp5": ECP5}


@pytest.mark.parametrize("technology", PRIMITIVES)
def test_multiplies_bytes(technology: str, seed: int) -> None:
    dut = ByteMultipliers(technology)
    sources = PRIMITIVES[technology]
    sim.run(dut, __name__, "multiplies_bytes", seed=seed, extra_sources=sources)


@pytest.mark.parametrize(
    ("technology", "slow"),
    [("sim", False), ("sim", True), ("ice40", False), ("ecp5", False), ("ecp5", True)],
)
def test_multiplies_wide(technology: str, slow: bool, seed: int) -> None:
    dut = WideMultiplier(technology, slow)
    sources = PRIMITIVES[technology]
    sim.run(
        dut,
        __name__,
        "multiplies_wide",
        parameters={"slow": slow},
        seed=seed,
        extra_sources=sources,
    )


def test_refuses_slow_ice40() -> None:
    with pytest.raises(ValueError, match="slow must be False where technology is 'ice40'"):
        WideMultiplier("ice40", slow=True)
