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
        done = Signal(init=1)  # none is; where memory is slow, also while there is no block
        last = Signal()
        final = Signal()
        following = Signal(range(steps))
        m.d.comb += [
            i.ready.eq(~o.valid | (o.ready & done)),
            o.payload.values.as_value().eq(held),
            o.payload.marks.last.eq(last & done),
            o.payload.marks.final.eq(final & done),
            following.eq(Mux(i.payload.last, self.last_block_steps, steps - 1)),
        ]
        with m.If(i.ready):
            m.d.sync += [
                o.valid.eq(i.valid),
                left.eq(following),
                last.eq(i.payload.last),
                final.eq(i.payload.final),
            ]
        with m.Elif(o.ready):
            m.d.sync += left.eq(left - 1)
        if config.slow_memory:  # What reaches all values, to choose between them, is a register.
            with m.If(i.ready):
                m.d.sync += done.eq(~i.valid | (following == 0))
            with m.Elif(o.ready):
                m.d.sync += done.eq(left == 1)
        else:
            m.d.comb += done.eq(left == 0)
        with m.If(~o.valid | o.ready):
            m.d.sync += held.eq(
                Mux(
                    done if config.slow_memory else i.ready,
                    i.payload.values.as_value(),
                    held >> 8 * config.width,
                )
            )
        return m
