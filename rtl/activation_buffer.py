"""The feature maps, and the paths from and to them."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from .address_generator import tap_layout
from .config import Configuration
from .delay import delayed
from .mac_array import marks_layout
from .memory import block_memory
from .push import Push
from .queue import Queue
from .requantiser import results_layout
from .storage import Storage

__all__ = [
    "ActivationBuffer",
    "Operands",
    "Output",
    "host_delay",
    "kernels_layout",
    "queue_depth",
    "values_delay",
]

RING_DEPTH = 16
"""Steps whose values are kept: those fetched ahead, and those issued ahead of their weights."""


def queue_depth(config):
    """Steps fetched ahead: enough for one a cycle with the memory's latency."""
    return 8 if config.slow_memory else 4


def host_delay(config):
    """Cycles from the host's request to its data, or until what it writes is written."""
    return 3 + 2 * config.slow_memory


def values_delay(config):
    """Cycles from taking a step's values to having them."""
    return 1 + 2 * config.slow_memory


def kernels_layout(config):
    """C kernels W1 in place of activations, and their marks."""
    return data.StructLayout(
        {"values": data.ArrayLayout(signed(8), config.width), "marks": marks_layout()}
    )


class Operands(wiring.Signature):
    """Steps to be issued, and their values when their weights come.

    Members
    -------
    marks : Out(stream of marks_layout)
        A step.
    take : In(1)
        Read the values of the next of the steps that were transferred.
    values : Out(signed(8) x `activation_word`)
        They follow `values_delay` later. A dense layer's channels are the first C of them.
    """

    def __init__(self, config):
        super().__init__(
            {
                "marks": Out(stream.Signature(marks_layout())),
                "take": In(1),
                "values": Out(data.ArrayLayout(signed(8), config.activation_word)),
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

    Steps wait in two places: their marks in a queue, until they are issued, and their values in a
    ring, until their weights are there. A depthwise step has a whole word of values.

    Latency: 3 cycles from a tap to its step, or 5 where memory is slow. Throughput: one step a
    cycle, less the writes where there is one port; one word written a cycle.

    Parameters
    ----------
    config : Configuration
    technology : str
        See `Storage`.

    Members
    -------
    taps : In(stream of tap_layout)
    kernels : In(stream of kernels_layout)
        W1 in place of activations, while a tile is generated and there are no taps.
    o : Out(Operands)
    i : In(push of results_layout)
    zero_point : In(signed(8))
        Of the input map.
    output : In(Output)
    clear : In(1)
        Begin a layer: from two cycles later on, the next result is pixel 0 of lane group 0.
    group_written, final_written : Out(1)
        The last word of a lane group, of a walk, was written.
    host_request, host_write : In(1)
    host_address : In
        32-bit word.
    host_data_w : In(32)
    host_data_r : Out(32)
        `host_delay` cycles after a read request. Requests only while no layer is at work; address
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
                "kernels": In(stream.Signature(kernels_layout(config))),
                "o": Out(Operands(config)),
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
            word_bits, config.activation_words, self.technology, slow=config.slow_memory
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
        result = self.i.payload
        exists = ~last_group | (word <= self.output.last_group_words)
        m.d.comb += [
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

        # Written, by layers or by the host.
        writes = self.i.valid & exists
        host_writes = self.host_request & self.host_write
        part = self.host_address[:log_parts]
        host_word = self.host_address >> log_parts
        m.d.comb += [
            write.enable.eq(Mux(host_writes, 1 << part, writes.replicate(parts))),
            write.address.eq(Mux(host_writes, host_word, address)),
            write.data.eq(
                Mux(host_writes, Cat([self.host_data_w] * parts), result.values.as_value())
            ),
        ]

        # Steps, fetched when the queue of their marks will have room.
        depth = queue_depth(config)
        m.submodules.queue = queue = Queue(marks_layout(), depth, in_front=config.slow_memory)
        connect(m, queue.o, flipped(self.o.marks))
        taps, kernels = self.taps, self.kernels
        fetch = Signal()
        instead = Signal()  # of activations, kernels
        room = Signal(range(depth + 1), init=depth)
        left = room - (fetch | instead)
        issued = queue.o.valid & queue.o.ready
        ready = Signal(init=1)
        m.d.comb += [
            taps.ready.eq(ready & (~writes if config.activation_ports == 1 else 1)),
            fetch.eq(taps.valid & taps.ready),
            kernels.ready.eq(ready),
            instead.eq(kernels.valid & kernels.ready),
        ]
        m.d.sync += room.eq(left + issued)
        if config.slow_memory:  # From here it is a long way through the address generator.
            m.d.sync += ready.eq((left != 0) | issued)
        else:
            m.d.comb += ready.eq(room != 0)

        beats = config.activation_word // config.width
        log_beats = ceil_log2(beats)
        (whole,) = delayed(m, int(config.slow_memory), whole=read.data)
        read_now, padding, place, marks = delayed(
            m,
            1 + 2 * config.slow_memory,
            read_now=fetch,
            padding=taps.payload.padding,
            place=taps.payload.beat[:log_beats],
            marks=taps.payload.marks.as_value(),
        )
        found_now = Signal()
        found_marks = Signal(marks_layout(), reset_less=True)
        found = Signal(word_bits, reset_less=True)
        channels = whole.word_select(place, 8 * config.width)
        values = Cat(channels, whole[8 * config.width :])
        zeros = Cat([self.zero_point] * config.activation_word)
        pads = Signal()  # what was found
        if not config.slow_memory:
            values = Mux(padding, zeros, values)
        m.d.sync += [
            found_now.eq(read_now | instead),
            found_marks.as_value().eq(Mux(read_now, marks, kernels.payload.marks.as_value())),
            found.eq(Mux(read_now, values, kernels.payload.values.as_value())),
            pads.eq(read_now & padding & config.slow_memory),
        ]
        m.d.comb += [queue.i.valid.eq(found_now), queue.i.payload.eq(found_marks)]

        m.submodules.ring = ring = block_memory(word_bits, RING_DEPTH)
        writer, reader = ring.write_port(), ring.read_port()
        with m.If(found_now):
            m.d.sync += writer.addr.eq(writer.addr + 1)
        with m.If(self.o.take):
            m.d.sync += reader.addr.eq(reader.addr + 1)
        m.d.comb += [
            writer.en.eq(found_now),
            writer.data.eq(Mux(pads, zeros, found) if config.slow_memory else found),
            reader.en.eq(self.o.take),
        ]
        (values,) = delayed(m, values_delay(config) - 1, values=reader.data)
        m.d.comb += self.o.values.eq(values)

        # Read, by steps or by the host, whose turn is a cycle later.
        turn = Signal()
        m.d.sync += turn.eq(self.host_request & ~self.host_write)
        (host_word,) = delayed(m, int(config.slow_memory), host_word=host_word)
        m.d.comb += [
            read.enable.eq(fetch | turn),
            read.address.eq(Mux(turn, host_word, taps.payload.beat >> log_beats)),
        ]
        m.d.sync += self.host_data_r.eq(whole.word_select(part, 32) if log_parts else whole)
        return m
