"""Registers with many loads become several, and nothing else changes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from boards.fan_out import divide
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
        for n in reversed(range(looks))
    }
    names = {"second": {"hide_name": 0, "bits": [3], "attributes": {}}}
    ports = {"clk": {"bits": [1]}, "i": {"bits": [4]}}
    return {"modules": {"top": {"ports": ports, "cells": register | luts, "netnames": names}}}


def test_divides_by_name_and_what_stands_before() -> None:
    design = chain(40)
    made = divide(design, 4)
    cells = design["modules"]["top"]["cells"]
    # Ten of the second, which are ten loads of the first.
    assert made == {"second": 9, "first": 2}
    counted = loads(design)
    del counted[1], counted[4]  # clock and input are not registers'
    assert max(counted.values()) <= 4
    assert sum(counted.values()) == 40 + 10
    groups: dict[int, list[int]] = {}
    for n in range(40):
        (bit,) = cells[f"word[{n}]_LUT4"]["connections"]["A"]
        groups.setdefault(bit, []).append(n)
    assert sorted(groups.values()) == [list(range(n, n + 4)) for n in range(0, 40, 4)]
    drivers = Counter(
        each["connections"]["Q"][0] for each in cells.values() if each["type"] == "TRELLIS_FF"
    )
    assert set(drivers) >= set(counted)
    assert set(drivers.values()) == {1}


@pytest.mark.parametrize("most", [40, 41])
def test_leaves_what_has_few(most: int) -> None:
    design, same = chain(40), chain(40)
    assert divide(design, most) == {}
    assert design == same


def test_does_not_copy_what_drives_a_pin() -> None:
    design = chain(40)
    design["modules"]["top"]["ports"]["o"] = {"bits": [3]}
    assert divide(design, 4) == {}
