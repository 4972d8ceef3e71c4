"""The requantiser against golden: every shift and rounding mode, ties, extremes, and its pace."""

from __future__ import annotations

from collections.abc import Iterator

import cocotb
import numpy as np
import pytest
from cocotb.triggers import Event
from numpy.random import Generator
from numpy.typing import NDArray

import sim
from golden.fixed import clamp8, round_shift
from golden.requantise import Rounding, requantise
from rtl.config import Configuration
from rtl.mac_array import sums_layout
from rtl.record import ROUND_EVEN, ROUND_TWICE, ROUND_UP
from rtl.requantiser import BIAS, MULTIPLIER, SHIFT, Requantiser, results_layout
from sim import Bench, testbench
from tests.rtl.activations import CONFIGURATIONS, compare_marks, field, marks, rows
from tests.rtl.weights import refuses_other_configurations

LOW, HIGH = -(1 << 31), (1 << 31) - 1
ONE_HALF = 1 << 30
MULTIPLIERS = (0, 1, ONE_HALF, ONE_HALF + 1, 3 << 29, HIGH - 1, HIGH)
ROUNDINGS = {ROUND_UP: Rounding.UP, ROUND_TWICE: Rounding.TWICE, ROUND_EVEN: Rounding.EVEN}


def wrapped(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """As 32 bits hold them."""
    return values.astype(np.uint32).astype(np.int32).astype(np.int64)


def accumulators(rng: Generator, multiplier: NDArray, shift: NDArray, pixels: int) -> NDArray:
    """Accumulators [pixel, channel]: around ties and small results, extreme, or any at all."""
    size = (pixels, len(multiplier))
    scale = 2.0 ** (31 + shift) / np.maximum(multiplier, 1)
    near = np.rint((rng.integers(-260, 260, size) + rng.choice([0.0, 0.5], size)) * scale)
    near = np.clip(near + rng.integers(-2, 3, size), LOW, HIGH).astype(np.int64)
    extreme = rng.choice([LOW, LOW + 1, -1, 0, 1, HIGH - 1, HIGH], size)
    anything = rng.integers(LOW, HIGH, size, endpoint=True) >> rng.integers(0, 32, size)
    return np.choose(rng.choice(3, size, p=[0.6, 0.2, 0.2]), [near, extreme, anything])


class Parameters:
    """Writes the parameters of lane groups, each as soon as a half is free."""

    def __init__(self, bench: Bench, config: Configuration) -> None:
        self._bench = bench
        self._config = config
        self.loaded = 0
        self.done = 0
        """Lane groups whose parameters were read for the last time."""
        self.moved = Event()
        cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        while True:
            await self._bench.clock.edge
            if self._bench.dut.group_done.value:
                self.done += 1
                self.moved.set()

    async def write(self, entry: int, bias: int, multiplier: int, shift: int) -> None:
        port = self._bench.dut
        words = {BIAS: bias, MULTIPLIER: multiplier, SHIFT: shift}
        if self._config.parameters_packed:
            words = {BIAS: bias & 0x7FF_FFFF | shift << 27, MULTIPLIER: multiplier}
        for kind, value in words.items():
            port.parameters__write.value = 1
            port.parameters__entry.value = entry
            port.parameters__kind.value = kind
            port.parameters__data.value = int(value) & 0xFFFF_FFFF
            await self._bench.clock.edge
            port.parameters__write.value = 0
            while self._bench.rng.random() < 0.2:
                await self._bench.clock.edge

    async def load(self, bias: NDArray, multiplier: NDArray, shift: NDArray) -> None:
        """Load channels, a multiple of the lanes, group by group."""
        lanes = self._config.lanes
        start = self.done
        for group, first in enumerate(range(0, len(bias), lanes)):
            while group - (self.done - start) >= 2:
                self.moved.clear()
                await self.moved.wait()
            for lane in range(lanes):
                at = first + lane
                entry = group % 2 * lanes + lane
                await self.write(entry, bias[at], multiplier[at], shift[at])
            self.loaded = group + 1
            self.moved.set()


def set_layer(bench: Bench, **settings: int) -> None:
    for name, value in settings.items():
        getattr(bench.dut, name).value = value


async def clear(bench: Bench) -> None:
    bench.dut.clear.value = 1
    await bench.cycles()
    bench.dut.clear.value = 0


def sums(config: Configuration, values: NDArray, lane_groups: int, pixels: int) -> list[int]:
    """Payloads for values [lane group, pixel, lane]."""
    outputs = config.requantiser_outputs
    ends = marks(lane_groups, pixels, config.lanes // outputs, held=True)
    return rows(sums_layout(config), values=values.reshape(-1, outputs), **ends)


def results(config: Configuration, payloads: list[int], shape: tuple[int, ...]) -> NDArray:
    word = config.activation_word
    return field(results_layout(config), payloads, "values", count=word).reshape(shape)


async def write_table(bench: Bench, table: NDArray[np.int8]) -> None:
    """Entries for -128 to 127."""
    bench.dut.table__write.value = 1
    for value, entry in enumerate(table.view(np.uint8).tolist(), -128):
        bench.dut.table__entry.value = value % 256
        bench.dut.table__data.value = entry
        await bench.cycles()
    bench.dut.table__write.value = 0


def layers(rng: Generator) -> Iterator[tuple[int, int, int, int, int]]:
    """Rounding mode, zero point and limits of layers, at their ends and inside; with a table."""
    for rounding in range(3):
        zero, *limits = rng.integers(-128, 128, 3).tolist()
        yield rounding, 0, -128, 127, 1
        yield rounding, -128, -128, 127, 0
        yield rounding, 127, -128, 127, 1
        yield rounding, 5, 5, 5, 0
        yield rounding, zero, min(limits), max(limits), 1


def channels(
    config: Configuration, rng: Generator, count: int, pixels: int
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Bias, multiplier and shift [channel], and sums [pixel, channel] that bring them to bear."""
    shift = rng.permuted(np.arange(count) % 32)
    multiplier = rng.integers(ONE_HALF, HIGH, count, endpoint=True)
    special = rng.random(count) < 0.4
    multiplier[special] = rng.choice(MULTIPLIERS, special.sum())
    high = (1 << 26) - 1 if config.parameters_packed else HIGH
    bias = rng.choice([~high, -1, 0, high], count)
    bias[::2] = rng.integers(~high, high, len(bias[::2]))
    values = wrapped(accumulators(rng, multiplier, shift, pixels) - bias)
    limit = 1 << config.accumulator_bits - 1
    return bias, multiplier, shift, np.clip(values, -limit, limit - 1)


@testbench
async def requantises(bench: Bench) -> None:
    """Layers with every shift, in every rounding mode."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    rng = np.random.default_rng(bench.seed)
    source = bench.source("i", bench.parameters["idle"])
    sink = bench.sink("o")
    loader = Parameters(bench, config)
    lanes, pixels = config.lanes, 8
    lane_groups = 64 // lanes
    words = lanes // config.activation_word
    shape = (pixels, lane_groups, lanes)
    for rounding, zero_point, minimum, maximum, look_up in layers(rng):
        bias, multiplier, shift, values = channels(config, rng, lane_groups * lanes, pixels)
        x = wrapped(values + bias).astype(np.int32)
        expected = requantise(
            x, multiplier, shift, zero_point, minimum, maximum, rounding=ROUNDINGS[rounding]
        )
        if look_up:
            table = rng.integers(-128, 128, 256).astype(np.int8)
            await write_table(bench, table)
            expected = table[expected.astype(int) + 128]
        values, expected = (array.reshape(shape).swapaxes(0, 1) for array in (values, expected))
        set_layer(
            bench,
            rounding=rounding,
            look_up=look_up,
            zero_point=zero_point,
            minimum=minimum,
            maximum=maximum,
        )
        await clear(bench)
        payloads = sums(config, values, lane_groups, pixels)
        each = len(payloads) // lane_groups
        before, loader.loaded = loader.done, 0
        loading = cocotb.start_soon(loader.load(bias, multiplier, shift))
        for group in range(lane_groups):
            while loader.loaded <= group:
                loader.moved.clear()
                await loader.moved.wait()
            source.send(payloads[group * each : (group + 1) * each])
        got = await sink.receive(lane_groups * pixels * words)
        await loading
        assert loader.done == before + lane_groups
        what = f"{rounding=} {zero_point=} {minimum=} {maximum=} {look_up=}"
        axes = ["lane group", "pixel", "lane"]
        bench.compare(expected, results(config, got, expected.shape), axes=axes, what=what)
        ends = marks(lane_groups, pixels, words, held=True)
        compare_marks(bench, results_layout(config), ends, got)


@testbench
async def rounds_tiles(bench: Bench) -> None:
    """Tiles are rounded as golden rounds weights, between lane groups of output pixels."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    rng = np.random.default_rng(bench.seed)
    source = bench.source("i", bench.parameters["idle"])
    sink = bench.sink("o")
    loader = Parameters(bench, config)
    lanes, weights = config.lanes, 8
    words = lanes // config.activation_word
    limit = 1 << config.accumulator_bits - 1
    set_layer(bench, zero_point=77, minimum=-3, maximum=99, rounding=ROUND_TWICE)
    await clear(bench)
    for half in range(2):
        for lane in range(lanes):
            await loader.write(half * lanes + lane, 5, ONE_HALF, half)
    for s2 in range(1, 25):
        bench.dut.tile.value = 1
        await loader.write(2 * lanes, 0, ONE_HALF, s2 - 1)
        values = rng.integers(-300 << s2, 300 << s2, (weights, lanes))
        values[::2] = (rng.integers(-130, 130, (weights // 2, lanes)) << s2) + (1 << s2 >> 1)
        values[:2] = [[limit - 1], [-limit]]
        values = np.clip(values, -limit, limit - 1)
        source.send(sums(config, values, 1, weights))
        got = results(config, await sink.receive(words * weights), values.shape)
        axes = ["weight", "lane"]
        bench.compare(clamp8(round_shift(values, s2)), got, axes=axes, what=f"s2 {s2}")
        assert loader.done == s2 - 1

        bench.dut.tile.value = 0
        await bench.cycles(2)
        half = (s2 - 1) % 2
        values = rng.integers(-500, 500, lanes)
        source.send(sums(config, values, 1, 1))
        got = results(config, await sink.receive(words), values.shape)
        x = (values + 5).astype(np.int32)
        expected = requantise(x, ONE_HALF, half, 77, -3, 99, rounding=Rounding.TWICE)
        bench.compare(expected, got, axes=["lane"], what=f"group {s2}")


@testbench
async def keeps_pace(bench: Bench) -> None:
    """P sums a cycle."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    source, sink = bench.source("i"), bench.sink("o")
    loader = Parameters(bench, config)
    pixels, lanes = 6, config.lanes
    await loader.load(*(np.zeros(lanes, np.int64) for _ in range(3)))
    await clear(bench)
    set_layer(bench, minimum=-128, maximum=127)
    source.send(sums(config, np.zeros((1, pixels, lanes), int), 1, pixels))
    words = lanes // config.activation_word * pixels
    await sink.receive(words)
    pieces = config.activation_word // config.requantiser_outputs
    assert set(sim.intervals(source.cycles)) == {1}
    assert set(sim.intervals(sink.cycles)) == {pieces}
    assert sink.cycles[0] == source.cycles[pieces - 1] + (13 if config.slow_memory else 8)


@pytest.mark.parametrize("config", CONFIGURATIONS)
@pytest.mark.parametrize("idle", ["never", "rarely", "often", "bursts"])
def test_requantises(config: str, idle: str, seed: int) -> None:
    parameters = {"config": config, "idle": idle}
    dut = Requantiser(CONFIGURATIONS[config])
    sim.run(dut, __name__, "requantises", parameters=parameters, seed=seed)


@pytest.mark.parametrize("config", CONFIGURATIONS)
@pytest.mark.parametrize("idle", ["never", "bursts"])
def test_rounds_tiles(config: str, idle: str, seed: int) -> None:
    parameters = {"config": config, "idle": idle}
    dut = Requantiser(CONFIGURATIONS[config])
    sim.run(dut, __name__, "rounds_tiles", parameters=parameters, seed=seed)


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_keeps_pace(config: str) -> None:
    dut = Requantiser(CONFIGURATIONS[config])
    sim.run(dut, __name__, "keeps_pace", parameters={"config": config})


def test_refuses() -> None:
    refuses_other_configurations(Requantiser)
