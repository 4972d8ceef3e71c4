"""Sites of multipliers and block RAMs: those that nextpnr knows, each once, a lane's together."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from boards.floorplan import DEVICES, MEMORY, MULTIPLIER, Device, floorplan
from boards.tools import run
from insitu.errors import BuildError
from rtl.config import Configuration, configuration
from tests.boards.netlists import cell

CONFIG = configuration("ecp5-85f")
PARTS = {"25F": (56, 28), "45F": (108, 72), "85F": (208, 156)}
"""Block RAMs and multipliers of each device, as its data sheet has them."""


def design(config: Configuration, words: int) -> dict[str, Any]:
    """Multipliers and block RAMs of an accelerator, by the names that synthesis gives them."""
    accelerator = "accelerator."
    names = [
        f"mac_array.multiply{lane}_{k}.mult{n}"
        for lane in range(0, config.lanes, 2)
        for k in range(config.width)
        for n in range(2)
    ]
    for output in range(config.requantiser_outputs):
        places = (f"low${output}", f"middle_a${output}", f"middle_b${output}", "high")
        names += [f"requantiser.multiply{output}.{place}" for place in places]
    cells = {accelerator + name: cell(MULTIPLIER) for name in names}
    names = [
        f"coefficient_memory.storage.memory{group}.bank2048.0.{part}"
        for group in range(4)
        for part in range(words // 4)
    ]
    names += [f"basis_buffer.term{term}.0.{part}" for term in range(2) for part in range(4)]
    names += [f"requantiser.table{output}.0.0" for output in range(config.requantiser_outputs)]
    names += [f"activation_buffer.storage.memory{group}.bank4096.0.0" for group in range(4)]
    cells |= {accelerator + name: cell(MEMORY) for name in names}
    cells["somebody.else"] = cell(MEMORY)
    return {"modules": {"top": {"cells": cells}}}


def where(site: str) -> tuple[int, int]:
    found = re.fullmatch(r"X(\d+)/Y(\d+)/\w+", site)
    assert found
    return int(found[1]), int(found[2])


def test_a_lane_is_together() -> None:
    netlist = design(CONFIG, 4 * CONFIG.lanes)
    plan = floorplan(netlist, DEVICES["85F"], CONFIG)
    cells = netlist["modules"]["top"]["cells"]
    assert set(plan) == set(cells) - {"somebody.else"}
    assert plan == {name: cells[name]["attributes"]["BEL"] for name in plan}
    assert set(Counter(plan.values()).values()) == {1}
    for name, site in plan.items():
        assert site in DEVICES["85F"].sites(cells[name]["type"])
    for lane in range(CONFIG.lanes):
        first, n = lane - lane % 2, lane % 2
        multipliers = [
            where(plan[f"accelerator.mac_array.multiply{first}_{k}.mult{n}"]) for k in range(4)
        ]
        columns, rows = zip(*multipliers, strict=True)
        assert max(columns) - min(columns) == 5
        assert len(set(rows)) == 1
        group, part = divmod(lane, 8)
        for k in range(4):
            name = f"accelerator.coefficient_memory.storage.memory{group}.bank2048.0.{4 * part + k}"
            column, row = where(plan[name])
            assert abs(column - columns[0]) + abs(row - rows[0]) <= 40
    for output in range(4):
        places = [
            where(plan[name])
            for name in plan
            if re.search(rf"requantiser\.(multiply|table){output}\.", name)
        ]
        columns, rows = zip(*places, strict=True)
        assert len(places) == 5
        assert max(columns) - min(columns) + max(rows) - min(rows) <= 40


@pytest.mark.parametrize("board", ["25F", "45F"])
def test_smaller_devices(board: str) -> None:
    config = configuration(f"ecp5-{board.lower()}")
    plan = floorplan(design(config, 2 * config.lanes), DEVICES[board], config)
    assert len(set(plan.values())) == len(plan)


@pytest.mark.parametrize("name", DEVICES)
def test_sites_are_those_of_nextpnr(name: str, tmp_path: Path) -> None:
    """A design of all multipliers and block RAMs of a device takes all its sites."""
    device = DEVICES[name]
    sites = {kind: device.sites(kind) for kind in (MEMORY, MULTIPLIER)}
    assert tuple(len(of_kind) for of_kind in sites.values()) == PARTS[name]
    ports = {MEMORY: ("CLKA", "ADA3", "DOA0"), MULTIPLIER: ("CLK0", "A0", "P0")}
    bits = iter(range(4, 10_000))
    cells = {}
    for kind, of_kind in sites.items():
        clock, source, result = ports[kind]
        for number in range(len(of_kind)):
            cells[f"{kind}{number}"] = {
                "type": kind,
                "parameters": {},
                "attributes": {},
                "port_directions": {clock: "input", source: "input", result: "output"},
                "connections": {clock: [2], source: [3], result: [next(bits)]},
            }
    ends = {"clk": ("input", 2), "d": ("input", 3)}
    module = {
        "attributes": {"top": "1"},
        "ports": {name: {"direction": way, "bits": [bit]} for name, (way, bit) in ends.items()},
        "cells": cells,
        "netnames": {},
    }
    (tmp_path / "top.json").write_text(json.dumps({"modules": {"top": module}}))
    arguments = [f"--{name.lower().replace('f', 'k')}", "--package", "CABGA381", "--no-route"]
    run(
        "nextpnr-ecp5",
        [*arguments, "--json", "top.json", "--write", "placed.json"],
        directory=tmp_path,
        log="nextpnr.log",
    )
    placed = json.loads((tmp_path / "placed.json").read_text())["modules"]["top"]["cells"]
    for kind, of_kind in sites.items():
        taken = {
            cell["attributes"]["NEXTPNR_BEL"] for cell in placed.values() if cell["type"] == kind
        }
        assert taken == set(of_kind)


def test_a_device_too_small_is_refused() -> None:
    small = Device((4,), (10,), (22,))
    with pytest.raises(BuildError, match="needs 144 MULT18X18D of 4"):
        floorplan(design(CONFIG, 128), small, CONFIG)
