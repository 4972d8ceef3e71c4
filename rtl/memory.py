"""Memories inferred for block RAM."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["BankedMemory", "block_memory"]

FEW_WORDS = 128
"""Of a bank that is LUT RAM: block RAM would stay mostly empty."""


def block_memory(bits, depth, **attrs):
    """A memory of `depth` words of `bits` bits; `attrs` are further attributes.

    Nothing may depend on what a read returns of a word that is written in the same cycle: block
    RAM does not define it, and the attribute keeps yosys from adding registers that would.
    """
    return Memory(shape=bits, depth=depth, init=[], attrs={"no_rw_check": 1, **attrs})


class BankedMemory(wiring.Component):
    """A memory of any depth, in banks whose depths are powers of two.

    Left to itself yosys makes 768 words of three equal banks on iCE40, with a multiplexer for
    three; two banks of 512 and 256 words take as many block RAMs and half the multiplexer. A bank
    of few words is LUT RAM, where there is such.

    Parameters
    ----------
    bits : int
    depth : int
    granularity : int, optional
        Bits that are written together; all by default.
    lut_ram : bool, optional
        Whether the device has LUT RAM.

    Members
    -------
    write_enable, write_address, write_data : In
        One bit of `write_enable` for each part.
    read_enable, read_address : In
    read_data : Out
        One cycle after `read_enable`; then holds.
    """

    def __init__(self, bits, depth, granularity=None, *, lut_ram=True):
        self.bits = bits
        self.lut_ram = lut_ram
        self.depth = depth
        self.granularity = granularity or bits
        super().__init__(
            {
                "write_enable": In(bits // self.granularity),
                "write_address": In(range(depth)),
                "write_data": In(bits),
                "read_enable": In(1),
                "read_address": In(range(depth)),
                "read_data": Out(bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        data = None
        base = 0
        for size in (1 << n for n in reversed(range(self.depth.bit_length()))):
            if not self.depth & size:
                continue
            few = self.lut_ram and size <= FEW_WORDS
            style = {"ram_style": "distributed"} if few else {}
            m.submodules[f"bank{size}"] = memory = block_memory(self.bits, size, **style)
            writer, reader = memory.write_port(granularity=self.granularity), memory.read_port()
            # Banks begin at multiples of their size: the address within is the lower bits.
            within = size.bit_length() - 1
            bank_read = Signal(name=f"read{size}")
            m.d.comb += [
                writer.en.eq(
                    Mux(self.write_address >> within == base >> within, self.write_enable, 0)
                ),
                writer.addr.eq(self.write_address[:within]),
                writer.data.eq(self.write_data),
                reader.en.eq(self.read_enable),
                reader.addr.eq(self.read_address[:within]),
            ]
            if data is None:
                data = reader.data
            else:
                with m.If(self.read_enable):
                    m.d.sync += bank_read.eq(self.read_address >> within == base >> within)
                data = Mux(bank_read, reader.data, data)
            base += size
        m.d.comb += self.read_data.eq(data)
        return m
