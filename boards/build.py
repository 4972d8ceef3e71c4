"""From a board's name to its bitstream and the figures that count.

    Top --Amaranth--> RTLIL --yosys--> netlist --nextpnr--> placed, routed, timed --> bitstream

A build is cached by digest of the sources and, where they differ, of all that the tools are given:
design, constraints, options, versions.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from amaranth.hdl import UnusedElaboratable

from insitu.errors import BuildError

from . import find_board
from .attribution import owners
from .board import Board
from .fan_out import LIMITS, Limits, replicate_registers
from .floorplan import DEVICES, floorplan
from .flow import FLOWS, Flow, allow_collisions, run_yosys, synthesis_script
from .quadratic import positions
from .report import critical_path, fmax, over_full, summary
from .tools import ToolFailed, run, step, versions
from .top import Top

__all__ = ["build", "elaborate"]

Progress = Callable[[str], None]

STAGES = {
    "Info: Creating initial analytic placement": "placing",
    "Info: Running router2": "routing",
    "Info: Setting up routing queue": "routing",
}
"""Lines of nextpnr's log with which something begins that takes its time."""

PLANNING = ("boards/fan_out.py", "boards/floorplan.py", "boards/quadratic.py")
"""Sources of what is done to the netlist of a board with `LIMITS`."""


def elaborate(board: Board) -> dict[str, str]:
    """The files that a build of `board` starts from: ``top.il`` and constraints."""
    platform = board.platform()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedElaboratable)
        plan = platform.prepare(Top(board), "top", emit_src=False)
    flow = FLOWS[board.config.family]
    files = {}
    for name in ("top.il", f"top.{flow.constraints}"):
        content = plan.files[name]
        files[name] = content.decode() if isinstance(content, bytes) else content
    files["top.il"] = allow_collisions(files["top.il"])
    return files


def build(
    board: str,
    *,
    output_dir: Path | str,
    progress: Progress | None = None,
    seed: int | None = None,
    self_load: bool = False,
) -> dict[str, Any]:
    """Build the bitstream of a board; its figures, also in ``report.json``.

    Parameters
    ----------
    board
        Name of the board, see `boards.BOARDS`.
    output_dir
        Folder for bitstream, report and logs; made if it does not exist.
    progress
        Called with a line about what begins.
    seed
        Of place and route; by default those of the board in turn until one reaches the clock.
    self_load
        Let the device load its image from the board's flash at power-up.

    Returns
    -------
    dict
        ``board``, ``configuration``, ``self_load``, ``device``, ``package``, ``clock_mhz``,
        ``fmax_mhz``, ``utilisation`` ({kind: {used, available}}),
        ``blocks`` ({block: {kind: used}}), ``critical_path``, ``seed``,
        ``failed_seeds`` ({seed: fmax_mhz}), ``seconds``, ``tools``, ``bitstream``,
        ``bitstream_bytes``, ``cached``.

    Raises
    ------
    BuildError
        If there is no such board, it cannot load by itself, a tool is missing or fails, the design
        does not fit the device, or no seed reaches the clock.
    """
    tell = progress or (lambda text: None)
    chosen = find_board(board)
    if self_load:
        chosen = chosen.loading_itself()
    flow = FLOWS[chosen.config.family]
    tools = versions(flow.packages)
    directory = Path(output_dir)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(
            f"the folder {directory} cannot be made ({error.strerror})", "choose another"
        ) from None

    seeds = chosen.seeds if seed is None else (seed,)
    job = _Job(chosen, flow, directory, seeds, tools, tell)
    return job.cached() or job.run()


def _digest(*ingredients: Any) -> str:
    return hashlib.sha256(repr(ingredients).encode()).hexdigest()


def _sources() -> dict[str, str]:
    """Digests of the files that designs and builds are made of."""
    root = Path(__file__).resolve().parent.parent
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("rtl", "boards")
        for path in sorted((root / folder).rglob("*.py"))
    }


class _Job:
    """One build in one folder."""

    def __init__(
        self,
        board: Board,
        flow: Flow,
        directory: Path,
        seeds: tuple[int, ...],
        tools: dict[str, str],
        tell: Progress,
    ):
        self.board = board
        self.flow = flow
        self.directory = directory
        self.seeds = seeds
        self.tools = tools
        self.tell = tell
        self.platform = board.platform()
        self.limits = LIMITS.get(board.configuration)
        self.bitstream = directory / f"{board.name}.{flow.bitstream}"
        self.report = directory / "report.json"
        self.arguments = [
            *flow.place_arguments(self.platform),
            *("--freq", f"{board.clock_hz / 1e6:g}"),
            *("--json", "top.json", "--write", "placed.json", "--report", "timing.json"),
        ]
        """Of nextpnr, but for the seed."""

    def cached(self) -> dict[str, Any] | None:
        """The report of an earlier build of the same sources, if it is complete."""
        report = self._earlier()
        return report if report and report["sources"] == self._source_digest(_sources()) else None

    def _earlier(self) -> dict[str, Any] | None:
        try:
            report = json.loads(self.report.read_text(encoding="utf-8"))
            bitstream = hashlib.sha256(self.bitstream.read_bytes()).hexdigest()
        except (OSError, ValueError):
            return None
        kept = {"sources", "digest", "bitstream_sha256"}
        if not isinstance(report, dict) or kept - set(report):
            return None
        if report["bitstream_sha256"] != bitstream:
            return None
        return report | {"bitstream": str(self.bitstream), "cached": True}

    def _source_digest(self, sources: dict[str, str]) -> str:
        return _digest(Top.__qualname__, self.board, sources, self.seeds, self.tools)

    def run(self) -> dict[str, Any]:
        """Build, unless an earlier build started from the same files."""
        started = time.monotonic()
        self.tell("elaborating")
        files = elaborate(self.board)
        files["synthesis.ys"] = synthesis_script(self.flow, files["top.il"])
        sources = _sources()
        digests = {
            "sources": self._source_digest(sources),
            "digest": _digest(
                files,
                self.limits and [sources[name] for name in PLANNING],
                self.arguments,
                self.flow.pack_arguments(),
                self.seeds,
                self.tools,
            ),
        }
        earlier = self._earlier()
        if earlier and earlier["digest"] == digests["digest"]:
            self._save(earlier | digests)
            return earlier | digests

        self.report.unlink(missing_ok=True)
        self.bitstream.unlink(missing_ok=True)
        self.tell("synthesising")
        run_yosys(files, self.directory)
        if self.limits:
            self._plan(self.limits)
        synthesised = time.monotonic()
        figures, seed, failed = self._place()
        placed = time.monotonic()
        self.tell("packing the bitstream")
        step(self.flow.pack, self.flow.pack_arguments(), directory=self.directory, log="pack.log")
        shutil.move(self.directory / f"top.{self.flow.bitstream}", self.bitstream)
        report = {
            "board": self.board.name,
            "configuration": self.board.configuration,
            "self_load": self.board.self_load,
            "device": self.platform.device,
            "package": self.platform.package,
            **figures,
            "seed": seed,
            "failed_seeds": failed,
            "seconds": {
                "synthesis": round(synthesised - started, 1),
                "place_and_route": round(placed - synthesised, 1),
                "total": round(time.monotonic() - started, 1),
            },
            "tools": self.tools,
            **digests,
            "bitstream": str(self.bitstream),
            "bitstream_bytes": self.bitstream.stat().st_size,
            "bitstream_sha256": hashlib.sha256(self.bitstream.read_bytes()).hexdigest(),
            "cached": False,
        }
        self._save(report)
        return report

    def _plan(self, limits: Limits) -> None:
        """Give multipliers and block RAMs their sites, and replicate registers that reach far."""
        netlist = self._read("top.json")
        if floorplan(netlist, DEVICES[self.platform.device[-3:]], self.board.config):
            replicate_registers(netlist, positions(netlist), limits)
        (self.directory / "top.json").write_text(json.dumps(netlist), encoding="utf-8")

    def _save(self, report: dict[str, Any]) -> None:
        self.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    def _place(self) -> tuple[dict[str, Any], int, dict[str, float]]:
        """Place and route, seed by seed; figures, the seed, Fmax with those before it."""
        wanted = self.board.clock_hz / 1e6
        failed: dict[str, float] = {}
        path: dict[str, Any] = {}
        for seed in self.seeds:
            told: list[str] = []
            for stale in ("placed.json", "timing.json"):
                (self.directory / stale).unlink(missing_ok=True)
            try:
                run(
                    self.flow.place,
                    [*self.arguments, "--seed", str(seed)],
                    directory=self.directory,
                    log="nextpnr.log",
                    line=partial(self._stage, f"seed {seed}", told),
                )
            except ToolFailed as failure:
                reached, path = self._too_slow(failure)
                failed[str(seed)] = reached
                self.tell(f"seed {seed} reached {reached:.2f} of {wanted:g} MHz")
                continue
            netlist = self._read("placed.json")
            figures = summary(
                self._read("timing.json"), netlist, self.flow.cells, self.board.clock_hz
            )
            return figures, seed, failed
        best = max(failed.values())
        nets = f" by {', '.join(path['nets'])}" if path.get("nets") else ""
        raise BuildError(
            f"{self.board.name} reaches {best:.2f} MHz at best, not {wanted:g} MHz; the last "
            f"critical path takes {path.get('delay_ns')} ns, through "
            f"{' -> '.join(path.get('blocks', []))}{nets}",
            "try other seeds, or shorten the path (docs/timing.md)",
        )

    def _stage(self, name: str, told: list[str], line: str) -> None:
        for begin, stage in STAGES.items():
            if line.startswith(begin) and stage not in told:
                told.append(stage)
                self.tell(f"{stage}, {name}")

    def _read(self, name: str) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.directory / name).read_text(encoding="utf-8"))
        return result

    def _too_slow(self, failure: ToolFailed) -> tuple[float, dict[str, Any]]:
        """Fmax and critical path of a failed run; raises if it failed for another reason."""
        log = (self.directory / "nextpnr.log").read_text(encoding="utf-8")
        over = over_full(log)
        if over:
            what = ", ".join(
                f"{used} {name} of {available}" for name, (used, available) in over.items()
            )
            raise BuildError(
                f"the design does not fit {self.board.name}: it needs {what}",
                "see docs/up5k-budget.md, or choose a larger board",
            ) from None
        if "Max frequency for clock" not in str(failure):
            raise BuildError(
                f"{self.flow.place} failed: {failure}",
                f"read {self.directory / 'nextpnr.log'}; another seed may help",
            ) from None
        report = self._read("timing.json")
        owner = owners(self._read("placed.json")["modules"]["top"])
        return fmax(report, self.board.clock_hz), critical_path(report, owner)
