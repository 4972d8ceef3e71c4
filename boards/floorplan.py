"""Multipliers and block RAMs of an ECP5 beside what they work for.

These lie in few rows, nearly all of them are in use, and nextpnr spreads them without regard for
the lanes they belong to: with this plan the wires of `ecp5-85f` are a quarter shorter. What is
between them, nextpnr places.

A lane's multipliers are one block of its row; lanes follow each other column by column, so that
neighbours are near each other both ways. Block RAMs get the sites for which the sum of the squared
distances to their lanes is least.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from insitu.errors import BuildError
from rtl.config import Configuration

__all__ = ["DEVICES", "Device", "floorplan"]

MULTIPLIER, MEMORY = "MULT18X18D", "DP16KD"

IN_BLOCK = {MULTIPLIER: {0: 0, 1: 1, 4: 4, 5: 5}, MEMORY: {0: 0, 1: 2, 2: 4, 3: 6}}
"""Columns from the begin of a block to its sites, by their number in nextpnr's names."""

FROM_AFAR = 0.1
"""Weight of distances to the memory of activations: what it reads goes to all lanes anyway."""

Point = tuple[float, float]
Wish = tuple[Point, float]
"""A place, and how much distances from it weigh."""


@dataclass(frozen=True)
class Device:
    """Where an FPGA's multipliers and block RAMs are, in nextpnr's grid.

    Parameters
    ----------
    columns : tuple of int
        Where blocks begin: of four multipliers in one row, of four block RAMs in another.
    multiplier_rows, memory_rows : tuple of int
    """

    columns: tuple[int, ...]
    multiplier_rows: tuple[int, ...]
    memory_rows: tuple[int, ...]

    def sites(self, kind: str) -> dict[str, Point]:
        """All sites of a kind of cell: their names and where they are."""
        rows = self.multiplier_rows if kind == MULTIPLIER else self.memory_rows
        name = "MULT18_" if kind == MULTIPLIER else "EBR"
        return {
            f"X{column + offset}/Y{row}/{name}{number}": (column + offset, row)
            for column in self.columns
            for row in rows
            for number, offset in IN_BLOCK[kind].items()
        }


DEVICES = {
    "25F": Device((*range(4, 23, 9), *range(33, 61, 9)), (13,), (25, 37)),
    "45F": Device((*range(4, 32, 9), *range(42, 79, 9)), (22, 46), (10, 34, 58)),
    "85F": Device((*range(4, 59, 9), *range(69, 115, 9)), (10, 34, 58), (22, 46, 70, 82)),
}
"""By the ending of the device's name."""

_MULTIPLY = re.compile(r"accelerator\.mac_array\.multiply(\d+)_\d+\.mult(\d)")
_SCALE = re.compile(r"accelerator\.requantiser\.(?:multiply|table)(\d+)\.")
_MEMORY = re.compile(
    r"(?P<memory>accelerator\.(?:(?P<kind>coefficient_memory\.storage\.memory|weight_tile\.chunk"
    r"|activation_buffer\.storage\.memory)(?P<group>\d+)(?:_\d+)?\.bank\d+"
    r"|basis_buffer\.term\d+)\.0)\.(?P<part>\d+)"
)
"""Names of cells: of the MAC array, the requantiser, memories a word of which is of all lanes."""


def floorplan(netlist: dict[str, Any], device: Device, config: Configuration) -> dict[str, str]:
    """Give the multipliers and block RAMs of a design their sites.

    Parameters
    ----------
    netlist
        A mapped, flat design named top as yosys writes it (`write_json`), of an accelerator of
        `config`. Changed in place: cells get the attribute `BEL`.
    device
        What it is for.

    Returns
    -------
    dict
        The site of each cell that got one, by its name. Others are nextpnr's to place.

    Raises
    ------
    BuildError
        If the device has too few sites.
    """
    cells = netlist["modules"]["top"]["cells"]
    names = [name for name, cell in cells.items() if cell["type"] in IN_BLOCK]
    for kind, needed in Counter(cells[name]["type"] for name in names).items():
        if needed > len(device.sites(kind)):
            raise BuildError(
                f"the design does not fit: it needs {needed} {kind} of {len(device.sites(kind))}",
                "choose a larger board",
            )
    wishes = _wishes(names, device, config)
    plan: dict[str, str] = {}
    for kind in (MULTIPLIER, MEMORY):
        these = {name: wish for name, wish in wishes.items() if cells[name]["type"] == kind}
        if these:
            plan |= _assign(these, device.sites(kind))
    for name, site in plan.items():
        cells[name]["attributes"]["BEL"] = site
    return plan


def _wishes(names: list[str], device: Device, config: Configuration) -> dict[str, Wish]:
    """Where cells would best be."""
    lanes, scales = _blocks(device, config)
    middle = np.mean(lanes, axis=0)
    parts: Counter[str] = Counter()  # cells that share the word of a memory
    groups: Counter[str] = Counter()
    for name in names:
        if of := _MEMORY.match(name):
            parts[of["memory"]] += 1
            groups[of["kind"]] = max(groups[of["kind"]], int(of["group"] or 0) + 1)
    result = {}
    for name in names:
        if of := _MULTIPLY.match(name):
            result[name] = lanes[int(of[1]) + int(of[2])], 1.0
        elif of := _SCALE.match(name):
            result[name] = scales[int(of[1])], 1.0
        elif of := _MEMORY.match(name):
            share = (int(of["part"]) + 0.5) / parts[of["memory"]]
            share = (int(of["group"] or 0) + share) / groups[of["kind"]]
            wish = lanes[int(share * len(lanes))]
            if "activation" in of["memory"]:
                result[name] = ((wish[0] + middle[0]) / 2, middle[1]), FROM_AFAR
            else:
                result[name] = wish, 1.0
    return result


def _blocks(device: Device, config: Configuration) -> tuple[list[Point], list[Point]]:
    """The blocks of multipliers that lanes and outputs of the requantiser get."""
    blocks = [(x + 2.5, float(y)) for x in device.columns for y in device.multiplier_rows]
    middle = np.mean(blocks, axis=0)
    scales = sorted(blocks, key=lambda block: float(np.abs(block - middle).sum()))
    scales = scales[: config.requantiser_outputs]
    others = [block for block in blocks if block not in scales]
    in_block = len(IN_BLOCK[MULTIPLIER])
    return [others[lane * config.width // in_block] for lane in range(config.lanes)], scales


def _assign(wishes: dict[str, Wish], sites: dict[str, Point]) -> dict[str, str]:
    """A site for each, for the least sum of the squares of the distances."""
    wished = np.array([point for point, _ in wishes.values()])
    weights = np.array([weight for _, weight in wishes.values()])
    there = np.array(list(sites.values()))
    distances = ((wished[:, None] - there) ** 2).sum(axis=2) * weights[:, None]
    chosen = linear_sum_assignment(distances)[1]
    return dict(zip(wishes, np.array(list(sites))[chosen].tolist(), strict=True))
