"""Loads the requantiser's parameters, one lane group ahead."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .coefficient_memory import WordPort
from .config import Configuration
from .record import TABLE_WORDS
from .requantiser import MULTIPLIER, SHIFT, ParameterPort, TablePort

__all__ = ["ParameterLoader"]


class ParameterLoader(wiring.Component):
    """Copies bias, multiplier and shift of each channel from coefficient memory.

    A layer's parameters lie one after another, three 32-bit words a channel (two where they are
    packed, the shift above the bias), or only the first where the layer is uniform. In front there
    is the table, if there is one, then entry 2R, if the layer generates tiles or is uniform. They
    are read as soon as the requantiser has a half free, and so while the lane group before is at
    work.

    Throughput: 3*R granted cycles a lane group (packed: 2*R, uniform: R), and one between. A word
    of the table takes until its four bytes are written.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    start : In(1)
        Start a layer.
    base : In
        32-bit word address of its parameters.
    tile, uniform : In(1)
        The layer generates tiles, or is uniform.
    look_up : In(1)
        There is a table.
    groups : In(8)
        Lane groups - 1.
    words : Out(WordPort)
    parameters : Out(ParameterPort)
    table : Out(TablePort)
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
                "uniform": In(1),
                "look_up": In(1),
                "groups": In(8),
                "words": Out(WordPort(config)),
                "parameters": Out(ParameterPort(config)),
                "table": Out(TablePort()),
                "group_done": In(1),
                "started": In(1),
                "loaded": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes, size = self.config.lanes, self.config.parameter_words
        words, parameters = self.words, self.parameters

        # Ask: for the table and entry 2R, then lane group by lane group as halves become free.
        most = max(size * lanes, TABLE_WORDS + size)
        left = Signal(range(most + 1))  # words to ask for
        common = Signal()
        tabled = Signal(range(4 * TABLE_WORDS + 1))  # bytes of the table that are to come
        groups = Signal(9)  # to begin
        occupied = Signal(2)  # halves being loaded or in use
        opening = Signal()
        waits = Signal()  # until a word of the table is written
        m.d.comb += [
            common.eq(self.tile | self.uniform),
            opening.eq((left == 0) & (groups != 0) & (occupied != 2)),
            words.request.eq((left != 0) & ~waits),
        ]
        m.d.sync += occupied.eq(occupied + opening - self.group_done)
        with m.If(self.start):
            m.d.sync += [
                words.address.eq(self.base),
                left.eq(Mux(self.look_up, TABLE_WORDS, 0) + Mux(common, size, 0)),
                groups.eq(self.groups + 1),
            ]
        with m.Elif(opening):
            m.d.sync += [
                left.eq(Mux(self.uniform, lanes, size * lanes)),
                groups.eq(groups - 1),
            ]
        with m.Elif(words.request & words.grant):
            m.d.sync += [
                words.address.eq(words.address + 1),
                left.eq(left - 1),
                waits.eq(tabled != 0),
            ]

        # Put in place what comes.
        byte = Signal(2)  # of the word that came
        comes = Signal()  # a parameter
        entry = Signal.like(parameters.entry)
        kind = Signal(2)
        last = MULTIPLIER if self.config.parameters_packed else SHIFT
        ahead = Signal(2)  # lane groups loaded and not begun
        ends = Signal()  # of the parameters of a channel
        complete = Signal()
        m.d.comb += [
            self.table.write.eq((words.valid & (tabled != 0)) | (byte != 0)),
            self.table.entry.eq(-tabled),
            self.table.data.eq(words.data.word_select(byte, 8)),
            comes.eq(words.valid & (tabled == 0)),
            parameters.write.eq(comes),
            parameters.entry.eq(entry),
            parameters.kind.eq(kind),
            parameters.data.eq(words.data),
            ends.eq((kind == last) | (self.uniform & (entry != 2 * lanes))),
            complete.eq(comes & ends & ((entry == lanes - 1) | (entry == 2 * lanes - 1))),
            self.loaded.eq(ahead != 0),
        ]
        m.d.sync += ahead.eq(ahead + complete - self.started)
        with m.If(self.table.write):
            m.d.sync += [tabled.eq(tabled - 1), byte.eq(byte + 1)]
            with m.If(byte == 3):
                m.d.sync += waits.eq(0)
        with m.If(comes):
            m.d.sync += kind.eq(kind + 1)
            with m.If(ends):
                m.d.sync += [
                    kind.eq(0),
                    entry.eq(Mux((entry == 2 * lanes) | (entry == 2 * lanes - 1), 0, entry + 1)),
                ]
        with m.If(self.start):
            m.d.sync += [
                entry.eq(Mux(common, 2 * lanes, 0)),
                tabled.eq(Mux(self.look_up, 4 * TABLE_WORDS, 0)),
            ]
        return m
