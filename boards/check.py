"""Compares builds with the committed baseline: `python -m boards.check REPORT...`.

A build passes if it reaches its clock, its Fmax is at most 5 % below the baseline's and it takes at
most 5 % more of each kind of cell (of multipliers and memories, no more at all). `--update` makes
the builds the baseline. Exit status: 0 passed, 1 a regression, 2 a report is missing or damaged.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from insitu.errors import BuildError, InsituError

__all__ = ["BASELINE", "entry", "faults", "main", "read_baseline"]

BASELINE = Path(__file__).with_name("baseline.json")
TOLERANCE = 0.05
EXACT = ("dsp", "ebr", "spram")
KEPT = (
    "configuration",
    "device",
    "package",
    "clock_mhz",
    "fmax_mhz",
    "utilisation",
    "blocks",
    "critical_path",
    "seed",
    "seconds",
    "tools",
)


def entry(report: dict[str, Any]) -> dict[str, Any]:
    """What the baseline keeps of a report."""
    kept = {name: report[name] for name in KEPT}
    path = report["critical_path"]
    return kept | {
        "critical_path": {
            name: path[name] for name in ("delay_ns", "routing_ns", "levels", "blocks") if path
        }
    }


def faults(report: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    """What is worse in a report than the baseline allows; `baseline` has all boards."""
    name = report["board"]
    fmax, clock = report["fmax_mhz"], report["clock_mhz"]
    found = []
    if fmax < clock:
        found.append(f"{name}: {fmax} MHz is below its clock of {clock} MHz")
    if name not in baseline:
        return [*found, f"{name}: not in the baseline; add it with --update"]
    expected = baseline[name]
    if clock < expected["clock_mhz"]:
        found.append(f"{name}: clock {clock} MHz, in the baseline {expected['clock_mhz']} MHz")
    if fmax < (1 - TOLERANCE) * expected["fmax_mhz"]:
        found.append(f"{name}: {fmax} MHz, in the baseline {expected['fmax_mhz']} MHz")
    for kind, counts in report["utilisation"].items():
        before = expected["utilisation"].get(kind, {"used": 0})["used"]
        if counts["used"] > (before if kind in EXACT else (1 + TOLERANCE) * before):
            found.append(f"{name}: {counts['used']} {kind}, in the baseline {before}")
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BuildError(
            f"{path} cannot be read ({error.strerror})", "build the board first"
        ) from None
    except ValueError:
        raise BuildError(f"{path} is not a JSON file", "build the board again") from None


def _has(found: Any, names: Sequence[str]) -> bool:
    return isinstance(found, dict) and set(names) <= set(found)


def read_baseline(path: Path = BASELINE) -> dict[str, Any]:
    """Figures of the last accepted build by board; boards that were never built are not in it.

    Raises
    ------
    BuildError
        If the file is damaged.
    """
    found = _read(path) if path.exists() else {}
    entries = found.values() if isinstance(found, dict) else [found]
    if not all(_has(one, KEPT) for one in entries):
        raise BuildError(f"{path} is no baseline", "make it anew with --update, or restore it")
    return dict(found)


def _report(path: Path) -> dict[str, Any]:
    report = _read(path)
    if not _has(report, ("board", *KEPT)):
        raise BuildError(f"{path} is not the report of a build", "build the board again")
    if report.get("self_load"):
        raise BuildError(
            f"{path} is of a build that loads by itself; the baseline has those that do not",
            "build the board without --self-load",
        )
    return dict(report)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m boards.check", description=__doc__)
    parser.add_argument("report", nargs="+", type=Path, help="of `insitu build --json`")
    parser.add_argument("--update", action="store_true", help="make them the baseline")
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    options = parser.parse_args(arguments)
    try:
        baseline = read_baseline(options.baseline)
        reports = [_report(path) for path in options.report]
    except InsituError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if options.update:
        baseline |= {report["board"]: entry(report) for report in reports}
        text = json.dumps(dict(sorted(baseline.items())), indent=2)
        options.baseline.write_text(text + "\n", encoding="utf-8")
        return 0
    found = [fault for report in reports for fault in faults(report, baseline)]
    for fault in found:
        sys.stdout.write(f"{fault}\n")
    for report in reports:
        used = ", ".join(f"{n['used']} {kind}" for kind, n in report["utilisation"].items())
        sys.stdout.write(f"{report['board']}: {report['fmax_mhz']} MHz, {used}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
