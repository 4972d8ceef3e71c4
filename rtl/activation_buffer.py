"""The feature maps, and the paths from and to them."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from .address_generator import tap_layout
from .config import Configuration
from .queue import Queue
from .requantiser import results_layout
from .storage import Storage

__all__ = ["ActivationBuffer", "Output", "activations_layout"]

QUEUE_DEPTH = 3
"""Steps fetched ahead: enough for one a cycle with the memory's latency."""


def activations_layout(config):
    """A step's activations and marks (`rtl.mac_array.operands_layout`)."""
    return data.StructLayout(
        {
            "values": data.ArrayLayout(signed(8), config.width),
            "last": 1,
            "group_last": 1,
            "final": 1,
        }
    )


class Output(wiring.Signature):
    """Where results go: fields of the layer record of the same names (`rtl.record`)."""

    def __init__(self, config):
        super().__init__(
            {
                "base": Out(range(config.activation_words)),
                "pitch": Out(12),
                "groups": Out(8),
                "last_group_words": Out(6),
            }
        )


class ActivationBuffer(wiring.Component):
    """Activation memory with its read and write paths.

    Feature maps lie channels last, a pixel every `pitch` words. Reading turns steps of the address
    generator into activations; padding reads as the zero point. Writing puts the words of a pixel
    side by side and the pixels of a lane group `pitch` words apart; a pixel's words beyond those
    that exist in the last lane group are dropped. With one port a write takes the cycle from a
    read.

    Latency: 2 cycles from a step to its activations. Throughput: one step a cycle, less the
    writes where there is one port; one word written a cycle.

    Parameters
    ----------
    config : Configuration
    technology : str
        See `Storage`.

    Members
    -------
    taps : In(stream of tap_layout)
    o : Out(stream of activations_layout)
    i : In(stream of results_layout)
    zero_point : In(signed(8))
        Of the input map.
    output : In(Output)
    clear : In(1)
        Begin a layer: from two cycles later on, the next result is pixel 0 of lane group 0.
    group_written, final_written : Out(1)
        The last word of a lane group, of the layer, was written.
    host_request, host_write : In(1)
    host_address : In
        32-bit word.
    host_data_w : In(32)
    host_data_r : Out(32)
        One cycle after a read request. Requests only while no layer is at work.
    """

    def __init__(self, config: Configuration, technology="sim"):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        self.technology = technology
        super().__init__(
            {
                "taps": In(stream.Signature(tap_layout(config))),
                "o": Out(stream.Signature(activations_layout(config))),
                "i": In(stream.Signature(results_layout(config))),
                "zero_point": In(signed(8)),
                "output": In(Output(config)),
                "clear": In(1),
                "group_written": Out(1),
                "final_written": Out(1),
                "host_request": In(1),
                "host_write": In(1),
                "host_address": In(range(config.activation_bytes // 4)),
                "host_data_w": In(32),
                "host_data_r": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        word_bits = 8 * config.activation_word
        m.submodules.storage = storage = Storage(
            word_bits, config.activation_words, self.technology
        )
        write, read = storage.write, storage.read
        parts = word_bits // 32
        log_parts = ceil_log2(parts)

        # Results to memory. A lane group begins at the base and as many pixels' words further.
        pixel_words = config.lanes // config.activation_word
        address = Signal(range(config.activation_words))
        word = Signal(range(max(2, pixel_words)))
        group = Signal(8)  # the next to begin
        last_group = Signal()
        cleared = Signal()
        begins = Signal()
        writing = Signal()
        result = self.i.payload
        exists = ~last_group | (word <= self.output.last_group_words)
        m.d.comb += [
            self.i.ready.eq(1),
            writing.eq(self.i.valid & exists),
            write.enable.eq(writing.replicate(parts)),
            write.address.eq(address),
            write.data.eq(result.values.as_value()),
            self.group_written.eq(self.i.valid & result.last & result.group_last),
            self.final_written.eq(self.i.valid & result.last & result.final),
            begins.eq(cleared | self.group_written),
        ]
        m.d.sync += cleared.eq(self.clear)
        start = Mux(begins, self.output.base, address)
        distance = Mux(result.last, self.output.pitch - (pixel_words - 1), 1)
        distance = Mux(begins, group * pixel_words, distance)
        with m.If(begins | self.i.valid):
            m.d.sync += address.eq(start + distance)
            m.d.sync += word.eq(Mux(begins | result.last, 0, word + 1))
        with m.If(self.clear):
            m.d.sync += group.eq(0)
        with m.Elif(begins):
            m.d.sync += [group.eq(group + 1), last_group.eq(group == self.output.groups)]

        # Steps to activations. A step is issued when the queue will have room for it.
        m.submodules.queue = queue = Queue(activations_layout(config), QUEUE_DEPTH)
        connect(m, queue.o, flipped(self.o))
        beats = config.activation_word // config.width
        log_beats = ceil_log2(beats)
        issue = Signal()
        issued = Signal()
        tap = Signal(tap_layout(config))
        room = Signal()
        m.d.comb += [
            room.eq(queue.level + issued < QUEUE_DEPTH),
            issue.eq(self.taps.valid & self.taps.ready),
            self.taps.ready.eq(room & (~writing if config.activation_ports == 1 else 1)),
            read.enable.eq(issue),
            read.address.eq(self.taps.payload.beat >> log_beats),
        ]
        m.d.sync += issued.eq(issue)
        with m.If(issue):
            m.d.sync += tap.eq(self.taps.payload)
        chosen = read.data.word_select(tap.beat[:log_beats], 8 * config.width)
        m.d.comb += [
            queue.i.valid.eq(issued),
            queue.i.payload.values.as_value().eq(
                Mux(tap.padding, Cat([self.zero_point] * config.width), chosen)
            ),
            queue.i.payload.last.eq(tap.last),
            queue.i.payload.group_last.eq(tap.group_last),
            queue.i.payload.final.eq(tap.final),
        ]

        # The host.
        part = Signal(max(1, log_parts))
        with m.If(self.host_request):
            m.d.comb += [
                write.enable.eq(self.host_write << (self.host_address[:log_parts])),
                write.address.eq(self.host_address >> log_parts),
                write.data.eq(Cat([self.host_data_w] * parts)),
                read.enable.eq(~self.host_write),
                read.address.eq(self.host_address >> log_parts),
            ]
            m.d.sync += part.eq(self.host_address[:log_parts])
        m.d.comb += self.host_data_r.eq(read.data.word_select(part, 32) if log_parts else read.data)
        return m
