"""The cost model: its terms and a way through the engine by hand, and what it leaves out.

That its cycles are the RTL's is tested with the RTL (`tests/rtl/test_random_layers.py` and others).
"""

from dataclasses import replace

import numpy as np
import pytest

from golden.decode import segment_words
from insitu.control import Segments, trace
from insitu.cost import Work, _shape, _shorter, operation_cost, program_cycles, total_cost
from rtl.config import CONFIGURATIONS
from rtl.record import CROSS, INTRA, RECORD_WORDS, STORED, TILE

SIM, UP5K, ECP5 = (CONFIGURATIONS[name] for name in ("sim-8x1", "up5k", "ecp5-45f"))
PARAMETERS = 24  # words of a lane group of 8
WORK = Work(
    dataflow=STORED,
    groups=3,
    steps=54,
    taps=9,
    pixels=10,
    words=1,
    last_group_words=1,
    stream=Segments(4, 54, 27),
)
"""Six channels, nine taps."""


def test_a_step_by_hand():
    """From the start: 24 parameters, a word of weights, the array, eight sums, results.

    Parameters are asked for from cycle 2 on, read from 3 on and there 3 cycles later, the last in
    cycle 29. The fetch starts in 30, the word is read in 31, in the queue in 33, in the decoder and
    issued in 34; its weights come in 36, its sums in 40 to 47, the last result in 55. Before that a
    step of the program and a record of 19 words are read.
    """
    one = replace(WORK, groups=1, steps=1, taps=1, pixels=1, stream=Segments(8, 1, 1))
    step, record, begin = 5, 19 + 4, 1
    assert operation_cost(one, SIM).cycles == step + record + begin + 55
    assert program_cycles(SIM) == step
    # Narrower words are there a cycle earlier; of 16 parameters, and of a step's two reads.
    packed = replace(one, stream=Segments(4, 1, 1))
    assert operation_cost(packed, UP5K).cycles == step + record + begin + 55 - 3 - 8


def test_array_bound():
    cost = operation_cost(WORK, SIM)
    assert cost.ideal == cost.array == cost.steady == 3 * 54 * 10
    assert cost.bound == "array"
    assert cost.cycles == cost.steady + cost.overhead
    more = operation_cost(replace(WORK, pixels=110), SIM)
    assert more.cycles == cost.cycles + 3 * 54 * 100


def test_coefficient_bound():
    busy = replace(WORK, stream=Segments(8, 54, 108))
    cost = operation_cost(busy, SIM)
    assert cost.steady == cost.coefficients == 3 * 108 * 10
    assert cost.bound == "coefficients"
    assert cost.ideal == 3 * 54 * 10


def test_parameters_hold_up_a_busy_stream():
    """Those of the second and of the third lane group take a cycle each, if no word has it left."""
    full, half = (
        operation_cost(replace(WORK, stream=Segments(bits, 54, words)), SIM).cycles
        for bits, words in ((8, 54), (4, 27))
    )
    assert abs(full - half - 2 * PARAMETERS) <= 2


def test_short_lane_groups_wait_for_their_parameters():
    """Of two halves of their memory one is free when a lane group is done."""
    short = replace(WORK, pixels=1, steps=8, taps=8, groups=43, stream=Segments(2, 8, 2))
    cycles = [operation_cost(replace(short, groups=groups), SIM).cycles for groups in (23, 43)]
    # From the last step of a lane group until the next but one may start: 2 + 4 + 7 to its last
    # sums, 3 until its half is free, 2 until its parameters are asked for, 24 of them, and 3 until
    # the last is there. Then it starts, its words take 4 cycles and its 8 steps 7 more.
    around = 13 + 3 + 2 + PARAMETERS + 3 + 1 + 4 + 7
    assert cycles[1] - cycles[0] == pytest.approx(20 * around / 2, abs=20 * 2)


def test_uniform_layers_have_fewer_parameters():
    short = replace(WORK, pixels=1, steps=8, taps=8, groups=20, stream=Segments(2, 8, 2))
    fewer = operation_cost(replace(short, uniform=True), SIM).cycles
    assert fewer <= operation_cost(short, SIM).cycles - 10 * 16


@pytest.mark.parametrize(("config", "each"), [(UP5K, 7), (SIM, 8)])
def test_tables_are_loaded(config, each):
    """A word is asked for, read and comes, and its bytes are written one by one."""
    work = replace(WORK, stream=Segments(1, 54, 14))
    table = operation_cost(replace(work, table=True), config).cycles
    assert abs(table - operation_cost(work, config).cycles - 64 * each) <= 2


def test_intra_waits_for_a_slot():
    work = replace(WORK, dataflow=INTRA, steps=12, taps=2, basis=Segments(4, 4, 2))
    # Two slots filled and read, in five cycles.
    slow = replace(work, terms=2, stream=Segments(1, 12, 2))
    assert operation_cost(slow, SIM).coefficients == 3 * 10 * 6 * 5 // 2
    more = operation_cost(replace(slow, pixels=110), SIM).cycles
    assert more - operation_cost(slow, SIM).cycles == 3 * 100 * 6 * 5 // 2
    fast = replace(work, stream=Segments(1, 6, 1))
    assert operation_cost(fast, SIM).coefficients == 3 * 10 * 12


def test_one_port_adds_the_writes():
    # Two words a lane group, one for the last.
    work = replace(WORK, words=2)
    cost = operation_cost(work, UP5K)
    assert cost.steady == cost.activations == (56 + 56 + 55) * 10
    assert cost.bound == "activations"
    more = operation_cost(replace(work, pixels=110), UP5K)
    assert more.cycles - cost.cycles == (56 + 56 + 55) * 100


def test_requantiser_bound():
    one = replace(WORK, steps=1, taps=1, stream=Segments(8, 1, 1))
    cost = operation_cost(one, SIM)
    assert cost.steady == cost.requantiser == 3 * 8 * 10
    assert cost.bound == "requantiser"


@pytest.mark.parametrize("flat", [False, True])
def test_cross_generates_a_tile_for_each_lane_group(flat):
    work = replace(
        WORK,
        dataflow=CROSS,
        flat=flat,
        words=2,
        repeats=54 if flat else 6,
        terms=2,
        kernels=12,
        basis=Segments(2, 4 if flat else 36, 2 if flat else 18),
        stream=Segments(4, 4, 4),
        cross=Segments(4, 12, 12),
    )
    cost = operation_cost(work, UP5K)
    assert cost.ideal == 3 * 54 * 10 + 6 * 9 * 3 * 12
    assert cost.coefficients == 0
    # V of a tap takes 12 cycles; U and the way through the generator come once a segment.
    assert cost.generate >= 3 * 54 * 12
    assert cost.generate <= 3 * (54 * 12 + work.repeats * 20)
    assert cost.cycles == cost.steady + cost.generate + cost.overhead
    # Five kernels are summed faster than eight lanes are rounded.
    few = replace(work, kernels=5, stream=Segments(2, 2, 1), cross=Segments(4, 5, 5))
    assert operation_cost(few, UP5K).generate >= 3 * 54 * 8
    assert cost.report()["cycles"] == cost.cycles


def random_work(rng, config):
    """An operation of a shape that the compiler might make."""
    dataflow = int(rng.choice([STORED, STORED, INTRA, CROSS, TILE]))
    taps, channels = int(rng.integers(1, 10)), int(rng.choice([1, 2, 5, 30, 120]))
    words = config.lanes // config.activation_word
    work = Work(
        dataflow=dataflow,
        groups=1 if dataflow == TILE else int(rng.choice([1, 2, 3, 5, 12, 40])),
        steps=taps * channels,
        taps=taps,
        pixels=int(rng.choice([1, 2, 5, 17, 50, 150])),
        words=words,
        last_group_words=int(rng.integers(1, words + 1)),
        uniform=bool(rng.integers(2)) and dataflow != CROSS,
        table=bool(rng.random() < 0.1),
    )

    def segments(vectors):
        bits = int(rng.integers(1, 9))
        return Segments(bits, vectors, segment_words(vectors, bits, config.stripe_bits))

    terms = int(rng.integers(1, 1 + config.generator_terms))
    if dataflow == STORED:
        return replace(work, stream=segments(work.steps))
    if dataflow == INTRA:
        basis = segments(taps * -(-terms // config.width))
        return replace(work, terms=terms, basis=basis, stream=segments(channels * terms))
    if dataflow == TILE:
        return work
    kernels, flat = int(rng.integers(1, 40)), bool(rng.integers(2))
    vectors = -(-kernels // config.lanes) * (1 if flat else -(-terms // config.width))
    return replace(
        work,
        flat=flat,
        repeats=channels * (taps if flat else 1),
        terms=1 if flat else terms,
        kernels=kernels,
        basis=segments(vectors if flat else vectors * taps),
        stream=segments(vectors),
        cross=segments(-(-kernels // config.width)),
    )


@pytest.mark.parametrize("config", CONFIGURATIONS.values(), ids=lambda one: one.name)
def test_what_is_left_out_of_long_operations(config, seed):
    """Shortened or whole, an operation takes the same cycles, or almost."""
    shortened = 0
    rng = np.random.default_rng(seed)
    while shortened < 25:
        work = random_work(rng, config)
        cost = operation_cost(work, config)
        if _shorter(work, config) == work or cost.cycles > 20_000:
            continue
        before = RECORD_WORDS + 2 * program_cycles(config) - 1
        whole = before + trace(_shape(work, config), config).end + 1
        assert abs(cost.cycles - whole) <= max(8, 0.005 * whole), (seed, work, cost.cycles, whole)
        shortened += 1


def test_large_layers_are_made_short():
    """3 x 3 kernels from 512 to 512 channels, 56 x 56 pixels."""
    steps = 9 * 512
    large = replace(WORK, groups=64, steps=steps, pixels=56 * 56, stream=Segments(8, steps, steps))
    short = _shorter(large, SIM)
    assert short.groups * short.pixels * short.steps <= 10_000
    cost = operation_cost(large, SIM)
    assert cost.ideal <= cost.cycles <= 1.001 * cost.ideal


def test_costs_of_operations_add_up():
    one, two = operation_cost(WORK, SIM), operation_cost(replace(WORK, steps=1, taps=1), SIM)
    total = total_cost([one, one, two], 77)
    assert total.cycles == 2 * one.cycles + two.cycles
    assert total.requantiser == 2 * one.requantiser + two.requantiser
    assert (total.ideal, total.bound) == (77, "coefficients")
    nothing = total_cost([], 0)
    assert (nothing.cycles, nothing.bound) == (0, "")
