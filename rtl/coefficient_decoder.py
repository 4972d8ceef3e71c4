"""Unpacks coefficients of 1 to 8 bits from the words of the coefficient memory."""

from math import gcd

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.enum import Enum
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .config import Configuration
from .delay import delayed

__all__ = [
    "CoefficientDecoder",
    "Segment",
    "Vectors",
    "announcement_delay",
    "vector_delay",
    "word_layout",
]


def vector_delay(config):
    """Cycles from the announcement of a vector to its values."""
    return 2 + config.slow_memory


def announcement_delay(config):
    """Cycles after which those that keep a vector need to hear of its announcement."""
    return int(config.slow_memory)


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


class Vectors(wiring.Signature):
    """Vectors of coefficients, announced before they are there.

    In a cycle with `taken` a vector has left its words for good: whoever it is for knows from
    `segment`, `final` (of a lane group's last stream segment) and `last` (of its segment), and has
    had room for it. Its values, a signed byte a stripe, follow `vector_delay` cycles later and
    stay for one cycle.
    """

    def __init__(self, config):
        super().__init__(
            {
                "taken": Out(1),
                "segment": Out(Segment),
                "final": Out(1),
                "last": Out(1),
                "values": Out(data.ArrayLayout(8, config.stripes)),
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
    fast : bool
        Whether enough is there is looked up in a table, and `ends` says which vector is the last
        instead of a comparison with `vectors`: fewer levels of logic, but more of it.

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
    ends : In(1)
        `index` is that of the segment's last vector; only looked at where `fast`.
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

    def __init__(self, bits, *, fast=False):
        # Pieces that a coefficient can touch: it begins at multiples of what its precision and
        # `bits` have in common.
        self.touched = max(-(-(bits - gcd(bits, q) + q) // bits) for q in range(1, 9))
        self.registers = max(2, self.touched - 1)
        self.bits = bits
        self.fast = fast
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
                "ends": In(1),
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
            self.take.eq(self._enough(here, end) & ~behind & self.room),
            self.last.eq(self.ends if self.fast else index == self.vectors),
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

    def _enough(self, here, end):
        """Whether `here` pieces have all bits up to `end`."""
        if not self.fast:
            return (here << ceil_log2(self.bits)) >= end
        place = Cat(self.offset, self.top_bit)
        ends = [
            (at & (1 << len(self.offset)) - 1) + (at >> len(self.offset))
            for at in range(1 << len(place))
        ]
        more = [
            Const(sum((end >= n * self.bits) << at for at, end in enumerate(ends)), len(ends))
            for n in range(1, self.touched)
        ]  # than n pieces are needed
        return (here > self.touched - 1) | Cat(
            (here == n) & ~table.bit_select(place, 1) for n, table in enumerate(more, 1)
        ).any()


class CoefficientDecoder(wiring.Component):
    """Decoder of densely packed coefficients.

    Every stripe (one a multiplier) owns `stripe_bits` bits of every word and unpacks its own bit
    stream, least significant bit first; all stripes share one control (`DecoderControl`): they all
    are at the same bit. For a precision q >= 2 a coefficient is the two's complement number of its
    q bits; for q = 1, bit 0 is +1 and bit 1 is -1. With `powers` that of a STREAM segment, of 3
    bits, is a code: 0, or +-n for +-2**(n - 1). A segment begins at a word; what is left of the
    word in which the last one ended is skipped.

    The control decides a cycle ahead of the words it decides about: what it says reaches the many
    bits of the stripes from registers.

    Latency: 1 cycle from the word in which the first vector ends to its announcement, 0 if the
    control has no register for that word. Throughput: a segment takes as many cycles as its words
    or its vectors, whichever is more.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    i : In(stream of word_layout)
        Words of the coefficient memory, in order. Words of one segment follow each other.
    o : Out(Vectors)
    silent : In(1)
        The next values are 0.
    basis_room, stream_room, array_room : In(1)
        A vector of a BASIS, of a STREAM, of a WEIGHT or CROSS segment may be taken.
    basis_precision, stream_precision, cross_precision : In(3)
        Precision of each kind of segment, less 1. WEIGHT has that of STREAM. Stable from the
        first word of a layer to its last vector.
    powers : In(1)
        STREAM segments hold codes of powers of two. Stable likewise.
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
                "o": Out(Vectors(config)),
                "basis_room": In(1),
                "stream_room": In(1),
                "array_room": In(1),
                "silent": In(1),
                "basis_precision": In(3),
                "stream_precision": In(3),
                "cross_precision": In(3),
                "powers": In(1),
                "basis_vectors": In(12),
                "stream_vectors": In(16),
                "cross_vectors": In(16),
            }
        )

    def elaborate(self, platform):
        m = Module()
        i, o = self.i, self.o
        m.submodules.control = control = DecoderControl(
            self.config.stripe_bits, fast=self.config.slow_memory
        )

        # What the words held are, and so where their vectors go and how wide they are. Where memory
        # is slow the precision is looked up as a word comes, else when it is the oldest.
        arriving = Cat(i.payload.segment, i.payload.final)
        if self.config.slow_memory:
            arriving = Cat(arriving, self._precision(m, i.payload.segment))
        kinds = [arriving]
        for n in reversed(range(control.registers)):
            kind = Signal(len(arriving), name=f"kind{n}")
            with m.If(control.place == n):
                m.d.sync += kind.eq(arriving)
            with m.Elif(control.move):
                m.d.sync += kind.eq(kinds[0])
            kinds.insert(0, kind)
        segment = Segment(kinds[0][:2])
        powers = Signal()
        with m.Switch(segment):
            with m.Case(Segment.BASIS):
                m.d.comb += [
                    control.vectors.eq(self.basis_vectors),
                    control.room.eq(self.basis_room),
                ]
            with m.Case(Segment.STREAM):
                m.d.comb += [
                    control.vectors.eq(self.stream_vectors),
                    control.room.eq(self.stream_room),
                    powers.eq(self.powers),
                ]
            with m.Case(Segment.WEIGHT):
                m.d.comb += [
                    control.vectors.eq(self.stream_vectors),
                    control.room.eq(self.array_room),
                ]
            with m.Case(Segment.CROSS):
                m.d.comb += [
                    control.vectors.eq(self.cross_vectors),
                    control.room.eq(self.array_room),
                ]
        m.d.comb += [
            control.top_bit.eq(
                kinds[0][3:] if self.config.slow_memory else self._precision(m, segment)
            ),
            control.ends.eq(self._ends(m, control, segment) if self.config.slow_memory else 0),
            control.valid.eq(i.valid),
            i.ready.eq(control.ready),
            o.taken.eq(control.take),
            o.segment.eq(segment),
            o.final.eq(kinds[0][2]),
            o.last.eq(control.last),
        ]
        self._extract(m, control, powers)
        return m

    def _precision(self, m, segment):
        """Precision of a segment's coefficients, less 1."""
        precision = Signal(3)
        with m.Switch(segment):
            with m.Case(Segment.BASIS):
                m.d.comb += precision.eq(self.basis_precision)
            with m.Case(Segment.STREAM, Segment.WEIGHT):
                m.d.comb += precision.eq(self.stream_precision)
            with m.Case(Segment.CROSS):
                m.d.comb += precision.eq(self.cross_precision)
        return precision

    def _ends(self, m, control, segment):
        """Whether the next vector is the last of its segment, by a register for each kind."""
        basis, stream, cross = (
            Signal(name=f"{name}_ends") for name in ("basis", "stream", "cross")
        )
        following = control.index + 1
        for ends, vectors in (
            (basis, self.basis_vectors),
            (stream, self.stream_vectors),
            (cross, self.cross_vectors),
        ):
            with m.If(control.take & ~control.last):
                m.d.sync += ends.eq(following == vectors)
            with m.Elif(control.take | (control.index == 1)):
                m.d.sync += ends.eq(vectors == 1)
        return Mux(segment == Segment.BASIS, basis, Mux(segment == Segment.CROSS, cross, stream))

    def _extract(self, m, control, powers):
        """The words, a cycle behind the control if memory is slow, and the coefficients in them."""
        bits = self.config.stripe_bits
        behind = int(self.config.slow_memory)
        (arriving,) = delayed(m, behind, arriving=self.i.payload.word)
        words = [arriving]
        for n in reversed(range(control.registers)):
            word = Signal(self.config.coefficient_port, name=f"word{n}", reset_less=True)
            here = control.place == n  # the arriving word comes here
            place, change = delayed(
                m, behind, **{f"place{n}": here, f"change{n}": here | control.move}
            )
            with m.If(change):
                m.d.sync += word.eq(Mux(place, arriving, words[0]))
            words.insert(0, word)

        # The window at the offset; then, a cycle later, cut to the precision and sign extended.
        (within,) = delayed(m, behind, within=control.offset[: ceil_log2(bits)])
        keep = Cat(control.top_bit >= bit for bit in range(8))
        binary = control.top_bit == 0
        top_bit, keep, binary, powers = delayed(
            m, 1 + behind, top_bit=control.top_bit, keep=keep, binary=binary, powers=powers
        )
        for stripe in range(self.config.stripes):
            pieces = Cat(word.word_select(stripe, bits) for word in words)
            (window,) = delayed(m, 1, **{f"window{stripe}": (pieces >> within)[:8]})
            sign = window.bit_select(top_bit, 1)
            value = Cat(Mux(keep[bit], window[bit], sign) for bit in range(8)) | binary
            # Of the codes of powers of two only 3 and -3 are not what they stand for, 4 and -4.
            four = powers & window[0] & (window[1] ^ window[2])
            value = Cat(value[:2] & ~four.replicate(2), value[2] | four, value[3:])
            result = Signal(8, name=f"value{stripe}", reset_less=True)
            m.d.sync += result.eq(Mux(self.silent, 0, value))
            m.d.comb += self.o.values[stripe].eq(result)
