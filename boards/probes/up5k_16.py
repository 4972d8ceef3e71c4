"""What an array of 16 multipliers would take on the UP5K, block by block.

    python -m boards.probes.up5k_16 [--only 16x1]

The accelerator with its UART bridge as `up5k` has it (8x1), with 16 lanes (16x1), and with 8 lanes
of two channels (8x2); synthesised for iCE40 and packed by nextpnr, not placed. The requantiser is
counted with its four SB_MAC16, which it cannot have where the array takes all eight:
`up5k_requantiser` has its size in logic.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from rtl.accelerator import Accelerator
from rtl.config import Configuration, configuration
from rtl.uart_bone import UartBone

from ..attribution import count_cells, owners
from ..board import BAUD
from ..flow import FLOWS, synthesise
from ..tools import run
from .harness import DEVICES

VARIANTS: dict[str, dict[str, Any]] = {
    "8x1": {},
    "16x1": {"lanes": 16, "tile_bytes": 4096},
    "8x2": {"width": 2, "tile_bytes": 4096},
}
"""How each differs from `up5k`. The depth of the tile must be one that block RAM has."""


class Design(wiring.Component):
    """What a board has, but for PLL and pins."""

    def __init__(self, config: Configuration):
        self.config = config
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.uart_bone = bone = UartBone(self.config.clock_hz, BAUD)
        m.submodules.accelerator = accelerator = Accelerator(self.config, "ice40")
        connect(m, bone.bus, accelerator.bus)
        m.d.comb += [bone.rx.eq(self.rx), self.tx.eq(bone.tx)]
        return m


def packed(name: str, directory: Path) -> dict[str, dict[str, int]]:
    """Cells of a variant, by block and kind."""
    directory.mkdir(parents=True, exist_ok=True)
    config = replace(configuration("up5k"), name="probe", **VARIANTS[name])
    flow = FLOWS["ice40"]
    synthesise(Design(config), flow, directory)
    arguments = [*DEVICES["ice40"], "--json", "top.json", "--pack-only", "--write", "packed.json"]
    run(flow.place, arguments, directory=directory, log="nextpnr.log")
    module = json.loads((directory / "packed.json").read_text())["modules"]["top"]
    return count_cells(module, owners(module))


def main() -> None:
    """Write the cells of each block, and their sums."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=VARIANTS)
    options = parser.parse_args()
    for name in [options.only] if options.only else VARIANTS:
        blocks = packed(name, Path("build/probes") / f"up5k-{name}")
        kinds = ("lc", "dsp", "ebr", "spram")
        total = {kind: sum(one.get(kind, 0) for one in blocks.values()) for kind in kinds}
        sys.stdout.write(f"{name}: {json.dumps({'total': total} | blocks)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
