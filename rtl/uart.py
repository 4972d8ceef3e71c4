"""UART: 8 data bits, no parity, 1 stop bit."""

from amaranth import C, Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["UartReceiver", "UartTransmitter", "bit_cycles"]


def bit_cycles(clk_hz, baud):
    """Clock cycles of one bit, N.

    The other side may be off by 2 %. A receiver reads the last of ten bits up to
    9 N + N // 2 + 2 cycles after the first began; where that side is quick, the bit is over after
    9.8 `clk_hz` / `baud`.

    Raises
    ------
    ValueError
        If a bit takes fewer than 8 cycles, whole cycles miss the rate by more than 2 %, or, which
        is stricter for up to 18, the last bit might be over before it is read.
    """
    for name, value in (("clk_hz", clk_hz), ("baud", baud)):
        if not isinstance(value, int) or value <= 0:
            raise ValueError(f"{name} must be a positive integer, not {value!r}")
    cycles = (2 * clk_hz + baud) // (2 * baud)
    if cycles < 8:
        raise ValueError(f"baud must be at most an eighth of clk_hz {clk_hz}, not {baud!r}")
    if abs(clk_hz - cycles * baud) * 50 > cycles * baud:
        raise ValueError(
            f"baud must be within 2 % of clk_hz {clk_hz} divided by an integer, not {baud!r}"
        )
    # 10 bits of a side that is 2 % quick, in cycles: 9.8 clk_hz / baud.
    most = 98 * clk_hz // (10 * (9 * cycles + cycles // 2 + 2))
    if baud > most:
        raise ValueError(
            f"baud must be at most {most} where a bit of clk_hz {clk_hz} takes {cycles} cycles, "
            f"not {baud!r}"
        )
    return cycles


class UartReceiver(wiring.Component):
    """Receives bytes.

    A falling edge begins a byte if the line is still low in the middle of the start bit. Each bit
    is sampled once, 1 to 2 cycles after its middle, or half a cycle less where it takes an odd
    number. A byte whose stop bit is low is lost, and reported.

    Latency: a byte is out half a bit after its stop bit began, plus 4 cycles. It is out for one
    cycle; there is no buffer.

    Parameters
    ----------
    clk_hz, baud : int
        See `bit_cycles`.

    Members
    -------
    rx : In(1)
        The line, asynchronous, high when idle.
    data : Out(8)
    valid : Out(1)
        One cycle: `data` is a byte received. It cannot be made to wait.
    error : Out(1)
        One cycle: a byte was lost.
    """

    def __init__(self, clk_hz, baud):
        self.bit_cycles = bit_cycles(clk_hz, baud)
        super().__init__(
            {
                "rx": In(1, init=1),
                "data": Out(8),
                "valid": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        rx = Signal(init=1)
        before = Signal(init=1)
        m.submodules += FFSynchronizer(self.rx, rx, init=1)
        m.d.sync += before.eq(rx)

        # The start bit, as the first 0 to come down the register, marks that the byte is complete.
        shift = Signal(9)
        active = Signal()
        timer = Signal(range(self.bit_cycles))
        sample = active & (timer == 0)
        stop = sample & ~shift[0]
        # Told in the cycle after, when the start bit has gone.
        m.d.comb += self.data.eq(shift[:8])
        m.d.sync += [
            self.valid.eq(stop & rx),
            self.error.eq(stop & ~rx),
            timer.eq(timer - 1),
        ]
        with m.If(~active):
            m.d.sync += [timer.eq(self.bit_cycles // 2), shift.eq(-1), active.eq(before & ~rx)]
        with m.Elif(sample):
            m.d.sync += [timer.eq(self.bit_cycles - 1), shift.eq(Cat(shift[1:], rx))]
            with m.If(~shift[0] | (shift.all() & rx)):
                m.d.sync += active.eq(0)
        return m


class UartTransmitter(wiring.Component):
    """Sends bytes.

    Bits begin on the ticks of a free-running divider: a byte waits for one, up to a bit, and then
    takes 10 bits. Bytes offered in time follow each other without a pause.

    Parameters
    ----------
    clk_hz, baud : int
        See `bit_cycles`.

    Members
    -------
    i : In(stream of 8 bits)
    tx : Out(1)
        The line.
    tick : Out(1)
        One cycle every bit.
    """

    def __init__(self, clk_hz, baud):
        self.bit_cycles = bit_cycles(clk_hz, baud)
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "tx": Out(1, init=1),
                "tick": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        timer = Signal(range(self.bit_cycles))
        last = timer == self.bit_cycles - 1
        m.d.sync += [timer.eq(timer + 1), self.tick.eq(last)]
        with m.If(last):
            m.d.sync += timer.eq(0)

        # Start bit, data, and a stop bit that is also the mark of the end: once it is alone in the
        # register the line is idle. That is told a cycle late, but ticks are further apart.
        shift = Signal(10, init=1)
        idle = Signal(init=1)
        m.d.sync += idle.eq(~shift[1:].any())
        m.d.comb += [self.tx.eq(shift[0]), self.i.ready.eq(self.tick & idle)]
        with m.If(self.tick):
            with m.If(~idle):
                m.d.sync += shift.eq(shift >> 1)
            with m.Elif(self.i.valid):
                m.d.sync += shift.eq(Cat(C(0, 1), self.i.payload, C(1, 1)))
        return m
