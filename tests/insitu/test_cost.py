"""The cost model: its terms by hand, and the designs' worked figures."""

from dataclasses import replace

import pytest

from insitu.cost import Constants, Work, operation_cost, total_cost
from rtl.config import CONFIGURATIONS
from rtl.record import CROSS, INTRA, STORED

SIM, UP5K, ECP5 = (CONFIGURATIONS[name] for name in ("sim-8x1", "up5k", "ecp5-45f"))
NOTHING = Constants(
    program=0, layer=0, wide=0, intra_group=0, tile=0, segment=0, block=0, round_trip=0, late=0
)
PARAMETERS = 24  # words of a lane group of 8
PACKED = 16  # the same on up5k
WORK = Work(
    dataflow=STORED,
    flat=False,
    groups=3,
    steps=54,
    taps=9,
    pixels=10,
    inputs=6,
    kernels=0,
    basis_vectors=0,
    basis_words=0,
    stream_vectors=54,
    stream_words=27,
    cross_words=0,
    last_group_words=1,
)


def test_array_bound():
    cost = operation_cost(WORK, SIM, NOTHING)
    assert cost.ideal == cost.array == cost.steady == 3 * 54 * 10
    assert cost.cycles == cost.ideal + PARAMETERS
    assert cost.bound == "array"


def test_coefficient_bound():
    cost = operation_cost(replace(WORK, stream_words=108), SIM, NOTHING)
    assert cost.steady == cost.coefficients == 3 * 108 * 10
    # The parameters of the second and third lane group come through the same port.
    assert cost.load == PARAMETERS + 2 * (PARAMETERS + 1)
    assert cost.bound == "coefficients"
    assert cost.ideal == 3 * 54 * 10


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        (40, 0),  # three cycles in four, or less: as many as the stream gives up
        (45, (PARAMETERS + 1) * 4 - (PARAMETERS + 1) * 3 * 54 / 45),
        (54, PARAMETERS + 1),
    ],
)
def test_parameters_hold_up_a_busy_stream(words, lost):
    assert operation_cost(replace(WORK, stream_words=words), SIM, NOTHING).load == (
        PARAMETERS + 2 * round(lost)
    )


def test_parameters_need_a_cycle_each():
    short = replace(WORK, pixels=1, steps=8, taps=8, stream_vectors=8, stream_words=2)
    # Eight cycles, of which the stream needs two; the third group's wait for the first's memory.
    waits = 2 + PARAMETERS + 1 - 8
    assert operation_cost(short, SIM, NOTHING).load == PARAMETERS + 2 * waits
    round_trip = replace(NOTHING, round_trip=40)
    assert operation_cost(short, SIM, round_trip).load == (
        PARAMETERS + waits + (40 + PARAMETERS - 8) // 2
    )


def test_uniform_layers_have_fewer_parameters():
    cost = operation_cost(replace(WORK, stream_words=54, uniform=True), SIM, NOTHING)
    assert cost.load == 3 + 8 + 2 * (8 + 1)


def test_tables_are_loaded():
    work = replace(WORK, table=True)
    plain, wide = (operation_cost(work, config, NOTHING).load for config in (UP5K, SIM))
    assert (plain, wide) == (PACKED + 64 * NOTHING.table, PARAMETERS + 64 * (NOTHING.table + 1))


def test_intra_waits_for_a_slot():
    work = replace(
        WORK,
        dataflow=INTRA,
        steps=12,
        taps=2,
        basis_vectors=4,
        basis_words=2,
        stream_words=1,
    )
    # Two slots filled and read, in five cycles.
    slow = operation_cost(replace(work, stream_vectors=12), SIM, NOTHING)
    assert slow.coefficients == 3 * 10 * 6 * 5 // 2
    assert operation_cost(replace(work, stream_vectors=6), SIM, NOTHING).coefficients == 3 * 10 * 12


def test_one_port_adds_the_writes():
    # Two words a lane group, one for the last.
    cost = operation_cost(WORK, UP5K, NOTHING)
    assert cost.steady == cost.activations == (56 + 56 + 55) * 10
    assert cost.bound == "activations"


def test_requantiser_bound():
    one = replace(WORK, steps=1, taps=1, stream_vectors=1, stream_words=1)
    cost = operation_cost(one, SIM, NOTHING)
    assert cost.requantiser == 3 * 8 * 10
    # The last pixel is requantised while the pipeline drains.
    assert cost.steady == cost.requantiser - 7
    assert cost.bound == "requantiser"


@pytest.mark.parametrize(("basis", "exposed"), [(18, 9), (5, 1)])
def test_intra_hides_a_basis_behind_the_last_taps(basis, exposed):
    work = replace(
        WORK, dataflow=INTRA, basis_vectors=basis, basis_words=2, stream_vectors=12, stream_words=6
    )
    cost = operation_cost(work, SIM, NOTHING)
    assert cost.steady == cost.ideal == 3 * 54 * 10
    assert cost.load == PARAMETERS + basis
    assert cost.fill == 2 * exposed


@pytest.mark.parametrize("flat", [False, True])
def test_cross_generates_a_tile_for_each_lane_group(flat):
    work = replace(
        WORK,
        dataflow=CROSS,
        flat=flat,
        kernels=12,
        basis_vectors=36,
        basis_words=18,
        stream_vectors=4,
        stream_words=2,
        cross_words=6,
    )
    cost = operation_cost(work, UP5K, NOTHING)
    stream = 4 * (9 if flat else 1)
    assert cost.generate == 3 * 6 * (stream + 9 * 12)
    assert cost.load == PACKED + 3 * 36
    assert cost.ideal == 3 * 54 * 10 + 6 * 9 * 3 * 12
    # Five kernels are summed faster than eight lanes are rounded.
    few = replace(work, kernels=5, cross_words=5, stream_vectors=2)
    assert operation_cost(few, UP5K, NOTHING).generate == 3 * 6 * 9 * 8
    # This generator rounds: one stage more.
    assert operation_cost(work, SIM, NOTHING).generate == 3 * 6 * (
        stream + 9 * 12 + (9 if flat else 1)
    )
    assert cost.report()["cycles"] == cost.cycles


def test_constants_add_up():
    intra = replace(WORK, dataflow=INTRA, basis_vectors=18, basis_words=9)
    cross = replace(WORK, dataflow=CROSS, kernels=12, stream_vectors=4, cross_words=6)
    for work, constants, more in (
        (WORK, {"layer": 7}, 7),
        (intra, {"intra_group": 5}, 2 * 5),
        (cross, {"tile": 5}, 3 * 5),
        (cross, {"segment": 5}, 3 * 6 * 5),
        (cross, {"block": 6}, 3 * 6 * 8 * 2),  # The second block of a weight is four steps.
    ):
        base = operation_cost(work, UP5K, NOTHING).cycles
        assert operation_cost(work, UP5K, replace(NOTHING, **constants)).cycles == base + more


def test_costs_of_operations_add_up():
    one, two = operation_cost(WORK, SIM), operation_cost(replace(WORK, steps=1, taps=1), SIM)
    total = total_cost([one, one, two], 77)
    assert total.cycles == 2 * one.cycles + two.cycles
    assert total.requantiser == 2 * one.requantiser + two.requantiser
    assert (total.ideal, total.bound) == (77, "coefficients")
    nothing = total_cost([], 0)
    assert (nothing.cycles, nothing.bound) == (0, "")
