"""Cycles of an operation, predicted from its shape: the cost model of the engine.

The engine runs lane groups outermost, then rows, pixels, channel groups and taps. A lane group
takes as long as the slowest of four, each for all its output pixels:

    array           steps: ceil(Ci/C) * T, or depthwise the taps of each word
    coefficients    words of the stream segment (stored, intra), and at least one cycle a vector, or
                    where U follows U (intra) half of Bi + T + 1 for each channel group
    activations     one access a step; where the memory has one port, also the words written
    requantiser     ceil(R/P)

The parameters of the next lane group are read while a lane group begins, and hold it up where its
stream needs more than three cycles in four of the memory.

In the intra dataflow each lane group first loads its basis, all but the first while the last taps
of the one before are at work. In the cross dataflow it loads the basis of all kernels and generates
its weight tile: for every stream segment (an input channel, or one tap of it where there is no
intra level) its vectors of U and then, for each tap, V: or as long as rounding takes, or as the
generator takes for the blocks of W1, if that is longer. Filling and draining the pipelines comes on
top; `Constants` are those times of the RTL, fitted to it (tests/rtl/test_accelerator.py).

`ideal_cycles` is the array's work alone, from the shapes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from rtl.config import Configuration
from rtl.record import CROSS, INTRA, STORED, TABLE_WORDS

__all__ = ["CONSTANTS", "Constants", "Cost", "Work", "operation_cost", "total_cost"]


@dataclass(frozen=True)
class Constants:
    """Cycles of the RTL that no shape explains.

    Parameters
    ----------
    program : int
        From start to the first layer's record, and from the last layer to done.
    layer : int
        Read a record, fill and drain the pipeline.
    wide : int
        The same, on top, where a 32-bit word is a part of the coefficient memory's.
    intra_group : int
        For a lane group but the first in the intra dataflow: from the last U before its basis to
        its first U, less the `taps` cycles in which that works.
    tile : int
        Start and drain the generation of a tile, and start the pixels.
    segment : int
        From the last U of a stream segment to its first W1 at the multipliers; one more where the
        generator has to round (`generator_sum_bits` > 8), and where memory is slow.
    block : int
        At the cross level, from one block of W1 to the next; as `segment`.
    turns : int
        Of so many words from the coefficient memory one may be a parameter.
    round_trip : int
        From a lane group's last step until its parameters' memory is free, and from the arrival of
        parameters to the first step of their lane group.
    late : int
        For a lane group whose parameters arrive last of all.
    buffered : int
        Words of a stream that wait outside the coefficient memory.
    table : int
        For a word of a table; `wide` counts here too, but only one of it.
    """

    program: int = 4
    layer: int = 57
    wide: int = 5
    intra_group: int = 1
    tile: int = 43
    segment: int = 7
    block: int = 4
    turns: int = 4
    round_trip: int = 24
    late: int = 3
    buffered: int = 6
    table: int = 7


CONSTANTS = Constants()


@dataclass(frozen=True)
class Work:
    """What the cost of an operation depends on.

    Parameters
    ----------
    dataflow : STORED, INTRA, CROSS or TILE
    flat : bool
        Cross level without an intra level.
    groups : int
        Lane groups.
    steps, taps : int
        Of an output pixel, and of a channel group.
    pixels : int
        Output pixels.
    inputs : int
        Ci, at the cross level.
    kernels : int
        Bo; 0 where there is no cross level.
    basis_vectors, basis_words, stream_vectors, stream_words, cross_words : int
        Of one segment each, as in the record.
    last_group_words : int
        Activation words of the last lane group.
    table, uniform : bool
        There is a table to load; channels have biases only.
    """

    dataflow: int
    flat: bool
    groups: int
    steps: int
    taps: int
    pixels: int
    inputs: int
    kernels: int
    basis_vectors: int
    basis_words: int
    stream_vectors: int
    stream_words: int
    cross_words: int
    last_group_words: int
    table: bool = False
    uniform: bool = False


@dataclass(frozen=True)
class Cost:
    """Predicted cycles of an operation, or of a layer's operations.

    `array`, `coefficients`, `activations` and `requantiser` are the four terms over all of it, of
    which each output group takes the slowest (`steady` in all); `load` is parameters, bases and
    tables, `generate` the weight tiles, `fill` what is left. `cycles` is their total, `bound` the
    slowest term's name, `ideal` the array's work alone.
    """

    cycles: int
    ideal: int
    bound: str
    array: int
    coefficients: int
    activations: int
    requantiser: int
    steady: int
    load: int
    generate: int
    fill: int

    def report(self) -> dict[str, int | str]:
        """The figures as plain data."""
        return asdict(self)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _contention(words: int, parameters: int, available: int, turns: int) -> int:
    """Cycles that a lane group of `available` cycles loses to the parameters of the next.

    They are read as soon as it begins, each where the stream gives up one cycle in `turns`; and
    the memory has a cycle for each.
    """
    busy = words / available
    turned = parameters * (turns - (turns - 1) / busy) if busy * turns > turns - 1 else 0
    return max(round(turned), words + parameters - available, 0)


def _waiting(
    words: int, parameters: int, available: int, behind: int, group: int, constants: Constants
) -> int:
    """Cycles that a lane group of `available` cycles waits for the parameters of the next.

    All its steps are issued `behind` cycles before its end, less what the way behind is longer.
    From the second on these are read when the group before is done: two groups take at least one
    group's cycles, the way from its last step through the requantiser and to the first step of the
    next but one, and the reading.
    """
    lost = _contention(words, parameters + 1, available, constants.turns)
    if group == 0:
        return lost
    reading = parameters * constants.turns
    if lost and reading > available - constants.round_trip:
        lost += constants.late
    # The stream takes its turns, of which some are over. Where it is slow, memory waits with it.
    wanted = max(0, words - constants.buffered)
    taken = wanted // (constants.turns - 1)  # parameters meanwhile
    pace = max(1.0, available / max(1, words))
    reading = min(reading, int(wanted * pace) + max(parameters - taken, taken))
    return max(lost, _ceil(constants.round_trip + reading - available - behind, 2))


def operation_cost(work: Work, config: Configuration, constants: Constants = CONSTANTS) -> Cost:
    """Predict the cycles of an operation.

    Parameters
    ----------
    work : Work
    config : Configuration
    constants : Constants, optional

    Returns
    -------
    Cost
    """
    lanes, width = config.lanes, config.width
    groups, steps = work.groups, work.steps
    roundings = _ceil(lanes, config.requantiser_outputs)
    words = lanes // config.activation_word
    parameters = lanes * (1 if work.uniform else config.parameter_words)

    streams = work.dataflow in (STORED, INTRA)
    basis = max(work.basis_words, work.basis_vectors)
    terms = dict.fromkeys(("array", "coefficients", "activations", "requantiser"), 0)
    steady = 0
    load = parameters + (config.parameter_words if work.uniform else 0)
    vectors = work.stream_vectors
    if work.dataflow == INTRA:
        # Two slots of U: one is filled, with a cycle on top, in the time of the other's taps.
        vectors = max(vectors, _ceil(vectors + (steps // work.taps) * (work.taps + 1), 2))
    for group in range(groups):
        last = group == groups - 1
        written = work.last_group_words if last else words
        one = {
            "array": work.pixels * steps,
            "coefficients": 0,
            "activations": work.pixels * (steps + (written if config.activation_ports == 1 else 0)),
            "requantiser": work.pixels * roundings,
        }
        if streams:
            one["coefficients"] = work.pixels * max(work.stream_words, vectors)
        slowest = max(one.values())
        steady += slowest
        # A pixel's sums are requantised behind it, and those of the last while nothing else is.
        fed = max(one["array"], one["coefficients"], one["activations"]) // work.pixels
        behind = max(0, roundings - fed)
        if last:
            steady -= behind
        elif streams:
            stream = work.pixels * work.stream_words + work.basis_words
            later = behind - basis - 2 * config.slow_memory
            load += _waiting(stream, parameters, slowest, later, group, constants)
        for name, cycles in one.items():
            terms[name] += cycles

    generate = 0
    fill = constants.layer + (constants.wide if config.coefficient_port > 32 else 0)
    ideal = groups * steps * work.pixels
    if work.table:
        load += TABLE_WORDS * (constants.table + (config.coefficient_port > 32))
    if work.dataflow == INTRA:
        load += basis
        fill += (groups - 1) * max(1, basis - work.taps + constants.intra_group)
    elif work.dataflow == CROSS:
        vectors = _ceil(work.kernels, width)
        taps = 1 if work.flat else work.taps
        segments = work.inputs * work.taps // taps
        delays = int(config.generator_sum_bits > 8) + config.slow_memory
        full, block = lanes // width, constants.block + delays
        blocks = _ceil(work.kernels, lanes)
        paced = (blocks - 1) * max(full, block)  # all blocks of a weight but the last
        rest = vectors - (blocks - 1) * full
        weight = max(paced + max(rest, block), work.cross_words, roundings)
        ends = max(paced + rest, work.cross_words - 1)
        ends += max(work.stream_words, work.stream_vectors) + constants.segment + delays
        segment = (taps - 1) * weight + max(ends, roundings)
        words = segments * (work.stream_words + taps * work.cross_words) + work.basis_words
        lost = _contention(words, parameters, segments * segment, constants.turns)
        load += groups * basis + (groups - 1) * lost
        generate = groups * segments * segment
        fill += groups * constants.tile
        ideal += groups * work.inputs * work.taps * vectors

    figures = {**terms, "steady": steady, "load": load, "generate": generate, "fill": fill}
    cycles = steady + load + generate + fill
    return Cost(cycles=cycles, ideal=ideal, bound=_bound(figures), **figures)


def _bound(figures: dict[str, int]) -> str:
    """The slowest term. Of equals the array: what it bounds is as fast as it can be."""
    if figures["generate"] > figures["steady"]:
        return "generation"
    terms = ("array", "coefficients", "activations", "requantiser")
    return max(terms, key=lambda name: (figures[name], name == "array"))


def total_cost(costs: Sequence[Cost], ideal: int) -> Cost:
    """The cost of operations one after the other; `ideal` is that of what they do together."""
    names = [field.name for field in fields(Cost) if field.name not in ("cycles", "ideal", "bound")]
    figures = {name: sum(getattr(cost, name) for cost in costs) for name in names}
    cycles = sum(cost.cycles for cost in costs)
    return Cost(cycles=cycles, ideal=ideal, bound=_bound(figures) if costs else "", **figures)
