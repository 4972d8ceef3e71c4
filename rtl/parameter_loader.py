"""Loads the requantiser's parameters, one lane group ahead."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .coefficient_memory import WordPort
from .config import Configuration
from .requantiser import SHIFT, ParameterPort

__all__ = ["ParameterLoader"]


class ParameterLoader(wiring.Component):
    """Copies bias, multiplier and shift of each channel from coefficient memory.

    A layer's parameters lie one after another, three 32-bit words a channel, in front those of the
    tile where there is one. They are read as soon as the requantiser has a half free, and so
    while the lane group before is at work.

    Throughput: 3*R granted cycles a lane group.

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
        active = Signal()
        address = Signal.like(words.address)
        entry = Signal.like(parameters.entry)
        kind = Signal(2)
        group = Signal(8)
        occupied = Signal(2)  # halves being loaded or in use
        ahead = Signal(2)  # lane groups loaded and not begun
        tile_entry = entry == 2 * lanes
        opening = Signal()  # next comes the first word of a lane group
        granted = Signal()
        complete = Signal()
        m.d.comb += [
            opening.eq((kind == 0) & ((entry == 0) | (entry == lanes))),
            words.request.eq(active & ~(opening & (occupied == 2))),
            words.address.eq(address),
            granted.eq(words.request & words.grant),
            complete.eq(
                granted & (kind == SHIFT) & ((entry == lanes - 1) | (entry == 2 * lanes - 1))
            ),
            self.loaded.eq(ahead != 0),
            parameters.data.eq(words.data),
        ]
        m.d.sync += [
            parameters.write.eq(granted),
            parameters.entry.eq(entry),
            parameters.kind.eq(kind),
            ahead.eq(ahead + complete - self.started),
            occupied.eq(occupied + (granted & opening) - self.group_done),
        ]
        with m.If(granted):
            m.d.sync += [address.eq(address + 1), kind.eq(kind + 1)]
            with m.If(kind == SHIFT):
                m.d.sync += [
                    kind.eq(0),
                    entry.eq(Mux(tile_entry | (entry == 2 * lanes - 1), 0, entry + 1)),
                ]
            with m.If(complete):
                m.d.sync += [group.eq(group + 1), active.eq(group != self.groups)]
        with m.If(self.start):
            m.d.sync += [
                active.eq(1),
                address.eq(self.base),
                entry.eq(Mux(self.tile, 2 * lanes, 0)),
                kind.eq(0),
                group.eq(0),
            ]
        return m
