"""The feature maps, and the paths from and to them."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from .address_generator import tap_layout
from .config import Configuration
from .delay import delayed
from .push import Push
from .queue import Queue
from .requantiser import results_layout
from .storage import Storage

__all__ = ["ActivationBuffer", "Output", "activations_layout"]

QUEUE_DEPTH = 4
"""Steps fetched ahead: enough for one a cycle with the memory's latency."""

HOST_DELAY = 3
"""Cycles from the host's request to its data, or until what it writes is written."""


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

    Latency: 3 cycles from a step to its activations. Throughput: one step a cycle, less the
    writes where there is one port; one word written a cycle.

    Parameters
    ----------
    config : Configuration
    technology : str
        See `Storage`.

    Members
    -------
    taps : In(stream of tap_layout)
    kernels : In(stream of activations_layout)
        W1 in place of activations, while a tile is generated and there are no taps.
    o : Out(stream of activations_layout)
    i : In(push of results_layout)
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
        `HOST_DELAY` cycles after a read request. Requests only while no layer is at work; address
        and data hold for that time.
    """

    def __init__(self, config: Configuration, technology="sim"):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        self.technology = technology
        super().__init__(
            {
                "taps": In(stream.Signature(tap_layout(config))),
                "kernels": In(stream.Signature(activations_layout(config))),
                "o": Out(stream.Signature(activations_layout(config))),
                "i": In(Push(results_layout(config))),
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
            self.group_written.eq(self.i.valid & result.last & result.group_last),
            self.final_written.eq(self.i.valid & result.last & result.final),
            begins.eq(cleared | self.group_written),
        ]
        m.d.sync += [cleared.eq(self.clear), writing.eq(self.i.valid & exists)]
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
        room = Signal(range(QUEUE_DEPTH + 1), init=QUEUE_DEPTH)
        m.d.comb += [
            issue.eq(self.taps.valid & self.taps.ready),
            self.taps.ready.eq((room != 0) & (~writing if config.activation_ports == 1 else 1)),
        ]
        kernels = self.kernels
        instead = Signal()
        m.d.comb += [
            kernels.ready.eq(room != 0),
            instead.eq(kernels.valid & kernels.ready),
        ]
        m.d.sync += room.eq(room - (issue | instead) + (self.o.valid & self.o.ready))
        tap = self.taps.payload
        marks = Cat(tap.padding, tap.last, tap.group_last, tap.final)
        (place,) = delayed(m, 1, place=tap.beat[:log_beats])
        found_now, marks = delayed(m, 2, found_now=issue, marks=marks)
        found = Signal(8 * config.width, reset_less=True)
        m.d.sync += found.eq(read.data.word_select(place, 8 * config.width))
        m.d.comb += [
            queue.i.valid.eq(found_now | instead),
            queue.i.payload.values.as_value().eq(
                Mux(marks[0], Cat([self.zero_point] * config.width), found)
            ),
            Cat(queue.i.payload.last, queue.i.payload.group_last, queue.i.payload.final).eq(
                marks[1:]
            ),
        ]
        with m.If(~found_now):
            m.d.comb += queue.i.payload.eq(kernels.payload)

        # The memory, written and read by layers or by the host.
        turn = Signal()  # the host's
        host_writes = Signal()
        target = Signal.like(write.address, reset_less=True)
        value = Signal.like(write.data, reset_less=True)
        m.d.sync += [
            turn.eq(self.host_request),
            host_writes.eq(self.host_request & self.host_write),
            target.eq(address),
            value.eq(result.values.as_value()),
        ]
        part = self.host_address[:log_parts]
        host_word = self.host_address >> log_parts
        m.d.comb += [
            write.enable.eq(Mux(turn, host_writes << part, writing.replicate(parts))),
            write.address.eq(Mux(turn, host_word, target)),
            write.data.eq(Mux(turn, Cat([self.host_data_w] * parts), value)),
            read.enable.eq(issue | (turn & ~host_writes)),
            read.address.eq(Mux(turn, host_word, self.taps.payload.beat >> log_beats)),
        ]
        m.d.sync += self.host_data_r.eq(read.data.word_select(part, 32) if log_parts else read.data)
        return m
