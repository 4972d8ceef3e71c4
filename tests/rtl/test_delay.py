"""Registers in a row, and copies of them that synthesis leaves apart."""

from pathlib import Path

import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from boards.netlist import netlist
from rtl.delay import copies, delayed


class _Fan(wiring.Component):
    """Each bit of `o` is one of `part` where `i` was high two cycles ago."""

    i: In(1)
    part: In(4)
    o: Out(4)

    def __init__(self, apart: bool) -> None:
        self.apart = apart
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        alike = [delayed(m, 2, value=self.i) for _ in range(4)]
        rows = copies(m, 2, 4, value=self.i) if self.apart else alike
        for n, (value,) in enumerate(rows):
            m.d.comb += self.o[n].eq(self.part[n] & value)
        return m


@pytest.mark.parametrize(("apart", "registers"), [(True, 2 + 4), (False, 2)])
def test_synthesis_leaves_copies_apart(apart: bool, registers: int, tmp_path: Path) -> None:
    text = netlist(_Fan(apart), "ecp5", directory=tmp_path)
    assert text.count("TRELLIS_FF #(") == registers


def test_copies_follow() -> None:
    dut = _Fan(True)
    sent = [1, 0, 0, 1, 1, 0, 1, 0, 0]
    seen = []

    async def bench(ctx) -> None:  # type: ignore[no-untyped-def]
        ctx.set(dut.part, 0b1111)
        for bit in sent:
            ctx.set(dut.i, bit)
            seen.append(ctx.get(dut.o))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert seen[2:] == [0b1111 * bit for bit in sent[:-2]]


def test_refuses_too_many() -> None:
    with pytest.raises(ValueError, match="count must be at most"):
        copies(Module(), 1, 3, value=0)
