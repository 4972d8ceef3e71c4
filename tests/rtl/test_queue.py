"""The queue: order, level and pace, and a proof of them."""

from __future__ import annotations

import pytest
from amaranth import Array, Module, Signal
from amaranth.hdl import Assert
from amaranth.lib import wiring
from amaranth.lib.wiring import In

import sim
from rtl.queue import Queue
from sim import Bench, testbench
from sim.formal import prove
from tests.rtl.weights import PAUSES

PAYLOADS = 250


class Overflowing(Queue):
    """A mutant that takes payloads when it is full."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.i.ready.eq(1)
        return m


class Careless(Queue):
    """A mutant that takes payloads in over what it keeps."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        with m.If(self.level == self.depth):
            m.d.sync += self.payloads[0].eq(self.i.payload)
        return m


class Lazy(Queue):
    """A mutant that goes on from the payload it has just given."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        with m.If(self.level == 1):
            m.d.sync += self.read.eq(self.read)
        return m


class Claims(wiring.Component):
    """Claims: a queue holds what was put in, in order, and loses nothing.

    The reference is a ring of what was put in, with its own pointers.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        super().__init__({"i": In(queue.i.signature.flip()), "o_ready": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = queue = self._queue
        depth = len(queue.payloads)
        ring = Array(Signal.like(queue.o.payload, name=f"ring{n}") for n in range(depth))
        start = Signal(range(depth))
        count = Signal(range(depth + 2))
        pushed, popped = Signal(), Signal()
        m.d.comb += [
            queue.i.payload.eq(self.i.payload),
            queue.i.valid.eq(self.i.valid),
            self.i.ready.eq(queue.i.ready),
            queue.o.ready.eq(self.o_ready),
            pushed.eq(queue.i.valid & queue.i.ready),
            popped.eq(queue.o.valid & queue.o.ready),
        ]
        m.d.sync += count.eq(count + pushed - popped)
        with m.If(pushed):
            m.d.sync += ring[(start + count) % depth].eq(self.i.payload)
        with m.If(popped):
            m.d.sync += start.eq((start + 1) % depth)
        m.d.comb += [
            Assert(queue.i.ready == (count < depth)),
            Assert(queue.o.valid == (count > 0)),
            Assert(start < depth),
        ]
        m.d.comb += [
            Assert(queue.level == count),
            Assert(queue.read == (start + queue.in_front)[: len(queue.read)]),
            Assert(queue.write == (start + count)[: len(queue.write)]),
        ]
        payloads = Array(queue.payloads)
        for n in range(depth):
            with m.If(count > n):
                m.d.comb += Assert(payloads[(start + n) % depth] == ring[(start + n) % depth])
        with m.If(count > 0):
            m.d.comb += Assert(queue.o.payload == ring[start])
        return m


@testbench
async def keeps_order(bench: Bench) -> None:
    source = bench.source("i", bench.parameters["idle"])
    sink = bench.sink("o", bench.parameters["stall"], hesitant=bench.parameters["hesitant"])
    payloads = [bench.rng.getrandbits(8) for _ in range(PAYLOADS)]
    source.send(payloads)
    bench.compare(payloads, await sink.receive(PAYLOADS), axes=["payload"])
    await bench.cycles(2)
    assert not bench.dut.o__valid.value
    if source.cycles[-1] - source.cycles[0] == PAYLOADS - 1:
        assert sink.cycles == [cycle + 1 for cycle in source.cycles]


@testbench
async def fills(bench: Bench) -> None:
    """It takes as many as it is deep, and one a cycle when it is never emptied."""
    depth = bench.parameters["depth"]
    source = bench.source("i")
    source.send(range(PAYLOADS))
    await bench.cycles(depth + 5)
    assert len(source.cycles) == depth
    sink = bench.sink("o")
    bench.compare(range(PAYLOADS), await sink.receive(PAYLOADS), axes=["payload"])
    assert set(sim.intervals(sink.cycles)) == {1}


KINDS = {
    "two": {"depth": 2},
    "four": {"depth": 4},
    "memory": {"depth": 8, "in_memory": True},
    "front": {"depth": 8, "in_front": True},
    "both": {"depth": 4, "in_memory": True, "in_front": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("idle", "stall"), PAUSES)
def test_keeps_order(kind: str, idle: str, stall: str, seed: int) -> None:
    parameters = {"idle": idle, "stall": stall, "hesitant": stall == "bursts"}
    dut = Queue(8, **KINDS[kind])
    sim.run(dut, __name__, "keeps_order", parameters=parameters, seed=seed)


@pytest.mark.parametrize("kind", KINDS)
def test_fills(kind: str) -> None:
    dut = Queue(8, **KINDS[kind])
    sim.run(dut, __name__, "fills", parameters={"depth": dut.depth})


@pytest.mark.parametrize("in_front", [False, True])
@pytest.mark.parametrize("depth", [2, 4])
def test_proof(depth: int, in_front: bool) -> None:
    assert prove(Claims(Queue(4, depth, in_front=in_front)), depth=3).passed


@pytest.mark.parametrize("in_front", [False, True])
@pytest.mark.parametrize("mutant", [Overflowing, Careless, Lazy])
def test_mutant_is_refuted(mutant: type[Queue], in_front: bool) -> None:
    assert prove(Claims(mutant(4, 4, in_front=in_front)), depth=8).status == "FAIL"


@pytest.mark.parametrize("depth", [1, 0, -4, 3, 2.0, "4"])
def test_refuses(depth: object) -> None:
    with pytest.raises(
        ValueError, match=f"depth must be a power of two of at least 2, not {depth!r}"
    ):
        Queue(8, depth)
