"""The boards, and how far each has come: what `insitu build --list` and `insitu bench` read."""

from __future__ import annotations

from typing import Any

from . import BOARDS
from .check import read_baseline

__all__ = ["catalogue"]


def catalogue() -> list[dict[str, Any]]:
    """What there is of every board, in the order of `boards.BOARDS`.

    Returns
    -------
    list of dict
        ``board``, ``device``, ``speed`` (grade, of ECP5s alone), ``configuration``, ``lanes``,
        ``width``, ``clock_mhz`` (that it is built for), and ``build``: figures of its last accepted
        build (`boards.check.entry`), None if it was never placed and routed.
    """
    baseline = read_baseline()
    return [
        {
            "board": name,
            "device": board.platform.device,
            "speed": getattr(board.platform, "speed", None),
            "configuration": board.configuration,
            "lanes": board.config.lanes,
            "width": board.config.width,
            "clock_mhz": board.clock_hz / 1e6,
            "build": baseline.get(name),
        }
        for name, board in BOARDS.items()
    ]
