"""What a build comes to: from nextpnr's report, log and netlist to a few figures."""

from __future__ import annotations

import re
from typing import Any

from .attribution import OTHER, count_cells, owners, public_name

__all__ = ["critical_path", "fmax", "over_full", "summary"]

MARGIN = 0.002
"""By what part of it a constraint may miss the clock: nextpnr derives it from the period of the
PLL's oscillator, of 938 ps or more, in whole picoseconds."""


def fmax(report: dict[str, Any], clock_hz: int) -> float:
    """MHz that the design's clock reaches, from nextpnr's report.

    Raises
    ------
    ValueError
        If nextpnr was not told to reach `clock_hz`: the result would not count.
    """
    wanted = clock_hz / 1e6
    for clock in report["fmax"].values():
        if abs(clock["constraint"] - wanted) <= MARGIN * wanted:
            return float(clock["achieved"])
    seen = {name: clock["constraint"] for name, clock in report["fmax"].items()}
    raise ValueError(f"no clock is constrained to {wanted:g} MHz, of {seen}")


def critical_path(report: dict[str, Any], owner: dict[str, str]) -> dict[str, Any]:
    """The longest path within a clock, from nextpnr's report.

    `from` and `to` are the blocks of its ends, `blocks` those it passes through, `nets` the signals
    on it that kept their name, `levels` the cells between the registers.
    """
    paths = [
        path["path"]
        for path in report["critical_paths"]
        if path["from"] == path["to"] and path["from"].startswith("posedge")
    ]
    if not paths:
        return {}
    path = max(paths, key=lambda path: sum(hop["delay"] for hop in path))
    cells = [hop["to"]["cell"] for hop in path]
    blocks: list[str] = []
    for cell in [path[0]["from"]["cell"], *cells]:
        block = owner.get(cell, OTHER)
        if blocks[-1:] != [block]:
            blocks.append(block)
    nets = []
    for hop in path:
        net = hop.get("net", "")
        if net and public_name(net) and net not in nets:
            nets.append(net)
    by_type: dict[str, float] = {}
    for hop in path:
        by_type[hop["type"]] = by_type.get(hop["type"], 0.0) + hop["delay"]
    routing = by_type.get("routing", 0.0)
    delay = sum(by_type.values())
    return {
        "delay_ns": round(delay, 2),
        "routing_ns": round(routing, 2),
        "levels": sum(hop["type"] == "logic" for hop in path),
        "from": blocks[0],
        "to": blocks[-1],
        "blocks": blocks,
        "start": path[0]["from"]["cell"],
        "end": cells[-1],
        "nets": nets,
    }


def over_full(log: str) -> dict[str, tuple[int, int]]:
    """Of nextpnr's log: cell types of which the design has more than the device."""
    found = re.findall(r"^Info:\s+(\w+):\s+(\d+)/\s*(\d+)\s+\d+%$", log, re.MULTILINE)
    return {
        name: (int(used), int(available))
        for name, used, available in found
        if int(used) > int(available)
    }


def summary(
    report: dict[str, Any], netlist: dict[str, Any], cells: dict[str, str], clock_hz: int
) -> dict[str, Any]:
    """Figures of a placed and routed design.

    Parameters
    ----------
    report
        As nextpnr writes it.
    netlist
        The same.
    cells
        nextpnr's cell type for each kind of the utilisation.
    clock_hz
        What it was told to reach.
    """
    module = netlist["modules"]["top"]
    owner = owners(module)
    blocks = count_cells(module, owner)
    utilisation = {
        kind: {
            "used": report["utilization"][cell]["used"],
            "available": report["utilization"][cell]["available"],
        }
        for kind, cell in cells.items()
    }
    if "lc" in utilisation:
        available = utilisation["lc"]["available"]
        for kind in ("lut", "ff"):
            used = sum(counts.get(kind, 0) for counts in blocks.values())
            utilisation[kind] = {"used": used, "available": available}
    return {
        "clock_mhz": clock_hz / 1e6,
        "fmax_mhz": round(fmax(report, clock_hz), 2),
        "utilisation": utilisation,
        "blocks": blocks,
        "critical_path": critical_path(report, owner),
    }
