"""Places a block by itself: its inputs from a shift register, its outputs into a parity."""

from __future__ import annotations

import json
from pathlib import Path

from amaranth import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..attribution import count_cells, owners
from ..flow import FLOWS, synthesise
from ..tools import ToolFailed, run

__all__ = ["Harness", "placed"]

DEVICES = {
    "ice40": ["--up5k", "--package", "sg48", "--freq", "48"],
    "ecp5": ["--25k", "--package", "CABGA381", "--speed", "6", "--freq", "200"],
}
"""The smallest devices, and a clock for place and route to strive for."""


class Harness(wiring.Component):
    """Feeds a block's inputs from a pin, bit by bit, and its outputs to one."""

    def __init__(self, block):
        self.block = block
        super().__init__({"feed": In(1), "parity": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.accelerator = block = self.block
        inputs: list[Value] = []
        outputs: list[Value] = []
        for _, member, value in block.signature.flatten(block):
            (inputs if member.flow is In else outputs).append(Value.cast(value))
        shift = Signal(sum(len(value) for value in inputs))
        m.d.sync += [shift.eq(Cat(self.feed, shift)), self.parity.eq(Cat(outputs).xor())]
        m.d.comb += Cat(inputs).eq(shift)
        return m


def placed(
    block: wiring.Component, family: str, directory: Path, *, seeds: int
) -> tuple[dict[str, dict[str, int]], list[float]]:
    """Cells of the block by part and kind ("accelerator" is its own), and Fmax seed by seed."""
    directory.mkdir(parents=True, exist_ok=True)
    flow = FLOWS[family]
    synthesise(Harness(block), flow, directory)
    fmax = []
    for seed in range(1, seeds + 1):
        results = ["--write", "placed.json", "--report", "timing.json", "--seed", str(seed)]
        arguments = [*DEVICES[family], "--json", "top.json", *results]
        try:
            run(flow.place, arguments, directory=directory, log="nextpnr.log")
        except ToolFailed as failure:
            if "Max frequency" not in str(failure):
                raise
        timing = json.loads((directory / "timing.json").read_text())
        fmax.append(round(max(clock["achieved"] for clock in timing["fmax"].values()), 1))
    module = json.loads((directory / "placed.json").read_text())["modules"]["top"]
    return count_cells(module, owners(module)), fmax
