"""Holds the weights of a lane group that the cross level has recovered."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import Configuration
from .memory import BankedMemory
from .requantiser import results_layout

__all__ = ["WeightTile"]


class WeightTile(wiring.Component):
    """The weights W of R output channels: all input channels, all taps.

    Word `channel_group * T + tap` holds R*C weights. They are written as the cross level makes
    them: for channel, for tap, R weights; and read in the order of the words, over and over, one
    pass for each output pixel.

    Throughput: one word a cycle read; `activation_word` weights a cycle written.

    Cost: `tile_bytes` of block RAM.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    i : In(stream of results_layout)
        Weights; the one marked `final` completes the tile.
    taps : In(8)
        T - 1.
    complete : Out(1)
        The last weight was written in this cycle.
    rewind : In(1)
        Go to the first word; it is there in the next cycle.
    next : In(1)
        Go to the next word; it is there in the next cycle. With `last`, to the first.
    last : In(1)
    weights : Out(8 bits x R*C)
        The word at hand, stripe order.
    """

    def __init__(self, config: Configuration):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        super().__init__(
            {
                "i": In(stream.Signature(results_layout(config))),
                "taps": In(8),
                "complete": Out(1),
                "rewind": In(1),
                "next": In(1),
                "last": In(1),
                "weights": Out(data.ArrayLayout(8, config.stripes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        i = self.i
        chunks = config.lanes // config.activation_word
        address_shape = range(config.tile_depth)

        # Written: for channel group, for channel of the group, for tap.
        base = Signal(address_shape)
        address = Signal(address_shape)
        tap = Signal(8)
        channel = Signal(range(config.width))
        chunk = Signal(range(max(2, chunks)))
        m.d.comb += [i.ready.eq(1), self.complete.eq(i.valid & i.payload.final & i.payload.last)]
        with m.If(i.valid):
            m.d.sync += chunk.eq(chunk + 1)
            with m.If(i.payload.last):
                m.d.sync += [chunk.eq(0), tap.eq(tap + 1), address.eq(address + 1)]
                if config.width > 1:
                    with m.If(tap == self.taps):
                        m.d.sync += [tap.eq(0), channel.eq(channel + 1), address.eq(base)]
                        with m.If(channel == config.width - 1):
                            m.d.sync += [address.eq(address + 1), base.eq(address + 1)]
            with m.If(self.complete):
                m.d.sync += [tap.eq(0), channel.eq(0), address.eq(0), base.eq(0)]

        # Read: the word at hand is in the memories' output registers.
        index = Signal(address_shape)
        following = Signal(address_shape)
        move = Signal()
        m.d.comb += [
            move.eq(self.next | self.rewind),
            following.eq(Mux(self.last | self.rewind, 0, index + 1)),
        ]
        with m.If(move):
            m.d.sync += index.eq(following)
        bits = 8 * config.activation_word
        for n in range(chunks):
            for k in range(config.width):
                memory = BankedMemory(bits, config.tile_depth)
                m.submodules[f"chunk{n}_{k}"] = memory
                # The first channel of a group clears the others, which may not follow.
                now = channel == k
                m.d.comb += [
                    memory.write_enable.eq(i.valid & (chunk == n) & (now | (channel == 0))),
                    memory.write_address.eq(address),
                    memory.write_data.eq(
                        Mux(now, i.payload.values.as_value(), 0)
                        if k
                        else i.payload.values.as_value()
                    ),
                    memory.read_enable.eq(move),
                    memory.read_address.eq(following),
                ]
                for place in range(config.activation_word):
                    lane = n * config.activation_word + place
                    m.d.comb += self.weights[lane * config.width + k].eq(
                        memory.read_data.word_select(place, 8)
                    )
        return m
