"""What verbs of the command line have in common: options, and checks before the work."""

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from insitu.errors import InputError
from insitu.files import check_writable, write_file
from rtl.config import CONFIGURATIONS, Configuration

__all__ = [
    "ROOT",
    "CalibrationOption",
    "ConfigOption",
    "JsonOption",
    "ModelArgument",
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


def check_outputs(file: Path | None, json_file: Path | None, what: str = "file") -> None:
    """Check that files can be written, before the work, not after it."""
    if file is not None:
        check_writable(file, what)
    if json_file is not None:
        check_writable(json_file, "report")


def write_json(path: Path | None, report: Any) -> None:
    """Write a report, if there is a file for it."""
    if path is not None:
        write_file(path, (json.dumps(report, indent=2) + "\n").encode(), "report")
