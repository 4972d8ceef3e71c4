"""Builds: their errors, the cache, and real ones of a tiny design."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import io, wiring
from amaranth.lib.memory import Memory

import boards
import boards.build
import boards.tools
from boards import BOARDS, Board
from boards.build import build
from boards.tools import ToolFailed, run, versions
from boards.top import leds
from insitu.errors import BuildError
from rtl.mac_array import MacArray


class _Counter(wiring.Component):
    """A counter of `bits` bits that lights an LED."""

    bits = 16

    def __init__(self, board: Board):
        self.board = board
        super().__init__({})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self.board.pll(self.board.clock_hz).drive_sync(m)
        count = Signal(self.bits)
        m.d.sync += count.eq(Mux(count[-1], 1, count + 1))
        self.leds = leds(platform)
        m.submodules.led = led = io.Buffer("o", self.leds[0])
        m.d.comb += led.o.eq(count[-1] ^ count[3])
        return m


class _Large(_Counter):
    """A memory of 40 block RAMs beside it; an UP5K has 30."""

    def elaborate(self, platform: Any) -> Module:
        m = super().elaborate(platform)
        m.submodules.memory = memory = Memory(shape=640, depth=256, init=[])
        writer, reader = memory.write_port(), memory.read_port()
        m.d.comb += [writer.en.eq(1), writer.data.eq(~reader.data)]
        m.d.sync += [writer.addr.eq(writer.addr + 1), reader.addr.eq(reader.addr + 3)]
        led = io.Buffer("o", self.leds[1])
        m.submodules.parity = led
        m.d.comb += led.o.eq(reader.data.xor())
        return m


class _Array(_Counter):
    """The MAC array of the board's configuration beside it, by the name it has in a design."""

    def elaborate(self, platform: Any) -> Module:
        m = super().elaborate(platform)
        m.submodules.accelerator = accelerator = Module()
        array = MacArray(self.board.config, self.board.config.family)
        accelerator.submodules.mac_array = array
        steps = Signal(len(array.i.payload.as_value()))
        results = Signal(len(array.o.payload.as_value()))
        m.d.sync += [
            steps.eq(Cat(steps[-1] ^ steps[6] ^ array.o.valid, steps)),
            results.eq(array.o.payload.as_value()),
        ]
        m.d.comb += [array.i.payload.as_value().eq(steps), array.i.valid.eq(steps[0])]
        m.submodules.parity = led = io.Buffer("o", self.leds[1])
        m.d.comb += led.o.eq(results.xor())
        return m


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards.build, "Top", _Counter)


def _with(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    monkeypatch.setitem(BOARDS, name, replace(BOARDS[name], **changes))


def test_unknown_board(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no board named 'nope'"):
        build("nope", output_dir=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_made(tmp_path: Path, tiny: None) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="cannot be made"):
        build("icebreaker", output_dir=tmp_path / "file" / "out")


def test_missing_package() -> None:
    with pytest.raises(BuildError, match="the package yowasp-nonesuch is not installed") as error:
        versions(["amaranth", "yowasp-nonesuch"])
    assert "make demo" in error.value.next_step


def test_missing_tool(tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards.tools.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(BuildError, match=r"yosys cannot be started .*No such file"):
        build("icebreaker", output_dir=tmp_path / "out")
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize("form", ["[]", "{}", '{"bitstream_sha256": "DIGEST"}'])
def test_reports_of_another_form_do_not_count(
    form: str, tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boards.tools.sysconfig, "get_path", lambda name: str(tmp_path))
    (tmp_path / "icebreaker.bin").write_bytes(b"")
    form = form.replace("DIGEST", hashlib.sha256(b"").hexdigest())
    (tmp_path / "report.json").write_text(form)
    with pytest.raises(BuildError, match="yosys cannot be started"):
        build("icebreaker", output_dir=tmp_path)


def _fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Tools that are Python scripts; by default they do nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("yosys", "nextpnr-ice40", "icepack"):
        script = folder / f"yowasp-{tool}"
        body = scripts.get(tool.partition("-")[0], "")
        script.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
        script.chmod(0o755)
    monkeypatch.setattr(boards.tools.sysconfig, "get_path", lambda name: str(folder))


def test_failing_tool(tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(tmp_path, monkeypatch, yosys='print("ERROR: no such thing"); sys.exit(1)')
    with pytest.raises(BuildError, match="yosys failed: no such thing") as error:
        build("icebreaker", output_dir=tmp_path / "out")
    assert "yosys.out" in error.value.next_step


def test_design_that_does_not_fit(
    tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = "Info: \\t  ICESTORM_LC:  6440/  5280  121%\\nERROR: Failed to expand region"
    _fake(tmp_path, monkeypatch, nextpnr=f'print("{log}"); sys.exit(1)')
    with pytest.raises(BuildError, match="does not fit icebreaker: it needs 6440 ICESTORM_LC of"):
        build("icebreaker", output_dir=tmp_path / "out")


def test_other_failure_of_place_and_route(
    tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake(tmp_path, monkeypatch, nextpnr='print("ERROR: out of luck"); sys.exit(1)')
    with pytest.raises(BuildError, match="nextpnr-ice40 failed: out of luck"):
        build("icebreaker", output_dir=tmp_path / "out")


def test_output_goes_to_the_log_and_the_callback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake(tmp_path, monkeypatch, yosys='print("one\\ntwo"); sys.exit(3)')
    lines: list[str] = []
    with pytest.raises(ToolFailed, match="two"):
        run("yosys", [], directory=tmp_path, log="log", line=lines.append)
    assert lines == ["one", "two"]
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", BOARDS)
def test_builds_a_tiny_design(name: str, tmp_path: Path, tiny: None) -> None:
    told: list[str] = []
    first = build(name, output_dir=tmp_path, progress=told.append)
    assert not first["cached"]
    assert first["fmax_mhz"] > first["clock_mhz"] == BOARDS[name].clock_hz / 1e6
    assert first["seed"] == BOARDS[name].seeds[0]
    assert first["failed_seeds"] == {}
    assert first["bitstream_bytes"] == Path(first["bitstream"]).stat().st_size > 0
    assert first["utilisation"]["lut"]["used"] >= 15
    assert first["blocks"]["top"]["ff"] == 16
    assert told[:2] == ["elaborating", "synthesising"]
    assert told[-1] == "packing the bitstream"

    second = build(name, output_dir=tmp_path, progress=(told := []).append)
    assert second == first | {"cached": True}
    assert told == []
    report = tmp_path / "report.json"
    report.write_text(report.read_text().replace(first["sources"], "other sources"))
    told = []
    assert build(name, output_dir=tmp_path, progress=told.append)["cached"]
    assert told == ["elaborating"], "and nothing else: the design is the same"

    Path(first["bitstream"]).write_bytes(b"")
    assert not build(name, output_dir=tmp_path)["cached"], "the bitstream was damaged"


@pytest.mark.slow
def test_a_plan_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nextpnr leaves the multipliers of a lane where the plan has them: side by side."""
    monkeypatch.setattr(boards.build, "Top", _Array)
    _with(monkeypatch, "ulx3s-45f", clock_hz=25_000_000)
    build("ulx3s-45f", output_dir=tmp_path)
    placed = json.loads((tmp_path / "placed.json").read_text())["modules"]["top"]["cells"]
    config = BOARDS["ulx3s-45f"].config
    for lane in range(config.lanes):
        names = [f"multiply{lane - lane % 2}_{k}.mult{lane % 2}" for k in range(config.width)]
        sites = [
            placed[f"accelerator.mac_array.{name}"]["attributes"]["NEXTPNR_BEL"] for name in names
        ]
        places = sorted(tuple(map(int, re.findall(r"\d+", site)[:2])) for site in sites)
        column, row = places[0]
        assert places == [(column + offset, row) for offset in (0, 1, 4, 5)]


@pytest.mark.slow
def test_missed_clock_is_an_error(
    tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Counter, "bits", 400)  # a carry chain of 80 ns
    _with(monkeypatch, "icebreaker", seeds=(1, 2))
    told: list[str] = []
    clock = f"{BOARDS['icebreaker'].clock_hz / 1e6:g} MHz"
    reached = rf"icebreaker reaches [\d.]+ MHz at best, not {clock}"
    with pytest.raises(BuildError, match=reached) as e:
        build("icebreaker", output_dir=tmp_path, progress=told.append)
    assert "through top" in e.value.cause
    assert sum(f"of {clock}" in line for line in told) == 2
    assert not list(tmp_path.glob("*.bin"))
    assert not (tmp_path / "report.json").exists()


@pytest.mark.slow
def test_too_large_a_design_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards.build, "Top", _Large)
    with pytest.raises(BuildError, match=r"it needs \d+ ICESTORM_RAM of 30"):
        build("icebreaker", output_dir=tmp_path)
