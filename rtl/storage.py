"""The large memories: of activations and of coefficients."""

from math import gcd

from amaranth import Cat, ClockSignal, Instance, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .delay import copies
from .memory import BankedMemory

__all__ = ["ReadPort", "Storage", "WritePort"]

SPRAM_WORDS = 16384
"""Words of 16 bits of an SB_SPRAM256KA."""


class WritePort(wiring.Signature):
    """Writes the 32-bit parts of word `address` that `enable` selects."""

    def __init__(self, bits, depth):
        super().__init__(
            {"enable": Out(bits // 32), "address": Out(range(depth)), "data": Out(bits)}
        )


class ReadPort(wiring.Signature):
    """`data` follows `address` by one cycle where `enable` is set, and holds until the next access.

    Where there are two ports, only a read is one.
    """

    def __init__(self, bits, depth):
        super().__init__({"enable": Out(1), "address": Out(range(depth)), "data": In(bits)})


class Storage(wiring.Component):
    """Memory of words, written in parts of 32 bits.

    Contents are undefined at power-up. With one port, a read in the cycle of a write is lost: the
    caller must not do both. On iCE40 it is made of SB_SPRAM256KA.

    A slow memory lies all over the device, and has registers in front, copied for its parts: data
    follows an address by two cycles, every cycle whether enabled or not, and what is written is
    there for reads from two cycles later on. In the first two cycles after configuration some of
    these registers write, which only changes what is undefined anyway.

    Parameters
    ----------
    bits : int
        Bits of a word, a multiple of 32.
    depth : int
        Words, at least 2; on iCE40 a multiple of 16384 (`SPRAM_WORDS`).
    technology : str
        "ice40" for SPRAM primitives, anything else for inferred block RAM.
    slow : bool
        With registers in front; not for SPRAM.

    Members
    -------
    write : In(WritePort)
    read : In(ReadPort)
    """

    def __init__(self, bits, depth, technology, *, slow=False):
        if bits <= 0 or bits % 32:
            raise ValueError(f"bits must be a positive multiple of 32, not {bits!r}")
        if depth < 2:
            raise ValueError(f"depth must be at least 2, not {depth!r}")
        if technology == "ice40" and depth % SPRAM_WORDS:
            raise ValueError(f"depth must be a multiple of {SPRAM_WORDS}, not {depth!r}")
        if slow and technology == "ice40":
            raise ValueError("SPRAM has no registers in front")
        self.bits = bits
        self.depth = depth
        self.technology = technology
        self.slow = slow
        super().__init__({"write": In(WritePort(bits, depth)), "read": In(ReadPort(bits, depth))})

    def elaborate(self, platform):
        m = Module()
        if self.technology == "ice40":
            self._spram(m)
        else:
            self._block_ram(m)
        return m

    def _block_ram(self, m):
        write, read, stages = self.write, self.read, int(self.slow)
        groups = gcd(self.bits // 32, 1 << 2 * stages)
        bits = self.bits // groups
        writes = copies(
            m,
            2 * stages,
            groups,
            write_enable=write.enable,
            write_address=write.address,
            write_data=write.data,
        )
        reads = copies(m, stages, min(groups, 1 << stages), read_address=read.address)
        for n, (enable, address, data) in enumerate(writes):
            (source,) = reads[n * len(reads) // groups]
            m.submodules[f"memory{n}"] = memory = BankedMemory(bits, self.depth, granularity=32)
            m.d.comb += [
                memory.write_enable.eq(enable.word_select(n, bits // 32)),
                memory.write_address.eq(address),
                memory.write_data.eq(data.word_select(n, bits)),
                memory.read_enable.eq(1 if self.slow else read.enable),
                memory.read_address.eq(source),
                read.data.word_select(n, bits).eq(memory.read_data),
            ]

    def _spram(self, m):
        address = Signal(range(self.depth))
        writing = Signal()
        m.d.comb += [
            writing.eq(self.write.enable.any()),
            address.eq(Mux(writing, self.write.address, self.read.address)),
        ]
        banks = self.depth // SPRAM_WORDS
        bank_bits = ceil_log2(banks)
        bank = address[14:] if bank_bits else 0
        read_bank = Signal(max(1, bank_bits))
        with m.If(self.read.enable):
            m.d.sync += read_bank.eq(bank)
        outputs = []
        for bank_index in range(banks):
            halves = []
            for half in range(self.bits // 16):
                selected = Signal(name=f"selected{bank_index}_{half}")
                output = Signal(16, name=f"output{bank_index}_{half}")
                enable = self.write.enable[half // 2]
                m.d.comb += selected.eq((writing | self.read.enable) & (bank == bank_index))
                m.submodules[f"spram{bank_index}_{half}"] = Instance(
                    "SB_SPRAM256KA",
                    i_CLOCK=ClockSignal(),
                    i_ADDRESS=address[:14],
                    i_DATAIN=self.write.data.word_select(half, 16),
                    i_MASKWREN=0xF,
                    i_WREN=enable,
                    i_CHIPSELECT=selected & (enable | ~writing),
                    i_STANDBY=0,
                    i_SLEEP=0,
                    i_POWEROFF=1,
                    o_DATAOUT=output,
                )
                halves.append(output)
            outputs.append(Cat(halves))
        data = outputs[0]
        for bank_index in range(1, banks):
            data = Mux(read_bank == bank_index, outputs[bank_index], data)
        m.d.comb += self.read.data.eq(data)
