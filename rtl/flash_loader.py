"""Loads the image from a board's SPI flash by itself, when the device comes out of reset."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .config import Configuration
from .registers import COEFFICIENTS, FIELDS, REGISTERS, SelfLoad
from .wishbone import WishboneSignature

__all__ = ["HEAD", "TAIL", "FlashLoader", "FlashSignature"]

HEAD = ("IDENTITY", "VERSION", "GEOMETRY", "DIGEST", "STATUS", "CONTROL", "LOCK")
"""Registers that the flash has a word for in front of the coefficient memory, in order."""

TAIL = (*HEAD, "CYCLES", "CRC_ADDRESS", "CRC_LENGTH", "CRC_VALUE")
"""Those that it has a word for behind it."""

WAKE = 0xAB
READ = 0x03
BIT_CYCLES = 4
WORD_CYCLES = 32 * BIT_CYCLES
WAIT_WORDS = 64
"""Time between the two commands, in words: 82 us at 100 MHz. Flashes ask for 3 to 35 us."""

INDEX = {name: register.offset // 4 for name, register in REGISTERS.items()}


class FlashSignature(wiring.Signature):
    """An SPI flash, mode 0.

    Members
    -------
    cs : Out(1)
        Selected; low on the wire.
    clk, copi : Out(1)
    cipo : In(1)
    """

    def __init__(self):
        super().__init__({"cs": Out(1), "clk": Out(1), "copi": Out(1), "cipo": In(1)})


class Phase(enum.Enum):
    """What is at work."""

    WAKE = 0
    WAIT = 1
    COMMAND = 2
    HEAD = 3
    MEMORY = 4
    TAIL = 5
    END = 6


class FlashLoader(wiring.Component):
    """Does once what a host does to load an image, with what the flash holds, and says how it went.

    It wakes the flash (0xAB, then `WAIT_WORDS` words of time), and reads with command 0x03 from
    `offset` on, as long as it needs. There lie 32-bit words, lowest byte first:

    1. a word for each register of `HEAD`. IDENTITY to DIGEST must be what the device has in these,
       or there is no image for it; LOCK is written, with the key;
    2. the coefficient memory, all of it, which is written;
    3. a word for each register of `TAIL`: LOCK is written, and CRC_VALUE must be the CRC of the
       whole memory, which the device is made to find in between.

    Words for the other registers do not matter. So the memory is unlocked only for an image that is
    for this device, and whatever was written is locked again, unless the flash has the key where it
    should not.

    The accelerator's bus is the host's but for the loader's accesses, one a word: each begins when
    the host's access, if there is one, is over. The last, to CRC_VALUE, takes as long as the check,
    and the host waits: 27 ms for 64 KB at 24 MHz.

    What the host reads of STATUS (and of CONTROL and LOCK, which read as STATUS) has the field
    `self_load` in addition. Until that is no longer `SelfLoad.READING` a host must only read
    registers: whatever else it does may make the CRC of a good image wrong, or have what it has
    written overwritten.

    Latency: the first word is complete `WORD_CYCLES` * (`WAIT_WORDS` + 3) cycles after reset, and
    each is followed by the next in `WORD_CYCLES` + L + 2 cycles, where L is the accelerator's
    latency for its access (`rtl.host_port`). A bit of the flash takes `BIT_CYCLES` cycles.

    Parameters
    ----------
    config : Configuration
    offset : int
        Byte address in the flash, of 24 bits.

    Members
    -------
    host : In(WishboneSignature)
    bus : Out(WishboneSignature)
        To the accelerator.
    flash : Out(FlashSignature)
    """

    def __init__(self, config, offset):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        if not isinstance(offset, int) or not 0 <= offset < 1 << 24:
            raise ValueError(f"offset must be an address of 24 bits, not {offset!r}")
        self.config = config
        self.offset = offset
        super().__init__(
            {
                "host": In(WishboneSignature()),
                "bus": Out(WishboneSignature()),
                "flash": Out(FlashSignature()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        host, bus, flash = self.host, self.bus, self.flash
        words = self.config.coefficient_bytes // 4

        phase = Signal(Phase)
        outcome = Signal(SelfLoad, init=SelfLoad.READING)
        turn = Signal(ceil_log2(WORD_CYCLES))  # of the word at work
        index = Signal(ceil_log2(max(words, WAIT_WORDS)), reset_less=True)  # of words in the phase
        data = Signal(32, init=WAKE << 24)  # to the flash and from it, highest bit first
        asking = Signal()  # a word is there and wants the bus
        owner = Signal()  # has it
        selected = Signal()

        # The wires of the flash, each from a register. A bit goes out when the clock falls, and is
        # taken in when it falls again.
        m.d.sync += selected.eq((phase != Phase.WAIT) & (phase != Phase.END))
        m.d.comb += [flash.cs.eq(selected), flash.clk.eq(turn[1]), flash.copi.eq(data[31])]
        with m.If(phase == Phase.WAIT):
            m.d.sync += data.eq(READ << 24 | self.offset)
        with m.Elif(turn[:2].all() & ~asking):
            m.d.sync += data.eq(Cat(flash.cipo, data))
        word = Cat(data.word_select(byte, 8) for byte in reversed(range(4)))

        # Word by word.
        complete = Signal()
        ended = Signal()
        answered = Signal()
        step = Signal()
        last = Signal()
        transfers = (phase == Phase.HEAD) | (phase == Phase.MEMORY) | (phase == Phase.TAIL)
        m.d.comb += [
            complete.eq(turn.all()),
            ended.eq(bus.ack | bus.err),
            answered.eq(owner & ended),
            step.eq(Mux(transfers, answered, complete)),
        ]
        with m.If(~asking & (phase != Phase.END)):
            m.d.sync += turn.eq(turn + 1)
        m.d.sync += [
            asking.eq(Mux(asking, ~answered, complete & transfers)),
            owner.eq(asking & Mux(owner, ~ended, ~(host.cyc & host.stb) | ended)),
        ]
        with m.If(step):
            m.d.sync += index.eq(Mux(last, 0, index + 1))

        differs = word != bus.dat_r
        with m.Switch(phase):
            with m.Case(Phase.WAKE):
                m.d.comb += last.eq(1)
                with m.If(step):
                    m.d.sync += phase.eq(Phase.WAIT)
            with m.Case(Phase.WAIT):
                m.d.comb += last.eq(index == WAIT_WORDS - 1)
                with m.If(step & last):
                    m.d.sync += phase.eq(Phase.COMMAND)
            with m.Case(Phase.COMMAND):
                m.d.comb += last.eq(1)
                with m.If(step):
                    m.d.sync += phase.eq(Phase.HEAD)
            with m.Case(Phase.HEAD):
                m.d.comb += last.eq(index[:4] == INDEX[HEAD[-1]])
                with m.If(step & last):
                    m.d.sync += phase.eq(Phase.MEMORY)
                with m.Elif(step & (index[:4] <= INDEX["DIGEST"]) & differs):
                    m.d.sync += [phase.eq(Phase.END), outcome.eq(SelfLoad.NONE_FOUND)]
            with m.Case(Phase.MEMORY):
                m.d.comb += last.eq(index == words - 1)
                with m.If(step & last):
                    m.d.sync += phase.eq(Phase.TAIL)
            with m.Case(Phase.TAIL):
                m.d.comb += last.eq(index[:4] == INDEX[TAIL[-1]])
                with m.If(step & last):
                    m.d.sync += [
                        phase.eq(Phase.END),
                        outcome.eq(Mux(differs, SelfLoad.CRC_WRONG, SelfLoad.LOADED)),
                    ]

        # The bus.
        written = ("LOCK", "CRC_ADDRESS", "CRC_LENGTH")
        into_memory = phase == Phase.MEMORY
        address = Signal.like(bus.adr)
        # The range is the loader's, not the flash's: no CRC of less than all of it is taken.
        is_address = index[:4] == INDEX["CRC_ADDRESS"]
        is_length = index[:4] == INDEX["CRC_LENGTH"]
        given = Mux(is_address, COEFFICIENTS, Mux(is_length, words, word))
        m.d.comb += [
            address.eq(index),
            address[COEFFICIENTS.bit_length() - 3].eq(into_memory),
            bus.adr.eq(Mux(owner, address, host.adr)),
            bus.dat_w.eq(Mux(owner, Mux(into_memory, word, given), host.dat_w)),
            bus.we.eq(
                Mux(
                    owner,
                    into_memory | index[:4].matches(*(INDEX[name] for name in written)),
                    host.we,
                )
            ),
            bus.sel.eq(host.sel | owner.replicate(4)),
            bus.cyc.eq(host.cyc | owner),
            bus.stb.eq(host.stb | owner),
            host.ack.eq(bus.ack & ~owner),
            host.err.eq(bus.err & ~owner),
            host.dat_r.eq(bus.dat_r),
        ]
        as_status = host.adr[:4].matches(*(INDEX[name] for name in ("STATUS", "CONTROL", "LOCK")))
        with m.If(as_status & ~host.adr[18:].any()):
            field = FIELDS["STATUS"]["self_load"]
            m.d.comb += host.dat_r[field.low : field.low + field.bits].eq(outcome)
        return m
