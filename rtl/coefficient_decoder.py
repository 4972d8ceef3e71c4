"""Unpacks coefficients of 1 to 8 bits from the words of the coefficient memory."""

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


class CoefficientDecoder(wiring.Component):
    """Decoder of densely packed coefficients.

    Every stripe (one a multiplier) owns `stripe_bits` bits of every word and unpacks its own bit
    stream, least significant bit first; all stripes share one control: they all are at the same
    bit. For a precision q >= 2 a coefficient is the two's complement number of its q bits; for
    q = 1, bit 0 is +1 and bit 1 is -1. A segment begins at a word; what is left of the word in
    which the last one ended is skipped.

    Each stripe holds the last `slots` pieces it was given, `slots = ceil((stripe_bits + 7) /
    stripe_bits)`: a coefficient that begins in the oldest lies wholly in them. One piece is
    dropped a cycle.

    Latency: 2 cycles from a word to the first vector of it. Throughput: a vector takes
    `max(1, q / stripe_bits)` cycles on average, and a segment no more than its words or its
    vectors, whichever is more; nothing is lost between segments.

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
        stripes = self.config.stripes
        slots = -(-(bits + 7) // bits)
        i, o = self.i, self.o

        # Shared control. `offset` is where the next coefficient begins, counted from the oldest
        # bit held; a piece is dropped when it lies wholly behind.
        held = Signal(range(slots + 1))
        offset = Signal(range(bits + 8))
        fresh = Signal(init=1)
        remaining = Signal(16)
        segments = Signal(data.ArrayLayout(Segment, slots))
        finals = Signal(slots)
        segment = segments[0]

        top_bit = Signal(3)
        vectors = Signal(16)
        with m.Switch(segment):
            with m.Case(Segment.BASIS):
                m.d.comb += [top_bit.eq(self.basis_precision), vectors.eq(self.basis_vectors)]
            with m.Case(Segment.CROSS):
                m.d.comb += [top_bit.eq(self.cross_precision), vectors.eq(self.cross_vectors)]
            with m.Default():
                m.d.comb += [top_bit.eq(self.stream_precision), vectors.eq(self.stream_vectors)]

        end = Signal(range(bits + 16))
        count = Signal(16)
        last = Signal()
        behind = Signal()
        present = Signal()
        fire = Signal()
        drop = Signal()
        rounded = Signal(range(bits + 16))
        log_bits = ceil_log2(bits)
        m.d.comb += [
            end.eq(offset + top_bit + 1),
            count.eq(Mux(fresh, vectors, remaining)),
            last.eq(count == 1),
            behind.eq(offset >= bits),
            present.eq((held << log_bits) >= end),
            fire.eq(present & ~behind & (~o.valid | o.ready)),
            rounded.eq(end),
            drop.eq(Mux(behind, held != 0, fire & (rounded >= bits))),
        ]
        with m.If(last):
            m.d.comb += rounded.eq((end + (bits - 1)) >> log_bits << log_bits)
        with m.If(fire):
            m.d.sync += [
                offset.eq(Mux(rounded >= bits, rounded - bits, rounded)),
                fresh.eq(last),
                remaining.eq(count - 1),
            ]
        with m.Elif(drop):
            m.d.sync += offset.eq(offset - bits)

        # The pieces move towards the oldest; a new one takes the first free place.
        accept = Signal()
        place = Signal(range(slots + 1))
        m.d.comb += [
            i.ready.eq(held != slots),
            accept.eq(i.valid & i.ready),
            place.eq(held - drop),
        ]
        m.d.sync += held.eq(place + accept)
        pieces = [
            Signal(data.ArrayLayout(bits, slots), name=f"pieces{stripe}")
            for stripe in range(stripes)
        ]
        for slot in range(slots):
            here = Signal(name=f"here{slot}")
            m.d.comb += here.eq(place == slot)
            older = slot + 1 if slot + 1 < slots else None
            with m.If(here | drop):
                take = here if older is not None else 1
                m.d.sync += [
                    segments.as_value()
                    .word_select(slot, 2)
                    .eq(
                        Mux(
                            take,
                            i.payload.segment.as_value(),
                            segments.as_value().word_select(older or 0, 2),
                        )
                    ),
                    finals[slot].eq(Mux(take, i.payload.final, finals[older or 0])),
                ]
                for stripe, piece in enumerate(pieces):
                    m.d.sync += piece[slot].eq(
                        Mux(take, i.payload.word.word_select(stripe, bits), piece[older or 0])
                    )

        # Each stripe: the window at the offset, cut to the precision, sign extended.
        window_offset = offset[: max(1, log_bits)] if bits > 1 else 0
        keep = Signal(8)
        binary = Signal()
        m.d.comb += [
            keep.eq(Cat(top_bit >= bit for bit in range(8))),
            binary.eq(top_bit == 0),
        ]
        values = []
        for stripe, piece in enumerate(pieces):
            window = Signal(8, name=f"window{stripe}")
            sign = Signal(name=f"sign{stripe}")
            value = Signal(8, name=f"value{stripe}")
            m.d.comb += [
                window.eq(piece.as_value() >> window_offset),
                sign.eq(window.bit_select(top_bit, 1)),
                value.eq(Cat(Mux(keep[bit], window[bit], sign) for bit in range(8)) | binary),
            ]
            values.append(value)

        with m.If(fire):
            m.d.sync += [
                o.valid.eq(1),
                o.payload.values.as_value().eq(Cat(values)),
                o.payload.segment.eq(segment),
                o.payload.final.eq(finals[0]),
                o.payload.last.eq(last),
            ]
        with m.Elif(o.ready):
            m.d.sync += [o.valid.eq(0), o.payload.values.as_value().eq(0)]
        return m
