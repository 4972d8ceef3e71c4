"""Allocations within budgets other than the solver's: of everything, or of weights alone."""

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

from insitu.console import progress
from insitu.errors import SizeError
from insitu.float_network import FloatNetwork
from insitu.menu import Store
from insitu.plan import plan
from insitu.quantise import Calibration, quantise
from insitu.search import Built, Search
from rtl.config import LARGEST_MEMORY, Configuration

KB = 1024
FITS = Path("build/compress")


class Counted(Enum):
    """What a budget is of."""

    WEIGHTS = "weights"
    PARAMETERS = "weights, parameters"
    ALL = "weights, parameters, program"

    def size(self, memory: Mapping[str, int]) -> int:
        """Of bytes of `weights`, `parameters` and `program`, those that count."""
        return sum(memory[part] for part in self.value.split(", "))

    def exceeds(self, memory: Mapping[str, int], budget: int | None) -> bool:
        """Whether they are more than a budget."""
        return budget is not None and self.size(memory) > budget


def memory_of(report: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of a plan's report by what they are of, as budgets count them."""
    return {
        "weights": report["weight_bytes"],
        "parameters": report["parameter_bytes"],
        "program": report["program_bytes"],
    }


def solved(
    name: str,
    network: FloatNetwork,
    calibration: Calibration,
    config: Configuration,
    budget: int | None,
    *,
    plain: bool,
    counted: Counted = Counted.ALL,
    cycles: int | None = None,
) -> Built:
    """What the solver makes of a network, with a bar of that name; the rest is as for `within`."""
    with progress() as tell:
        search = Search(
            network,
            calibration,
            config,
            store=Store(FITS),
            progress=lambda done, total, what: tell(done, total, f"{name}: {what}"),
        )
        return within(search, budget, plain=plain, counted=counted, cycles=cycles)


def cycles_stored(
    network: FloatNetwork, calibration: Calibration, config: Configuration
) -> int | None:
    """Of all weights at 8 bits; None if the largest memory is too small for them."""
    roomy = replace(config, coefficient_bytes=LARGEST_MEMORY)
    try:
        return plan(quantise(network, calibration, 8), roomy).cycles
    except SizeError:
        return None


def within(
    search: Search, budget: int | None, *, plain: bool, counted: Counted, cycles: int | None
) -> Built:
    """The allocation of least loss within a budget.

    The solver's budget counts weights and parameters, and forms differ in parameters and program:
    it is lowered by what an allocation has too much.

    Parameters
    ----------
    search : Search
    budget : int or None
        Bytes; None is all of the configuration's coefficient memory.
    plain : bool
        Whether all weights are stored.
    counted : Counted
    cycles : int or None
        At most.

    Raises
    ------
    FitError
        If it cannot be met.
    """
    menus = search.plain if plain else search.menus
    limit = None if counted is Counted.WEIGHTS else budget
    while True:
        built = search.build(menus, limit, cycles)
        size = counted.size(memory_of(built.plan.report()))
        if budget is None or size <= budget:
            return built
        limit = built.bytes - max(1, size - budget)
