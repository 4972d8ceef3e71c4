"""The coefficient decoder: every precision against golden, its pace, and proofs of its control."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth import Module, Mux, Signal
from amaranth.hdl import Assert, Assume
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

import rtl.coefficient_decoder
import sim
from golden.decode import segment_words
from rtl.coefficient_decoder import CoefficientDecoder, DecoderControl, Segment, vector_layout
from sim import Bench, testbench
from sim.formal import prove
from tests.rtl.mutants import mutant
from tests.rtl.weights import (
    CONFIGURATIONS,
    PAUSES,
    column,
    draw,
    refuses_other_configurations,
    values,
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


def set_kind(bench: Bench, kind: str, precision: int, vectors: int) -> None:
    getattr(bench.dut, f"{kind}_precision").value = precision - 1
    getattr(bench.dut, f"{kind}_vectors").value = vectors


@testbench
async def decodes(bench: Bench) -> None:
    """Layers of segments of all kinds, precisions and lengths, one after the other."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    rng = np.random.default_rng(bench.seed)
    layout = vector_layout(config)
    source = bench.source("i", bench.parameters["idle"])
    sink = bench.sink("o", bench.parameters["stall"], hesitant=bench.parameters["hesitant"])
    precisions = {kind: rng.permuted(np.arange(LAYERS) % 8 + 1) for kind in KINDS.values()}
    for layer in range(LAYERS):
        precision = {kind: int(of[layer]) for kind, of in precisions.items()}
        count = {kind: int(rng.integers(1, rng.choice([3, 12, 40]))) for kind in precision}
        for kind in precision:
            set_kind(bench, kind, precision[kind], count[kind])
        segments = []
        for segment in rng.choice(list(KINDS), SEGMENTS):
            kind = KINDS[segment]
            vectors = draw(rng, (count[kind], config.stripes), precision[kind])
            final = bool(rng.integers(2))
            source.send(words(config, vectors, precision[kind], segment, final))
            segments.append((vectors, segment, final))
        got = await sink.receive(sum(len(vectors) for vectors, *_ in segments))
        expected = np.concatenate([vectors for vectors, *_ in segments])
        what = f"layer {layer}, precisions {precision}, vectors {count}"
        bench.compare(expected, values(layout, got), axes=["vector", "stripe"], what=what)
        for name, field in (
            ("segment", [segment.value for v, segment, _ in segments for _ in v]),
            ("final", [final for v, _, final in segments for _ in v]),
            ("last", [n == len(v) - 1 for v, *_ in segments for n in range(len(v))]),
        ):
            bench.compare(field, column(layout, got, name), axes=["vector"], what=f"{name}, {what}")
    received = len(sink.payloads)
    await bench.cycles(30)
    assert len(sink.payloads) == received, "a vector too many"


@testbench
async def keeps_pace(bench: Bench) -> None:
    """A segment takes as many cycles as its words or its vectors, whichever is more."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    bits = config.stripe_bits
    repeats = 4
    source, sink = bench.source("i"), bench.sink("o")
    for precision in range(1, 9):
        for count in (1, 2, 3, 5, 6, 7, 16, 23):
            set_kind(bench, "stream", precision, count)
            segment = np.ones((count, config.stripes), np.int8)
            sent, received = len(source.cycles), len(sink.cycles)
            source.send(words(config, segment, precision, Segment.STREAM) * repeats)
            await sink.receive(repeats * count)
            what = f"{count} vectors of {precision} bits"
            needed = segment_words(1, precision, bits)
            latency = 2 if needed <= DecoderControl(bits).registers else 1
            assert sink.cycles[received] == source.cycles[sent + needed - 1] + latency, what
            ends = sink.cycles[received + count - 1 :: count]
            pace = max(count, segment_words(count, precision, bits))
            assert set(sim.intervals(ends)) == {pace}, what
            await bench.cycles(4)


@testbench
async def shows_zero(bench: Bench) -> None:
    """While there is no vector, the values are zero."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    set_kind(bench, "stream", 8, 5)
    source, sink = bench.source("i", "often"), bench.sink("o", "rarely")
    source.send(words(config, np.full((5, config.stripes), -1, np.int8), 8, Segment.STREAM) * 5)
    field = vector_layout(config)["values"]
    seen = set()
    while len(sink.payloads) < 25:
        await bench.cycles()
        payload = int(bench.dut.o__payload.value) >> field.offset & (1 << field.width) - 1
        seen.add((bool(bench.dut.o__valid.value), payload))
    assert seen == {(False, 0), (True, (1 << field.width) - 1)}


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


class DecoderKeepsTheRules(wiring.Component):
    """Claims: vectors stay until they are taken, whatever comes in."""

    def __init__(self, decoder: CoefficientDecoder) -> None:
        self._decoder = decoder
        ports = {
            name: Out(member.shape)
            for name, member in decoder.signature.members.items()
            if member.is_port
        }
        super().__init__({"i": Out(decoder.i.signature), "o_ready": In(1), **ports})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.decoder = decoder = self._decoder
        wiring.connect(m, wiring.flipped(self.i), decoder.i)
        m.d.comb += decoder.o.ready.eq(self.o_ready)
        offered, payload = Signal(), Signal.like(decoder.o.payload.as_value())
        m.d.sync += [
            offered.eq(decoder.o.valid & ~decoder.o.ready),
            payload.eq(decoder.o.payload.as_value()),
        ]
        with m.If(offered):
            m.d.comb += [Assert(decoder.o.valid), Assert(decoder.o.payload.as_value() == payload)]
        return m


@pytest.mark.parametrize("config", CONFIGURATIONS)
@pytest.mark.parametrize(("idle", "stall"), PAUSES)
def test_decodes(config: str, idle: str, stall: str, seed: int) -> None:
    parameters = {"config": config, "idle": idle, "stall": stall, "hesitant": stall == "bursts"}
    dut = CoefficientDecoder(CONFIGURATIONS[config])
    sim.run(dut, __name__, "decodes", parameters=parameters, seed=seed)


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_keeps_pace(config: str) -> None:
    dut = CoefficientDecoder(CONFIGURATIONS[config])
    sim.run(dut, __name__, "keeps_pace", parameters={"config": config})


def test_shows_zero() -> None:
    dut = CoefficientDecoder(CONFIGURATIONS["up5k"])
    sim.run(dut, __name__, "shows_zero", parameters={"config": "up5k"})


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 32])
def test_control_loses_nothing(bits: int) -> None:
    proof = prove(ControlLosesNothing(DecoderControl(bits)), depth=2)
    assert proof.passed, proof.log


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (">= end) & ~behind", ">= end - 1) & ~behind"),  # takes a bit too early
        ("(end + (bits - 1)) >> log_bits << log_bits", "end"),  # reads the padding
        ("(held != registers) | self.move", "1"),  # overruns
        ("Mux((whole == 0) | (whole >= held), whole, 1)", "whole"),  # moves too little
        ("index.eq(1)", "index.eq(0)"),  # miscounts
        ("(held != registers) | self.move", "held != registers"),
    ],
)
def test_faulty_control_is_refuted(old: str, new: str) -> None:
    faulty = mutant(rtl.coefficient_decoder, old, new)
    assert prove(ControlLosesNothing(faulty.DecoderControl(2)), depth=12).status == "FAIL"


def test_decoder_keeps_the_rules() -> None:
    assert prove(DecoderKeepsTheRules(CoefficientDecoder(CONFIGURATIONS["square"])), depth=2).passed


def test_faulty_decoder_is_refuted() -> None:
    faulty = mutant(rtl.coefficient_decoder, "~o.valid | o.ready", "1")
    decoder = faulty.CoefficientDecoder(CONFIGURATIONS["square"])
    assert prove(DecoderKeepsTheRules(decoder), depth=6).status == "FAIL"


def test_refuses() -> None:
    refuses_other_configurations(CoefficientDecoder)
