"""The netlist that a block becomes in a build, as Verilog to be simulated with models of its cells.

Synthesis is that of `boards.build`, script and all; only placement and routing are missing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from amaranth.lib import wiring

from .fan_out import Limits, replicate_registers
from .flow import FLOWS, synthesise
from .tools import step

__all__ = ["TOP", "netlist"]

TOP = "top"
"""Name of the netlist's module; its ports are those of the block, with `clk` and `rst`."""


def netlist(
    component: wiring.Component, family: str, *, directory: Path, replicated: bool = False
) -> str:
    """Synthesise a block; Verilog of the family's cells.

    Parameters
    ----------
    component
        The block, made for the family's primitives if it has any.
    family
        "ice40" or "ecp5".
    directory
        An existing folder, for the tools' files and logs.
    replicated
        At most two sinks of a register share a replica (`boards.fan_out`).

    Raises
    ------
    ValueError
        If there is no such family.
    BuildError
        If yosys is missing or fails.
    """
    if family not in FLOWS:
        raise ValueError(f"family must be one of {', '.join(FLOWS)}, not {family!r}")
    synthesise(component, FLOWS[family], directory)
    if replicated:
        path = directory / "top.json"
        design = json.loads(path.read_text(encoding="utf-8"))
        nowhere = dict.fromkeys(design["modules"][TOP]["cells"], np.zeros(2))
        replicate_registers(design, nowhere, Limits(most=2, few=2, reach=0))
        path.write_text(json.dumps(design), encoding="utf-8")
    write = f"read_json top.json; write_verilog -noattr {TOP}.v"
    step("yosys", ["-Q", "-T", "-p", write], directory=directory, log="write_verilog.log")
    return (directory / f"{TOP}.v").read_text(encoding="utf-8")
