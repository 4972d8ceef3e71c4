"""Faulty copies of a block, for proofs and tests to refute."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType


def mutant(module: ModuleType, old: str, new: str) -> ModuleType:
    """A copy of `module` with the one occurrence of `old` in its source replaced by `new`."""
    assert module.__file__ is not None
    source = Path(module.__file__).read_text()
    assert source.count(old) == 1, f"{old!r} must occur once in {module.__name__}"
    faulty = ModuleType(module.__name__)
    faulty.__package__ = module.__package__
    exec(compile(source.replace(old, new), module.__file__, "exec"), faulty.__dict__)
    return faulty
