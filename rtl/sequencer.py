"""Runs a program without the host."""

from amaranth import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .address_generator import StepPort
from .coefficient_memory import WordPort
from .config import Configuration
from .record import (
    CROSS,
    FIELDS,
    FIRST_WALK_WORD,
    OP_END,
    OP_LAYER,
    RECORD_WORDS,
    TILE,
    WALK_WORDS,
    field_bits,
)

__all__ = ["Sequencer", "record_layout"]


def record_layout(config):
    """The fields of a layer record, as wide as this configuration can use them.

    Without those that the address generator keeps (`rtl.record.WALK_WORDS`).
    """
    bits = field_bits(config)
    return data.StructLayout(
        {
            name: signed(bits[name]) if field.signed else bits[name]
            for name, field in FIELDS.items()
            if not _walks(field.word)
        }
    )


def _walks(word):
    """Whether a word of a record goes to the address generator as it is."""
    return FIRST_WALK_WORD <= word < FIRST_WALK_WORD + len(WALK_WORDS)


class Sequencer(wiring.Component):
    """Reads the program's steps and layer records, and starts each layer.

    A layer on the tile goes lane group by lane group: first the tile is generated, then the output
    pixels are computed from it. Where the tile is there already, its one lane group begins when its
    parameters are there. Other layers go through all lane groups without a stop. The next step is
    read when a layer's last result has been written.

    Latency: RECORD_WORDS + 4 + 2 * words_delay cycles from `start`, or from `written` at the end of
    a layer, to `layer_start` (`rtl.coefficient_memory.words_delay`).

    Parameters
    ----------
    config : Configuration

    Members
    -------
    start : In(1)
        Run the program at 32-bit word 0. Ignored while busy.
    busy : Out(1)
    fault : Out(1)
        A step with an unknown operation was met; the program ends there. One cycle.
    cycles : Out(32)
        Cycles of the run at work, or of the last.
    words : Out(WordPort)
        To coefficient memory.
    reading : Out(1)
        The sequencer has the word port.
    record : Out(record_layout)
        Record of the layer at work.
    steps : Out(StepPort)
        Its steps, to the address generator.
    layer_start : Out(1)
        The layer begins, its record is stable.
    permit : Out(1)
        Its next lane group may be fetched.
    fetching : In(1)
        The next lane group's fetch begins.
    tile : Out(1)
        The tile is being generated.
    tile_complete : In(1)
        It is generated.
    walk : Out(1)
        Start the address generator: over all lane groups, or one where there is a tile.
    written : In(1)
        The last result of the walk was written.
    """

    def __init__(self, config: Configuration):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "busy": Out(1),
                "fault": Out(1),
                "cycles": Out(32),
                "words": Out(WordPort(config)),
                "reading": Out(1),
                "record": Out(record_layout(config)),
                "steps": Out(StepPort()),
                "layer_start": Out(1),
                "permit": Out(1),
                "fetching": In(1),
                "tile": Out(1),
                "tile_complete": In(1),
                "walk": Out(1),
                "written": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        words, record = self.words, self.record
        program = Signal.like(words.address)
        address = Signal.like(words.address)
        requested = Signal(range(RECORD_WORDS + 1))
        arriving = Signal(range(RECORD_WORDS))
        here = Signal(RECORD_WORDS)  # the same, one hot
        arrives = Signal()  # a word of the record
        group = Signal(8)
        permitted = Signal()
        cross = record.dataflow == CROSS
        ready_tile = record.dataflow == TILE
        operation = words.data[28:32]
        m.d.comb += [
            words.address.eq(address),
            self.permit.eq(permitted | ~cross),
        ]
        with m.If(self.busy):
            m.d.sync += self.cycles.eq(self.cycles + 1)
        with m.If(self.fetching):
            m.d.sync += permitted.eq(0)

        # A walk begins with a state; where memory is slow, a register knows beforehand.
        early = Signal()
        if self.config.slow_memory:
            m.d.sync += early.eq(0)
            m.d.comb += self.walk.eq(early)

        def walk_next(on):
            if self.config.slow_memory:
                m.d.sync += early.eq(on)

        def walk_now():
            if not self.config.slow_memory:
                m.d.comb += self.walk.eq(1)

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [
                        self.busy.eq(1),
                        self.cycles.eq(0),
                        address.eq(0),
                        program.eq(1),
                    ]
                    m.next = "STEP"
            with m.State("STEP"):
                m.d.comb += [self.reading.eq(1), words.request.eq(1)]
                with m.If(words.grant):
                    m.next = "DECODE"
            with m.State("DECODE"):
                m.d.comb += self.reading.eq(1)
                m.d.sync += [address.eq(words.data), requested.eq(0), arriving.eq(0), here.eq(1)]
                with m.If(words.valid):
                    with m.If(operation == OP_LAYER):
                        m.next = "RECORD"
                    with m.Else():
                        m.d.comb += self.fault.eq(operation != OP_END)
                        m.d.sync += self.busy.eq(0)
                        m.next = "IDLE"
            with m.State("RECORD"):
                m.d.comb += [
                    self.reading.eq(1),
                    words.request.eq(requested != RECORD_WORDS),
                    arrives.eq(words.valid),
                ]
                with m.If(words.request & words.grant):
                    m.d.sync += [address.eq(address + 1), requested.eq(requested + 1)]
                with m.If(arrives):
                    m.d.sync += [arriving.eq(arriving + 1), here.eq(here << 1)]
                    with m.If(arriving == RECORD_WORDS - 1):
                        walk_next(~cross & ~ready_tile)
                        m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += self.layer_start.eq(1)
                m.d.sync += group.eq(0)
                m.next = "TILE"
                with m.If(cross):
                    m.d.sync += permitted.eq(1)
                with m.Elif(ready_tile):
                    m.next = "FETCH"
                with m.Else():
                    walk_now()
                    m.next = "WALK"
            with m.State("TILE"):
                m.d.comb += self.tile.eq(1)
                with m.If(self.tile_complete):
                    walk_next(1)
                    m.next = "PIXELS"
            with m.State("FETCH"):
                with m.If(self.fetching):
                    walk_next(1)
                    m.next = "PIXELS"
            with m.State("PIXELS"):
                walk_now()
                m.next = "WALK"
            with m.State("WALK"):
                with m.If(self.written):
                    with m.If(cross & (group != record.groups)):
                        m.d.sync += [group.eq(group + 1), permitted.eq(1)]
                        m.next = "TILE"
                    with m.Else():
                        m.d.sync += [address.eq(program), program.eq(program + 1)]
                        m.next = "STEP"

        m.d.comb += [
            self.steps.entry.eq(arriving - FIRST_WALK_WORD),
            self.steps.data.eq(words.data),
        ]
        for word in range(RECORD_WORDS):
            # Looked up where the way is short; where it is long, known beforehand.
            with m.If(arrives & (here[word] if self.config.slow_memory else arriving == word)):
                m.d.comb += self.steps.write.eq(_walks(word))
                for name, field in FIELDS.items():
                    if field.word == word and name in record.shape().members:
                        m.d.sync += record[name].eq(words.data[field.lsb : field.lsb + field.width])
        return m
