"""A stream of inputs in, a stream of outputs out: what a host does, in hardware."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .axi_stream import AxiStreamSignature
from .registers import (
    CONTROL_BITS,
    REGISTERS,
    STATUS_BITS,
    STREAM_CONTROL_BITS,
    STREAM_REGISTERS,
    STREAM_STATUS_BITS,
)
from .wishbone import WishboneSignature

__all__ = ["StreamPort"]

ADDRESS_BITS = 20
WORDS_BITS = 19
"""Enough for all words of the largest memory."""

FIRST = min(register.offset for register in STREAM_REGISTERS.values()) // 4
"""Word address of the first register; all lie within 16 words."""

INDEX = {name: register.offset // 4 - FIRST for name, register in STREAM_REGISTERS.items()}


class StreamPort(wiring.Component):
    """Between a host and an accelerator: runs each frame of a stream, and answers it with another.

    For each input frame it writes the words to the input map, starts the program, waits for its
    end, and sends the words of the output map. Each frame is answered by just one, in order: by the
    output, or where there is none by a frame of one word with `tuser`, whose bits say why, as in
    STREAM_STATUS. That is so for frames of a wrong length, which are taken to their end and not
    run, and where the accelerator refuses or fails. An output frame broken off because of an `err`
    ends with such a word as well.

    The host has its own way to all of the accelerator, and the registers `STREAM_REGISTERS` on top.
    The two take turns on the bus, access by access. A frame is begun while `enable` is set, and
    then brought to its end.

    Latency, with B cycles for an access from `stb` to `ack`, both included: each word of a frame
    B + 2 cycles in and B + 2 out, and between them, on top of the run, at most three accesses. The
    input waits meanwhile: one frame is at work at a time.

    Members
    -------
    host : In(WishboneSignature)
    bus : Out(WishboneSignature)
        The accelerator's.
    s_axis : In(AxiStreamSignature)
        Inputs: INPUT_WORDS words a frame.
    m_axis : Out(AxiStreamSignature(user=True))
        Outputs: OUTPUT_WORDS words a frame. `tuser` marks the one word that is an error.
    """

    host: In(WishboneSignature())
    bus: Out(WishboneSignature())
    s_axis: In(AxiStreamSignature())
    m_axis: Out(AxiStreamSignature(user=True))

    def elaborate(self, platform):
        m = Module()
        self._want = Signal()  # an access to the accelerator, with these:
        self._write = Signal()
        self._address = Signal(ADDRESS_BITS)
        self._data_w = Signal(32)
        self._served = Signal()  # it ends, in this cycle
        self._enable = Signal()
        self._map = {
            "INPUT_ADDRESS": Signal(ADDRESS_BITS),
            "INPUT_WORDS": Signal(WORDS_BITS),
            "OUTPUT_ADDRESS": Signal(ADDRESS_BITS),
            "OUTPUT_WORDS": Signal(WORDS_BITS),
        }
        self._active = Signal()
        self._cause = {
            name: Signal(name=name) for name in STREAM_STATUS_BITS if name != "active"
        }  # why the frame at work has no output
        self._fails = {
            name: Signal(name=f"{name}_now") for name in self._cause
        }  # the cycle in which it comes about
        own = Signal()
        m.d.comb += own.eq(
            (self.host.adr[4:] == FIRST >> 4)
            & (self.host.adr[:4] < len(STREAM_REGISTERS))
            & self.host.sel.all()
        )
        self._run_frames(m)
        self._take_turns(m, own)
        self._answer_host(m, own)
        return m

    def _run_frames(self, m):
        """Frame by frame: take and write its words, start, wait, read and send."""
        bus, taken, sent = self.bus, self.s_axis, self.m_axis
        cause, fails = self._cause, self._fails
        address = Signal(ADDRESS_BITS, reset_less=True)
        left = Signal(WORDS_BITS, reset_less=True)
        data = Signal(32, reset_less=True)
        last = Signal(reset_less=True)
        status = {name: bus.dat_r[bit.number] for name, bit in STATUS_BITS.items()}
        start = sum(1 << CONTROL_BITS[name].number for name in ("start", "clear"))
        wrong = Cat(cause.values()).any()
        m.d.comb += [self._address.eq(address), self._data_w.eq(data)]

        with m.FSM() as fsm:
            m.d.comb += self._active.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.sync += [
                    address.eq(self._map["INPUT_ADDRESS"]),
                    left.eq(self._map["INPUT_WORDS"]),
                    *(flag.eq(0) for flag in cause.values()),
                ]
                with m.If(self._enable & taken.tvalid):
                    m.next = "TAKE"

            with m.State("TAKE"):
                m.d.comb += taken.tready.eq(1)
                m.d.sync += [data.eq(taken.tdata), last.eq(taken.tlast)]
                with m.If(taken.tvalid):
                    with m.If(~wrong & (left != 0)):
                        m.next = "WRITE"
                    with m.Else():
                        with m.If(~wrong):
                            m.d.comb += fails["long_frame"].eq(1)
                        with m.If(taken.tlast):
                            m.next = "FAIL"

            with m.State("WRITE"):
                m.d.comb += [self._want.eq(1), self._write.eq(1)]
                with m.If(self._served):
                    m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
                    with m.If(bus.err):
                        m.d.comb += fails["run_failed"].eq(1)
                    with m.Elif(last & (left != 1)):
                        m.d.comb += fails["short_frame"].eq(1)
                    with m.If(~last):
                        m.next = "TAKE"
                    with m.Elif(bus.err | (left != 1)):
                        m.next = "FAIL"
                    with m.Else():
                        m.next = "START"

            with m.State("START"):
                m.d.comb += [self._want.eq(1), self._write.eq(1)]
                m.d.comb += self._address.eq(REGISTERS["CONTROL"].offset // 4)
                m.d.comb += self._data_w.eq(start)
                with m.If(self._served):
                    m.next = "WAIT"

            with m.State("WAIT"):
                m.d.comb += self._want.eq(1)
                m.d.comb += self._address.eq(REGISTERS["STATUS"].offset // 4)
                m.d.sync += address.eq(self._map["OUTPUT_ADDRESS"])
                m.d.sync += left.eq(self._map["OUTPUT_WORDS"])
                with m.If(self._served & ~status["busy"]):
                    good = status["done"] & ~status["start_refused"] & ~status["fault"]
                    with m.If(good & self._map["OUTPUT_WORDS"].any()):
                        m.next = "READ"
                    with m.Else():
                        m.d.comb += fails["run_failed"].eq(1)
                        m.next = "FAIL"

            with m.State("READ"):
                m.d.comb += self._want.eq(1)
                m.d.sync += data.eq(bus.dat_r)
                with m.If(self._served):
                    m.next = "SEND"
                    with m.If(bus.err):
                        m.d.comb += fails["run_failed"].eq(1)
                        m.next = "FAIL"

            with m.State("SEND"):
                m.d.comb += [
                    sent.tvalid.eq(1),
                    sent.tdata.eq(data),
                    sent.tlast.eq(left == 1),
                ]
                with m.If(sent.tready):
                    m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
                    m.next = "READ"
                    with m.If(sent.tlast):
                        m.next = "IDLE"

            with m.State("FAIL"):
                m.d.comb += [sent.tvalid.eq(1), sent.tlast.eq(1), sent.tuser.eq(1)]
                for name, flag in cause.items():
                    m.d.comb += sent.tdata[STREAM_STATUS_BITS[name].number].eq(flag)
                with m.If(sent.tready):
                    m.next = "IDLE"

        for name, failing in fails.items():
            with m.If(failing):
                m.d.sync += cause[name].eq(1)

    def _take_turns(self, m, own):
        """The accelerator's bus: an access of the host's, then one of a frame's."""
        host, bus = self.host, self.bus
        asks = host.cyc & host.stb & ~own
        turn = Signal()  # of the frames, if both want
        with m.FSM():
            with m.State("FREE"):
                with m.If(self._want & (turn | ~asks)):
                    m.next = "FRAME"
                with m.Elif(asks):
                    m.next = "HOST"
            with m.State("FRAME"):
                m.d.comb += [
                    bus.cyc.eq(1),
                    bus.stb.eq(1),
                    bus.we.eq(self._write),
                    bus.adr.eq(self._address),
                    bus.dat_w.eq(self._data_w),
                    bus.sel.eq(0b1111),
                    self._served.eq(bus.ack | bus.err),
                ]
                with m.If(self._served):
                    m.d.sync += turn.eq(0)
                    m.next = "FREE"
            with m.State("HOST"):
                m.d.comb += [
                    bus.cyc.eq(asks),
                    bus.stb.eq(asks),
                    bus.we.eq(host.we),
                    bus.adr.eq(host.adr),
                    bus.dat_w.eq(host.dat_w),
                    bus.sel.eq(host.sel),
                    host.ack.eq(bus.ack),
                    host.err.eq(bus.err),
                ]
                with m.If(bus.ack | bus.err | ~asks):
                    m.d.sync += turn.eq(1)
                    m.next = "FREE"

    def _answer_host(self, m, own):
        """The registers."""
        host, enable = self.host, self._enable
        kept = {name: Signal(name=f"{name}_kept") for name in self._cause}
        answer = Signal()
        found = Signal(32, reset_less=True)
        m.d.sync += answer.eq(host.cyc & host.stb & own & ~answer)
        with m.If(answer & host.cyc & host.stb):
            m.d.comb += host.ack.eq(1)
            with m.If(host.we):
                with m.Switch(host.adr[:4]):
                    with m.Case(INDEX["STREAM_CONTROL"]):
                        m.d.sync += enable.eq(host.dat_w[STREAM_CONTROL_BITS["enable"].number])
                        with m.If(host.dat_w[STREAM_CONTROL_BITS["clear"].number]):
                            m.d.sync += [flag.eq(0) for flag in kept.values()]
                    for name, value in self._map.items():
                        with m.Case(INDEX[name]):
                            low = 2 if name.endswith("ADDRESS") else 0
                            m.d.sync += value.eq(host.dat_w >> low)
        # Set once a frame, so that a clear holds while its error waits to be taken.
        for name, failing in self._fails.items():
            with m.If(failing):
                m.d.sync += kept[name].eq(1)
        flags = {"active": self._active, **kept}
        with m.Switch(host.adr[:4]):
            with m.Case(INDEX["STREAM_CONTROL"]):
                m.d.sync += found.eq(enable << STREAM_CONTROL_BITS["enable"].number)
            with m.Case(INDEX["STREAM_STATUS"]):
                m.d.sync += found.eq(
                    sum(flag << STREAM_STATUS_BITS[name].number for name, flag in flags.items())
                )
            for name, value in self._map.items():
                with m.Case(INDEX[name]):
                    m.d.sync += found.eq(value << (2 if name.endswith("ADDRESS") else 0))
        m.d.comb += host.dat_r.eq(Mux(answer, found, self.bus.dat_r))
