"""Tiny designs to test the simulation machinery on, right and wrong ones."""

from amaranth import Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


class Beat(data.Struct):
    """A payload with structure."""

    sum: signed(8)
    parts: data.ArrayLayout(4, 3)


class Pipe(wiring.Component):
    """A pipeline register: latency 1, one beat a cycle.

    Parameters
    ----------
    fault
        ``None``; ``"payload"`` corrupts the payload in which the 8 lowest bits are 7;
        ``"retract"`` takes valid back under a stall; ``"change"`` changes the payload under a
        stall; ``"wait"`` makes valid wait for ready; ``"stuck"`` never delivers.
    """

    i: In(stream.Signature(Beat))
    o: Out(stream.Signature(Beat))

    def __init__(self, fault: str | None = None) -> None:
        self._fault = fault
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        full = Signal()
        beat = Signal(Beat)
        m.d.comb += [
            self.i.ready.eq(self.o.ready | ~full),
            self.o.valid.eq(full),
            self.o.payload.eq(beat),
        ]
        with m.If(self.i.ready):
            m.d.sync += [full.eq(self.i.valid), beat.eq(self.i.payload)]
        stalled = full & ~self.o.ready
        if self._fault == "payload":
            with m.If(beat.sum == 7):
                m.d.comb += self.o.payload.sum.eq(6)
        elif self._fault == "retract":
            with m.If(stalled):
                m.d.sync += full.eq(0)
        elif self._fault == "change":
            with m.If(stalled):
                m.d.sync += beat.sum.eq(beat.sum + 1)
        elif self._fault == "wait":
            m.d.comb += self.o.valid.eq(full & self.o.ready)
        elif self._fault == "stuck":
            m.d.comb += [self.i.ready.eq(~full), self.o.valid.eq(0)]
        return m


class Adder(wiring.Component):
    """A design without a clock."""

    a: In(signed(8))
    b: In(signed(8))
    o: Out(signed(9))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.o.eq(self.a + self.b)
        return m


class WishboneMemory(wiring.Component):
    """A Wishbone slave: a memory of 256 words; err above.

    Parameters
    ----------
    acknowledge
        ``"at once"`` answers writes in the same cycle, reads in the next; ``"late"`` all in the
        next; ``"never"`` not at all.
    """

    bus: In(
        wiring.Signature(
            {
                "adr": Out(10),
                "dat_w": Out(32),
                "dat_r": In(32),
                "sel": Out(4),
                "cyc": Out(1),
                "stb": Out(1),
                "we": Out(1),
                "ack": In(1),
                "err": In(1),
            }
        )
    )

    def __init__(self, acknowledge: str = "at once") -> None:
        self._acknowledge = acknowledge
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=32, depth=256, init=[])
        write, read = memory.write_port(granularity=8), memory.read_port()
        bus = self.bus
        addressed = Signal()
        answered = Signal()
        at_once = bus.we if self._acknowledge == "at once" else 0
        m.d.comb += [
            addressed.eq(bus.cyc & bus.stb & (bus.adr < 256)),
            write.addr.eq(bus.adr),
            write.data.eq(bus.dat_w),
            read.addr.eq(bus.adr),
            bus.dat_r.eq(read.data),
            bus.ack.eq(addressed & (answered | at_once)),
            bus.err.eq(bus.cyc & bus.stb & (bus.adr >= 256)),
        ]
        with m.If(bus.ack & bus.we):
            m.d.comb += write.en.eq(bus.sel)
        if self._acknowledge != "never":
            m.d.sync += answered.eq(addressed & ~bus.ack)
        return m
