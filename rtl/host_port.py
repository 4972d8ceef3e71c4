"""The accelerator as a host sees it: registers, memories, checks."""

from amaranth import C, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from .config import Configuration
from .crc import CRC32_INITIAL, crc32_step
from .registers import (
    ACTIVATIONS,
    COEFFICIENTS,
    CONTROL_BITS,
    IDENTITY,
    REGISTERS,
    STATUS_BITS,
    UNLOCK,
    geometry,
    version,
)
from .wishbone import WishboneSignature

__all__ = ["HostPort", "MemoryPort"]

INDEX = {name: register.offset // 4 for name, register in REGISTERS.items()}


class MemoryPort(wiring.Signature):
    """Access to the engine's memories, one 32-bit word at a time.

    Everything is held from `request` until the cycle in which `acknowledge` is high.

    Members
    -------
    request : Out(1)
    write : Out(1)
    region : Out(1)
        0 coefficient memory, 1 activation memory.
    address : Out(18)
        32-bit word within the region. It lies within the memory, but for a CRC range that runs
        past its end.
    data_w : Out(32)
    acknowledge : In(1)
        `data_r` is valid, or the word is written, in this cycle. May be high in the first cycle of
        the request.
    data_r : In(32)
    """

    def __init__(self):
        super().__init__(
            {
                "request": Out(1),
                "write": Out(1),
                "region": Out(1),
                "address": Out(18),
                "data_w": Out(32),
                "acknowledge": In(1),
                "data_r": In(32),
            }
        )


class HostPort(wiring.Component):
    """Wishbone slave: the registers of `rtl.registers`, access to the memories, CRC of a range.

    One 32-bit register carries all data, in and out, and a register is read, or a CRC computed, by
    shifting it `serial_bits` at a time: small rather than fast. Accesses are served one by one:

    - a *register* always, but CRC_ADDRESS and those after it only when no range is being checked;
    - a *memory* when the engine does not run and no range is being checked; else it waits;
    - with `err`, setting access_error: an access beyond the registers' 64 bytes and the memories,
      or to less than a whole word;
    - with `err`, setting write_refused: a write to coefficient memory while it is locked, as it is
      at reset.

    Writes to read-only registers do nothing. Addresses 0x2C to 0x3C are reserved: they count as
    registers, writes to them do nothing, and they read as CRC_VALUE. A master may end a cycle at
    any time: what has been begun is then completed and not answered, and the next access waits for
    that.

    A start is refused, and start_refused set, while the coefficient memory is unlocked, the engine
    runs or a range is being checked.

    A *range* is checked word by word while the engine does not run, in turn with accesses to
    registers. Its address wraps at the size of the larger memory, or the power of two above it,
    and its length counts modulo twice that. The CRC is zlib's CRC-32 of the bytes, in order of
    their addresses.

    Latency, in cycles from the first with `stb` to that with `ack` or `err`, with
    N = 32 / `serial_bits`, and M cycles from `request` to `acknowledge`, both included:

        register write, CYCLES, err     2
        register read                   N + 3
        memory                          M + 2

    A range takes M + N + 4 cycles a word, and delays an access to a register by at most that.

    Cost: 340 iCE40 logic cells for `up5k`.

    Parameters
    ----------
    config : Configuration
    serial_bits : int
        1, 2, 4 or 8.

    Members
    -------
    bus : In(WishboneSignature)
    memory : Out(MemoryPort)
    start : Out(1)
        One cycle: run the program.
    busy : In(1)
        The engine runs: high from the cycle after `start` until it is done.
    cycles : In(32)
        Cycles of the run at work, or of the last.
    fault : In(1)
        The engine met an illegal program. May be a pulse; a level must end with `start`.
    """

    def __init__(self, config, *, serial_bits=1):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        if serial_bits not in (1, 2, 4, 8):
            raise ValueError(f"serial_bits must be 1, 2, 4 or 8, not {serial_bits!r}")
        self.config = config
        self.serial_bits = serial_bits
        super().__init__(
            {
                "bus": In(WishboneSignature()),
                "memory": Out(MemoryPort()),
                "start": Out(1),
                "busy": In(1),
                "cycles": In(32),
                "fault": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bus, memory, step = self.bus, self.memory, self.serial_bits
        largest = max(self.config.coefficient_bytes, self.config.activation_bytes)
        address_bits = ceil_log2(largest // 4)

        # State. What is loaded before it is used needs no reset.
        data = Signal(32, reset_less=True)
        address = Signal(address_bits, reset_less=True)
        region = Signal(reset_less=True)
        write = Signal(reset_less=True)
        length = Signal(address_bits + 1)  # words of the range still to check
        crc = Signal(32, reset_less=True)
        checking = Signal(reset_less=True)  # at work on a word of the range, not on an access
        source = Signal(4, reset_less=True)  # register being read
        count = Signal(exact_log2(32 // step))  # of turns
        owned = Signal(reset_less=True)  # the master still waits for the access at work
        locked = Signal(init=1)

        # What the master wants, and whether it can be had.
        index = bus.adr[:4]
        to_memory = bus.adr[18] | bus.adr[19]
        to_coefficients = bus.adr[18]
        access = Signal()
        illegal_now = Signal()
        illegal = Signal(reset_less=True)
        with m.Switch(bus.adr[18:]):
            with m.Case(0):
                m.d.comb += illegal_now.eq(~bus.sel.all() | bus.adr[4:18].any())
            with m.Case(COEFFICIENTS >> 20):
                beyond = bus.adr[8:18] >= self.config.coefficient_bytes // 1024
                m.d.comb += illegal_now.eq(~bus.sel.all() | beyond)
            with m.Case(ACTIVATIONS >> 20):
                beyond = bus.adr[8:18] >= self.config.activation_bytes // 1024
                m.d.comb += illegal_now.eq(~bus.sel.all() | beyond)
            with m.Default():
                m.d.comb += illegal_now.eq(1)
        m.d.comb += access.eq(bus.cyc & bus.stb)

        # Decided in one cycle of IDLE, done in the next. Neither `busy` nor `crc_busy` rises there.
        crc_busy = Signal()
        access_waits = ~illegal_now & Mux(to_memory, self.busy | crc_busy, index[3] & crc_busy)
        access_ready = Signal()
        range_ready = Signal()
        serve_access = Signal()
        m.d.sync += [
            crc_busy.eq(length.any()),
            illegal.eq(illegal_now),
            access_ready.eq(0),
            range_ready.eq(0),
        ]
        # Where both want, they take turns.
        m.d.comb += serve_access.eq(access_ready & access & (checking | ~range_ready))

        # Access by access, word of the range by word.
        start = Signal()
        clear = Signal()
        begin = Signal()
        turn = Signal()
        m.d.sync += [start.eq(0), clear.eq(0), begin.eq(0)]
        with m.If(~access):
            m.d.sync += owned.eq(0)
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.sync += [
                    access_ready.eq(access & ~access_waits),
                    range_ready.eq(crc_busy & ~self.busy),
                    owned.eq(serve_access),
                ]
                with m.If(serve_access):
                    m.d.sync += [checking.eq(0), source.eq(index), write.eq(bus.we)]
                    with m.If(illegal):
                        m.next = "REFUSE"
                    with m.Elif(to_memory):
                        with m.If(bus.we & to_coefficients & locked):
                            m.next = "REFUSE"
                        with m.Else():
                            m.d.sync += [address.eq(bus.adr), region.eq(~to_coefficients)]
                            m.next = "MEMORY"
                    with m.Elif(bus.we):
                        with m.Switch(index):
                            with m.Case(INDEX["CONTROL"]):
                                m.d.sync += [
                                    start.eq(bus.dat_w[CONTROL_BITS["start"].number]),
                                    clear.eq(bus.dat_w[CONTROL_BITS["clear"].number]),
                                ]
                            with m.Case(INDEX["LOCK"]):
                                m.d.sync += locked.eq(bus.dat_w != UNLOCK)
                            with m.Case(INDEX["CRC_ADDRESS"]):
                                m.d.sync += [address.eq(bus.dat_w >> 2), region.eq(bus.dat_w[21])]
                            with m.Case(INDEX["CRC_LENGTH"]):
                                m.d.sync += [begin.eq(1), length.eq(bus.dat_w)]
                        m.next = "ANSWER"
                    with m.Elif(index == INDEX["CYCLES"]):
                        m.next = "ANSWER"
                    with m.Else():
                        m.next = "LOOK"
                with m.Elif(range_ready):
                    m.d.sync += [checking.eq(1), write.eq(0)]
                    m.next = "MEMORY"

            with m.State("MEMORY"):
                m.d.comb += memory.request.eq(1)
                with m.If(memory.acknowledge):
                    with m.If(checking):
                        m.d.sync += [address.eq(address + 1), length.eq(length - 1)]
                        m.next = "LOOK"
                    with m.Else():
                        m.next = "ANSWER"

            with m.State("LOOK"):
                m.d.sync += count.eq(1)
                m.next = "TURN"

            with m.State("TURN"):  # with `count` one ahead
                m.d.comb += turn.eq(1)
                with m.If(count == 0):
                    m.next = "ANSWER"
                with m.Else():
                    m.d.sync += count.eq(count + 1)

            with m.State("ANSWER"):
                m.d.comb += bus.ack.eq(access & owned)
                m.next = "IDLE"

            with m.State("REFUSE"):
                m.d.comb += bus.err.eq(access & owned)
                m.next = "IDLE"

        # What a register says, a few bits at a time.
        constants = Cat(
            C(value, 32)
            for value in (IDENTITY, version(), geometry(self.config), self.config.digest)
        )
        status = Signal(32)
        looked = Signal(step, reset_less=True)
        with m.If(source[2]):
            m.d.sync += looked.eq(status.word_select(count, step))
        with m.Else():
            m.d.sync += looked.eq(constants.word_select(Cat(count, source[:2]), step))
        wire = Mux(source[3], ~crc[:step], looked)

        # Data.
        m.d.comb += [
            memory.write.eq(write),
            memory.region.eq(region),
            memory.address.eq(address),
            memory.data_w.eq(data),
            bus.dat_r.eq(data),
        ]
        with m.If(fsm.ongoing("IDLE")):
            m.d.sync += data.eq(Mux(bus.we, bus.dat_w, self.cycles))
        with m.Elif(turn):
            m.d.sync += data.eq(Cat(data[step:], wire))
        with m.Elif(memory.acknowledge & ~write):
            m.d.sync += data.eq(memory.data_r)
        with m.If(begin):
            m.d.sync += crc.eq(CRC32_INITIAL)
        with m.Elif(turn & (checking | source[3])):
            m.d.sync += crc.eq(Mux(checking, crc32_step(crc, data[:step]), crc.rotate_right(step)))

        # Engine control, and what is remembered of it.
        running, done, fault, write_refused, start_refused, access_error = (
            Signal(name=name)
            for name in (
                "running",
                "done",
                "fault",
                "write_refused",
                "start_refused",
                "access_error",
            )
        )
        allowed = locked & ~running & ~crc_busy
        m.d.comb += self.start.eq(start & allowed)
        m.d.sync += running.eq(self.busy | self.start)
        with m.If(clear):
            m.d.sync += [write_refused.eq(0), start_refused.eq(0), access_error.eq(0)]
        with m.If(start & ~allowed):
            m.d.sync += start_refused.eq(1)
        with m.If(fsm.ongoing("REFUSE")):
            with m.If(illegal):
                m.d.sync += access_error.eq(1)
            with m.Else():
                m.d.sync += write_refused.eq(1)
        with m.If(running & ~self.busy):
            m.d.sync += done.eq(1)
        with m.If(self.fault):
            m.d.sync += fault.eq(1)
        with m.If(clear | self.start):
            m.d.sync += [done.eq(0), fault.eq(0)]
        for name, value in {
            "busy": running,
            "done": done,
            "locked": locked,
            "crc_busy": crc_busy,
            "write_refused": write_refused,
            "start_refused": start_refused,
            "fault": fault,
            "access_error": access_error,
        }.items():
            m.d.comb += status[STATUS_BITS[name].number].eq(value)
        return m
