"""Address generator of the coefficient memory: the segments of a layer, in order."""

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.enum import Enum
from amaranth.lib.wiring import In, Out

from .coefficient_decoder import Segment
from .coefficient_memory import fetch_layout
from .config import Configuration
from .record import CROSS, STORED, TILE, field_bits

__all__ = ["CoefficientFetch", "Segments"]


class Segments(wiring.Signature):
    """Where the segments are: fields of the layer record of the same names (`rtl.record`)."""

    def __init__(self, config):
        bits = field_bits(config)
        names = (
            "dataflow",
            "flat",
            "groups",
            "taps",
            "coefficient_base",
            "cross_base",
            "basis_words",
            "stream_words",
            "cross_words",
            "stream_repeats",
        )
        super().__init__({name: Out(bits[name]) for name in names})


class _State(Enum):
    IDLE = 0
    GROUP = 1
    BASIS = 2
    STREAM = 3
    CROSS = 4


class CoefficientFetch(wiring.Component):
    """Address generator of the coefficient memory.

    For each lane group, when permitted, it asks for the words of

        stored    the stream segment, `stream_repeats + 1` times
        intra     the basis, then the stream segment `stream_repeats + 1` times
        cross     the basis, then `stream_repeats + 1` times: the next stream segment, and the
                  group's cross segment `taps + 1` times (once if `flat`)
        tile      nothing

    (docs/image-format.md). Counters only.

    Throughput: one word a cycle, without gaps between segments.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    segments : In(Segments)
    start : In(1)
        Start a layer.
    permit : In(1)
        The next lane group may begin.
    started : Out(1)
        It did, in this cycle.
    o : Out(stream of fetch_layout)
    """

    def __init__(self, config: Configuration):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        super().__init__(
            {
                "segments": In(Segments(config)),
                "start": In(1),
                "permit": In(1),
                "started": Out(1),
                "o": Out(stream.Signature(fetch_layout(config))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        segments, o = self.segments, self.o
        state = Signal(_State)
        address = Signal(range(self.config.coefficient_words))
        mark = Signal.like(address)  # where the stream goes back to, or goes on
        cross_start = Signal.like(address)
        left = Signal.like(segments.stream_words)  # words of the segment
        one_left = Signal()
        repeat = Signal.like(segments.stream_repeats)
        tap = Signal(8)
        group = Signal(8)
        following = Signal.like(address)
        m.d.comb += following.eq(address + 1)

        # What comes after a segment's last word.
        stored = Signal()
        cross = Signal()
        step = Signal()
        end = Signal()
        end_basis = Signal()
        end_stream = Signal()
        end_cross = Signal()  # of the last tap's
        again = Signal()  # the cross segment, for the next tap
        pass_done = Signal()  # with a channel, or with a pixel's stream
        group_done = Signal()
        begin_stream = Signal()
        begin_cross = Signal()
        known = m.d.sync if self.config.slow_memory else m.d.comb  # long before a lane group
        known += [stored.eq(segments.dataflow == STORED), cross.eq(segments.dataflow == CROSS)]
        m.d.comb += [
            step.eq(o.valid & o.ready),
            end.eq(step & one_left),
            self.started.eq((state == _State.GROUP) & self.permit),
            end_basis.eq(end & (state == _State.BASIS)),
            end_stream.eq(end & (state == _State.STREAM)),
            again.eq(end & (state == _State.CROSS) & (tap != 0)),
            end_cross.eq(end & (state == _State.CROSS) & (tap == 0)),
            pass_done.eq(end_cross | (end_stream & ~cross)),
            group_done.eq(pass_done & (repeat == 0)),
            begin_cross.eq((end_stream & cross) | again),
            begin_stream.eq(end_basis | (pass_done & ~group_done) | (self.started & stored)),
        ]

        m.d.comb += [
            o.valid.eq((state != _State.IDLE) & (state != _State.GROUP)),
            o.payload.address.eq(address),
            o.payload.final.eq(repeat == 0),
        ]
        with m.Switch(state):
            with m.Case(_State.BASIS):
                m.d.comb += o.payload.segment.eq(Segment.BASIS)
            with m.Case(_State.CROSS):
                m.d.comb += o.payload.segment.eq(Segment.CROSS)
            with m.Default():
                m.d.comb += o.payload.segment.eq(Mux(stored, Segment.WEIGHT, Segment.STREAM))

        with m.If(self.start | group_done):
            m.d.sync += state.eq(
                Mux(group_done & (group == segments.groups), _State.IDLE, _State.GROUP)
            )
        with m.Elif(begin_stream):
            m.d.sync += state.eq(_State.STREAM)
        with m.Elif(begin_cross):
            m.d.sync += state.eq(_State.CROSS)
        with m.Elif(self.started):
            m.d.sync += state.eq(Mux(segments.dataflow == TILE, _State.IDLE, _State.BASIS))

        to_mark = pass_done & ~group_done
        to_base = self.start | (end_cross & group_done)
        with m.If(step | self.start):
            m.d.sync += address.eq(
                Mux(
                    to_base | begin_cross,
                    Mux(begin_cross, cross_start, segments.coefficient_base),
                    Mux(to_mark, mark, following),
                )
            )
        with m.If(end_basis | (end_stream & cross) | (self.started & stored)):
            m.d.sync += mark.eq(Mux(end, following, address))
        with m.If(self.start | (end_cross & group_done)):
            m.d.sync += cross_start.eq(Mux(self.start, segments.cross_base, following))
        words = Mux(
            begin_stream,
            segments.stream_words,
            Mux(begin_cross, segments.cross_words, segments.basis_words),
        )
        begins = begin_stream | begin_cross | self.started
        with m.If(begins):
            m.d.sync += left.eq(words)
        with m.Elif(step):
            m.d.sync += left.eq(left - 1)
        if self.config.slow_memory:  # The end of a segment decides much.
            single = [
                words == 1
                for words in (segments.stream_words, segments.cross_words, segments.basis_words)
            ]
            with m.If(begins):
                m.d.sync += one_left.eq(
                    Mux(begin_stream, single[0], Mux(begin_cross, single[1], single[2]))
                )
            with m.Elif(step):
                m.d.sync += one_left.eq(left == 2)
        else:
            m.d.comb += one_left.eq(left == 1)
        with m.If(self.started | pass_done):
            m.d.sync += repeat.eq(Mux(self.started, segments.stream_repeats, repeat - 1))
        with m.If(begin_cross):
            m.d.sync += tap.eq(Mux(again, tap - 1, Mux(segments.flat, 0, segments.taps)))
        with m.If(self.start):
            m.d.sync += group.eq(0)
        with m.Elif(group_done):
            m.d.sync += group.eq(group + 1)
        return m
