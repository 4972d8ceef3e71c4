"""Quadratic placement against what can be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from boards.quadratic import positions
from tests.boards.netlists import cell

INTO, OUT = "input", "output"


def design(cells: dict[str, Any], **sites: str) -> dict[str, Any]:
    for name, site in sites.items():
        cells[name]["attributes"]["BEL"] = site
    return {"modules": {"top": {"cells": cells}}}


def test_a_chain_lies_evenly_between_its_ends() -> None:
    cells = {f"c{n}": cell("LUT4", A=(INTO, [n]), Z=(OUT, [n + 1])) for n in range(1, 6)}
    cells["$scopeinfo"] = cell("$scopeinfo")
    found = positions(design(cells, c1="X10/Y40/EBR0", c5="X30/Y20/MULT18_4"))
    assert list(found) == ["c1", "c2", "c3", "c4", "c5"]
    expected = [(10, 40), (15, 35), (20, 30), (25, 25), (30, 20)]
    np.testing.assert_allclose(list(found.values()), expected, atol=0.01)


def test_a_net_of_many_pulls_to_their_middle() -> None:
    """A cell that looks at one fixed cell, and on which three look, each at its own place."""
    cells = {
        "source": cell("LUT4", Z=(OUT, [1])),
        "way": cell("TRELLIS_FF", DI=(INTO, [1]), Q=(OUT, [2])),
        "a": cell("LUT4", A=(INTO, [2])),
        "b": cell("LUT4", A=(INTO, [2])),
        "c": cell("LUT4", A=(INTO, [2])),
    }
    sites = {"source": (0, 0), "a": (30, 0), "b": (36, 0), "c": (36, 60)}
    found = positions(design(cells, **{n: f"X{x}/Y{y}/EBR0" for n, (x, y) in sites.items()}))
    # Stars: weight 2 to the first net's middle from both its ends, 4/3 to the second's from four.
    # The star of a net of two is one spring of half its weight.
    springs = np.array([[1 + 4 / 3, -4 / 3], [-4 / 3, 16 / 3]])
    held = np.array([[0, 0], [4 / 3 * (30 + 36 + 36), 4 / 3 * 60]])
    np.testing.assert_allclose(found["way"], np.linalg.solve(springs, held)[0], atol=0.01)


@pytest.mark.parametrize("pins", [1500, 1501])
def test_a_net_that_is_everywhere_does_not_count(pins: int) -> None:
    cells = {f"c{n}": cell("LUT4", A=(INTO, [1]), B=(INTO, [2 + n % 2])) for n in range(pins)}
    found = positions(design(cells, c0="X10/Y10/EBR0", c1="X50/Y10/EBR0"))
    apart = abs(found["c2"] - found["c3"])[0]
    assert (apart > 39) == (pins > 1500)
