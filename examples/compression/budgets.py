"""Allocations within budgets other than the solver's: of everything, or of weights alone."""

from dataclasses import replace
from pathlib import Path

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


def solved(
    name: str,
    network: FloatNetwork,
    calibration: Calibration,
    config: Configuration,
    budget: int,
    *,
    plain: bool,
    whole: bool = True,
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
        return within(search, budget, plain=plain, whole=whole)


def cycles_stored(
    network: FloatNetwork, calibration: Calibration, config: Configuration
) -> int | None:
    """Of all weights at 8 bits; None if the largest memory is too small for them."""
    roomy = replace(config, coefficient_bytes=LARGEST_MEMORY)
    try:
        return plan(quantise(network, calibration, 8), roomy).cycles
    except SizeError:
        return None


def within(search: Search, budget: int, *, plain: bool, whole: bool) -> Built:
    """The allocation of least loss within a budget.

    The solver's budget counts weights and parameters, and forms differ in parameters and program:
    it is lowered by what an allocation has too much.

    Parameters
    ----------
    search : Search
    budget : int
        Bytes.
    plain : bool
        Whether all weights are stored.
    whole : bool
        Whether it counts weights, parameters and program, or only weights as packed.

    Raises
    ------
    FitError
        If it cannot be met.
    """
    menus = search.plain if plain else search.menus
    limit = budget if whole else None
    while True:
        built = search.build(menus, limit)
        size = built.plan.weight_bits // 8
        if whole:
            size = built.bytes + built.plan.parameters_base
        if size <= budget:
            return built
        limit = built.bytes - max(1, size - budget)
