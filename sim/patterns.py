"""When a stream pauses: idles of a source, stalls of a sink."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from random import Random

Pattern = Callable[[Random], Iterator[bool]]
"""Makes an endless iterator that says, cycle by cycle, whether to pause."""


def never(_rng: Random) -> Iterator[bool]:
    """No pauses: what throughput is asserted with."""
    return repeat(False)


def randomly(probability: float) -> Pattern:
    """Pause each cycle with ``probability``, independently."""
    if not 0 <= probability < 1:
        raise ValueError(f"probability must be in [0, 1), not {probability!r}")

    def pattern(rng: Random) -> Iterator[bool]:
        while True:
            yield rng.random() < probability

    return pattern


def bursts(active: int, paused: int) -> Pattern:
    """Runs of up to ``2 * active - 1`` cycles without, then up to ``2 * paused - 1`` with pause.

    Lengths are uniform, so ``active`` and ``paused`` are their means.
    """
    for name, value in (("active", active), ("paused", paused)):
        if value < 1:
            raise ValueError(f"{name} must be a positive integer, not {value!r}")

    def pattern(rng: Random) -> Iterator[bool]:
        while True:
            yield from repeat(False, rng.randint(1, 2 * active - 1))
            yield from repeat(True, rng.randint(1, 2 * paused - 1))

    return pattern


PATTERNS: dict[str, Pattern] = {
    "never": never,
    "rarely": randomly(0.1),
    "often": randomly(0.7),
    "bursts": bursts(8, 5),
}
"""The patterns that every streaming block is tested with, by the name to parametrise with."""
