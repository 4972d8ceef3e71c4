"""The prover passes what holds, and refutes what does not."""

import pytest
from amaranth import Module, Signal
from amaranth.hdl import Assert, Assume, Cover
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sim.formal import prove
from tests.sim.duts import Beat, Pipe


class PipeKeepsTheRules(wiring.Component):
    """Claims: the output of a pipe keeps the rules of streams, and passes on what it took."""

    def __init__(self, fault: str | None = None) -> None:
        self._pipe = Pipe(fault)
        super().__init__({"i": Out(self._pipe.i.signature), "o_ready": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.pipe = pipe = self._pipe
        wiring.connect(m, wiring.flipped(self.i), pipe.i)
        m.d.comb += pipe.o.ready.eq(self.o_ready)
        offered, held, taken = Signal(), Signal(Beat), Signal(Beat)
        m.d.sync += [offered.eq(pipe.o.valid & ~pipe.o.ready), held.eq(pipe.o.payload)]
        with m.If(offered):
            m.d.comb += [
                Assert(pipe.o.valid),
                Assert(pipe.o.payload.as_value() == held.as_value()),
            ]
        with m.If(pipe.i.valid & pipe.i.ready):
            m.d.sync += taken.eq(pipe.i.payload)
        with m.If(pipe.o.valid):
            m.d.comb += Assert(pipe.o.payload.as_value() == taken.as_value())
        return m


class CountsToThree(wiring.Component):
    """A cover that is reached after three cycles in which ``step`` is high."""

    step: In(1)
    count: Out(2)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += [Assume(self.step), Cover(self.count == 3)]
        with m.If(self.step):
            m.d.sync += self.count.eq(self.count + 1)
        return m


def test_proof() -> None:
    assert prove(PipeKeepsTheRules(), depth=4).passed


@pytest.mark.parametrize("fault", ["payload", "retract", "change"])
def test_mutant_is_refuted_with_a_trace(fault: str) -> None:
    proof = prove(PipeKeepsTheRules(fault), depth=4)
    assert proof.status == "FAIL"
    assert proof.trace is not None
    assert "$enddefinitions" in proof.trace.read_text()


def test_cover() -> None:
    assert prove(CountsToThree(), mode="cover", depth=6).passed
    assert not prove(CountsToThree(), mode="cover", depth=2).passed


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="mode must be one of prove, bmc, cover, not 'guess'"):
        prove(PipeKeepsTheRules(), mode="guess")
