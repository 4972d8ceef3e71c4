"""Feeds generated weights W1 to all lanes, for the cross level."""

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .activation_buffer import kernels_layout
from .config import Configuration
from .weight_generator import blocks_layout

__all__ = ["WeightBroadcast"]


class WeightBroadcast(wiring.Component):
    """Turns a block of W1, one kernel a lane, into steps of C kernels for all lanes.

    At the cross level the kernels take the place of the input channels: the MAC array multiplies
    them with V as it does activations with weights.

    Latency: 1 cycle. Throughput: one step a cycle; R/C steps a block, the last block of a weight
    fewer.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    i : In(stream of blocks_layout)
    o : Out(stream of kernels_layout)
    last_block_steps : In(6)
        Steps of a block marked `last`, less 1.
    """

    def __init__(self, config: Configuration):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        super().__init__(
            {
                "i": In(stream.Signature(blocks_layout(config))),
                "o": Out(stream.Signature(kernels_layout(config))),
                "last_block_steps": In(6),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        i, o = self.i, self.o
        steps = config.lanes // config.width
        held = Signal(8 * config.lanes, reset_less=True)
        left = Signal(range(steps))  # after this one
        last = Signal()
        final = Signal()
        taken = Signal()
        m.d.comb += [
            taken.eq(o.valid & o.ready),
            i.ready.eq(~o.valid | (o.ready & (left == 0))),
            o.payload.values.as_value().eq(held),
            o.payload.marks.last.eq(last & (left == 0)),
            o.payload.marks.final.eq(final & (left == 0)),
        ]
        with m.If(i.ready):
            m.d.sync += [
                o.valid.eq(i.valid),
                left.eq(Mux(i.payload.last, self.last_block_steps, steps - 1)),
                last.eq(i.payload.last),
                final.eq(i.payload.final),
            ]
            m.d.sync += held.eq(i.payload.values.as_value())
        with m.Elif(taken):
            m.d.sync += [left.eq(left - 1), held.eq(held >> 8 * config.width)]
        return m
