"""The coefficient fetch: every address of a layer, in order, without gaps."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import cocotb
import pytest

import sim
from rtl.coefficient_decoder import Segment
from rtl.coefficient_fetch import CoefficientFetch, Segments
from rtl.coefficient_memory import fetch_layout
from rtl.config import Configuration
from rtl.record import CROSS, INTRA, STORED
from sim import Bench, testbench
from tests.rtl.weights import CONFIGURATIONS, column, refuses_other_configurations

Word = tuple[int, int, int]
"""Address, segment, final."""


def draw_layer(config: Configuration, rng: Random, dataflow: int) -> dict[str, int]:
    """Segments of a layer, short enough to fit."""
    base = rng.randrange(config.coefficient_words // 2)
    return {
        "dataflow": dataflow,
        "flat": rng.randrange(2) if dataflow == CROSS else 0,
        "groups": rng.randrange(3),
        "taps": rng.randrange(4),
        "coefficient_base": base,
        "cross_base": rng.randrange(config.coefficient_words // 2),
        "basis_words": rng.randint(1, 2),
        "stream_words": rng.randint(1, 2),
        "cross_words": rng.randint(1, 2),
        "stream_repeats": rng.randrange(3),
    }


def fetched(layer: dict[str, int]) -> list[list[Word]]:
    """The words of each lane group, as docs/image-format.md says that the hardware reads them."""
    return list(_groups(**layer))


def _groups(
    dataflow: int,
    flat: int,
    groups: int,
    taps: int,
    coefficient_base: int,
    cross_base: int,
    basis_words: int,
    stream_words: int,
    cross_words: int,
    stream_repeats: int,
) -> Iterator[list[Word]]:
    def segment(base: int, count: int, kind: Segment, repeat: int) -> list[Word]:
        final = int(repeat == stream_repeats)
        return [(base + n, kind.value, final) for n in range(count)]

    at = coefficient_base
    for group in range(groups + 1):
        words = []
        if dataflow == CROSS:
            at = coefficient_base
        if dataflow != STORED:
            words += segment(at, basis_words, Segment.BASIS, 0)
            at += basis_words
        for repeat in range(stream_repeats + 1):
            kind = Segment.WEIGHT if dataflow == STORED else Segment.STREAM
            words += segment(at, stream_words, kind, repeat)
            if dataflow == CROSS:
                at += stream_words
                base = cross_base + group * cross_words
                for _ in range(1 if flat else taps + 1):
                    words += segment(base, cross_words, Segment.CROSS, repeat)
        if dataflow != CROSS:
            at += stream_words
        yield words


class Permits:
    """Gives permits, and notes the cycles in which lane groups start."""

    def __init__(self, bench: Bench, pause: str) -> None:
        self.started: list[int] = []
        self._bench = bench
        self._pattern = sim.PATTERNS[pause](Random(bench.seed))
        cocotb.start_soon(self._give())

    async def _give(self) -> None:
        dut = self._bench.dut
        while True:
            permit = int(not next(self._pattern))
            dut.permit.value = permit
            await self._bench.cycles()
            if dut.started.value:
                assert permit, "started without a permit"
                self.started.append(self._bench.cycle)


@testbench
async def fetches(bench: Bench) -> None:
    """Layers of every dataflow, one after the other."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    stall = bench.parameters["stall"]
    sink = bench.sink("o", stall)
    permits = Permits(bench, stall)
    for number in range(24):
        layer = draw_layer(config, bench.rng, (STORED, INTRA, CROSS)[number % 3])
        for name, value in layer.items():
            getattr(bench.dut, f"segments__{name}").value = value
        groups = fetched(layer)
        expected = [word for group in groups for word in group]
        received, starts = len(sink.cycles), len(permits.started)
        bench.dut.start.value = 1
        await bench.cycles()
        begun = bench.cycle
        bench.dut.start.value = 0
        got = await sink.receive(len(expected))
        layout = fetch_layout(config)
        fields = (column(layout, got, name) for name in ("address", "segment", "final"))
        # What BASIS words are marked with does not matter.
        words = [
            (address, segment, 0 if segment == Segment.BASIS.value else final)
            for address, segment, final in zip(*fields, strict=True)
        ]
        expected = [(a, s, 0 if s == Segment.BASIS.value else f) for a, s, f in expected]
        bench.compare(expected, words, axes=["word", "field"], what=f"layer {layer}")
        assert len(permits.started) - starts == len(groups)
        if stall == "never":
            # A lane group starts a cycle after the one before has ended, its words follow at once.
            cycles = iter(sink.cycles[received:])
            for group in groups:
                begun += 1
                assert permits.started[starts] == begun
                starts += 1
                for _ in group:
                    begun += 1
                    assert next(cycles) == begun
        await bench.cycles(5)
        assert len(sink.payloads) == received + len(expected), "words too many"


@pytest.mark.parametrize("config", ["sim-8x1", "up5k", "ecp5-45f", "square"])
@pytest.mark.parametrize("stall", sim.PATTERNS)
def test_fetches(config: str, stall: str, seed: int) -> None:
    parameters = {"config": config, "stall": stall}
    dut = CoefficientFetch(CONFIGURATIONS[config])
    sim.run(dut, __name__, "fetches", parameters=parameters, seed=seed)


def test_draws_all_segments() -> None:
    config = CONFIGURATIONS["up5k"]
    assert draw_layer(config, Random(0), CROSS).keys() == Segments(config).members.keys()


def test_refuses() -> None:
    refuses_other_configurations(CoefficientFetch)
