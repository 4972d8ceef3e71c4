"""Cycles of a layer, predicted from its shape: the cost model of the engine.

The engine runs lane groups outermost, then rows, pixels, channel groups and taps. For each output
pixel of a lane group (an *output group*) it takes as long as the slowest of four:

    array           ceil(Ci/C) * T steps
    coefficients    words of the stream segment (stored, intra), and at least one cycle a vector
    activations     one access a step; where the memory has one port, also the words written
    requantiser     ceil(R/P)

In the intra dataflow each lane group first loads its basis. In the cross dataflow it loads the
basis of all kernels and generates its weight tile: for every input channel the U of all blocks,
then for every tap the slowest of V's vectors, V's words and the R/P roundings.
Filling and draining the pipelines comes on top; `Constants` are those times of the RTL.

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
        Read a record, start and finish a layer.
    group : int
        Start a lane group and drain its last pixel.
    parameter_words : int
        Cycles a 32-bit word of the first lane group's parameters takes to load; those of the
        others load while the one before is at work.
    intra_group : int
        More for a lane group in the intra dataflow: from the basis to the first U.
    generate : int
        Start and drain the generation of a tile.
    generate_channel : int
        For each input channel of a tile.
    generate_tap : int
        For each tap of each input channel of a tile.
    pixel : int
        For each output pixel of a lane group.
    """

    program: int = 4
    layer: int = 24
    group: int = 16
    parameter_words: int = 1
    intra_group: int = 4
    generate: int = 12
    generate_channel: int = 0
    generate_tap: int = 0
    pixel: int = 0


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

    streams = work.dataflow in (STORED, INTRA)
    coefficients = max(work.stream_words, work.stream_vectors) if streams else 0
    terms = dict.fromkeys(("array", "coefficients", "activations", "requantiser"), 0)
    steady = 0
    for group in range(groups):
        written = words if group < groups - 1 else work.last_group_words
        one = {
            "array": steps,
            "coefficients": coefficients,
            "activations": steps + (written if config.activation_ports == 1 else 0),
            "requantiser": roundings,
        }
        steady += work.pixels * max(one.values())
        for name, cycles in one.items():
            terms[name] += work.pixels * cycles

    load = lanes * PARAMETER_WORDS * constants.parameter_words
    fill = constants.layer + groups * (constants.group + work.pixels * constants.pixel)
    generate = 0
    ideal = groups * steps * work.pixels
    if work.dataflow == INTRA:
        load += groups * max(work.basis_words, work.basis_vectors)
        fill += groups * constants.intra_group
    elif work.dataflow == CROSS:
        load += groups * max(work.basis_words, work.basis_vectors)
        vectors = _ceil(work.kernels, width)
        stream = max(work.stream_words, work.stream_vectors)
        tap = max(vectors, work.cross_words, roundings) + constants.generate_tap
        streamed = stream * (work.taps if work.flat else 1)
        channel = streamed + work.taps * tap + constants.generate_channel
        generate = groups * work.inputs * channel
        fill += groups * constants.generate
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
