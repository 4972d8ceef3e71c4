"""Wishbone master commanded over a UART, by LiteX's UARTBone protocol."""

import math

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .uart import UartReceiver, UartTransmitter, bit_cycles
from .wishbone import WishboneSignature

__all__ = ["READ", "WRITE", "UartBone"]

WRITE = 0x01
READ = 0x02


class State(enum.Enum):
    """What comes next."""

    COMMAND = 0
    LENGTH = 1
    ADDRESS = 2
    DATA = 3
    SEND = 4
    QUIET = 5
    BUS = 8


class UartBone(wiring.Component):
    """Reads and writes words on a Wishbone bus, as commanded over a UART.

    Protocol: a command is one byte `WRITE` or `READ`, one byte number of words n (0 means 256), and
    four bytes word address, highest byte first; for `WRITE`, n words of four bytes, highest byte
    first, follow; for `READ` they are sent back. Addresses count up. Only the lowest 20 bits of an
    address are used.

    There is no checksum, no answer to a write and no buffer: the next byte is expected only after
    the last word has been written or sent. Hence

    - a byte that is no command where one is expected is ignored;
    - a command with a byte lost (stop bit missing), or with a byte that comes while a word is
      written, read or sent, is abandoned: nothing more is written or sent, and everything is
      ignored until the line has been quiet for the timeout;
    - a command that stays incomplete for the timeout, or a bus cycle unanswered for as long, is
      abandoned, and the next byte begins a command.

    So a host that waits twice the timeout starts afresh whatever happened before. A bus cycle that
    ends in `err` counts as done; what a read then sends is undefined.

    The timeout counts from the last byte received, or taken to be sent: `timeout_bits` bits, give
    or take one, the smallest power of two that makes `timeout` seconds or more. (LiteX's counts
    from the command byte, 0.1 s.)

    Latency: `cyc` rises 1 cycle after the byte that completes an address (`READ`) or word
    (`WRITE`) is out of the receiver, and a word's first start bit within a bit of `ack`.

    Parameters
    ----------
    clk_hz, baud : int
        See `rtl.uart.bit_cycles`.
    timeout : float
        Seconds.

    Members
    -------
    rx : In(1)
    tx : Out(1)
    bus : Out(WishboneSignature)
    """

    def __init__(self, clk_hz, baud, *, timeout=0.1):
        bit_cycles(clk_hz, baud)
        if not 32 <= timeout * baud <= 1 << 24:
            raise ValueError(
                f"timeout must be 32 to 2**24 bits long, which at {baud} baud {timeout!r} s is not"
            )
        self._rates = clk_hz, baud
        self.timeout_bits = 1 << ceil_log2(math.ceil(timeout * baud))
        super().__init__(
            {"rx": In(1, init=1), "tx": Out(1, init=1), "bus": Out(WishboneSignature())}
        )

    def elaborate(self, platform):
        m = Module()
        bus = self.bus
        m.submodules.receiver = receiver = UartReceiver(*self._rates)
        m.submodules.transmitter = transmitter = UartTransmitter(*self._rates)
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx)]
        byte, arrived = receiver.data, receiver.valid

        state = Signal(State)
        write = Signal(reset_less=True)
        words = Signal(8, reset_less=True)  # still to do, modulo 256
        address = Signal(20, reset_less=True)
        data = Signal(32, reset_less=True)
        count = Signal(2)  # bytes of the address, or of a word
        on_bus = Value.cast(state)[3]  # `cyc` comes early in the cycle
        sending = state == State.SEND
        done = bus.ack | bus.err
        sent = sending & transmitter.i.ready
        m.d.comb += [
            bus.adr.eq(address),
            bus.dat_w.eq(data),
            bus.sel.eq(0b1111),
            bus.we.eq(write),
            bus.cyc.eq(on_bus),
            bus.stb.eq(on_bus),
            transmitter.i.payload.eq(data[24:]),
            transmitter.i.valid.eq(sending),
        ]

        with m.Switch(state):
            with m.Case(State.COMMAND):
                m.d.sync += [write.eq(byte[0]), count.eq(0)]
                with m.If(arrived & ((byte == WRITE) | (byte == READ))):
                    m.d.sync += state.eq(State.LENGTH)
            with m.Case(State.LENGTH):
                with m.If(arrived):
                    m.d.sync += [words.eq(byte), state.eq(State.ADDRESS)]
            with m.Case(State.ADDRESS):
                with m.If(arrived):
                    m.d.sync += [address.eq(Cat(byte, address)), count.eq(count + 1)]
                    with m.If(count.all()):
                        m.d.sync += state.eq(Mux(write, State.DATA, State.BUS))
            with m.Case(State.DATA):
                with m.If(arrived):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count.all()):
                        m.d.sync += state.eq(State.BUS)
            with m.Case(State.BUS):
                with m.If(done):
                    m.d.sync += [
                        address.eq(address + 1),
                        words.eq(words - 1),
                        state.eq(
                            Mux(write, Mux(words == 1, State.COMMAND, State.DATA), State.SEND)
                        ),
                    ]
            with m.Case(State.SEND):
                with m.If(sent):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count.all()):
                        m.d.sync += state.eq(Mux(words == 0, State.COMMAND, State.BUS))

        # `data` moves up a byte as one comes or goes, or takes what was read.
        with m.If(on_bus & ~write):
            m.d.sync += data.eq(bus.dat_r)
        with m.Elif(arrived | sent):
            m.d.sync += data.eq(Cat(byte, data))

        timer = Signal(ceil_log2(self.timeout_bits) + 1)
        with m.If(transmitter.tick):
            m.d.sync += timer.eq(timer + 1)
        with m.If(arrived | receiver.error | sent):
            m.d.sync += timer.eq(0)
        with m.Elif(timer[-1]):
            m.d.sync += state.eq(State.COMMAND)
        with m.If((receiver.error & (state != State.COMMAND)) | (arrived & (on_bus | sending))):
            m.d.sync += state.eq(State.QUIET)
        return m
