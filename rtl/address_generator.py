"""Walks over the input map: one tap of one channel group a step."""

from itertools import pairwise

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .config import Configuration
from .fixed import count_down
from .mac_array import marks_layout
from .memory import block_memory
from .record import WALK_WORDS

__all__ = ["AddressGenerator", "StepPort", "Walk", "tap_layout"]


def tap_layout(config):
    """Where a step's activations are.

    `beat` addresses `width` bytes of the activation memory; `padding` says that the tap lies
    outside the map. Marks as in `rtl.mac_array.marks_layout`.
    """
    return data.StructLayout(
        {
            "beat": ceil_log2(config.activation_bytes // config.width),
            "padding": 1,
            "marks": marks_layout(),
        }
    )


class Walk(wiring.Signature):
    """The walk's parameters: fields of the layer record of the same names (`rtl.record`)."""

    def __init__(self):
        super().__init__(
            {
                "kernel_height": Out(6),
                "kernel_width": Out(6),
                "channel_groups": Out(12),
                "output_width": Out(10),
                "output_height": Out(10),
                "groups": Out(8),
                "input_width": Out(10),
                "input_height": Out(10),
                "shifted_sums": Out(1),
                "rectified_sums": Out(1),
            }
        )


class StepPort(wiring.Signature):
    """Write port of the steps: entry n of `rtl.record.WALK_WORDS` becomes `data`."""

    def __init__(self):
        super().__init__({"write": Out(1), "entry": Out(range(len(WALK_WORDS))), "data": Out(32)})


class AddressGenerator(wiring.Component):
    """Address generator of the activation buffer.

    Loops, outermost first: lane group, output row, output pixel, channel group, tap row, tap
    column. Counters only: after each tap one of six steps, that of the innermost loop that goes
    on, is added to the address, to the tap's row and to its column. A tap whose row or column is
    outside the map is padding. The steps are words of a small memory, read while the counters
    are one tap ahead.

    Throughput: one tap a cycle. Latency: 2 cycles from `start` to the first tap.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    walk : In(Walk)
        Stable from `start` to the last tap.
    steps : In(StepPort)
        Written before `start`.
    start : In(1)
        Start a walk, over all lane groups or, with `single`, over one.
    single : In(1)
    o : Out(stream of tap_layout)
    """

    def __init__(self, config: Configuration):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        super().__init__(
            {
                "walk": In(Walk()),
                "steps": In(StepPort()),
                "start": In(1),
                "single": In(1),
                "o": Out(stream.Signature(tap_layout(config))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        walk, o = self.walk, self.o
        m.submodules.memory = memory = block_memory(32, 1 << ceil_log2(len(WALK_WORDS)))
        writer, reader = memory.write_port(), memory.read_port()
        m.d.comb += [
            writer.en.eq(self.steps.write),
            writer.addr.eq(self.steps.entry),
            writer.data.eq(self.steps.data),
        ]

        # What is left of each loop, innermost first, one tap ahead. A loop ends, and begins again,
        # when nothing is left of it and of all inside it.
        counting = Signal()
        advance = Signal()
        step = Signal()
        begun = Signal()  # the start has been read
        m.d.comb += [
            advance.eq(~o.valid | o.ready),
            step.eq(counting & advance),
        ]
        loops = [
            ("kx", walk.kernel_width),
            ("ky", walk.kernel_height),
            ("channel", walk.channel_groups),
            ("x", walk.output_width),
            ("y", walk.output_height),
            ("group", walk.groups),
        ]
        ends = {}
        inner = 1
        for name, limit in loops:
            left = Signal(len(limit), name=f"{name}_left")
            end = Signal(name=f"{name}_end")
            on = Signal(name=f"{name}_on")
            turns = self.start | (step & inner)
            empty = left == 0
            if self.config.slow_memory:  # They decide together, on a long way.
                empty = Signal(name=f"{name}_empty", init=1)
                with m.If(turns):
                    m.d.sync += empty.eq(Mux(on, left == 1, limit == 0))
            last = empty | (self.single if name == "group" else 0)
            m.d.comb += [end.eq(inner & last), on.eq(~self.start & ~empty)]
            with m.If(turns):
                m.d.sync += left.eq(count_down(left, on, limit))
            ends[name] = inner = end
        m.d.sync += begun.eq(self.start)
        with m.If(self.start):
            m.d.sync += counting.eq(1)
        with m.Elif(step & ends["group"]):
            m.d.sync += counting.eq(0)

        # The step of the innermost loop that goes on.
        entry = Signal(range(len(WALK_WORDS)))
        m.d.comb += entry.eq(WALK_WORDS.index("kx"))
        for (ended, _), (going_on, _) in pairwise(loops):
            with m.If(ends[ended]):
                m.d.comb += entry.eq(WALK_WORDS.index(going_on))
        with m.If(self.start):
            m.d.comb += entry.eq(WALK_WORDS.index("start"))
        m.d.comb += [reader.addr.eq(entry), reader.en.eq(step | self.start)]

        # The tap at hand, and the step from it to the next.
        beat = Signal.like(o.payload.beat)
        row = Signal(signed(11))
        column = Signal(signed(11))
        taps_ended = Signal()
        row_ended = Signal()
        group_ended = Signal()
        marks = o.payload.marks
        with m.If(advance):
            m.d.sync += o.valid.eq(counting)
        with m.If(step):
            m.d.sync += [
                taps_ended.eq(ends["ky"]),
                row_ended.eq(ends["x"]),
                group_ended.eq(ends["y"]),
                marks.shift.eq(taps_ended & walk.shifted_sums),
                marks.rectify.eq(ends["kx"] & walk.rectified_sums),
                marks.last.eq(ends["channel"]),
                marks.final.eq(ends["group"]),
            ]
        with m.If(begun | (o.valid & o.ready)):
            to_beat, to_row, to_column = (
                reader.data[:20],
                reader.data[20:26].as_signed(),
                reader.data[26:32].as_signed(),
            )
            m.d.sync += [
                beat.eq(Mux(begun, to_beat, beat + to_beat)),
                row.eq(Mux(begun | group_ended, to_row, row + to_row)),
                column.eq(Mux(begun | row_ended, to_column, column + to_column)),
            ]
        m.d.comb += [
            o.payload.beat.eq(beat),
            o.payload.padding.eq(
                (row.as_unsigned() >= walk.input_height)
                | (column.as_unsigned() >= walk.input_width)
            ),
            marks.group_last.eq(group_ended),
        ]
        return m
