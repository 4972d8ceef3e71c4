"""The cost model: its terms by hand, and the designs' worked figures."""

from dataclasses import replace

import pytest

from insitu.cost import Constants, Work, layer_cost
from rtl.config import CONFIGURATIONS
from rtl.record import CROSS, INTRA, STORED

SIM, UP5K, ECP5 = (CONFIGURATIONS[name] for name in ("sim-8x1", "up5k", "ecp5-45f"))
NOTHING = Constants(
    program=0,
    layer=0,
    group=0,
    parameter_words=0,
    intra_group=0,
    generate=0,
    generate_channel=0,
    generate_tap=0,
    pixel=0,
)
WORK = Work(
    dataflow=STORED,
    flat=False,
    outputs=20,
    inputs=6,
    taps=9,
    pixels=10,
    kernels=0,
    basis_vectors=0,
    basis_words=0,
    stream_vectors=54,
    stream_words=27,
    cross_words=0,
    last_group_words=1,
)


def test_array_bound():
    cost = layer_cost(WORK, SIM, NOTHING)
    assert cost.cycles == cost.ideal == cost.array == 3 * 54 * 10
    assert cost.bound == "array"


def test_coefficient_bound():
    cost = layer_cost(replace(WORK, stream_words=108), SIM, NOTHING)
    assert cost.cycles == cost.coefficients == 3 * 108 * 10
    assert cost.bound == "coefficients"
    assert cost.ideal == 3 * 54 * 10


def test_one_port_adds_the_writes():
    # Two words a lane group, one for the last.
    cost = layer_cost(WORK, UP5K, NOTHING)
    assert cost.cycles == cost.activations == (56 + 56 + 55) * 10
    assert cost.bound == "activations"


def test_requantiser_bound():
    cost = layer_cost(replace(WORK, inputs=1, taps=1, stream_vectors=1), SIM, NOTHING)
    assert cost.bound == "coefficients"
    cost = layer_cost(
        replace(WORK, inputs=1, taps=1, stream_vectors=1, stream_words=1), SIM, NOTHING
    )
    assert cost.cycles == cost.requantiser == 3 * 8 * 10
    assert cost.bound == "requantiser"


def test_width_divides_the_channels():
    cost = layer_cost(replace(WORK, stream_vectors=18, stream_words=18), ECP5, NOTHING)
    assert cost.ideal == 2 * 2 * 9 * 10


def test_intra_loads_a_basis_for_each_lane_group():
    work = replace(
        WORK, dataflow=INTRA, basis_vectors=18, basis_words=9, stream_vectors=12, stream_words=6
    )
    cost = layer_cost(work, SIM, NOTHING)
    assert cost.steady == cost.ideal == 3 * 54 * 10
    assert cost.load == 3 * 18
    assert cost.cycles == cost.steady + cost.load


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
    cost = layer_cost(work, SIM, NOTHING)
    stream = 4 * (9 if flat else 1)
    assert cost.generate == 3 * 6 * (stream + 9 * 12)
    assert cost.load == 3 * 36
    assert cost.ideal == 3 * 54 * 10 + 6 * 9 * 3 * 12
    assert cost.bound == "generation"
    assert layer_cost(replace(work, kernels=5), SIM, NOTHING).generate == 3 * 6 * (stream + 9 * 8)
    assert cost.report()["cycles"] == cost.cycles


def test_constants_add_up():
    base = layer_cost(WORK, SIM, NOTHING).cycles
    for constants, more in (
        ({"layer": 7}, 7),
        ({"group": 5}, 15),
        ({"pixel": 1}, 30),
        ({"parameter_words": 1}, 24),
    ):
        assert layer_cost(WORK, SIM, replace(NOTHING, **constants)).cycles == base + more
