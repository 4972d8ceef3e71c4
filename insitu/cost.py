"""Cycles of a layer, predicted from its shape: the cost model of the engine.

The engine runs lane groups outermost, then rows, pixels, channel groups and taps. A lane group
takes as long as the slowest of four, each for all its output pixels:

    array           ceil(Ci/C) * T steps
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

from dataclasses import asdict, dataclass

from rtl.config import Configuration
from rtl.record import CROSS, INTRA, PARAMETER_WORDS, STORED

__all__ = ["CONSTANTS", "Constants", "Cost", "Work", "layer_cost"]


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
        generator has to round (`generator_sum_bits` > 8).
    block : int
        At the cross level, from one block of W1 to the next; one more where the generator has to
        round.
    turns : int
        Of so many words from the coefficient memory one may be a parameter.
    """

    program: int = 4
    layer: int = 57
    wide: int = 5
    intra_group: int = 1
    tile: int = 43
    segment: int = 7
    block: int = 5
    turns: int = 4


CONSTANTS = Constants()


@dataclass(frozen=True)
class Work:
    """What the cost of a layer depends on.

    Parameters
    ----------
    dataflow : STORED, INTRA or CROSS
    flat : bool
        Cross level without an intra level.
    outputs, inputs, taps : int
        Co, Ci and T.
    pixels : int
        Output pixels.
    kernels : int
        Bo; 0 where there is no cross level.
    basis_vectors, basis_words, stream_vectors, stream_words, cross_words : int
        Of one segment each, as in the record.
    last_group_words : int
        Activation words of the last lane group.
    """

    dataflow: int
    flat: bool
    outputs: int
    inputs: int
    taps: int
    pixels: int
    kernels: int
    basis_vectors: int
    basis_words: int
    stream_vectors: int
    stream_words: int
    cross_words: int
    last_group_words: int


@dataclass(frozen=True)
class Cost:
    """Predicted cycles of a layer.

    `array`, `coefficients`, `activations` and `requantiser` are the four terms over the whole
    layer, of which each output group takes the slowest (`steady` in all); `load` is parameters
    and bases, `generate` the weight tiles, `fill` what is left. `cycles` is their total, `bound`
    the slowest term's name, `ideal` the array's work alone.
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


def layer_cost(work: Work, config: Configuration, constants: Constants = CONSTANTS) -> Cost:
    """Predict the cycles of a layer.

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
    groups = _ceil(work.outputs, lanes)
    steps = _ceil(work.inputs, width) * work.taps
    roundings = _ceil(lanes, config.requantiser_outputs)
    words = lanes // config.activation_word
    parameters = lanes * PARAMETER_WORDS

    streams = work.dataflow in (STORED, INTRA)
    terms = dict.fromkeys(("array", "coefficients", "activations", "requantiser"), 0)
    steady = 0
    load = parameters
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
        if streams and not last:
            stream = work.pixels * work.stream_words + work.basis_words
            load += _contention(stream, parameters, slowest, constants.turns)
        for name, cycles in one.items():
            terms[name] += cycles

    basis = max(work.basis_words, work.basis_vectors)
    generate = 0
    fill = constants.layer + (constants.wide if config.coefficient_port > 32 else 0)
    ideal = groups * steps * work.pixels
    if work.dataflow == INTRA:
        load += basis
        fill += (groups - 1) * max(1, basis - work.taps + constants.intra_group)
    elif work.dataflow == CROSS:
        vectors = _ceil(work.kernels, width)
        taps = 1 if work.flat else work.taps
        segments = work.inputs * work.taps // taps
        rounds = int(config.generator_sum_bits > 8)
        full, block = lanes // width, constants.block + rounds
        blocks = _ceil(work.kernels, lanes)
        paced = (blocks - 1) * max(full, block)  # all blocks of a weight but the last
        rest = vectors - (blocks - 1) * full
        weight = max(paced + max(rest, block), work.cross_words, roundings)
        ends = max(paced + rest, work.cross_words - 1)
        ends += max(work.stream_words, work.stream_vectors) + constants.segment + rounds
        segment = (taps - 1) * weight + max(ends, roundings)
        words = segments * (work.stream_words + taps * work.cross_words) + work.basis_words
        lost = _contention(words, parameters, segments * segment, constants.turns)
        load += groups * basis + (groups - 1) * lost
        generate = groups * segments * segment
        fill += groups * constants.tile
        ideal += groups * work.inputs * work.taps * vectors

    # Of equals the array: a layer that the array bounds is as fast as it can be.
    bound = max(terms, key=lambda name: (terms[name], name == "array"))
    if generate > steady:
        bound = "generation"
    return Cost(
        cycles=steady + load + generate + fill,
        ideal=ideal,
        bound=bound,
        steady=steady,
        load=load,
        generate=generate,
        fill=fill,
        **terms,
    )
