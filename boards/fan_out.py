"""Registers that reach far are made several, each with a part of what looks at them.

For the ECP5: nextpnr does not copy registers, and yosys makes one of those that are equal. A copy
costs a cell; a net that lies all over the device takes most of a cycle. Logic with very many loads,
as enables are, is copied too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LIMITS", "Limits", "Place", "divide"]

REGISTER = "TRELLIS_FF"
LOGIC = "LUT4"
COPY = "_copy"


@dataclass(frozen=True)
class Limits:
    """Which registers are copied.

    Parameters
    ----------
    most, few : int
        Loads, at least 1: up to so many are no reason to copy it if they are near each other, and
        up to so few, wherever they are. Logic with up to `most` is not copied.
    reach : float
        Loads are near each other whose bounding box has at most this width plus height, in tiles of
        nextpnr's grid.
    """

    most: int
    few: int
    reach: float


LIMITS = {
    "ecp5-45f": Limits(most=48, few=8, reach=60),
    "ecp5-85f": Limits(most=80, few=16, reach=80),
}
"""By configuration. With twice the copies `ecp5-85f` has too many wires."""

Load = tuple[str, str, int]
"""Cell, port, bit of the port."""

Place = NDArray[np.float64]
"""x and y."""


def divide(netlist: dict[str, Any], places: Mapping[str, Place], limits: Limits) -> dict[str, int]:
    """Copy registers until none has many loads, or far ones, and logic until none has very many.

    Loads that are near each other share a copy. The copies of a register are loads of what it
    looks at, so these may be copied because of them. What drives a pin stays as it is.

    Parameters
    ----------
    netlist
        A mapped, flat design named top as yosys writes it (`write_json`), changed in place.
    places
        x and y of each cell.
    limits

    Returns
    -------
    dict
        Copies made of a cell, by its name.
    """
    module = netlist["modules"]["top"]
    cells, names = module["cells"], module["netnames"]
    places = dict(places)
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
        enough = {REGISTER: limits.few, LOGIC: limits.most}.get(cells[name]["type"])
        if enough is None or len(loads[bit]) <= enough or bit in fixed:
            continue
        original = name.partition(COPY)[0]
        loads[bit], *others = _clusters(loads[bit], places, limits)
        places[name] = _middle(loads[bit], places)
        for sharing in others:
            last += 1
            made[original] += 1
            copy = f"{original}{COPY}{last}"
            cells[copy] = cell = deepcopy(cells[name])
            names[f"{copy}_Q"] = {"hide_name": 0, "bits": [last], "attributes": {}}
            drivers[last] = copy
            loads[last] = sharing
            places[copy] = _middle(sharing, places)
            for load, port, place in sharing:
                cells[load]["connections"][port][place] = last
            for port, seen in cell["connections"].items():
                if cell["port_directions"][port] == "output":
                    seen[:] = [last]
                elif isinstance(seen[0], int):
                    loads[seen[0]].append((copy, port, 0))
                    # Logic is looked at once: in a loop it would have to be copied for ever.
                    if seen[0] in drivers and cells[drivers[seen[0]]]["type"] == REGISTER:
                        waiting.append(seen[0])
    return dict(made)


def _clusters(loads: list[Load], places: Mapping[str, Place], limits: Limits) -> list[list[Load]]:
    """Loads that are near each other: halved across where they lie widest, as often as it takes."""
    points = np.array([places[name] for name, _, _ in loads])
    extents = np.ptp(points, axis=0)
    near = len(loads) <= limits.most and extents.sum() <= limits.reach
    if near or len(loads) <= limits.few:
        return [loads]
    order = np.argsort(points[:, extents.argmax()], kind="stable")
    half = len(loads) // 2
    return [
        cluster
        for part in (order[:half], order[half:])
        for cluster in _clusters([loads[n] for n in part], places, limits)
    ]


def _middle(loads: list[Load], places: Mapping[str, Place]) -> Place:
    return np.mean([places[name] for name, _, _ in loads], axis=0)
