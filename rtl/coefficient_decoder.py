"""Unpacks coefficients of 1 to 8 bits from the words of the coefficient memory."""

from itertools import product
from math import gcd

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.enum import Enum
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .config import Configuration
from .delay import copies, delayed

__all__ = [
    "CoefficientDecoder",
    "Segment",
    "Vectors",
    "announcement_delay",
    "vector_delay",
    "word_delay",
    "word_marks_layout",
]


def word_delay(config):
    """Cycles by which a word of the coefficient memory comes after its marks."""
    return int(config.slow_memory)


def vector_delay(config):
    """Cycles from the announcement of a vector to its values."""
    return 2 + 2 * config.slow_memory


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


def word_marks_layout():
    """Which segment a word of the coefficient memory belongs to.

    `final` marks the words of a lane group's last stream segment.
    """
    return data.StructLayout({"segment": Segment, "final": 1})


_piece_layout = data.StructLayout({"segment": Segment, "final": 1, "top_bit": 3})
"""What a word held is, and the precision of its coefficients, less 1."""


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


def _table(function, *operands):
    """A function of a few bits, from the numbers for which each of its bits is set.

    As arithmetic it would go through a carry chain, which is slow to enter and to leave.
    """
    ranges = [range(1 << len(operand)) for operand in reversed(operands)]
    values = [function(*numbers[::-1]) for numbers in product(*ranges)]
    return Cat(
        Cat(operands).matches(*(n for n, value in enumerate(values) if value >> bit & 1))
        for bit in range(max(values).bit_length())
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
    whole : Out(1)
        All of the next vector is there.
    room : In(1)
        It can be taken.
    take : Out(1)
        It is.
    top_bit : In(3)
        Precision of the oldest piece's segment, less 1.
    vectors : In(16)
        Vectors of that segment.
    single : In(1)
        That is 1.
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
    first : Out(1)
        That is 1.
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
                "whole": Out(1),
                "room": In(1),
                "take": Out(1),
                "top_bit": In(3),
                "vectors": In(16),
                "single": In(1),
                "offset": Out(range(furthest)),
                "last": Out(1),
                "move": Out(1),
                "place": Out(ceil_log2(self.registers + 2)),
                "held": Out(range(self.registers + 1)),
                "index": Out(16, init=1),
                "first": Out(1, init=1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bits, registers = self.bits, self.registers
        log_bits = ceil_log2(bits)
        held, index = self.held, self.index

        # Of a vector that begins in the oldest piece.
        begin = self.offset[:log_bits]
        reached = Signal(range(self.touched + 1))  # pieces with a bit of it
        ended = Signal(range(self.touched + 1))  # pieces of which it has the last bit
        rest = Signal(range(bits))  # where the next one begins
        here = Cat(held > n for n in range(registers))  # pieces
        if self.touched > registers:
            here = Cat(here, (held == registers) & self.valid)
        missing = Cat((reached > n) & ~there for n, there in enumerate(here)).any()
        ends = Signal()  # not the first of its segment, but the last
        behind = Signal()
        finished = Signal.like(reached)  # pieces, if it is taken
        m.d.comb += [
            reached.eq(_table(lambda at, top: (at + top) // bits + 1, begin, self.top_bit)),
            ended.eq(_table(lambda at, top: (at + top + 1) // bits, begin, self.top_bit)),
            rest.eq(_table(lambda at, top: (at + top + 1) % bits, begin, self.top_bit)),
            behind.eq(self.offset >= bits),
            self.whole.eq(~missing & ~behind),
            self.take.eq(self.whole & self.room),
            self.last.eq(Mux(self.first, self.single, ends)),
            finished.eq(Mux(self.last, reached, ended)),
        ]

        dropped = Signal.like(finished)  # with the vector
        if registers == 2:
            m.d.comb += dropped.eq(finished)
        else:
            m.d.comb += dropped.eq(Mux((finished == 0) | (finished >= held), finished, 1))
        left = Signal.like(self.place)
        width = len(left)
        m.d.comb += [
            left.eq(_table(lambda held, dropped: (held - dropped) % (1 << width), held, dropped)),
            self.move.eq(behind | (self.take & (finished != 0))),
            self.ready.eq((held != registers) | self.move),
            self.accept.eq(self.valid & self.ready),
            self.place.eq(Mux(behind, held - 1, Mux(self.take, left, held))),
        ]

        m.d.sync += held.eq(_table(lambda place, more: place + more, self.place, self.accept))
        with m.If(self.take):
            m.d.sync += [
                self.offset.eq(Cat(Mux(self.last, Const(0, log_bits), rest), finished - dropped)),
                index.eq(index + 1),
                ends.eq(index + 1 == self.vectors),
                self.first.eq(self.last),
            ]
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
    i : In(stream of word_marks_layout)
        Words of the coefficient memory, in order. Words of one segment follow each other.
    word : In(coefficient_port)
        The word that `i` offered `word_delay` cycles before.
    o : Out(Vectors)
    array_taken : Out(1)
        `o.taken`, of a WEIGHT or CROSS segment: of all that waits for it, the array waits longest.
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
                "i": In(stream.Signature(word_marks_layout())),
                "word": In(config.coefficient_port),
                "o": Out(Vectors(config)),
                "array_taken": Out(1),
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
        m.submodules.control = control = DecoderControl(self.config.stripe_bits)

        # What the words held are, and so where their vectors go and how wide they are.
        arriving = Signal(_piece_layout)
        m.d.comb += [
            arriving.segment.eq(i.payload.segment),
            arriving.final.eq(i.payload.final),
        ]
        with m.Switch(i.payload.segment):
            with m.Case(Segment.BASIS):
                m.d.comb += arriving.top_bit.eq(self.basis_precision)
            with m.Case(Segment.CROSS):
                m.d.comb += arriving.top_bit.eq(self.cross_precision)
            with m.Default():
                m.d.comb += arriving.top_bit.eq(self.stream_precision)
        following = arriving
        for n in reversed(range(control.registers)):
            piece = Signal(_piece_layout, name=f"piece{n}")
            with m.If(control.place == n):
                m.d.sync += piece.eq(arriving)
            with m.Elif(control.move):
                m.d.sync += piece.eq(following)
            following = piece
        oldest = following

        # Known long before the first word: nothing has to be counted for a segment of one vector.
        singles = {}
        for name in ("basis", "stream", "cross"):
            singles[name] = Signal(name=f"{name}_single")
            m.d.sync += singles[name].eq(getattr(self, f"{name}_vectors") == 1)
        powers = Signal()
        m.d.comb += control.top_bit.eq(oldest.top_bit)
        with m.Switch(oldest.segment):
            with m.Case(Segment.BASIS):
                m.d.comb += [
                    control.vectors.eq(self.basis_vectors),
                    control.single.eq(singles["basis"]),
                    control.room.eq(self.basis_room),
                ]
            with m.Case(Segment.STREAM):
                m.d.comb += [
                    control.vectors.eq(self.stream_vectors),
                    control.single.eq(singles["stream"]),
                    control.room.eq(self.stream_room),
                    powers.eq(self.powers),
                ]
            with m.Case(Segment.WEIGHT):
                m.d.comb += [
                    control.vectors.eq(self.stream_vectors),
                    control.single.eq(singles["stream"]),
                    control.room.eq(self.array_room),
                ]
            with m.Case(Segment.CROSS):
                m.d.comb += [
                    control.vectors.eq(self.cross_vectors),
                    control.single.eq(singles["cross"]),
                    control.room.eq(self.array_room),
                ]
        m.d.comb += [
            control.valid.eq(i.valid),
            i.ready.eq(control.ready),
            o.taken.eq(control.take),
            self.array_taken.eq(
                control.whole
                & self.array_room
                & ((oldest.segment == Segment.WEIGHT) | (oldest.segment == Segment.CROSS))
            ),
            o.segment.eq(oldest.segment),
            o.final.eq(oldest.final),
            o.last.eq(control.last),
        ]
        self._extract(m, control, powers)
        return m

    def _extract(self, m, control, powers):
        """The words, two cycles behind the control if memory is slow, and coefficients in them."""
        bits, stripes = self.config.stripe_bits, self.config.stripes
        behind = 2 * self.config.slow_memory
        (arriving,) = delayed(m, behind - word_delay(self.config), arriving=self.word)
        # What reaches all stripes comes from a register for each part of them.
        parts = 1 << behind
        part_bits = self.config.coefficient_port // parts
        words = [arriving]
        for n in reversed(range(control.registers)):
            word = Signal(self.config.coefficient_port, name=f"word{n}", reset_less=True)
            here = control.place == n  # the arriving word comes here
            moves = copies(
                m, behind, parts, **{f"place{n}": here, f"change{n}": here | control.move}
            )
            for part, (place, change) in enumerate(moves):
                with m.If(change):
                    m.d.sync += word.word_select(part, part_bits).eq(
                        Mux(place, arriving, words[0]).word_select(part, part_bits)
                    )
            words.insert(0, word)

        # The window at the offset; then, a cycle later, cut to the precision and sign extended.
        offsets = copies(m, behind, parts, within=control.offset[: ceil_log2(bits)])
        keep = Cat(control.top_bit >= bit for bit in range(1, 8))
        binary = control.top_bit == 0
        cuts = copies(
            m,
            1 + behind,
            1 << behind,
            top_bit=control.top_bit,
            keep=keep,
            binary=binary,
            powers=powers,
        )
        for stripe in range(stripes):
            (within,) = offsets[stripe * len(offsets) // stripes]
            top_bit, keep, binary, powers = cuts[stripe * len(cuts) // stripes]
            pieces = Cat(word.word_select(stripe, bits) for word in words)
            (window,) = delayed(m, 1, **{f"window{stripe}": (pieces >> within)[:8]})
            sign = window.bit_select(top_bit, 1)
            cut = (Mux(keep[bit - 1], window[bit], sign) for bit in range(1, 8))
            value = Cat(window[0], *cut) | binary
            # Of the codes of powers of two only 3 and -3 are not what they stand for, 4 and -4.
            four = powers & window[0] & (window[1] ^ window[2])
            value = Cat(value[:2] & ~four.replicate(2), value[2] | four, value[3:])
            result = Signal(8, name=f"value{stripe}", reset_less=True)
            m.d.sync += result.eq(Mux(self.silent, 0, value))
            m.d.comb += self.o.values[stripe].eq(result)
