"""The tools of a build: yosys, nextpnr and the packers of bitstreams, as packaged by YoWASP."""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from insitu.errors import BuildError

__all__ = ["ToolFailed", "run", "step", "versions"]

REMEDY = "run `make demo` once, or `pip install -e .` in this Python's environment"


class ToolFailed(Exception):
    """A tool ended with a status other than zero; the message is its log's last error."""


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed versions of PyPI packages.

    Raises
    ------
    BuildError
        If one is not installed.
    """
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise BuildError(f"the package {package} is not installed", REMEDY) from None
    return found


def run(
    tool: str,
    arguments: Sequence[str],
    *,
    directory: Path,
    log: str,
    line: Callable[[str], None] | None = None,
) -> None:
    """Run `tool` in `directory`, its output in the file `log` there.

    YoWASP's tools see a private /tmp, so file names among `arguments` must be relative.

    Parameters
    ----------
    tool
        Such as ``yosys``.
    line
        Called with every line of output as it comes.

    Raises
    ------
    BuildError
        If the tool is not installed.
    ToolFailed
        If it failed.
    """
    program = Path(sysconfig.get_path("scripts")) / f"yowasp-{tool}"
    command = [str(program), *arguments]
    errors = []
    last = ""
    with (directory / log).open("w", buffering=1, encoding="utf-8") as file:
        try:
            process = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            reason = f"{tool} cannot be started ({program}: {error.strerror})"
            raise BuildError(reason, REMEDY) from None
        with process:
            try:
                for text in process.stdout or ():
                    file.write(text)
                    text = text.strip()
                    last = text or last
                    if text.startswith("ERROR:"):
                        errors.append(text.removeprefix("ERROR:").strip())
                    if line is not None:
                        line(text)
            except BaseException:
                process.kill()
                raise
    if process.returncode:
        raise ToolFailed(errors[-1] if errors else last or f"exit status {process.returncode}")


def step(tool: str, arguments: Sequence[str], *, directory: Path, log: str) -> None:
    """Run a tool that has no reason to fail, see `run`.

    Raises
    ------
    BuildError
        If the tool is not installed or failed.
    """
    try:
        run(tool, arguments, directory=directory, log=log)
    except ToolFailed as failure:
        raise BuildError(
            f"{tool} failed: {failure}", f"read {directory / log}, it may be a bug here"
        ) from None
