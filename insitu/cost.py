"""Cycles of an operation, predicted from its shape: the cost model of the engine.

The engine runs lane groups outermost, then rows, pixels, channel groups and taps. A lane group
takes as long as the slowest of four, each for all its output pixels:

    array           steps: ceil(Ci/C) * T, or depthwise the taps of each word
    coefficients    words of the stream segment (stored, intra), and at least one cycle a vector, or
                    where U follows U (intra) half of Bi + T + 1 for each channel group
    activations     one access a step; where the memory has one port, also the words written
    requantiser     ceil(R/P)

That is where the time goes. How much it is to the cycle depends on how parameters, bases and the
stream share one memory, and on what waits for what between lane groups; therefore the control is
run (`insitu.control`), of a shorter operation where this one is long: of so many channel groups,
pixels, segments and lane groups that more of them repeat what was. The rest is added at the pace
that was reached.

`ideal_cycles` is the array's work alone, from the shapes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache

from golden.decode import segment_words
from insitu.control import Delays, Segments, Shape, trace
from rtl.coefficient_memory import WORD_TURNS
from rtl.config import Configuration
from rtl.record import CROSS, INTRA, RECORD_WORDS, STORED

__all__ = ["Cost", "Work", "operation_cost", "program_cycles", "total_cost"]

_SETTLED = 64
"""Cycles after which pixels follow each other at their pace, if no parameters are read."""

_PIXEL = 256
"""Cycles of a pixel beyond which channel groups may be left out."""

_FEW, _MORE = 4, 17
"""Pixels, segments or lane groups of which the last repeat what was; those that wait for parameters
take longer for that."""

_NONE = Segments()


@dataclass(frozen=True)
class Work:
    """What the cost of an operation depends on.

    Parameters
    ----------
    dataflow : STORED, INTRA, CROSS or TILE
    groups : int
        Lane groups.
    steps, taps : int
        Of an output pixel, and of a channel group.
    pixels : int
        Output pixels.
    words, last_group_words : int
        Activation words written of a pixel; in the last lane group.
    repeats : int
        Stream segments of a lane group.
    terms, kernels : int
        Bi, and Bo; 0 where there is no cross level.
    basis, stream, cross : Segments
        A stream segment is of one pixel; at the cross level of one input channel or, where there is
        no intra level, of a tap of it.
    flat : bool
        Cross level without an intra level.
    table, uniform : bool
        There is a table to load; channels have biases only.
    """

    dataflow: int
    groups: int
    steps: int
    taps: int
    pixels: int
    words: int
    last_group_words: int
    repeats: int = 0
    terms: int = 1
    kernels: int = 0
    basis: Segments = _NONE
    stream: Segments = _NONE
    cross: Segments = _NONE
    flat: bool = False
    table: bool = False
    uniform: bool = False

    @property
    def streams(self) -> bool:
        """Whether each pixel has a stream segment of its own."""
        return self.dataflow in (STORED, INTRA)

    @property
    def tile_taps(self) -> int:
        """Cross segments behind each stream segment."""
        return 1 if self.flat else self.taps


@dataclass(frozen=True)
class Cost:
    """Predicted cycles of an operation, or of a layer's operations.

    `array`, `coefficients`, `activations` and `requantiser` are the four terms over all of it, of
    which each lane group takes the slowest (`steady` in all); `generate` the weight tiles;
    `overhead` what is left: the record, bases, parameters and tables, filling and draining.
    `cycles` is their total, `bound` the slowest term's name, `ideal` the array's work alone.
    """

    cycles: int
    ideal: int
    bound: str
    array: int
    coefficients: int
    activations: int
    requantiser: int
    steady: int
    generate: int
    overhead: int

    def report(self) -> dict[str, int | str]:
        """The figures as plain data."""
        return asdict(self)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def program_cycles(config: Configuration) -> int:
    """Cycles of a program on top of its operations': those of its last step."""
    return Delays(config).word + 2


def operation_cost(work: Work, config: Configuration) -> Cost:
    """Predict the cycles of an operation.

    Parameters
    ----------
    work : Work
    config : Configuration

    Returns
    -------
    Cost
    """
    each, last = (_terms(work, config, words) for words in (work.words, work.last_group_words))
    terms = {name: (work.groups - 1) * each[name] + last[name] for name in each}
    steady = (work.groups - 1) * max(each.values()) + max(last.values())
    ran, generate = _run(work, config)
    ideal = work.groups * work.steps * work.pixels
    if work.dataflow == CROSS:
        ideal += work.groups * work.repeats * work.tile_taps * work.cross.vectors
    figures = {**terms, "steady": steady, "generate": generate}
    cycles = RECORD_WORDS + 2 * Delays(config).word + 3 + ran
    figures["overhead"] = cycles - steady - generate
    return Cost(cycles=cycles, ideal=ideal, bound=_bound(figures), **figures)


def _terms(work: Work, config: Configuration, words: int) -> dict[str, int]:
    """The four terms of a lane group that writes so many words of a pixel."""
    coefficients = 0
    if work.streams:
        coefficients = work.pixels * work.stream.vectors
        if work.dataflow == INTRA:
            # Two slots of U: one is filled, with a cycle on top, in the time of the other's taps.
            slots = work.pixels * work.steps // work.taps
            coefficients = max(coefficients, _ceil(coefficients + slots * (work.taps + 1), 2))
        coefficients = max(coefficients, work.pixels * work.stream.words)
    return {
        "array": work.pixels * work.steps,
        "coefficients": coefficients,
        "activations": work.pixels * (work.steps + (words if config.activation_ports == 1 else 0)),
        "requantiser": work.pixels * Delays(config).rows,
    }


def _pixel(work: Work, config: Configuration) -> float:
    """Cycles of a pixel."""
    return max(_terms(work, config, work.words).values()) / work.pixels


def _run(work: Work, config: Configuration) -> tuple[int, int]:
    """Cycles of an operation from the start of its blocks, and how many of them make tiles."""
    short = _shorter(work, config)
    ran = _trace(_shape(short, config), config)
    cycles = ran.end + 1.0
    if work.groups > short.groups:
        ends = [pixels[-1] for pixels in ran.pixels]
        cycles += (work.groups - short.groups) * _pace(ends[:-1])
    generate = 0.0
    if work.dataflow == CROSS:
        done = [*ran.segments[-1], ran.tiles[-1]]
        pace = _pace(done[:-1] if short.repeats > 1 else done)
        cycles += work.groups * (work.repeats - short.repeats) * pace
        generate = work.groups * work.repeats * pace
    for groups, words, pixels in (
        (work.groups - 1, work.words, ran.pixels[-2:][0]),
        (1, work.last_group_words, ran.pixels[-1]),
    ):
        whole, shorter = (max(_terms(one, config, words).values()) for one in (work, short))
        more: float = whole - shorter
        if work.dataflow == INTRA and work.pixels > short.pixels:
            # Slots of U and other waits mesh: no term alone is the pace.
            narrow = replace(short, pixels=work.pixels)
            more = whole - max(_terms(narrow, config, words).values())
            more += (work.pixels - short.pixels) * (pixels[-1] - pixels[-_MORE]) / (_MORE - 1)
        cycles += groups * more
    return round(cycles), round(generate)


def _pace(times: list[int]) -> float:
    """From one to the next, of the later half."""
    several = len(times) // 2
    return (times[-1] - times[-1 - several]) / several


_trace = lru_cache(maxsize=4096)(trace)


def _shorter(work: Work, config: Configuration) -> Work:
    """An operation that is as long as it takes to find its pace."""
    read = 0.0  # words of the stream while a lane group's parameters are read
    if work.groups > 1:
        read = WORD_TURNS * config.lanes * (1 if work.uniform else config.parameter_words)
    if not work.streams:
        if work.dataflow == CROSS:
            words = work.stream.words + work.tile_taps * work.cross.words
            work = replace(work, repeats=min(work.repeats, _ceil(int(read), words) + _MORE))
        work = replace(work, steps=min(work.steps, _SETTLED))
        pixels = max(_FEW, _ceil(_SETTLED, work.steps))
        return replace(work, pixels=min(work.pixels, pixels), groups=min(work.groups, _FEW))
    span = _SETTLED + read * max(1.0, _pixel(work, config) / work.stream.words)
    work = _narrower(work, max(_PIXEL, span / work.pixels), config)
    pixel = _pixel(work, config)
    pixels = max(_FEW, int(span / pixel) + 1) + (_MORE if work.dataflow == INTRA else 0)
    pixels = min(work.pixels, pixels)
    groups = _FEW if pixels * pixel >= span else _MORE
    groups += (work.groups - groups) % 2  # Where they wait, every other one takes longer.
    return replace(work, pixels=pixels, groups=min(work.groups, groups))


def _narrower(work: Work, pixel: float, config: Configuration) -> Work:
    """One with no more channel groups than make a pixel of so many cycles."""
    channels = work.steps // work.taps
    fewer = min(channels, int(channels * pixel / _pixel(work, config)) + 1)
    vectors = work.stream.vectors // channels * fewer
    words = segment_words(vectors, work.stream.bits, config.stripe_bits)
    return replace(
        work,
        steps=fewer * work.taps,
        stream=Segments(work.stream.bits, vectors, words),
    )


def _shape(work: Work, config: Configuration) -> Shape:
    """What the control sees of an operation."""
    cross, intra = work.dataflow == CROSS, work.dataflow == INTRA
    blocks = _ceil(work.kernels, config.lanes) if cross else 1
    last_block = work.kernels - (blocks - 1) * config.lanes
    size = config.parameter_words
    return Shape(
        dataflow=work.dataflow,
        groups=work.groups,
        steps=work.steps,
        pixels=work.pixels,
        basis=work.basis,
        stream=work.stream,
        cross=work.cross,
        repeats=work.pixels if work.streams else work.repeats,
        slot_vectors=work.stream.vectors if cross else work.terms if intra else 0,
        slot_weights=work.tile_taps * blocks if cross else work.taps if intra else 0,
        blocks=blocks,
        last_block_steps=_ceil(last_block, config.width) if cross else 1,
        taps=work.tile_taps,
        words=work.words,
        last_group_words=work.last_group_words,
        common_words=size if cross or work.uniform else 0,
        group_words=config.lanes * (1 if work.uniform else size),
        table=work.table,
    )


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
