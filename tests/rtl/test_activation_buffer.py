"""The activation buffer: what is read and written, where, and when."""

from __future__ import annotations

from collections import deque

import cocotb
import numpy as np
import pytest
from numpy.typing import NDArray

import sim
from rtl.activation_buffer import ActivationBuffer, host_delay, kernels_layout, values_delay
from rtl.address_generator import tap_layout
from rtl.config import Configuration
from rtl.mac_array import marks_layout
from rtl.requantiser import results_layout
from sim import Bench, testbench
from tests.rtl.activations import CONFIGURATIONS, MARKS, compare_marks, marks, rows
from tests.rtl.primitives import ICE40
from tests.rtl.weights import PAUSES, refuses_other_configurations

INPUT_WORDS = 16


class Steps:
    """Takes steps as the issue does: their marks, and their values some cycles later."""

    def __init__(self, bench: Bench, stall: str, *, hesitant: bool = False) -> None:
        self.sink = bench.sink("o__marks", stall, hesitant=hesitant)
        self.values: list[int] = []
        self._bench = bench
        cocotb.start_soon(self._take())

    async def receive(self, count: int) -> tuple[list[int], NDArray[np.int64]]:
        """Marks and values of the next steps: [step], [step, byte]."""
        marks = await self.sink.receive(count)
        while len(self.values) < count:
            await self._bench.cycles()
        got, self.values[:count] = self.values[:count], []
        bytes_ = len(self._bench.dut.o__values) // 8
        return marks, sim.unpack_rows(got, bytes_, 8, signed=True)

    async def _take(self) -> None:
        dut, delay = self._bench.dut, 4
        lead = values_delay(CONFIGURATIONS[self._bench.parameters["config"]])
        due = deque([False] * delay)
        while True:
            await self._bench.clock.edge
            due.append(bool(dut.o__marks__valid.value and dut.o__marks__ready.value))
            if due[0]:
                self.values.append(int(dut.o__values.value))
            due.popleft()
            dut.o__take.value = int(due[lead])


class World:
    """An activation buffer, and what its memory must hold as bytes by address."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.config: Configuration = CONFIGURATIONS[bench.parameters["config"]]
        self.rng = np.random.default_rng(bench.seed)
        self.bytes: dict[int, int] = {}
        self.written = {"group_written": 0, "final_written": 0}
        cocotb.start_soon(self._count())

    async def _count(self) -> None:
        while True:
            await self.bench.clock.edge
            for name in self.written:
                self.written[name] += int(getattr(self.bench.dut, name).value)

    async def host_write(self, address: int, count: int) -> None:
        """Random bytes to `count` activation words."""
        dut = self.bench.dut
        size = self.config.activation_word
        values = self.rng.integers(256, size=(count * size // 4, 4))
        for n, word in enumerate(values.tolist()):
            at = (address * size + 4 * n) % self.config.activation_bytes
            dut.host_write.value = 1
            dut.host_data_w.value = int.from_bytes(bytes(word), "little")
            await self._request(at // 4)
            self.bytes |= dict(zip(range(at, at + 4), word, strict=True))
        dut.host_write.value = 0

    async def _request(self, address: int) -> None:
        self.bench.dut.host_address.value = address
        self.bench.dut.host_request.value = 1
        await self.bench.cycles()
        self.bench.dut.host_request.value = 0
        await self.bench.cycles(host_delay(self.config) - 1)

    async def check_memory(self, what: str) -> None:
        """Read by the host all that was ever written."""
        dut, got = self.bench.dut, []
        addresses = sorted({address // 4 for address in self.bytes})
        for address in addresses:
            await self._request(address)
            await self.bench.settle()
            got.append([*int(dut.host_data_r.value).to_bytes(4, "little")])
        expected = [[self.bytes[4 * address + n] for n in range(4)] for address in addresses]
        self.bench.compare(expected, got, axes=["word written", "byte"], what=what)

    async def begin_layer(self, base: int, pitch: int, lane_groups: int, last_words: int) -> None:
        dut = self.bench.dut
        dut.output__base.value = base
        dut.output__pitch.value = pitch
        dut.output__groups.value = lane_groups - 1
        dut.output__last_group_words.value = last_words - 1
        dut.clear.value = 1
        await self.bench.cycles()
        dut.clear.value = 0
        await self.bench.cycles()

    def results(
        self, base: int, pitch: int, lane_groups: int, pixels: int, last_words: int
    ) -> list[int]:
        """Payloads of a layer's results; notes where they must go."""
        config = self.config
        pixel_words = config.lanes // config.activation_word
        shape = (lane_groups, pixels, pixel_words, config.activation_word)
        values = self.rng.integers(256, size=shape)
        for g, p, w in np.ndindex(*shape[:3]):
            if g == lane_groups - 1 and w >= last_words:
                continue
            word = (base + p * pitch + g * pixel_words + w) % config.activation_words
            at = word * config.activation_word
            line = values[g, p, w].tolist()
            self.bytes |= dict(zip(range(at, at + len(line)), line, strict=True))
        layout = results_layout(config)
        ends = marks(lane_groups, pixels, pixel_words, held=True)
        return rows(layout, values=values.reshape(-1, config.activation_word), **ends)

    def taps(self, base: int, count: int) -> tuple[list[int], NDArray, dict[str, NDArray]]:
        """Steps at random in the input map; their activations and marks."""
        config, rng = self.config, self.rng
        beats = config.activation_bytes // config.width
        each = config.activation_word // config.width
        beat = (base * each + rng.integers(INPUT_WORDS * each, size=count)) % beats
        padding = rng.random(count) < 0.3
        zero_point = int(rng.integers(-128, 128))
        self.bench.dut.zero_point.value = zero_point & 0xFF
        # The channels come first; what else a word has is where it was.
        expected = np.empty((count, config.activation_word), np.int64)
        for row, start in zip(expected, beat * config.width, strict=True):
            word = start - start % config.activation_word
            row[:] = [self.bytes[word + n] for n in range(config.activation_word)]
            row[: config.width] = [self.bytes[start + n] for n in range(config.width)]
        expected = expected.astype(np.uint8).astype(np.int8)
        expected[padding] = zero_point
        ends = {name: rng.integers(2, size=count) for name in MARKS}
        return rows(tap_layout(config), beat=beat, padding=padding, **ends), expected, ends

    def check_steps(
        self,
        got: tuple[list[int], NDArray],
        expected: NDArray,
        ends: dict[str, NDArray],
        what: str,
    ) -> None:
        marks, values = got
        values = values[:, : expected.shape[1]]
        self.bench.compare(expected, values, axes=["step", "byte"], what=what)
        compare_marks(self.bench, marks_layout(), ends, marks)


@testbench
async def reads_and_writes(bench: Bench) -> None:
    """Layers of several lane groups, pitches and last groups, read and written at once."""
    world = World(bench)
    config, rng = world.config, world.rng
    taps = bench.source("taps", bench.parameters["idle"])
    results = bench.source("i", bench.parameters["results"])
    sink = Steps(bench, bench.parameters["stall"], hesitant=bench.parameters["hesitant"])
    pixel_words = config.lanes // config.activation_word
    for lane_groups in (1, 1, 2, 3, 3):
        base = int(rng.integers(config.activation_words))
        pixels, last_words = int(rng.integers(1, 7)), int(rng.integers(1, pixel_words + 1))
        channel_words = (lane_groups - 1) * pixel_words + last_words
        pitch = channel_words + int(rng.integers(3))
        output = base + INPUT_WORDS + 1
        await world.host_write(base, INPUT_WORDS + 2 + pitch * pixels)
        await world.begin_layer(output % config.activation_words, pitch, lane_groups, last_words)
        before = dict(world.written)
        payloads, expected, ends = world.taps(base, 80)
        taps.send(payloads)
        results.send(world.results(output, pitch, lane_groups, pixels, last_words))
        got = await sink.receive(len(expected))
        await results.drain()
        await bench.cycles(2)
        what = f"{base=} {pitch=} {lane_groups=} {pixels=} {last_words=}"
        world.check_steps(got, expected, ends, what)
        await world.check_memory(what)
        assert world.written["group_written"] == before["group_written"] + lane_groups
        assert world.written["final_written"] == before["final_written"] + 1
    assert len(sink.sink.payloads) == len(taps.cycles)


@testbench
async def takes_kernels(bench: Bench) -> None:
    """W1 takes the place of activations, before and after taps, without a gap."""
    world = World(bench)
    config, rng = world.config, world.rng
    layout = kernels_layout(config)
    taps, kernels = bench.source("taps"), bench.source("kernels", bench.parameters["idle"])
    sink = Steps(bench, bench.parameters["stall"])
    await world.host_write(0, INPUT_WORDS)
    for turn in range(3):
        values = rng.integers(-128, 128, (30, config.width))
        ends = {name: rng.integers(2, size=30) for name in MARKS}
        received = len(sink.sink.cycles)
        marks = [sum(int(ends[name][n]) << i for i, name in enumerate(MARKS)) for n in range(30)]
        kernels.send(rows(layout, values=values, marks=marks))
        world.check_steps(await sink.receive(30), values, ends, f"kernels, turn {turn}")
        if bench.parameters["idle"] == bench.parameters["stall"] == "never":
            assert set(sim.intervals(sink.sink.cycles[received:])) == {1}
        payloads, expected, ends = world.taps(0, 30)
        taps.send(payloads)
        world.check_steps(await sink.receive(30), expected, ends, f"taps, turn {turn}")


@testbench
async def keeps_pace(bench: Bench) -> None:
    """A step a cycle, less the words written where there is one port; a word written a cycle."""
    world = World(bench)
    config = world.config
    taps, results, sink = bench.source("taps"), bench.source("i"), Steps(bench, "never")
    await world.host_write(0, INPUT_WORDS)
    await world.begin_layer(INPUT_WORDS, 1, 1, 1)
    payloads, expected, ends = world.taps(0, 100)
    writes = 0
    taps.send(payloads)
    await bench.cycles(3)
    for pixels in (1, 3, 7):
        sent = world.results(INPUT_WORDS, 1, 1, pixels, 1)
        writes += pixels  # the other words of a pixel do not exist
        results.send(sent)
        await results.drain()
        await bench.cycles(3)
        assert set(sim.intervals(results.cycles[-len(sent) :])) <= {1}
        await world.begin_layer(INPUT_WORDS, 1, 1, 1)
    got = await sink.receive(len(expected))
    world.check_steps(got, expected, ends, "values")
    stolen = writes if config.activation_ports == 1 else 0
    assert taps.cycles[-1] - taps.cycles[0] == len(expected) - 1 + stolen
    assert [cycle + 3 + 2 * config.slow_memory for cycle in taps.cycles] == sink.sink.cycles


@pytest.mark.parametrize("config", CONFIGURATIONS)
@pytest.mark.parametrize(("idle", "stall"), PAUSES)
def test_reads_and_writes(config: str, idle: str, stall: str, seed: int) -> None:
    parameters = {"config": config, "idle": idle, "stall": stall, "hesitant": stall == "bursts"}
    parameters |= {"results": "rarely" if idle == "never" else "often"}
    dut = ActivationBuffer(CONFIGURATIONS[config])
    sim.run(dut, __name__, "reads_and_writes", parameters=parameters, seed=seed)


@pytest.mark.parametrize("config", CONFIGURATIONS)
@pytest.mark.parametrize(("idle", "stall"), PAUSES)
def test_takes_kernels(config: str, idle: str, stall: str, seed: int) -> None:
    parameters = {"config": config, "idle": idle, "stall": stall}
    dut = ActivationBuffer(CONFIGURATIONS[config])
    sim.run(dut, __name__, "takes_kernels", parameters=parameters, seed=seed)


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_keeps_pace(config: str, seed: int) -> None:
    dut = ActivationBuffer(CONFIGURATIONS[config])
    sim.run(dut, __name__, "keeps_pace", parameters={"config": config}, seed=seed)


@pytest.mark.parametrize("test", ["reads_and_writes", "keeps_pace"])
def test_ice40(test: str, seed: int) -> None:
    parameters = {"config": "up5k", "idle": "rarely", "stall": "rarely", "hesitant": False}
    dut = ActivationBuffer(CONFIGURATIONS["up5k"], "ice40")
    parameters |= {"results": "often"}
    sim.run(dut, __name__, test, parameters=parameters, seed=seed, extra_sources=ICE40)


def test_refuses() -> None:
    refuses_other_configurations(ActivationBuffer)
