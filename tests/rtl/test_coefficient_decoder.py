"""The coefficient decoder: every precision against golden, its pace, and proofs of its control."""

from __future__ import annotations

from collections import deque

import cocotb
import numpy as np
import pytest
from amaranth import Module, Mux, Signal
from amaranth.hdl import Assert, Assume
from amaranth.lib import wiring
from amaranth.lib.wiring import In

import rtl.coefficient_decoder
import sim
from golden.code import Code
from golden.decode import segment_words
from rtl.coefficient_decoder import CoefficientDecoder, DecoderControl, Segment, vector_delay
from sim import Bench, testbench
from sim.formal import prove
from sim.patterns import PATTERNS
from tests.rtl.mutants import mutant
from tests.rtl.weights import (
    CONFIGURATIONS,
    PAUSES,
    Vector,
    WordSource,
    draw,
    draw_powers,
    refuses_other_configurations,
    words,
)

KINDS = {
    Segment.BASIS: "basis",
    Segment.STREAM: "stream",
    Segment.WEIGHT: "stream",
    Segment.CROSS: "cross",
}
LAYERS = 16
SEGMENTS = 6


ROOMS = {
    Segment.BASIS: "basis_room",
    Segment.STREAM: "stream_room",
    Segment.WEIGHT: "array_room",
    Segment.CROSS: "array_room",
}


class VectorSink:
    """Gives room, each kind at times of its own, and takes the vectors that are announced."""

    def __init__(self, bench: Bench, stall: str = "never") -> None:
        self.vectors: list[Vector] = []
        self.cycles: list[int] = []
        """The edge that ends each announcement."""
        self._bench = bench
        self._stalls = {name: PATTERNS[stall](bench.rng) for name in sorted({*ROOMS.values()})}
        cocotb.start_soon(self._take())

    async def receive(self, count: int) -> list[Vector]:
        """The next vectors."""
        while len(self.vectors) < count:
            await self._bench.cycles()
        got, self.vectors[:count] = self.vectors[:count], []
        return got

    async def _take(self) -> None:
        config = CONFIGURATIONS[self._bench.parameters["config"]]
        dut, due = self._bench.dut, deque([None] * vector_delay(config))
        while True:
            room = {name: not next(stall) for name, stall in self._stalls.items()}
            for name, value in room.items():
                getattr(dut, name).value = int(value)
            await self._bench.clock.edge
            vector = None
            if dut.o__taken.value:
                segment = Segment(int(dut.o__segment.value))
                assert room[ROOMS[segment]], f"a {segment} was taken without room"
                vector = Vector(0, segment, bool(dut.o__final.value), bool(dut.o__last.value))
                self.cycles.append(self._bench.cycle)
            due.append(vector)
            if arrived := due.popleft():
                arrived.values = int(dut.o__values.value)
                self.vectors.append(arrived)


def set_kind(bench: Bench, kind: str, precision: int, vectors: int) -> None:
    getattr(bench.dut, f"{kind}_precision").value = precision - 1
    getattr(bench.dut, f"{kind}_vectors").value = vectors


@testbench
async def decodes(bench: Bench) -> None:
    """Layers of segments of all kinds, precisions, codes and lengths, one after the other."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    rng = np.random.default_rng(bench.seed)
    source = WordSource(bench, bench.parameters["idle"])
    sink = VectorSink(bench, bench.parameters["stall"])
    precisions = {kind: rng.permuted(np.arange(LAYERS) % 8 + 1) for kind in KINDS.values()}
    for layer in range(LAYERS):
        precision = {kind: int(of[layer]) for kind, of in precisions.items()}
        powers = layer % 3 == 0
        if powers:
            precision["stream"] = 3
        bench.dut.powers.value = int(powers)
        count = {kind: int(rng.integers(1, rng.choice([3, 12, 40]))) for kind in precision}
        for kind in precision:
            set_kind(bench, kind, precision[kind], count[kind])
        segments = []
        for segment in rng.choice(list(KINDS), SEGMENTS):
            kind = KINDS[segment]
            shape = count[kind], config.stripes
            coded = powers and segment is Segment.STREAM
            code = Code.POWER_OF_TWO if coded else Code.UNIFORM
            vectors = draw_powers(rng, shape) if coded else draw(rng, shape, precision[kind])
            final = bool(rng.integers(2))
            source.send(words(config, vectors, precision[kind], segment, final, code))
            segments.append((vectors, segment, final))
        got = await sink.receive(sum(len(vectors) for vectors, *_ in segments))
        expected = np.concatenate([vectors for vectors, *_ in segments])
        what = f"layer {layer}, precisions {precision}, powers {powers}, vectors {count}"
        rows = [vector.values for vector in got]
        unpacked = sim.unpack_rows(rows, config.stripes, 8, signed=True)
        bench.compare(expected, unpacked, axes=["vector", "stripe"], what=what)
        marks = [
            (segment.value, final, n == len(v) - 1)
            for v, segment, final in segments
            for n in range(len(v))
        ]
        got_marks = [(vector.segment.value, vector.final, vector.last) for vector in got]
        bench.compare(marks, got_marks, axes=["vector", "mark"], what=f"marks, {what}")
    await bench.cycles(30)
    assert not sink.vectors, "a vector too many"


@testbench
async def keeps_pace(bench: Bench) -> None:
    """A segment takes as many cycles as its words or its vectors, whichever is more."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    bits = config.stripe_bits
    repeats = 4
    source, sink = WordSource(bench), VectorSink(bench)
    for precision in range(1, 9):
        for count in (1, 2, 3, 5, 6, 7, 16, 23):
            set_kind(bench, "stream", precision, count)
            segment = np.ones((count, config.stripes), np.int8)
            sent, received = len(source.cycles), len(sink.cycles)
            source.send(words(config, segment, precision, Segment.STREAM) * repeats)
            await sink.receive(repeats * count)
            what = f"{count} vectors of {precision} bits"
            needed = segment_words(1, precision, bits)
            latency = int(needed <= DecoderControl(bits).registers)
            assert sink.cycles[received] == source.cycles[sent + needed - 1] + latency, what
            ends = sink.cycles[received + count - 1 :: count]
            pace = max(count, segment_words(count, precision, bits))
            assert set(sim.intervals(ends)) == {pace}, what
            await bench.cycles(4)


class ControlLosesNothing(wiring.Component):
    """Claims: the control reads every bit of a segment once, and never one that it does not hold.

    `position` is where the format says that the next coefficient begins, `come` and `gone` count
    the words that entered and left, all modulo 2**8.
    """

    def __init__(self, control: DecoderControl) -> None:
        self._control = control
        super().__init__(
            {"valid": In(1), "room": In(1), "top_bit": In(3), "vectors": In(16)},
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.control = control = self._control
        bits, registers, held = control.bits, control.registers, control.held
        position, come, gone = (Signal(8, name=name) for name in ("position", "come", "gone"))
        m.d.comb += [
            control.valid.eq(self.valid),
            control.room.eq(self.room),
            control.top_bit.eq(self.top_bit),
            control.vectors.eq(self.vectors),
            control.single.eq(self.vectors == 1),
        ]
        # The kind of segment changes between segments only, and no segment is empty.
        precision, vectors = Signal(3), Signal(16)
        m.d.sync += [precision.eq(self.top_bit), vectors.eq(self.vectors)]
        same = (precision == self.top_bit) & (vectors == self.vectors)
        m.d.comb += [Assume((control.index == 1) | same), Assume(self.vectors >= control.index)]

        end, padded, dropped, here = Signal(8), Signal(8), Signal(8), Signal(8)
        m.d.comb += [
            end.eq(position + self.top_bit + 1),
            padded.eq((end + (bits - 1)) & ~(bits - 1)),
            dropped.eq((held - control.place)[: len(control.place)]),
            here.eq(held + (self.valid & (held == registers))),
        ]
        with m.If(control.take):
            m.d.sync += position.eq(Mux(control.last, padded, end))
        m.d.sync += [come.eq(come + control.accept), gone.eq(gone + dropped)]

        m.d.comb += [
            # No bit is skipped or read twice; no word is lost or read in another's place.
            Assert(((gone * bits + control.offset) ^ position)[:8] == 0),
            Assert((gone + held)[:8] == come),
            Assert((held <= registers) & (control.index > 0)),
            Assert(control.first == (control.index == 1)),
            Assert((control.offset < bits) | (control.offset <= held * bits)),
            Assert(dropped <= held + control.accept),
            Assert(control.accept == (self.valid & control.ready)),
            Assert(control.last == (control.index == self.vectors)),
        ]
        for log_step in range(1, bits.bit_length()):  # Segments begin at words.
            step = 1 << log_step
            with m.If((control.index == 1) | ((self.top_bit + 1) % step == 0)):
                m.d.comb += Assert(control.offset % step == 0)
        with m.If(control.accept & (dropped <= held)):
            m.d.comb += Assert(control.place < registers)
        with m.If(dropped < held):
            m.d.comb += Assert(dropped == control.move)
        with m.If(control.take):
            m.d.comb += [
                Assert(self.room),
                Assert(control.offset < bits),
                Assert(control.offset + self.top_bit + 1 <= here * bits),
            ]
        with m.If(self.valid & self.room):  # Something goes on.
            m.d.comb += Assert(control.accept | control.take | control.move)
        return m


@pytest.mark.parametrize("config", CONFIGURATIONS)
@pytest.mark.parametrize(("idle", "stall"), PAUSES)
def test_decodes(config: str, idle: str, stall: str, seed: int) -> None:
    parameters = {"config": config, "idle": idle, "stall": stall}
    dut = CoefficientDecoder(CONFIGURATIONS[config])
    sim.run(dut, __name__, "decodes", parameters=parameters, seed=seed)


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_keeps_pace(config: str) -> None:
    dut = CoefficientDecoder(CONFIGURATIONS[config])
    sim.run(dut, __name__, "keeps_pace", parameters={"config": config})


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 32])
def test_control_loses_nothing(bits: int) -> None:
    proof = prove(ControlLosesNothing(DecoderControl(bits)), depth=2)
    assert proof.passed, proof.log


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(at + top) // bits + 1", "(at + top) // bits"),  # takes too early
        ("Mux(self.last, Const(0, log_bits), rest)", "rest"),  # reads the padding
        ("(held != registers) | self.move", "1"),  # overruns
        ("Mux((finished == 0) | (finished >= held), finished, 1)", "finished"),  # moves too little
        ("self.first.eq(self.last)", "self.first.eq(0)"),  # counts on
        ("index.eq(1)", "index.eq(0)"),  # miscounts
        ("(held != registers) | self.move", "held != registers"),
    ],
)
def test_faulty_control_is_refuted(old: str, new: str) -> None:
    faulty = mutant(rtl.coefficient_decoder, old, new)
    assert prove(ControlLosesNothing(faulty.DecoderControl(2)), depth=12).status == "FAIL"


def test_refuses() -> None:
    refuses_other_configurations(CoefficientDecoder)
