"""Registers with many loads become several, and nothing else changes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from boards.fan_out import Limits, Place, replicate_registers
from tests.boards.netlists import cell


def loads(design: dict[str, Any]) -> Counter[int]:
    return Counter(
        bit
        for each in design["modules"]["top"]["cells"].values()
        for port, bits in each["connections"].items()
        if each["port_directions"][port] == "input"
        for bit in bits
        if isinstance(bit, int)
    )


def chain(looks: int) -> dict[str, Any]:
    """A register behind another, and LUTs that look at the second."""
    register = {
        "second": cell("TRELLIS_FF", DI=("input", [2]), CLK=("input", [1]), Q=("output", [3])),
        "first": cell("TRELLIS_FF", DI=("input", [4]), CLK=("input", [1]), Q=("output", [2])),
    }
    luts = {
        f"word[{n}]_LUT4": cell("LUT4", A=("input", [3]), Z=("output", [10 + n]))
        for n in range(looks)
    }
    names = {"second": {"hide_name": 0, "bits": [3], "attributes": {}}}
    ports = {"clk": {"bits": [1]}, "i": {"bits": [4]}}
    return {"modules": {"top": {"ports": ports, "cells": register | luts, "netnames": names}}}


def row(looks: int, pitch: float = 1) -> dict[str, Place]:
    """Where they are: the LUTs in a row, every third at its end."""
    order = [*range(1, looks, 3), *range(2, looks, 3), *range(0, looks, 3)]
    places = {f"word[{n}]_LUT4": np.array([pitch * x, 5]) for x, n in enumerate(order)}
    return places | {"first": np.array([0, 0]), "second": np.array([0, 1])}


def groups(design: dict[str, Any], looks: int) -> list[list[int]]:
    """LUTs that look at the same register."""
    cells = design["modules"]["top"]["cells"]
    found: dict[int, list[int]] = {}
    for n in range(looks):
        (bit,) = cells[f"word[{n}]_LUT4"]["connections"]["A"]
        found.setdefault(bit, []).append(n)
    return sorted(found.values())


def test_neighbours_share_a_copy_and_what_stands_before_is_copied() -> None:
    design = chain(320)
    made = replicate_registers(design, row(320), Limits(most=8, few=8, reach=1e9))
    cells = design["modules"]["top"]["cells"]
    # 64 of the second, halved six times; they are 64 loads of the first.
    assert made == {"second": 63, "first": 7}
    counted = loads(design)
    del counted[1], counted[4]  # clock and input are not registers'
    assert max(counted.values()) <= 8
    assert sum(counted.values()) == 320 + 64
    order = sorted(range(320), key=lambda n: row(320)[f"word[{n}]_LUT4"][0])
    together = [sorted(order[n : n + 5]) for n in range(0, 320, 5)]
    assert groups(design, 320) == sorted(together)
    drivers = Counter(
        each["connections"]["Q"][0] for each in cells.values() if each["type"] == "TRELLIS_FF"
    )
    assert set(drivers) >= set(counted)
    assert set(drivers.values()) == {1}


@pytest.mark.parametrize("looks", [8, 9])
def test_logic_is_copied_where_very_many_look_at_it(looks: int) -> None:
    design = chain(looks)
    cells = design["modules"]["top"]["cells"]
    cells["second"] = cell("LUT4", A=("input", [2]), Z=("output", [3]))
    made = replicate_registers(design, row(looks, pitch=100), Limits(most=8, few=2, reach=50))
    if looks > 8:
        assert len(groups(design, looks)) == 1 + made["second"] > 1
        assert {cells[name]["type"] for name in cells if "_copy" in name} >= {"LUT4"}
        assert max(loads(design).values()) <= 8
    else:
        assert not made


def test_far_loads_are_divided_unless_few() -> None:
    design = chain(40)
    assert replicate_registers(design, row(40), Limits(most=40, few=8, reach=20)) == {"second": 1}
    assert [len(group) for group in groups(design, 40)] == [20, 20]
    design = chain(8)
    assert replicate_registers(design, row(8, pitch=100), Limits(most=40, few=8, reach=20)) == {}


@pytest.mark.parametrize("most", [40, 41])
def test_leaves_what_has_few_and_near(most: int) -> None:
    design, same = chain(40), chain(40)
    assert replicate_registers(design, row(40), Limits(most=most, few=8, reach=39)) == {}
    assert design == same


def test_does_not_copy_what_drives_a_pin() -> None:
    design = chain(40)
    design["modules"]["top"]["ports"]["o"] = {"bits": [3]}
    assert replicate_registers(design, row(40), Limits(most=8, few=8, reach=39)) == {}


@pytest.mark.parametrize("length", [1, 2, 5])
def test_rings_of_registers_end(length: int) -> None:
    register = {
        f"r{n}": cell("TRELLIS_FF", DI=("input", [10 + (n or length) - 1]), Q=("output", [10 + n]))
        for n in range(length)
    }
    looks = {f"l{n}": cell("LUT4", A=("input", [10]), Z=("output", [100 + n])) for n in range(9)}
    cells = register | looks
    design = {"modules": {"top": {"ports": {}, "cells": cells, "netnames": {}}}}
    nowhere = dict.fromkeys(cells, np.zeros(2))
    assert replicate_registers(design, nowhere, Limits(most=2, few=2, reach=0))
    assert max(loads(design).values()) <= 2


@pytest.mark.parametrize(("most", "few"), [(1, 2), (2, 1), (8, 0)])
def test_limits_are_at_least_two(most: int, few: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2, not {most} and {few}"):
        Limits(most, few, 1.0)
