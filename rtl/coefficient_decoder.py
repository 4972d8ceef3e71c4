"""Unpacks coefficients of 1 to 8 bits from the words of the coefficient memory."""

from math import gcd

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.enum import Enum
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .config import Configuration

__all__ = ["CoefficientDecoder", "Segment", "vector_layout", "word_layout"]


class Segment(Enum, shape=2):
    """What a coefficient is, and so where it goes and how many bits it has."""

    BASIS = 0
    """B: to the basis buffer."""
    STREAM = 1
    """U (to the weight generator)."""
    WEIGHT = 2
    """Stored W, at the precision of the stream (to the MAC array)."""
    CROSS = 3
    """V (to the MAC array)."""


def word_layout(config):
    """A word of the coefficient memory, and which segment it belongs to.

    `final` marks the words of a lane group's last stream segment.
    """
    return data.StructLayout({"word": config.coefficient_port, "segment": Segment, "final": 1})


def vector_layout(config):
    """One coefficient a stripe, as signed bytes; `last` marks the last of its segment."""
    return data.StructLayout(
        {
            "values": data.ArrayLayout(8, config.stripes),
            "segment": Segment,
            "final": 1,
            "last": 1,
        }
    )


class DecoderControl(wiring.Component):
    """What all stripes of the decoder share: where the next coefficient is, and who moves.

    A word gives each stripe a piece of `bits` bits. The oldest `registers` pieces are held; the
    word at the input, if it is next to them, counts as held too. A coefficient begins `offset` bits
    into the oldest piece and is taken as soon as all of it is there. Pieces that lie wholly behind
    are dropped at once if there is one of them or if all are; else one a cycle. After a segment's
    last vector the rest of its piece lies behind as well.

    Parameters
    ----------
    bits : int
        Bits of a piece, a power of two.

    Members
    -------
    valid : In(1)
        A word is at the input.
    accept : Out(1)
        It goes to register `place`, unless it is dropped as well.
    ready : Out(1)
        It would.
    room : In(1)
        A vector can be taken.
    take : Out(1)
        It is.
    top_bit : In(3)
        Precision of the oldest piece's segment, less 1.
    vectors : In(16)
        Vectors of that segment.
    offset : Out
        Where the vector begins.
    last : Out(1)
        It is the last of its segment.
    move : Out(1)
        Pieces go to the register before.
    place : Out
        The first register that is free then; `registers` and more mean none.
    held : Out
        Pieces in registers.
    index : Out(16)
        Which vector of its segment the next one is, from 1.
    """

    def __init__(self, bits):
        # Pieces that a coefficient can touch: it begins at multiples of what its precision and
        # `bits` have in common.
        self.touched = max(-(-(bits - gcd(bits, q) + q) // bits) for q in range(1, 9))
        self.registers = max(2, self.touched - 1)
        self.bits = bits
        # With two registers nothing stays behind.
        furthest = bits if self.registers == 2 else self.touched * bits
        super().__init__(
            {
                "valid": In(1),
                "accept": Out(1),
                "ready": Out(1),
                "room": In(1),
                "take": Out(1),
                "top_bit": In(3),
                "vectors": In(16),
                "offset": Out(range(furthest)),
                "last": Out(1),
                "move": Out(1),
                "place": Out(ceil_log2(self.registers + 2)),
                "held": Out(range(self.registers + 1)),
                "index": Out(16, init=1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bits, registers = self.bits, self.registers
        log_bits = ceil_log2(bits)
        held, index = self.held, self.index

        end = Signal(range(self.touched * bits + 1))
        here = Signal(range(registers + 2))  # pieces
        behind = Signal()
        rounded = Signal.like(end)
        whole = Signal(range(self.touched + 1))  # pieces that the vector finishes
        drop = Signal.like(whole)
        m.d.comb += [
            behind.eq(self.offset >= bits),
            end.eq(self.offset + self.top_bit + 1),
            here.eq(
                held + (self.valid & (held == registers)) if self.touched > registers else held
            ),
            self.take.eq(((here << log_bits) >= end) & ~behind & self.room),
            self.last.eq(index == self.vectors),
            rounded.eq(end),
            whole.eq(rounded >> log_bits),
        ]
        with m.If(self.last):
            m.d.comb += rounded.eq((end + (bits - 1)) >> log_bits << log_bits)
        with m.If(behind):
            m.d.comb += drop.eq(1)
        with m.Elif(self.take):
            m.d.comb += drop.eq(Mux((whole == 0) | (whole >= held), whole, 1))
        m.d.comb += [
            self.move.eq(drop != 0),
            self.ready.eq((held != registers) | self.move),
            self.accept.eq(self.valid & self.ready),
            self.place.eq(held - drop),
        ]

        m.d.sync += held.eq(self.place + self.accept)
        with m.If(self.take):
            m.d.sync += [self.offset.eq(rounded - (drop << log_bits)), index.eq(index + 1)]
            with m.If(self.last):
                m.d.sync += index.eq(1)
        with m.Elif(behind):
            m.d.sync += self.offset.eq(self.offset - bits)
        return m


class CoefficientDecoder(wiring.Component):
    """Decoder of densely packed coefficients.

    Every stripe (one a multiplier) owns `stripe_bits` bits of every word and unpacks its own bit
    stream, least significant bit first; all stripes share one control (`DecoderControl`): they all
    are at the same bit. For a precision q >= 2 a coefficient is the two's complement number of its
    q bits; for q = 1, bit 0 is +1 and bit 1 is -1. A segment begins at a word; what is left of the
    word in which the last one ended is skipped.

    Latency: 2 cycles from the word in which the first vector ends to that vector, 1 if the control
    has no register for that word. Throughput: a segment takes as many cycles as its words or its
    vectors, whichever is more.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    i : In(stream of word_layout)
        Words of the coefficient memory, in order. Words of one segment follow each other.
    o : Out(stream of vector_layout)
        Vectors. While there is none, its values are zero.
    basis_precision, stream_precision, cross_precision : In(3)
        Precision of each kind of segment, less 1. WEIGHT has that of STREAM. Stable from the
        first word of a layer to its last vector.
    basis_vectors, stream_vectors, cross_vectors : In(12), In(16), In(16)
        Vectors in each segment, at least 1.
    """

    def __init__(self, config: Configuration):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        super().__init__(
            {
                "i": In(stream.Signature(word_layout(config))),
                "o": Out(stream.Signature(vector_layout(config))),
                "basis_precision": In(3),
                "stream_precision": In(3),
                "cross_precision": In(3),
                "basis_vectors": In(12),
                "stream_vectors": In(16),
                "cross_vectors": In(16),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bits = self.config.stripe_bits
        i, o = self.i, self.o
        m.submodules.control = control = DecoderControl(bits)
        words = [Signal.like(i.payload, name=f"word{n}") for n in range(control.registers)]
        oldest = words[0]

        with m.Switch(oldest.segment):
            with m.Case(Segment.BASIS):
                m.d.comb += [
                    control.top_bit.eq(self.basis_precision),
                    control.vectors.eq(self.basis_vectors),
                ]
            with m.Case(Segment.CROSS):
                m.d.comb += [
                    control.top_bit.eq(self.cross_precision),
                    control.vectors.eq(self.cross_vectors),
                ]
            with m.Default():
                m.d.comb += [
                    control.top_bit.eq(self.stream_precision),
                    control.vectors.eq(self.stream_vectors),
                ]
        m.d.comb += [
            control.valid.eq(i.valid),
            i.ready.eq(control.ready),
            control.room.eq(~o.valid | o.ready),
        ]
        for n, (word, newer) in enumerate(zip(words, [*words[1:], i.payload], strict=True)):
            with m.If(control.place == n):
                m.d.sync += word.eq(i.payload)
            with m.Elif(control.move):
                m.d.sync += word.eq(newer)

        with m.If(control.take):
            m.d.sync += [
                o.valid.eq(1),
                o.payload.segment.eq(oldest.segment),
                o.payload.final.eq(oldest.final),
                o.payload.last.eq(control.last),
            ]
        with m.Elif(o.ready):
            m.d.sync += o.valid.eq(0)

        keep = Signal(8)
        binary = Signal()
        m.d.comb += [
            keep.eq(Cat(control.top_bit >= bit for bit in range(8))),
            binary.eq(control.top_bit == 0),
        ]
        within = control.offset[: ceil_log2(bits)]
        for stripe in range(self.config.stripes):
            # The window at the offset, cut to the precision, sign extended.
            pieces = Cat(word.word.word_select(stripe, bits) for word in [*words, i.payload])
            window = Signal(8, name=f"window{stripe}")
            sign = Signal(name=f"sign{stripe}")
            m.d.comb += [
                window.eq(pieces >> within),
                sign.eq(window.bit_select(control.top_bit, 1)),
            ]
            value = o.payload.values[stripe]
            with m.If(control.take):
                m.d.sync += value.eq(
                    Cat(Mux(keep[bit], window[bit], sign) for bit in range(8)) | binary
                )
            with m.Elif(o.ready):
                m.d.sync += value.eq(0)
        return m
