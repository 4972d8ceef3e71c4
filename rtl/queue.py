"""A short stream buffer."""

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["Queue"]


class Queue(wiring.Component):
    """First in, first out, of a few payloads, in places that are filled and emptied in turn.

    `i.ready` and `o.valid` are registers, so that a queue ends every combinational path along a
    stream; and what reaches every bit of the payloads, to take one in or to choose one, comes from
    registers too.

    Latency: 1 cycle. Throughput: one payload a cycle.

    Parameters
    ----------
    shape : shape of the payload
    depth : int
        Payloads it holds, a power of two of at least 2.
    in_memory : bool
        The places are words of LUT RAM, else registers.
    in_front : bool
        `o.payload` is a register too, at the cost of one: for those who decide much by it.

    Members
    -------
    i : In(stream)
    o : Out(stream)
    """

    def __init__(self, shape, depth, *, in_memory=False, in_front=False):
        if not isinstance(depth, int) or depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two of at least 2, not {depth!r}")
        self.depth = depth
        self.in_memory = in_memory
        self.in_front = in_front
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})
        places = 0 if in_memory else depth
        self.payloads = [Signal(shape, name=f"payload{n}", reset_less=True) for n in range(places)]
        self.level = Signal(range(depth + 1))
        self.write = Signal(range(depth))  # which place is filled next
        self.read = Signal(range(depth), init=int(in_front))  # which follows what is in front

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

        places = self._memory if self.in_memory else self._registers
        payload = places(m, ready, write, read)
        if self.in_front:
            # What follows it may be coming in.
            with m.If(pop | ~self.o.valid):
                m.d.sync += self.o.payload.eq(Mux(level <= 1, self.i.payload, payload))
        else:
            m.d.comb += self.o.payload.eq(payload)
        return m

    def _memory(self, m, ready, write, read):
        bits = len(Value.cast(self.i.payload))
        m.submodules.memory = memory = Memory(
            shape=bits, depth=self.depth, init=[], attrs={"ram_style": "distributed"}
        )
        writer, reader = memory.write_port(), memory.read_port(domain="comb")
        m.d.comb += [
            writer.en.eq(ready),
            writer.addr.eq(write),
            writer.data.eq(self.i.payload),
            reader.addr.eq(read),
        ]
        return reader.data

    def _registers(self, m, ready, write, read):
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
        return chosen
