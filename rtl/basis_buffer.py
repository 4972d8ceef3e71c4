"""Holds the basis kernels B of the layer or lane group at work."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .coefficient_decoder import vector_layout
from .config import Configuration
from .memory import block_memory

__all__ = ["BasisBuffer", "BasisPort", "basis_layout"]


def basis_layout(config):
    """The Bi coefficients B of one tap and one kernel a lane: [terms][lanes], signed."""
    return data.ArrayLayout(
        data.ArrayLayout(config.generator_b_bits, config.lanes), config.generator_terms
    )


class BasisPort(wiring.Signature):
    """Read port: `data` follows `address` by one cycle where `enable` is set, and then holds."""

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

    Throughput: one vector a cycle in, one word a cycle out.

    Cost: `basis_depth * lanes * generator_terms * generator_b_bits` bits of block RAM.

    Parameters
    ----------
    config : Configuration

    Members
    -------
    i : In(stream of vector_layout)
        Vectors of BASIS segments.
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
                "i": In(stream.Signature(vector_layout(config))),
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
        config = self.config
        i = self.i
        log_depth = ceil_log2(config.basis_depth)
        log_width = ceil_log2(config.width)

        half = Signal()  # being written
        index = Signal(log_depth)
        group = Signal(3)  # vector within the word
        address = Signal(log_depth)
        write = Signal()
        m.d.comb += [
            i.ready.eq(Mux(self.halves, ~self.busy.bit_select(half, 1), self.busy == 0)),
            write.eq(i.valid & i.ready),
            address.eq(Cat(index[:-1], index[-1] | (half & self.halves))),
        ]
        with m.If(write):
            m.d.sync += group.eq(group + 1)
            with m.If(group == self.terms >> log_width):
                m.d.sync += [group.eq(0), index.eq(index + 1)]
            with m.If(i.payload.last):
                m.d.sync += [group.eq(0), index.eq(0), half.eq(~half), self.half.eq(half)]
        with m.If(self.clear):
            m.d.sync += [half.eq(0), index.eq(0), group.eq(0)]

        for term in range(config.generator_terms):
            m.submodules[f"term{term}"] = memory = block_memory(
                config.lanes * config.generator_b_bits, config.basis_depth
            )
            writer, reader = memory.write_port(), memory.read_port()
            m.d.comb += [
                writer.en.eq(write & (group == term // config.width)),
                writer.addr.eq(address),
                writer.data.eq(
                    Cat(
                        i.payload.values[lane * config.width + term % config.width][
                            : config.generator_b_bits
                        ]
                        for lane in range(config.lanes)
                    )
                ),
                reader.en.eq(self.read.enable),
                reader.addr.eq(self.read.address),
                self.read.data[term].eq(reader.data),
            ]
        return m
