"""Options and fixtures of all tests."""

from __future__ import annotations

import os
import time
import zlib
from pathlib import Path

import hypothesis
import pytest

from sim.build import ROOT
from sim.run import WAVES

_STARTED = time.time()

# Machines of CI are shared: a slow example is no failure, and a failure must come again.
hypothesis.settings.register_profile("insitu", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("insitu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="seed of every test, instead of one each")
    parser.addoption("--layers", type=int, default=340, help="random layers a configuration")
    parser.addoption("--waves", action="store_true", help="record waveforms in build/waves")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--waves"):
        os.environ[WAVES] = "1"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get(WAVES):
        for path in sorted(Path(ROOT, "build", "waves").rglob("*.vcd")):
            if path.stat().st_mtime >= _STARTED:
                terminalreporter.write_line(f"waveform: {path.relative_to(ROOT)}")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed: the same in every run of a test, another in every test."""
    given: int | None = request.config.getoption("--seed")
    return zlib.crc32(request.node.nodeid.encode()) if given is None else given
