"""Run one testbench on one block."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cocotb_tools.config
import find_libpython
from amaranth.lib import wiring

from .bench import SETTINGS
from .build import CACHE, ROOT, Build, build

WAVES = "INSITU_WAVES"
"""Environment variable: anything but empty records waveforms of every run."""

_LOG_LINES = 60


@dataclass(frozen=True)
class Run:
    """A simulation that passed.

    ``record`` is what the testbench left in ``bench.record``; ``waves`` the waveform, if wanted.
    """

    record: dict[str, Any]
    waves: Path | None


class SimulationError(AssertionError):
    """A testbench failed, or its simulation died; the message carries cocotb's output."""


def run(
    dut: wiring.Component | Build,
    module: str,
    test: str,
    *,
    parameters: Mapping[str, object] | None = None,
    seed: int = 0,
    waves: bool | None = None,
    timeout_cycles: int = 100_000,
    timeout_s: float = 600,
    internals: bool = False,
    extra_sources: Sequence[Path] = (),
    directory: Path | None = None,
) -> Run:
    """Simulate ``dut`` under the testbench ``test`` of ``module``.

    Parameters
    ----------
    dut
        A block, or what :func:`sim.build` or :func:`sim.build_verilog` made of one.
    module
        Where the testbench is: ``__name__``, usually.
    test
        Name of a coroutine there, decorated with :func:`sim.testbench`.
    parameters
        For the testbench, as ``bench.parameters``; anything JSON can carry.
    seed
        Seeds the testbench and everything uninitialised in the design.
    waves
        Record a waveform in ``build/waves``; by default if ``INSITU_WAVES`` is set.
    timeout_cycles
        Clock cycles after which the testbench has failed.
    timeout_s
        The same in seconds of real time, for a testbench that stops the clock.
    internals, extra_sources
        See :func:`sim.build`.
    directory
        A folder to run in, seen by the testbench as ``bench.directory``, for files in and out; a
        temporary one by default.

    Raises
    ------
    SimulationError
        The testbench failed, did not end, or the simulator died.
    BuildError
        The block could not be built.
    """
    waves = bool(os.environ.get(WAVES)) if waves is None else waves
    if not isinstance(dut, Build):
        dut = build(dut, extra_sources=extra_sources, waves=waves, internals=internals)
    elif waves and not dut.waves:
        raise ValueError("waves of a ready build must be asked for when it is built")
    parameters = dict(parameters or {})
    title = f"{module}.{test}, seed {seed}, parameters {parameters}"
    with _Folder(directory) as folder:
        trace = _trace_file(module, test, seed, parameters) if waves else None
        settings = {
            "seed": seed,
            "parameters": parameters,
            "timeout_cycles": timeout_cycles,
            "inputs": dut.inputs,
            "directory": str(folder),
        }
        environment = _environment(dut, module, test, seed, folder)
        environment[SETTINGS] = json.dumps(settings)
        command = [str(dut.executable), "+verilator+rand+reset+2"]
        command += [f"+verilator+seed+{seed % (1 << 30) + 1}"]
        command += ["--trace", "--trace-file", str(trace)] if trace else []
        ended = _simulate(command, environment, folder, timeout_s)
        failure = _failure(folder, ended)
        if failure:
            where = f"\nwaveform: {trace}" if trace else ""
            log = "\n".join((folder / "log").read_text(errors="replace").splitlines()[-_LOG_LINES:])
            raise SimulationError(f"{title}\n{failure}{where}\n--- end of log ---\n{log}")
        return Run(json.loads((folder / "record.json").read_text()), trace)


def _environment(dut: Build, module: str, test: str, seed: int, folder: Path) -> dict[str, str]:
    """How cocotb is told what to do."""
    libpython = find_libpython.find_libpython()
    if libpython is None:
        raise SimulationError(
            "Python's shared library was not found: run `apt-get install "
            f"libpython3.{sys.version_info.minor}`"
        )
    return os.environ | {
        "COCOTB_TOPLEVEL": dut.toplevel,
        "COCOTB_TEST_MODULES": module,
        "COCOTB_TEST_FILTER": rf"^{re.escape(f'{module}.{test}')}$",
        "COCOTB_RANDOM_SEED": str(seed),
        # Explain asserts of the testbench only: to rewrite every module imported takes a second.
        "COCOTB_REWRITE_ASSERTION_FILES": f"{module.rpartition('.')[2]}.py",
        "COCOTB_RESULTS_FILE": str(folder / "results.xml"),
        "COCOTB_TRUST_INERTIAL_WRITES": "1",
        "COCOTB_ANSI_OUTPUT": "0",
        "COCOTB_REDUCED_LOG_FMT": "1",
        "GPI_LOG_LEVEL": "WARNING",
        "GPI_USERS": f"{libpython};{cocotb_tools.config.pygpi_entry_point()}",
        "PYGPI_PYTHON_BIN": sys.executable,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        "TOPLEVEL_LANG": "verilog",
    }


def _simulate(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, timeout_s: float
) -> str | None:
    """Run the simulator; how it ended, unless well."""
    with (folder / "log").open("w") as log:
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"the simulation did not end within timeout_s={timeout_s}"
    return f"the simulator ended with {done.returncode}" if done.returncode else None


def _failure(folder: Path, ended: str | None) -> str | None:
    """What went wrong in a run, by its exit status and its results file; None if nothing."""
    try:
        cases = ElementTree.parse(folder / "results.xml").findall(".//testcase")
    except (OSError, ElementTree.ParseError):
        return ended or "the simulation died without results"
    problems = [p for case in cases for p in case if p.tag in ("failure", "error", "skipped")]
    if problems:
        return "\n".join(f"{p.get('type', p.tag)}: {p.get('message') or p.text}" for p in problems)
    if len(cases) != 1:
        return f"{len(cases)} testbenches of that name ran, not one"
    if not (folder / "record.json").is_file():
        return ended or "the testbench did not come to its end"
    return ended


def _trace_file(module: str, test: str, seed: int, parameters: Mapping[str, object]) -> Path:
    folder = ROOT / "build" / "waves" / module.rpartition(".")[2].removeprefix("test_")
    folder.mkdir(parents=True, exist_ok=True)
    # With a seed given to all tests only these differ.
    case = f"{os.environ.get('PYTEST_CURRENT_TEST')}, {parameters}"
    return folder / f"{test}-{seed}-{zlib.crc32(case.encode()):08x}.vcd"


class _Folder:
    """The folder of a run: the caller's, or a temporary one that outlives only a failure."""

    def __init__(self, given: Path | None) -> None:
        self._given = given

    def __enter__(self) -> Path:
        runs = CACHE / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        self._path = self._given or Path(tempfile.mkdtemp(dir=runs))
        self._path.mkdir(parents=True, exist_ok=True)
        for name in ("results.xml", "record.json", "log"):
            (self._path / name).unlink(missing_ok=True)
        return self._path.resolve()

    def __exit__(self, *_: object) -> None:
        if self._given is None:
            shutil.rmtree(self._path, ignore_errors=True)
