"""A machine that lacks something is told which package to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim import preflight


def _run(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, preflight.__file__],
        env={key: value for key, value in os.environ.items() if key != "CXX"} | {"PATH": str(path)},
        text=True,
        capture_output=True,
        check=False,
    )


def test_complete_machine_passes() -> None:
    assert preflight.missing() == []


def test_missing_compiler_is_named(tmp_path: Path) -> None:
    (tmp_path / "make").symlink_to("/bin/true")
    done = _run(tmp_path)
    assert done.returncode == 2
    assert "missing: a C++ compiler\n" in done.stderr
    assert done.stderr.endswith("install it with: apt-get install g++\n")


def test_old_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "MINIMUM", (9, 0))
    [(what, package)] = preflight.missing()
    assert what.startswith("Python 9.0 or newer, not 3.")
    assert package == "python3"


def test_missing_shared_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_has_shared_library", lambda: False)
    [(_, package)] = preflight.missing()
    assert package == f"libpython3.{sys.version_info.minor}"
