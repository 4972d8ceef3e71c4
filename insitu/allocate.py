"""Which option each layer gets, under limits of memory and cycles: a solver's choice.

A knapsack with one item of each menu: the least total loss within the limits, as an integer program
solved to the optimum by HiGHS (`scipy.optimize.milp`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from insitu.choice import Choice
from insitu.errors import FitError
from insitu.menu import Menu, Option
from insitu.plan import Price

__all__ = ["Allocation", "Limits", "allocate", "frontier", "smallest"]

Floats = NDArray[np.float64]

_SCALE = 1e6
"""What the largest total loss counts as: the solver stops within 1e-6 of the least."""
_UNSOLVABLE = 2
"""Status of `milp` where no solution exists."""


@dataclass(frozen=True)
class Limits:
    """What an allocation may take in all; None is without limit.

    Parameters
    ----------
    bytes : int or None
        Weights as packed and parameters.
    cycles : int or None
    room : int or None
        Bytes of weights, parameters and program.
    """

    bytes: int | None = None
    cycles: int | None = None
    room: int | None = None


@dataclass(frozen=True)
class Allocation:
    """An option for each layer, and what they take with all that is the same for every choice.

    Parameters
    ----------
    options : dict of str to Option
        By layer.
    price : Price
    loss : float
    """

    options: Mapping[str, Option]
    price: Price
    loss: float

    @property
    def choices(self) -> dict[str, Choice]:
        """Those of all layers."""
        return {name: option.choice for name, option in self.options.items()}

    @property
    def bytes(self) -> int:
        """Of weights and parameters."""
        return self.price.weight_bytes + self.price.parameter_bytes

    def report(self) -> dict[str, Any]:
        """The figures as plain data."""
        return {
            "bytes": self.bytes,
            "weight_bytes": self.price.weight_bytes,
            "parameter_bytes": self.price.parameter_bytes,
            "program_bytes": self.price.program_bytes,
            "cycles": self.price.cycles,
            "proxy_loss": self.loss,
        }


def allocate(menus: Sequence[Menu], fixed: Price, limits: Limits) -> Allocation:
    """The allocation of least loss within limits.

    Parameters
    ----------
    menus : sequence of Menu
    fixed : Price
        Of all that is the same for every choice.
    limits : Limits

    Raises
    ------
    FitError
        If there is none; says the least that can be, and what limits it.
    """
    found = _solve(menus, fixed, limits, lambda option: option.loss)
    if found is None:
        raise _misfit(menus, fixed, limits)
    return found


def smallest(menus: Sequence[Menu], fixed: Price, cycles: int | None = None) -> Allocation | None:
    """The allocation of least memory, if there is one of so few cycles."""
    return _solve(menus, fixed, Limits(cycles=cycles), lambda option: option.bytes)


def frontier(
    menus: Sequence[Menu], fixed: Price, limits: Limits, points: int = 16
) -> list[Allocation]:
    """Allocations of least loss at budgets from the smallest on, each of more memory and less loss.

    Parameters
    ----------
    menus, fixed
        As for `allocate`.
    limits : Limits
        Of the largest.
    points : int, optional
        At most; budgets are a constant ratio apart.
    """
    least = smallest(menus, fixed, limits.cycles)
    most = _solve(menus, fixed, limits, lambda option: option.loss)
    if least is None or most is None:
        return []
    found: list[Allocation] = []
    for budget in np.geomspace(least.bytes, max(most.bytes, least.bytes), points):
        limit = Limits(round(float(budget)), limits.cycles, limits.room)
        one = _solve(menus, fixed, limit, lambda option: option.loss)
        if one is not None and (not found or one.loss < found[-1].loss):
            found.append(one)
    return found


def _solve(
    menus: Sequence[Menu], fixed: Price, limits: Limits, target: Callable[[Option], float]
) -> Allocation | None:
    options = [option for menu in menus for option in menu.options]
    own = np.repeat(np.arange(len(menus)), [len(menu.options) for menu in menus])
    one_each = (own == np.arange(len(menus))[:, np.newaxis]).astype(float)
    constraints = [LinearConstraint(one_each, 1, 1)]
    memory = fixed.weight_bytes + fixed.parameter_bytes
    for most, base, values in (
        (limits.bytes, memory, [option.bytes for option in options]),
        (limits.cycles, fixed.cycles, [option.price.cycles for option in options]),
        (
            limits.room,
            memory + fixed.program_bytes,
            [option.bytes + option.price.program_bytes for option in options],
        ),
    ):
        if most is not None:
            constraints.append(LinearConstraint(np.array(values, float), -np.inf, most - base))
    costs = np.array([target(option) for option in options], float)
    largest = sum(max(target(option) for option in menu.options) for menu in menus)
    result = milp(
        costs * (_SCALE / largest if largest > 0 else 1.0),
        constraints=constraints,
        integrality=np.ones(len(options)),
        bounds=Bounds(0, 1),
        # With presolve HiGHS now and then writes to standard output.
        options={"mip_rel_gap": 0.0, "presolve": False},
    )
    if result.x is None:
        if result.status != _UNSOLVABLE:
            raise RuntimeError(f"the solver failed: {result.message}")
        return None
    taken = [options[n] for n in np.flatnonzero(np.rint(result.x))]
    return Allocation(
        {menu.name: option for menu, option in zip(menus, taken, strict=True)},
        sum((option.price for option in taken), fixed),
        sum(option.loss for option in taken),
    )


def _misfit(menus: Sequence[Menu], fixed: Price, limits: Limits) -> FitError:
    """Why there is no allocation."""
    least = smallest(menus, fixed, limits.cycles)
    fastest = _solve(menus, fixed, Limits(), lambda option: option.price.cycles)
    if fastest is None:
        raise RuntimeError("the solver finds no allocation where there are no limits")
    if least is None:
        slowest = max(fastest.options, key=lambda name: fastest.options[name].price.cycles)
        return FitError(
            f"{limits.cycles:,} cycles cannot be met: the fastest allocation takes "
            f"{fastest.price.cycles:,}, of which layer {slowest!r} "
            f"{fastest.options[slowest].price.cycles:,}",
            f"allow {fastest.price.cycles} cycles or more",
        )
    largest = max(least.options, key=lambda name: least.options[name].bytes)
    option = least.options[largest]
    parts = (
        f"{least.price.weight_bytes:,} of weights and {least.price.parameter_bytes:,} of "
        f"parameters; layer {largest!r} alone takes {option.bytes:,} ({option.choice})"
    )
    limit = "" if limits.cycles is None else f" in {limits.cycles:,} cycles"
    if limits.bytes is None or least.bytes <= limits.bytes:
        return FitError(
            f"the program, {least.price.program_bytes:,} bytes, does not fit beside at least "
            f"{parts}, in {limits.room:,} bytes of coefficient memory",
            "use a configuration with more coefficient memory",
        )
    return FitError(
        f"{limits.bytes:,} bytes cannot be met: the smallest allocation{limit} takes "
        f"{least.bytes:,}, {parts}",
        f"allow {least.bytes} bytes or more"
        + ("" if limits.cycles is None else ", or more cycles")
        + ", or use a network with fewer channels",
    )
