"""The SoC of the example: its program finds what the golden model finds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sim.build import ROOT


@pytest.mark.slow
def test_program_in_c_answers_as_golden() -> None:
    command = [sys.executable, "examples/litex/soc.py"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-4:-1] == ["class 9", "class 2", "done"]
    assert "golden: [9, 2];" in done.stdout
