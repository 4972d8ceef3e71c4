"""Registers that reach far are replicated, each replica with a part of the sinks.

For the ECP5: nextpnr does not replicate registers, and yosys makes one of those that are equal. A
replica costs a cell; a net that lies all over the device takes most of a cycle. Logic with very
many sinks, as enables have, is replicated too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LIMITS", "Limits", "Place", "replicate_registers"]

REGISTER = "TRELLIS_FF"
LOGIC = "LUT4"
REPLICA = "_copy"
"""What the name of a replica has behind that of the cell, in front of a number."""


@dataclass(frozen=True)
class Limits:
    """Which registers are replicated.

    Parameters
    ----------
    most, few : int
        Sinks: up to so many are no reason to replicate a register if they are near each other, and
        up to so few, wherever they are. Logic with up to `most` is not replicated. At least 2: if
        replicas shared nothing, those in a ring of registers would ask for each other without end.
    reach : float
        Sinks are near each other whose bounding box has at most this width plus height, in tiles of
        nextpnr's grid.
    """

    most: int
    few: int
    reach: float

    def __post_init__(self) -> None:
        if min(self.most, self.few) < 2:
            raise ValueError(f"most and few must be at least 2, not {self.most} and {self.few}")


LIMITS = {
    "ecp5-45f": Limits(most=48, few=8, reach=60),
    "ecp5-85f": Limits(most=80, few=16, reach=80),
}
"""By configuration. With twice the replicas `ecp5-85f` has too many wires."""

Sink = tuple[str, str, int]
"""An input that a net drives: cell, port, bit of the port."""

Place = NDArray[np.float64]
"""x and y in nextpnr's grid."""


def replicate_registers(
    netlist: dict[str, Any], places: Mapping[str, Place], limits: Limits
) -> dict[str, int]:
    """Replicate registers until none has many sinks, or far ones, and once logic of very many.

    Sinks that are near each other share a replica. The replicas of a register are sinks of what
    drives it, so a register may be replicated because of them. LUTs are looked at once: in a loop
    of logic each replica would be a sink more for the next, without end. What drives a pin stays as
    it is.

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
        Replicas made of a cell, by its name.
    """
    module = netlist["modules"]["top"]
    cells = module["cells"]
    places = dict(places)
    drivers, sinks = _connectivity(cells)
    pins = {bit for port in module["ports"].values() for bit in port["bits"]}
    last = max([*drivers, *sinks])

    made: Counter[str] = Counter()
    waiting = list(drivers)
    while waiting:
        bit = waiting.pop()
        name = drivers[bit]
        enough = {REGISTER: limits.few, LOGIC: limits.most}.get(cells[name]["type"])
        if enough is None or len(sinks[bit]) <= enough or bit in pins:
            continue
        sinks[bit], *others = _clusters(sinks[bit], places, limits)
        places[name] = _middle(sinks[bit], places)
        original = name.partition(REPLICA)[0]
        for cluster in others:
            last += 1
            replica = f"{original}{REPLICA}{last}"
            made[original] += 1
            drivers[last], sinks[last] = replica, cluster
            places[replica] = _middle(cluster, places)
            for source, sink in _replicate(module, name, replica, last, cluster):
                sinks[source].append(sink)
                if source in drivers and cells[drivers[source]]["type"] == REGISTER:
                    waiting.append(source)
    return dict(made)


def _connectivity(cells: dict[str, Any]) -> tuple[dict[int, str], dict[int, list[Sink]]]:
    """The cell that drives each net, and the inputs that the net drives."""
    drivers: dict[int, str] = {}
    sinks: dict[int, list[Sink]] = defaultdict(list)
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            for index, bit in enumerate(bits):
                if not isinstance(bit, int):
                    continue
                if cell["port_directions"][port] == "output":
                    drivers[bit] = name
                else:
                    sinks[bit].append((name, port, index))
    return drivers, sinks


def _replicate(
    module: dict[str, Any], name: str, replica: str, net: int, sinks: list[Sink]
) -> list[tuple[int, Sink]]:
    """Add a replica of a cell that drives `sinks` by a net of its own.

    Returns its inputs, each with the net that drives it.
    """
    cells = module["cells"]
    cells[replica] = cell = deepcopy(cells[name])
    module["netnames"][f"{replica}_Q"] = {"hide_name": 0, "bits": [net], "attributes": {}}
    for sink, port, index in sinks:
        cells[sink]["connections"][port][index] = net
    inputs = []
    for port, bits in cell["connections"].items():
        if cell["port_directions"][port] == "output":
            bits[:] = [net]
        elif isinstance(bits[0], int):
            inputs.append((bits[0], (replica, port, 0)))
    return inputs


def _clusters(sinks: list[Sink], places: Mapping[str, Place], limits: Limits) -> list[list[Sink]]:
    """Sinks that are near each other: halved across where they lie widest, as often as it takes."""
    points = np.array([places[name] for name, _, _ in sinks])
    extents = np.ptp(points, axis=0)
    near = len(sinks) <= limits.most and extents.sum() <= limits.reach
    if near or len(sinks) <= limits.few:
        return [sinks]
    order = np.argsort(points[:, extents.argmax()], kind="stable")
    half = len(sinks) // 2
    return [
        cluster
        for part in (order[:half], order[half:])
        for cluster in _clusters([sinks[n] for n in part], places, limits)
    ]


def _middle(sinks: list[Sink], places: Mapping[str, Place]) -> Place:
    return np.mean([places[name] for name, _, _ in sinks], axis=0)
