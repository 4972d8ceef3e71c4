"""Holds the basis kernels B of the layer or lane group at work."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .coefficient_decoder import Segment, Vectors, announcement_delay, vector_delay
from .config import Configuration
from .delay import delayed
from .fixed import recoded
from .memory import block_memory

__all__ = ["BasisBuffer", "BasisPort", "basis_delay", "basis_layout"]


def basis_delay(config):
    """Cycles from a read to its data."""
    return 1 + config.slow_memory


def basis_layout(config):
    """The Bi coefficients B of one tap and one kernel a lane: [terms][lanes], `recoded`."""
    return data.ArrayLayout(
        data.ArrayLayout(config.generator_b_bits, config.lanes), config.generator_terms
    )


class BasisPort(wiring.Signature):
    """Read port: `basis_delay` cycles after a read is enabled its `data` is there, and holds."""

    def __init__(self, config):
        super().__init__(
            {
                "enable": Out(1),
                "address": Out(range(config.basis_depth)),
                "data": In(basis_layout(config)),
            }
        )


class BasisBuffer(wiring.Component):
    """Memory of the basis kernels, written by the decoder, read tap by tap.

    A word holds Bi coefficients of one kernel for each lane. A BASIS segment fills consecutive
    words. Where only the intra level is on the buffer is two halves, and segments alternate: the
    next lane group's basis is written while the generator reads this one's. Where the cross level
    is on a segment may need all of it, and is written to the beginning.

    A term i is coefficient `i % width` of each lane in vector `i // width`: a word takes
    ceil(Bi / width) vectors.

    Throughput: one vector a cycle in, one word a cycle out. What is announced to `vectors` is in
    memory, for a read in the cycle after, `vector_delay` cycles later.

    Cost: `basis_depth * lanes * generator_terms * generator_b_bits` bits of block RAM.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    vectors : In(Vectors)
        Those of BASIS segments are its own.
    room : Out(1)
        One may be taken.
    read : In(BasisPort)
    terms : In(3)
        Bi - 1.
    halves : In(1)
        Alternate between the halves (intra level alone).
    busy : In(2)
        Halves that the generator may still read; writing waits for its half. Without `halves` any
        bit counts.
    half : Out(1)
        Half of the last complete segment.
    clear : In(1)
        Begin a layer: the next segment goes to half 0.
    """

    def __init__(self, config: Configuration):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        super().__init__(
            {
                "vectors": In(Vectors(config)),
                "room": Out(1),
                "read": In(BasisPort(config)),
                "terms": In(3),
                "halves": In(1),
                "busy": In(2),
                "half": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, vectors = self.config, self.vectors
        log_depth = ceil_log2(config.basis_depth)
        log_width = ceil_log2(config.width)

        half = Signal()  # being written
        index = Signal(log_depth)
        group = Signal(3)  # vector within the word
        address = Signal(log_depth)
        heard = announcement_delay(config)
        write, last = delayed(
            m,
            heard,
            write=vectors.taken & (vectors.segment == Segment.BASIS),
            last=vectors.last,
        )
        following = half ^ (write & last) if heard else half
        m.d.comb += [
            self.room.eq(Mux(self.halves, ~self.busy.bit_select(following, 1), self.busy == 0)),
            address.eq(Cat(index[:-1], index[-1] | (half & self.halves))),
        ]
        with m.If(write):
            m.d.sync += group.eq(group + 1)
            with m.If(group == self.terms >> log_width):
                m.d.sync += [group.eq(0), index.eq(index + 1)]
            with m.If(last):
                m.d.sync += [group.eq(0), index.eq(0), half.eq(~half), self.half.eq(half)]
        with m.If(self.clear):
            m.d.sync += [half.eq(0), index.eq(0), group.eq(0)]

        groups = -(-config.generator_terms // config.width)
        places, address = delayed(
            m,
            vector_delay(config) - heard,
            places=Cat(write & (group == n) for n in range(groups)),
            address=address,
        )
        for term in range(config.generator_terms):
            m.submodules[f"term{term}"] = memory = block_memory(
                config.lanes * config.generator_b_bits, config.basis_depth
            )
            writer, reader = memory.write_port(), memory.read_port()
            m.d.comb += [
                writer.en.eq(places[term // config.width]),
                writer.addr.eq(address),
                writer.data.eq(
                    Cat(
                        recoded(
                            vectors.values[lane * config.width + term % config.width][
                                : config.generator_b_bits
                            ]
                        )
                        for lane in range(config.lanes)
                    )
                ),
                reader.en.eq(self.read.enable),
                reader.addr.eq(self.read.address),
            ]
            (word,) = delayed(m, basis_delay(config) - 1, **{f"word{term}": reader.data})
            m.d.comb += self.read.data[term].eq(word)
        return m
