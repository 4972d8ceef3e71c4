"""Walks over the input map: one tap of one channel group a step."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .config import Configuration

__all__ = ["AddressGenerator", "Walk", "tap_layout"]


def tap_layout(config):
    """Where a step's activations are.

    `beat` addresses `width` bytes of the activation memory; `padding` says that the tap lies
    outside the map. Marks as in `rtl.mac_array.operands_layout`.
    """
    return data.StructLayout(
        {
            "beat": ceil_log2(config.activation_bytes // config.width),
            "padding": 1,
            "last": 1,
            "group_last": 1,
            "final": 1,
        }
    )


class Walk(wiring.Signature):
    """The walk's parameters: fields of the layer record of the same names (`rtl.record`)."""

    def __init__(self, config):
        beat = ceil_log2(config.activation_bytes // config.width)
        super().__init__(
            {
                "start": Out(beat),
                "kx_step": Out(beat),
                "ky_step": Out(beat),
                "channel_step": Out(beat),
                "x_step": Out(beat),
                "y_step": Out(beat),
                "row_ky_step": Out(signed(8)),
                "row_back_step": Out(signed(8)),
                "row_y_step": Out(signed(8)),
                "column_kx_step": Out(signed(8)),
                "column_back_step": Out(signed(8)),
                "column_x_step": Out(signed(8)),
                "kernel_height": Out(4),
                "kernel_width": Out(4),
                "channel_groups": Out(12),
                "output_width": Out(10),
                "output_height": Out(10),
                "groups": Out(8),
                "input_width": Out(10),
                "input_height": Out(10),
                "pad_left": Out(6),
                "pad_top": Out(6),
            }
        )


class AddressGenerator(wiring.Component):
    """Address generator of the activation buffer.

    Loops, outermost first: lane group, output row, output pixel, channel group, tap row, tap
    column. Counters only: after each step one of five constants, that of the innermost loop that
    goes on, is added to the address, to the tap's row and to its column. A tap whose row or column
    is outside the map is padding.

    Throughput: one step a cycle. Latency: 1 cycle from `start` to the first step.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    walk : In(Walk)
        Stable from `start` to the last step.
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
                "walk": In(Walk(config)),
                "start": In(1),
                "single": In(1),
                "o": Out(stream.Signature(tap_layout(config))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        walk, o = self.walk, self.o
        active = Signal()
        step = Signal()
        m.d.comb += step.eq(active & o.ready)

        # Counters, innermost first; a loop ends when it and all inside it are at their last.
        limits = [
            ("kx", walk.kernel_width),
            ("ky", walk.kernel_height),
            ("channel", walk.channel_groups),
            ("x", walk.output_width),
            ("y", walk.output_height),
            ("group", Mux(self.single, 0, walk.groups)),
        ]
        ends = {}
        inner = 1
        for name, limit in limits:
            counter = Signal(len(limit), name=name)
            end = Signal(name=f"{name}_end")
            m.d.comb += end.eq(inner & (counter == limit))
            with m.If(step & inner):
                m.d.sync += counter.eq(Mux(counter == limit, 0, counter + 1))
            ends[name] = inner = end

        beat = Signal.like(o.payload.beat)
        row = Signal(signed(11))
        column = Signal(signed(11))
        beat_step = Signal.like(beat)
        row_step = Signal(signed(8))
        column_step = Signal(signed(8))
        first_row, first_column = -walk.pad_top, -walk.pad_left
        m.d.comb += [beat_step.eq(walk.kx_step), column_step.eq(walk.column_kx_step)]
        with m.If(ends["x"]):
            m.d.comb += [beat_step.eq(walk.y_step), row_step.eq(walk.row_y_step)]
        with m.Elif(ends["channel"]):
            m.d.comb += [
                beat_step.eq(walk.x_step),
                row_step.eq(walk.row_back_step),
                column_step.eq(walk.column_x_step),
            ]
        with m.Elif(ends["ky"]):
            m.d.comb += [
                beat_step.eq(walk.channel_step),
                row_step.eq(walk.row_back_step),
                column_step.eq(walk.column_back_step),
            ]
        with m.Elif(ends["kx"]):
            m.d.comb += [
                beat_step.eq(walk.ky_step),
                row_step.eq(walk.row_ky_step),
                column_step.eq(walk.column_back_step),
            ]
        with m.If(self.start | (step & ends["y"])):
            m.d.sync += [
                beat.eq(walk.start),
                row.eq(first_row),
                column.eq(first_column),
            ]
        with m.Elif(step):
            m.d.sync += [
                beat.eq(beat + beat_step),
                row.eq(row + row_step),
                column.eq(Mux(ends["x"], first_column, column + column_step)),
            ]
        with m.If(self.start):
            m.d.sync += active.eq(1)
        with m.Elif(step & ends["group"]):
            m.d.sync += active.eq(0)

        m.d.comb += [
            o.valid.eq(active),
            o.payload.beat.eq(beat),
            o.payload.padding.eq(
                (row.as_unsigned() >= walk.input_height)
                | (column.as_unsigned() >= walk.input_width)
            ),
            o.payload.last.eq(ends["channel"]),
            o.payload.group_last.eq(ends["y"]),
            o.payload.final.eq(ends["group"]),
        ]
        return m
