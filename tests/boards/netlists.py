"""A placed netlist and its timing, as nextpnr writes them, made small."""

from __future__ import annotations

from typing import Any


def cell(kind: str, block: str = "", **ports: tuple[str, list[int]]) -> dict[str, Any]:
    return {
        "type": kind,
        "parameters": {"DFF_ENABLE": "1" if block else "0"},
        "attributes": {"insitu_block": block} if block else {},
        "port_directions": {port: direction for port, (direction, _) in ports.items()},
        "connections": {port: bits for port, (_, bits) in ports.items()},
    }


def module() -> dict[str, Any]:
    """Two LUTs into a register of `mac`, the nearer into one of `fetch` as well, a named LUT."""
    into, out = "input", "output"
    return {
        "cells": {
            "a_LC": cell("ICESTORM_LC", I0=(into, [1]), O=(out, [2])),
            "b_LC": cell("ICESTORM_LC", I0=(into, [2]), O=(out, [3])),
            "x_DFFLC": cell("ICESTORM_LC", "mac", I0=(into, [3]), O=(out, [4])),
            "y_LC": cell("ICESTORM_LC", "mac", I0=(into, [3]), O=(out, [5])),
            "z_LC": cell("ICESTORM_LC", "fetch", I0=(into, [3]), O=(out, [1])),
            "c_LC": cell("ICESTORM_LC", I0=(into, [4]), O=(out, [6])),
            "idle_LC": cell("ICESTORM_LC", I0=(into, [6]), O=(out, [])),
            "accelerator.tile.memory_RAM": cell("ICESTORM_RAM", RDATA_0=(out, [7])),
            "$gbuf_accelerator.tile.x": cell("SB_GB", I=(into, [7]), O=(out, [8])),
        },
        "netnames": {
            "accelerator.generator.sum[0]": {"bits": [6]},
            "accelerator.tile.x_SB_LUT4_O": {"bits": [2]},
        },
    }


def hop(kind: str, delay: float, source: str, sink: str, net: str = "") -> dict[str, Any]:
    return {
        "type": kind,
        "delay": delay,
        "from": {"cell": source, "port": "O"},
        "to": {"cell": sink, "port": "I0"},
        **({"net": net} if net else {}),
    }


def timing(achieved: float = 26.5, constraint: float = 24.0015) -> dict[str, Any]:
    return {
        "fmax": {
            "accelerator.clk": {"achieved": achieved, "constraint": constraint},
            "clk12": {"achieved": 200.0, "constraint": 12.0},
        },
        "utilization": {
            "ICESTORM_LC": {"used": 7, "available": 5280},
            "ICESTORM_RAM": {"used": 1, "available": 30},
            "ICESTORM_DSP": {"used": 0, "available": 8},
            "ICESTORM_SPRAM": {"used": 0, "available": 4},
        },
        "critical_paths": [
            {
                "from": "posedge accelerator.clk",
                "to": "posedge accelerator.clk",
                "path": [
                    hop("clk-to-q", 1.4, "z_LC", "z_LC"),
                    hop("routing", 3.0, "z_LC", "a_LC", "accelerator.fetch.word_SB_LUT4_O"),
                    hop("logic", 1.2, "a_LC", "a_LC"),
                    hop("routing", 2.0, "a_LC", "x_DFFLC", "accelerator.mac.step"),
                    hop("setup", 0.5, "x_DFFLC", "x_DFFLC"),
                ],
            },
            {
                "from": "<async>",
                "to": "posedge accelerator.clk",
                "path": [hop("routing", 99.0, "x_DFFLC", "y_LC")],
            },
        ],
    }


OVER_FULL = """\
Info: Device utilisation:
Info: 	         ICESTORM_LC:    6440/   5280   121%
Info: 	        ICESTORM_RAM:      27/     30    90%
Info: 	        ICESTORM_DSP:       8/      8   100%

ERROR: Failed to expand region (0, 0) |_> (25, 31) of 6439 ICESTORM_LCs
"""
