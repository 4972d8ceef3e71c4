"""What the way to the host costs on an UP5K."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.lib import wiring

from boards.flow import FLOWS, synthesis_script
from boards.tools import run
from rtl.config import configuration
from rtl.host_port import HostPort
from rtl.uart_bone import UartBone

COSTS = {
    "host port": (lambda: HostPort(configuration("up5k")), 345),
    "bridge": (lambda: UartBone(24_000_000, 1_000_000), 220),
}


def logic_cells(component: wiring.Component, folder: Path) -> int:
    source = rtlil.convert(component, name="top", emit_src=False)
    (folder / "top.il").write_text(source)
    (folder / "top.ys").write_text(synthesis_script(FLOWS["ice40"], source))
    run("yosys", ["-q", "top.ys"], directory=folder, log="yosys.log")
    # Without constraints there are more ports than pins; packing does not mind.
    device = ["--up5k", "--package", "sg48"]
    run(
        "nextpnr-ice40", [*device, "--json", "top.json", "--pack-only"], directory=folder, log="log"
    )
    return int(re.search(r"ICESTORM_LC:\s+(\d+)/", (folder / "log").read_text())[1])


@pytest.mark.slow
@pytest.mark.parametrize("block", COSTS)
def test_cells(block: str, tmp_path: Path) -> None:
    make, cells = COSTS[block]
    assert logic_cells(make(), tmp_path) <= cells
