"""AXI4-Lite in front of a Wishbone slave."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .wishbone import WishboneSignature

__all__ = ["OKAY", "SLVERR", "AxiLiteBridge", "AxiLiteSignature"]

OKAY = 0b00
SLVERR = 0b10

ADDRESS_BITS = 22


class AxiLiteSignature(wiring.Signature):
    """Signature of an AXI4-Lite manager (AMBA AXI, IHI 0022): 32-bit data, 22-bit byte addresses.

    A subordinate has `In(AxiLiteSignature())`. The names are those of the specification.

    Members
    -------
    awaddr, araddr : Out(22)
        Byte addresses.
    awprot, arprot : Out(3)
    awvalid, wvalid, arvalid, bready, rready : Out(1)
    wdata : Out(32)
    wstrb : Out(4)
    awready, wready, arready, bvalid, rvalid : In(1)
    rdata : In(32)
    bresp, rresp : In(2)
    """

    def __init__(self):
        super().__init__(
            {
                "awaddr": Out(ADDRESS_BITS),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(ADDRESS_BITS),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class AxiLiteBridge(wiring.Component):
    """AXI4-Lite subordinate that hands each transfer to a Wishbone slave.

    Each channel has a register: nothing that goes out depends on what comes in within a cycle, and
    no channel waits for another, but for a response, which follows its request. One transfer is on
    the bus at a time; where a read and a write wait, they take turns. `wstrb` becomes `sel`; the
    two lowest bits of addresses, and `awprot` and `arprot`, do not matter. `err` becomes SLVERR,
    with any data.

    Latency: with B cycles from `stb` to `ack`, both included, the response is valid B + 2 cycles
    after its request (for a write: the later of address and data) was transferred. Throughput: a
    transfer in B + 3 cycles.

    Members
    -------
    axi : In(AxiLiteSignature)
    bus : Out(WishboneSignature)
    """

    axi: In(AxiLiteSignature())
    bus: Out(WishboneSignature())

    def elaborate(self, platform):
        m = Module()
        axi, bus = self.axi, self.bus

        # Requests, each held until it has been carried out.
        write_address = Signal.like(axi.awaddr, reset_less=True)
        write_data = Signal.like(axi.wdata, reset_less=True)
        strobes = Signal.like(axi.wstrb, reset_less=True)
        read_address = Signal.like(axi.araddr, reset_less=True)
        has_address = Signal()
        has_data = Signal()
        has_read = Signal()
        m.d.comb += [
            axi.awready.eq(~has_address),
            axi.wready.eq(~has_data),
            axi.arready.eq(~has_read),
        ]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [has_address.eq(1), write_address.eq(axi.awaddr)]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [has_data.eq(1), write_data.eq(axi.wdata), strobes.eq(axi.wstrb)]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [has_read.eq(1), read_address.eq(axi.araddr)]

        # Responses.
        with m.If(axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(axi.rready):
            m.d.sync += axi.rvalid.eq(0)

        # One transfer at a time. If both kinds wait, they take turns: the register of the one that
        # was on the bus is empty right after.
        write = Signal()
        response = Mux(bus.err, SLVERR, OKAY)
        can_write = has_address & has_data & ~axi.bvalid
        can_read = has_read & ~axi.rvalid
        m.d.comb += [
            bus.we.eq(write),
            bus.adr.eq(Mux(write, write_address, read_address) >> 2),
            bus.sel.eq(Mux(write, strobes, 0b1111)),
            bus.dat_w.eq(write_data),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(can_write | can_read):
                    m.d.sync += write.eq(can_write)
                    m.next = "BUS"
            with m.State("BUS"):
                m.d.comb += [bus.cyc.eq(1), bus.stb.eq(1)]
                with m.If(bus.ack | bus.err):
                    with m.If(write):
                        m.d.sync += [has_address.eq(0), has_data.eq(0)]
                        m.d.sync += [axi.bvalid.eq(1), axi.bresp.eq(response)]
                    with m.Else():
                        m.d.sync += has_read.eq(0)
                        m.d.sync += [axi.rvalid.eq(1), axi.rresp.eq(response)]
                        m.d.sync += axi.rdata.eq(bus.dat_r)
                    m.next = "IDLE"
        return m
