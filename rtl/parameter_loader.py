"""Loads the requantiser's parameters, one lane group ahead."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .coefficient_memory import WordPort
from .config import Configuration
from .record import PARAMETER_WORDS
from .requantiser import SHIFT, ParameterPort

__all__ = ["ParameterLoader"]


class ParameterLoader(wiring.Component):
    """Copies bias, multiplier and shift of each channel from coefficient memory.

    A layer's parameters lie one after another, three 32-bit words a channel, in front those of the
    tile where there is one. They are read as soon as the requantiser has a half free, and so
    while the lane group before is at work.

    Throughput: 3*R granted cycles a lane group, and one between.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    start : In(1)
        Start a layer.
    base : In
        32-bit word address of its parameters.
    tile : In(1)
        The first entry is the tile's.
    groups : In(8)
        Lane groups - 1.
    words : Out(WordPort)
    parameters : Out(ParameterPort)
    group_done : In(1)
        The requantiser has done with a lane group.
    started : In(1)
        A lane group begins; only while `loaded`.
    loaded : Out(1)
        The parameters of the next lane group to begin are there.
    """

    def __init__(self, config: Configuration):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "base": In(range(config.coefficient_bytes // 4)),
                "tile": In(1),
                "groups": In(8),
                "words": Out(WordPort(config)),
                "parameters": Out(ParameterPort(config)),
                "group_done": In(1),
                "started": In(1),
                "loaded": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes = self.config.lanes
        words, parameters = self.words, self.parameters

        # Ask: for the tile's words, then lane group by lane group as halves become free.
        left = Signal(range(PARAMETER_WORDS * lanes + 1))  # words to ask for
        groups = Signal(9)  # to begin
        occupied = Signal(2)  # halves being loaded or in use
        opening = Signal()
        m.d.comb += [
            opening.eq((left == 0) & (groups != 0) & (occupied != 2)),
            words.request.eq(left != 0),
        ]
        m.d.sync += occupied.eq(occupied + opening - self.group_done)
        with m.If(self.start):
            m.d.sync += [
                words.address.eq(self.base),
                left.eq(Mux(self.tile, PARAMETER_WORDS, 0)),
                groups.eq(self.groups + 1),
            ]
        with m.Elif(opening):
            m.d.sync += [left.eq(PARAMETER_WORDS * lanes), groups.eq(groups - 1)]
        with m.Elif(words.request & words.grant):
            m.d.sync += [words.address.eq(words.address + 1), left.eq(left - 1)]

        # Put in place what comes.
        entry = Signal.like(parameters.entry)
        kind = Signal(2)
        ahead = Signal(2)  # lane groups loaded and not begun
        complete = Signal()
        m.d.comb += [
            parameters.write.eq(words.valid),
            parameters.entry.eq(entry),
            parameters.kind.eq(kind),
            parameters.data.eq(words.data),
            complete.eq(
                words.valid & (kind == SHIFT) & ((entry == lanes - 1) | (entry == 2 * lanes - 1))
            ),
            self.loaded.eq(ahead != 0),
        ]
        m.d.sync += ahead.eq(ahead + complete - self.started)
        with m.If(words.valid):
            m.d.sync += kind.eq(kind + 1)
            with m.If(kind == SHIFT):
                m.d.sync += [
                    kind.eq(0),
                    entry.eq(Mux((entry == 2 * lanes) | (entry == 2 * lanes - 1), 0, entry + 1)),
                ]
        with m.If(self.start):
            m.d.sync += entry.eq(Mux(self.tile, 2 * lanes, 0))
        return m
