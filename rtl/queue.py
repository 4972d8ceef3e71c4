"""A short stream buffer."""

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Queue"]


class Queue(wiring.Component):
    """First in, first out, of a few payloads, in registers that are filled and emptied in turn.

    `i.ready` and `o.valid` are registers, so that a queue ends every combinational path along a
    stream; and what reaches every bit of the payloads, to take one in or to choose one, comes from
    registers too.

    Latency: 1 cycle. Throughput: one payload a cycle.

    Parameters
    ----------
    shape : shape of the payload
    depth : int
        Payloads it holds, a power of two of at least 2.

    Members
    -------
    i : In(stream)
    o : Out(stream)
    """

    def __init__(self, shape, depth):
        if not isinstance(depth, int) or depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two of at least 2, not {depth!r}")
        self.depth = depth
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})
        self.payloads = [Signal(shape, name=f"payload{n}", reset_less=True) for n in range(depth)]
        self.level = Signal(range(depth + 1))
        self.write, self.read = Signal(range(depth)), Signal(range(depth))  # which is next

    def elaborate(self, platform):
        m = Module()
        level, write, read = self.level, self.write, self.read
        ready = Signal(init=1)
        m.d.comb += self.i.ready.eq(ready)
        push = self.i.valid & ready
        pop = self.o.valid & self.o.ready
        with m.If(push):
            m.d.sync += write.eq(write + 1)
        with m.If(pop):
            m.d.sync += read.eq(read + 1)
        # Both ways are worked out before `o.ready` comes, which is late.
        kept, popped = Signal.like(level), Signal.like(level)
        m.d.comb += [kept.eq(level + push), popped.eq(kept - 1)]
        m.d.sync += [
            level.eq(Mux(pop, popped, kept)),
            ready.eq(Mux(pop, popped != self.depth, kept != self.depth)),
            self.o.valid.eq(Mux(pop, popped != 0, kept != 0)),
        ]

        for n, payload in enumerate(self.payloads):
            # Whatever comes, where there is nothing to keep.
            with m.If((write == n) & ready):
                m.d.sync += payload.eq(self.i.payload)
        rows = self.payloads
        for bit in range(len(read)):
            rows = [
                Mux(read[bit], odd, even) for even, odd in zip(rows[::2], rows[1::2], strict=True)
            ]
        (chosen,) = rows
        m.d.comb += self.o.payload.eq(chosen)
        return m
