"""What verbs of the command line have in common: options, and checks before the work."""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from insitu.errors import InputError
from insitu.files import check_writable, is_special, write_file
from rtl.config import CONFIGURATIONS, Configuration

__all__ = [
    "ROOT",
    "CalibrationOption",
    "ConfigOption",
    "JsonOption",
    "ModelArgument",
    "check_network_name",
    "check_outputs",
    "named_configuration",
    "parse_bytes",
    "write_json",
]

ROOT = Path(__file__).resolve().parent.parent
"""The clone."""

ConfigOption = Annotated[
    str,
    typer.Option("--config", metavar="NAME", help=f"Hardware: {', '.join(CONFIGURATIONS)}."),
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write all figures to FILE.")
]
ModelArgument = Annotated[
    Path,
    typer.Argument(
        help="A .tflite, an .onnx (each quantised or float), or an integer network as .npz.",
        metavar="MODEL",
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Sample inputs (.npz) of a float model, to find scales with.",
        show_default="calibration.npz beside MODEL",
    ),
]

_UNITS = {"": 1, "B": 1, "KB": 1024, "KIB": 1024}


def parse_bytes(text: str) -> int:
    """Bytes of a size such as "47104", "46KB" or "1.5 KB"; a KB is 1,024.

    Raises
    ------
    InputError
        For anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    size = float(found[1]) * _UNITS.get(found[2].upper(), 0) if found else 0
    if not 1 <= size < math.inf:
        raise InputError(f"{text!r} is no size", "write bytes, or KB of 1,024 bytes: 46KB")
    return int(size)


def named_configuration(name: str) -> Configuration:
    """A configuration by its name; InputError if there is none."""
    if name not in CONFIGURATIONS:
        raise InputError(
            f"there is no configuration named {name!r}",
            f"choose one of {', '.join(CONFIGURATIONS)}",
        )
    return CONFIGURATIONS[name]


def check_outputs(outputs: Mapping[str, Path | None], reads: Iterable[Path | None] = ()) -> None:
    """Check that files can be written, before the work, not after it.

    Parameters
    ----------
    outputs : mapping
        Files by what they will be, for messages.
    reads : paths
        Files that must stay as they are.

    Raises
    ------
    FileError
        If one cannot be written.
    InputError
        If two of them are one file, or one of them is read.
    """
    taken: dict[str, str] = {}
    kept = {os.path.realpath(path) for path in reads if path is not None}
    for what, path in outputs.items():
        if path is None:
            continue
        check_writable(path, what)
        if is_special(path):
            continue
        place = os.path.realpath(path)
        if place in kept:
            raise InputError(f"{what} {path} would replace what is read", "name another file")
        if place in taken:
            raise InputError(
                f"{taken[place]} and {what} are both {path}", "give each a file of its own"
            )
        taken[place] = what


def check_network_name(path: Path) -> None:
    """Refuse to write a network that could not be read again."""
    if path.suffix != ".npz":
        raise InputError(f"network {path} is no .npz file", f"name it {path.with_suffix('.npz')}")


def write_json(path: Path | None, report: Any) -> None:
    """Write a report, if there is a file for it."""
    if path is not None:
        write_file(path, (json.dumps(report, indent=2) + "\n").encode(), "report")
