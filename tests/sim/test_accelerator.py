"""Whole images on the simulated accelerator: what is refused before anything is built."""

from __future__ import annotations

import pytest

from rtl.config import CONFIGURATIONS
from sim.accelerator import Job, Step, simulate


def test_waves_need_one_worker() -> None:
    job = Job(bytes(4), 0, [bytes(4)] * 2, [Step((), 0, 4)])
    with pytest.raises(ValueError, match="workers must be 1 to record waves, not 2"):
        simulate(CONFIGURATIONS["up5k"], job, waves=True, workers=2)
