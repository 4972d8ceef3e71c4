"""Address generator of the coefficient memory: the segments of a layer, in order."""

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.enum import Enum
from amaranth.lib.wiring import In, Out

from .coefficient_decoder import Segment
from .coefficient_memory import fetch_layout
from .config import Configuration
from .record import CROSS, STORED

__all__ = ["CoefficientFetch", "Segments"]


class Segments(wiring.Signature):
    """Where the segments are: fields of the layer record of the same names (`rtl.record`)."""

    def __init__(self, config):
        address = range(config.coefficient_words)
        super().__init__(
            {
                "dataflow": Out(2),
                "flat": Out(1),
                "groups": Out(8),
                "taps": Out(8),
                "coefficient_base": Out(address),
                "cross_base": Out(address),
                "basis_words": Out(12),
                "stream_words": Out(16),
                "cross_words": Out(16),
                "stream_repeats": Out(20),
            }
        )


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

    (docs/image-format.md). Counters only.

    Throughput: one word a cycle, without gaps between segments.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    segments : In(Segments)
    begin : In(1)
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
                "begin": In(1),
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
        left = Signal(16)  # words of the segment
        repeat = Signal(20)
        tap = Signal(8)
        group = Signal(8)
        cross = Signal()
        end = Signal()
        following = Signal.like(address)
        m.d.comb += [
            cross.eq(segments.dataflow == CROSS),
            o.valid.eq((state != _State.IDLE) & (state != _State.GROUP)),
            o.payload.address.eq(address),
            o.payload.final.eq(repeat == 0),
            end.eq(left == 1),
            following.eq(address + 1),
            self.started.eq((state == _State.GROUP) & self.permit),
        ]

        def begin_stream(at):
            m.d.sync += [
                state.eq(_State.STREAM),
                address.eq(at),
                left.eq(segments.stream_words),
            ]

        def begin_cross(at):
            m.d.sync += [state.eq(_State.CROSS), address.eq(at), left.eq(segments.cross_words)]

        def end_group(at):
            m.d.sync += [
                state.eq(Mux(group == segments.groups, _State.IDLE, _State.GROUP)),
                address.eq(at),
                group.eq(group + 1),
            ]

        with m.If(self.started):
            m.d.sync += repeat.eq(segments.stream_repeats)
            with m.If(segments.dataflow == STORED):
                begin_stream(address)
                m.d.sync += mark.eq(address)
            with m.Else():
                m.d.sync += [state.eq(_State.BASIS), left.eq(segments.basis_words)]
        with m.If(o.valid & o.ready):
            m.d.sync += [address.eq(following), left.eq(left - 1)]
            with m.If(end):
                with m.Switch(state):
                    with m.Case(_State.BASIS):
                        begin_stream(following)
                        m.d.sync += mark.eq(following)
                    with m.Case(_State.STREAM):
                        with m.If(cross):
                            begin_cross(cross_start)
                            m.d.sync += [
                                mark.eq(following),
                                tap.eq(Mux(segments.flat, 0, segments.taps)),
                            ]
                        with m.Elif(repeat == 0):
                            end_group(following)
                        with m.Else():
                            begin_stream(mark)
                            m.d.sync += repeat.eq(repeat - 1)
                    with m.Case(_State.CROSS):
                        with m.If(tap != 0):
                            begin_cross(cross_start)
                            m.d.sync += tap.eq(tap - 1)
                        with m.Elif(repeat == 0):
                            end_group(segments.coefficient_base)
                            m.d.sync += cross_start.eq(following)
                        with m.Else():
                            begin_stream(mark)
                            m.d.sync += repeat.eq(repeat - 1)
        with m.If(self.begin):
            m.d.sync += [
                state.eq(_State.GROUP),
                group.eq(0),
                address.eq(segments.coefficient_base),
                cross_start.eq(segments.cross_base),
            ]

        with m.Switch(state):
            with m.Case(_State.BASIS):
                m.d.comb += o.payload.segment.eq(Segment.BASIS)
            with m.Case(_State.CROSS):
                m.d.comb += o.payload.segment.eq(Segment.CROSS)
            with m.Default():
                m.d.comb += o.payload.segment.eq(
                    Mux(segments.dataflow == STORED, Segment.WEIGHT, Segment.STREAM)
                )
        return m
