"""The solver against every allocation there is, and what it says where there is none."""

from itertools import pairwise, product

import numpy as np
import pytest

from insitu.allocate import Limits, allocate, frontier, smallest
from insitu.choice import Choice
from insitu.errors import FitError
from insitu.menu import Menu, Option
from insitu.plan import Price

FIXED = Price(10, 20, 30, 400)


def option(weights, parameters=0, cycles=0, loss=0.0, program=0, **choice):
    return Option(Choice(**choice), Price(weights, parameters, program, cycles), loss)


def random_menus(rng, layers=4, options=5):
    return [
        Menu(
            f"layer_{n}",
            tuple(
                option(
                    int(rng.integers(1, 1000)),
                    int(rng.integers(1, 100)),
                    int(rng.integers(1, 5000)),
                    float(10 ** rng.uniform(-4, 1)),
                    int(rng.integers(1, 90)),
                )
                for _ in range(options)
            ),
        )
        for n in range(layers)
    ]


def best(menus, limits, target):
    """The least of `target` over all allocations within limits, or None."""
    found = []
    for options in product(*(menu.options for menu in menus)):
        price = sum((one.price for one in options), FIXED)
        memory = price.weight_bytes + price.parameter_bytes
        within = (
            (limits.bytes is None or memory <= limits.bytes)
            and (limits.cycles is None or price.cycles <= limits.cycles)
            and (limits.room is None or memory + price.program_bytes <= limits.room)
        )
        if within:
            found.append(target(options, memory))
    return min(found, default=None)


def loss(options, memory):
    return sum(one.loss for one in options)


@pytest.mark.parametrize("case", range(12))
def test_finds_the_least_loss_of_all_allocations(case, seed):
    rng = np.random.default_rng(seed + case)
    menus = random_menus(rng)
    limits = Limits(
        bytes=int(rng.integers(900, 3000)),
        cycles=int(rng.integers(4000, 15000)) if case % 2 else None,
        room=int(rng.integers(1000, 3000)) if case % 3 == 0 else None,
    )
    expected = best(menus, limits, loss)
    if expected is None:
        with pytest.raises(FitError):
            allocate(menus, FIXED, limits)
        return
    found = allocate(menus, FIXED, limits)
    assert found.loss == pytest.approx(expected, rel=1e-9)
    assert list(found.options) == [menu.name for menu in menus]
    assert all(found.options[menu.name] in menu.options for menu in menus)
    assert found.price == sum((one.price for one in found.options.values()), FIXED)
    assert found.bytes <= limits.bytes
    assert limits.cycles is None or found.price.cycles <= limits.cycles


def test_tells_small_losses_apart():
    menu = Menu("a", (option(1, loss=500.0), option(5, loss=3e-7), option(6, loss=2e-7)))
    assert allocate([menu], FIXED, Limits(100)).loss == 2e-7


@pytest.mark.parametrize("cycles", [None, 9000])
def test_smallest(cycles, seed):
    menus = random_menus(np.random.default_rng(seed))
    found = smallest(menus, FIXED, cycles)
    assert found.bytes == best(menus, Limits(cycles=cycles), lambda options, memory: memory)


def test_frontier_grows_in_memory_and_shrinks_in_loss(seed):
    menus = random_menus(np.random.default_rng(seed))
    line = frontier(menus, FIXED, Limits(cycles=12000))
    assert line[0].bytes == smallest(menus, FIXED, 12000).bytes
    for before, after in pairwise(line):
        assert before.bytes < after.bytes
        assert before.loss > after.loss
    for one in line:
        assert one.loss == pytest.approx(best(menus, Limits(one.bytes, 12000), loss))
    assert line[-1].loss == pytest.approx(best(menus, Limits(cycles=12000), loss))


MENUS = [
    Menu("thin", (option(50, 8, cycles=100), option(90, 8, cycles=70))),
    Menu("wide", (option(300, 16, cycles=900, q=2), option(400, 16, cycles=500, q=4))),
]


@pytest.mark.parametrize(
    ("limits", "cause", "next_step"),
    [
        (
            Limits(403),
            "takes 404, 360 of weights and 44 of parameters; layer 'wide' alone takes 316",
            "allow 404 bytes or more, or use",
        ),
        (
            Limits(430, cycles=1000),
            "the smallest allocation in 1,000 cycles takes 504",
            "allow 504 bytes or more, or more cycles",
        ),
        (
            Limits(cycles=969),
            "969 cycles cannot be met: the fastest allocation takes 970, of which layer 'wide' 500",
            "allow 970 cycles or more",
        ),
        (Limits(500, room=433), "the program, 30 bytes, does not fit", "more coefficient memory"),
    ],
)
def test_says_what_limits(limits, cause, next_step):
    with pytest.raises(FitError) as error:
        allocate(MENUS, FIXED, limits)
    assert cause in error.value.cause
    assert next_step in error.value.next_step


def test_the_smallest_it_names_can_be_had():
    assert allocate(MENUS, FIXED, Limits(404)).bytes == 404
    assert allocate(MENUS, FIXED, Limits(cycles=970)).price.cycles == 970
    assert allocate(MENUS, FIXED, Limits(500, room=434)).bytes == 404


def test_best_of_a_menu(seed):
    rng = np.random.default_rng(seed)
    (menu,) = random_menus(rng, 1, 60)

    def key(one):
        return one.bytes, one.price.program_bytes, one.price.cycles, one.loss

    kept = set(map(key, menu.best.options))
    for one in menu.options:
        better = [
            other
            for other in menu.options
            if all(a <= b for a, b in zip(key(other), key(one), strict=True))
            and key(other) != key(one)
        ]
        assert (key(one) in kept) == (not better)
