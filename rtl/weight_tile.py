"""Holds the weights of a lane group that the cross level has recovered."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .coefficient_decoder import vector_delay
from .config import Configuration
from .delay import delayed
from .memory import BankedMemory
from .push import Push
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
    i : In(push of results_layout)
        Weights; the one marked `final` completes the tile.
    taps : In(8)
        T - 1.
    silent : In(1)
        The next word is 0.
    complete : Out(1)
        The last weight was written in this cycle.
    next : In(1)
        Read the next word. With `last`, that behind it is the first.
    last : In(1)
    weights : Out(8 bits x R*C)
        The word, in stripe order, `vector_delay` cycles after `next`, as V would be.
    """

    def __init__(self, config: Configuration):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        super().__init__(
            {
                "i": In(Push(results_layout(config))),
                "taps": In(8),
                "silent": In(1),
                "complete": Out(1),
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
        channel = Signal(config.width, init=1)  # one hot
        chunk = Signal(range(max(2, chunks)))
        m.d.comb += self.complete.eq(i.valid & i.payload.final & i.payload.last)
        with m.If(i.valid):
            m.d.sync += chunk.eq(chunk + 1)
            with m.If(i.payload.last):
                m.d.sync += [chunk.eq(0), tap.eq(tap + 1), address.eq(address + 1)]
                if config.width > 1:
                    with m.If(tap == self.taps):
                        m.d.sync += [
                            tap.eq(0),
                            channel.eq(channel.rotate_left(1)),
                            address.eq(base),
                        ]
                        with m.If(channel[-1]):
                            m.d.sync += [address.eq(address + 1), base.eq(address + 1)]
            with m.If(self.complete):
                m.d.sync += [tap.eq(0), channel.eq(1), address.eq(0), base.eq(0)]

        # Read.
        index = Signal(address_shape)
        with m.If(self.next):
            m.d.sync += index.eq(Mux(self.last, 0, index + 1))
        (read_address,) = delayed(m, vector_delay(config) - 2, read_address=index)
        bits = 8 * config.activation_word
        # The first channel of a group clears the others, which may not follow. To memory it is a
        # long way where it is slow; nobody reads so soon.
        places = Cat(
            i.valid & (chunk == n) & (channel[k] | channel[0])
            for n in range(chunks)
            for k in range(config.width)
        )
        places, channel, write_address, written = delayed(
            m,
            int(config.slow_memory),
            write_places=places,
            write_channel=channel,
            write_address=address,
            written=i.payload.values.as_value(),
        )
        for n in range(chunks):
            for k in range(config.width):
                memory = BankedMemory(bits, config.tile_depth, lut_ram=config.family != "ice40")
                m.submodules[f"chunk{n}_{k}"] = memory
                m.d.comb += [
                    memory.write_enable.eq(places[n * config.width + k]),
                    memory.write_address.eq(write_address),
                    memory.write_data.eq(Mux(channel[k], written, 0) if k else written),
                    memory.read_enable.eq(1),
                    memory.read_address.eq(read_address),
                ]
                word = Signal(bits, name=f"word{n}_{k}", reset_less=True)
                m.d.sync += word.eq(Mux(self.silent, 0, memory.read_data))
                for place in range(config.activation_word):
                    lane = n * config.activation_word + place
                    m.d.comb += self.weights[lane * config.width + k].eq(word.word_select(place, 8))
        return m
