"""PLL settings, against the data sheets' formulas and the tools of icestorm and trellis."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from boards.pll import Ecp5Pll, Ice40CorePll, Ice40Pll, ecp5_dividers, ice40_dividers
from boards.tools import run

MEGA = 1_000_000


@pytest.mark.parametrize("output", [18, 24, 30, 36, 48, 60])
def test_ice40_settings_make_the_frequency(output: int) -> None:
    divr, divf, divq, _ = ice40_dividers(12 * MEGA, output * MEGA)
    assert 12 * MEGA * (divf + 1) == output * MEGA * (divr + 1) << divq
    assert 533 <= output << divq <= 1066


@pytest.mark.parametrize("output", [24, 30, 48])
def test_ice40_settings_are_those_of_icepll(output: int, tmp_path: Path) -> None:
    run("icepll", ["-i", "12", "-o", str(output)], directory=tmp_path, log="log")
    log = (tmp_path / "log").read_text()
    found = {name: int(value) for name, value in re.findall(r"(\w+):\s+(\d+) \(", log)}
    names = ("DIVR", "DIVF", "DIVQ", "FILTER_RANGE")
    assert ice40_dividers(12 * MEGA, output * MEGA) == tuple(found[name] for name in names)


@pytest.mark.parametrize(
    ("source", "output"), [(25, 80), (25, 100), (25, 90), (48, 80), (48, 100), (100, 80), (100, 90)]
)
def test_ecp5_settings_make_the_frequency(source: int, output: int) -> None:
    clki, clkop, clkos = ecp5_dividers(source * MEGA, output * MEGA)
    assert source * clkop == output * clki * clkos
    assert 400 <= output * clkos <= 800
    assert source / clki >= 10


@pytest.mark.parametrize("dividers", [ice40_dividers, ecp5_dividers])
def test_impossible_frequencies_are_refused(dividers: object) -> None:
    with pytest.raises(ValueError, match="no PLL setting makes 7000001 Hz of 12000000 Hz"):
        dividers(12 * MEGA, 7_000_001)  # type: ignore[operator]


@pytest.mark.parametrize("pll", [Ice40Pll, Ice40CorePll, Ecp5Pll])
@pytest.mark.parametrize("value", [0, -1, 24e6, "24"])
def test_frequency_is_checked(pll: type, value: object) -> None:
    with pytest.raises(ValueError, match=f"output_hz must be a positive integer, not {value!r}"):
        pll(value)
