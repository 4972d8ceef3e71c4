"""Allocations within budgets other than the solver's: of everything, or of weights alone."""

from insitu.search import Built, Search

KB = 1024


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
