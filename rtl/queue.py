"""A short stream buffer."""

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Queue"]


class Queue(wiring.Component):
    """First in, first out, of a few payloads, in registers.

    `i.ready` and `o.valid` depend on registers alone, so that a queue ends every combinational path
    along a stream.

    Latency: 1 cycle. Throughput: one payload a cycle (depth of at least 2).

    Parameters
    ----------
    shape : shape of the payload
    depth : int
        Payloads it holds, at least 2.

    Members
    -------
    i : In(stream)
    o : Out(stream)
    level : Out
        Payloads held.
    """

    def __init__(self, shape, depth):
        if not isinstance(depth, int) or depth < 2:
            raise ValueError(f"depth must be an integer of at least 2, not {depth!r}")
        self.depth = depth
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "level": Out(range(depth + 1)),
            }
        )
        self.payloads = [Signal(shape, name=f"payload{n}") for n in range(depth)]

    def elaborate(self, platform):
        m = Module()
        payloads = self.payloads
        pop = Signal()
        place = Signal(range(self.depth + 1))
        m.d.comb += [
            self.i.ready.eq(self.level != self.depth),
            self.o.valid.eq(self.level != 0),
            self.o.payload.eq(payloads[0]),
            pop.eq(self.o.valid & self.o.ready),
            place.eq(self.level - pop),
        ]
        m.d.sync += self.level.eq(place + (self.i.valid & self.i.ready))
        for n, payload in enumerate(payloads):
            here = Signal(name=f"here{n}")
            m.d.comb += here.eq(place == n)
            with m.If(here | pop):
                if n + 1 < self.depth:
                    m.d.sync += payload.eq(Mux(here, self.i.payload, payloads[n + 1]))
                else:
                    m.d.sync += payload.eq(self.i.payload)
        return m
