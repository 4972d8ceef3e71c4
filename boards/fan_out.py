"""Registers that reach far are made several, each with a part of what looks at them.

For the ECP5: nextpnr does not copy registers, and yosys makes one of those that are equal. A copy
costs a cell; a net with thousands of loads lies all over the device and takes most of a cycle.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from copy import deepcopy
from pathlib import Path
from typing import Any

__all__ = ["divide", "divide_file"]

REGISTER = "TRELLIS_FF"
COPY = "_copy"

Load = tuple[str, str, int]
"""Cell, port, bit of the port."""


def divide(netlist: dict[str, Any], most: int) -> dict[str, int]:
    """Copy the registers of a netlist until none has more than `most` loads.

    Loads are divided in the order of their names, in which parts of a word are neighbours. The
    copies of a register are loads of what it looks at, so these may be copied because of them. A
    register that drives a pin stays as it is.

    Parameters
    ----------
    netlist
        A mapped, flat design named top as yosys writes it (`write_json`), changed in place.
    most
        Loads of a register, at least 1.

    Returns
    -------
    dict
        Copies made of a register, by its name.
    """
    module = netlist["modules"]["top"]
    cells, names = module["cells"], module["netnames"]
    drivers: dict[int, str] = {}
    loads: dict[int, list[Load]] = defaultdict(list)
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            for place, bit in enumerate(bits):
                if not isinstance(bit, int):
                    continue
                if cell["port_directions"][port] == "output":
                    drivers[bit] = name
                else:
                    loads[bit].append((name, port, place))
    fixed = {bit for port in module["ports"].values() for bit in port["bits"]}
    last = max([*drivers, *loads])

    made: Counter[str] = Counter()
    waiting = list(drivers)
    while waiting:
        bit = waiting.pop()
        name = drivers[bit]
        if len(loads[bit]) <= most or bit in fixed or cells[name]["type"] != REGISTER:
            continue
        original = name.partition(COPY)[0]
        parts = -(-len(loads[bit]) // most)
        sharing = sorted(loads[bit], key=_natural)
        loads[bit] = sharing[: len(sharing) // parts]
        for part in range(1, parts):
            last += 1
            made[original] += 1
            copy = f"{original}{COPY}{last}"
            cells[copy] = cell = deepcopy(cells[name])
            names[f"{copy}_Q"] = {"hide_name": 0, "bits": [last], "attributes": {}}
            drivers[last] = copy
            loads[last] = sharing[len(sharing) * part // parts : len(sharing) * (part + 1) // parts]
            for load, port, place in loads[last]:
                cells[load]["connections"][port][place] = last
            for port, seen in cell["connections"].items():
                if cell["port_directions"][port] == "output":
                    seen[:] = [last]
                elif isinstance(seen[0], int):
                    loads[seen[0]].append((copy, port, 0))
                    if seen[0] in drivers:
                        waiting.append(seen[0])
    return dict(made)


def divide_file(path: Path, most: int) -> None:
    """The same with the netlist at `path`."""
    netlist = json.loads(path.read_text(encoding="utf-8"))
    divide(netlist, most)
    path.write_text(json.dumps(netlist), encoding="utf-8")


def _natural(load: Load) -> list[tuple[int, str]]:
    """What loads are sorted by: numbers in names count as numbers."""
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", load[0])
    ]
