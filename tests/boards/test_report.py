"""Figures of a build, from small reports."""

from __future__ import annotations

import pytest

from boards.attribution import owners
from boards.flow import FLOWS
from boards.report import critical_path, fmax, over_full, summary

from . import netlists


def test_fmax_is_that_of_the_constrained_clock() -> None:
    assert fmax(netlists.timing(), 24_000_000) == 26.5


def test_constraints_are_rounded() -> None:
    """Of 12 MHz an iCE40's PLL makes 33 with a period of 83333 // 88 * 32 ps."""
    assert fmax(netlists.timing(34.1, 1e6 / 30_272), 33_000_000) == 34.1
    for far in (32.9, 33.1):
        with pytest.raises(ValueError, match="no clock is constrained to 33 MHz"):
            fmax(netlists.timing(34.1, far), 33_000_000)


def test_fmax_without_the_constraint_does_not_count() -> None:
    with pytest.raises(ValueError, match=r"no clock is constrained to 30 MHz, of .*24.0015"):
        fmax(netlists.timing(), 30_000_000)


def test_critical_path_is_named() -> None:
    path = critical_path(netlists.timing(), owners(netlists.module()))
    assert path == {
        "delay_ns": 8.1,
        "routing_ns": 5.0,
        "levels": 1,
        "from": "fetch",
        "to": "mac",
        "blocks": ["fetch", "mac"],
        "start": "z_LC",
        "end": "x_DFFLC",
        "nets": ["accelerator.mac.step"],
    }


def test_no_path_is_no_error() -> None:
    assert critical_path({"critical_paths": []}, {}) == {}


def test_over_full_names_what_does_not_fit() -> None:
    assert over_full(netlists.OVER_FULL) == {"ICESTORM_LC": (6440, 5280)}
    assert over_full("Info: all is well\n") == {}


def test_summary() -> None:
    netlist = {"modules": {"top": netlists.module()}}
    result = summary(netlists.timing(), netlist, FLOWS["ice40"].cells, 24_000_000)
    assert result["clock_mhz"] == 24.0
    assert result["fmax_mhz"] == 26.5
    assert result["utilisation"] == {
        "lc": {"used": 7, "available": 5280},
        "dsp": {"used": 0, "available": 8},
        "ebr": {"used": 1, "available": 30},
        "spram": {"used": 0, "available": 4},
        "lut": {"used": 6, "available": 5280},
        "ff": {"used": 3, "available": 5280},
    }
    assert set(result["blocks"]) == {"fetch", "generator", "mac", "other", "tile"}
