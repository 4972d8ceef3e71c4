"""The MAC array against golden convolutions, and its pace."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

import sim
from golden.convolve import convolve
from golden.windows import pad, tap_slices
from rtl.config import Configuration
from rtl.mac_array import MacArray, operands_layout, sums_layout
from rtl.record import SUM_SHIFT
from sim import Bench, testbench
from tests.rtl.activations import (
    CONFIGURATIONS,
    SHAPES,
    Shape,
    compare_marks,
    field,
    groups,
    marks,
    rows,
    split,
)
from tests.rtl.weights import refuses_other_configurations

JUNK = np.random.default_rng(1)
"""What is in a word beside the channels."""

EXTREMES = [(-128, -128), (-128, 127), (127, 127), (0, 0)]
"""Every activation, and every weight."""


def steps(
    config: Configuration, shape: Shape, x: NDArray[np.int8], W: NDArray[np.int8], zero_point: int
) -> list[int]:
    """What the array is fed for a layer, in its loop order."""
    padded = pad(x[np.newaxis], shape.padding, zero_point)[0]
    slices = tap_slices(shape.output_size, shape.kernel, shape.stride, shape.dilation)
    patches = np.stack([padded[part] for part in slices], axis=-1)  # [y, x, channel, tap]
    patches = patches.reshape(-1, *patches.shape[2:])
    patches = np.moveaxis(split(patches, config.width, 1), 2, 3)  # [pixel, group, tap, k]
    weights = split(split(W, config.width, 1), config.lanes, 0)
    weights = weights.transpose(0, 2, 4, 1, 3)  # [lane group, channel group, tap, lane, k]
    lane_groups, channel_groups, taps = weights.shape[:3]
    pixels, depth = len(patches), channel_groups * taps
    channels = np.tile(patches.reshape(pixels * depth, config.width), (lane_groups, 1))
    activations = JUNK.integers(-128, 128, (len(channels), config.activation_word))
    activations[:, : config.width] = channels
    every = weights.reshape(lane_groups, 1, depth, config.stripes)
    every = np.repeat(every, pixels, axis=1).reshape(-1, config.stripes)
    return rows(
        operands_layout(config),
        activations=activations,
        weights=every,
        **marks(lane_groups, pixels, depth),
    )


def spaced(config: Configuration, payloads: list[int], depth: int) -> list[int | None]:
    """With cycles of nothing where a pixel has fewer steps than its sums take to leave."""
    gap = max(0, config.lanes // config.requantiser_outputs - depth)
    spread: list[int | None] = []
    for start in range(0, len(payloads), depth):
        spread += [*[None] * gap, *payloads[start : start + depth]]
    return spread


def draw(rng: Generator, shape: Shape, extreme: int) -> tuple[NDArray[np.int8], ...]:
    """Map and weights: random, or extreme."""
    x = rng.integers(-128, 128, (*shape.size, shape.channels), np.int8)
    W = rng.integers(-128, 128, (shape.outputs, shape.channels, shape.taps), np.int8)
    if extreme < len(EXTREMES):
        x[:], W[:] = EXTREMES[extreme]
    return x, W


def expected_sums(
    config: Configuration, shape: Shape, x: NDArray[np.int8], W: NDArray[np.int8], zero_point: int
) -> NDArray[np.int32]:
    """[lane group, pixel, lane], lanes without a channel being 0."""
    bias = np.zeros(shape.outputs, np.int32)
    sums = convolve(
        x, W, bias, shape.kernel, shape.stride, shape.padding, shape.dilation, zero_point
    )
    lanes = split(sums.reshape(-1, shape.outputs), config.lanes, 1)
    return lanes.transpose(1, 0, 2)


@testbench
async def convolves(bench: Bench) -> None:
    """Layers of every shape, one after the other."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    rng = np.random.default_rng(bench.seed)
    outputs = config.requantiser_outputs
    source = bench.source("i", bench.parameters["idle"])
    sink = bench.sink("o")
    work = []
    for extreme, (name, shape) in enumerate(SHAPES.items()):
        x, W = draw(rng, shape, extreme)
        zero_point = int(rng.integers(-128, 128))
        depth = groups(shape.channels, config.width) * shape.taps
        source.send(spaced(config, steps(config, shape, x, W, zero_point), depth))
        work.append((name, expected_sums(config, shape, x, W, zero_point)))
    layout = sums_layout(config)
    for name, expected in work:
        lane_groups, pixels, lanes = expected.shape
        beats = lanes // outputs
        got = await sink.receive(lane_groups * pixels * beats)
        sums = field(layout, got, "values", count=outputs).reshape(expected.shape)
        bench.compare(expected, sums, axes=["lane group", "pixel", "lane"], what=name)
        compare_marks(bench, layout, marks(lane_groups, pixels, beats, held=True), got)
    received = len(sink.payloads)
    await bench.cycles(30)
    assert len(sink.payloads) == received, "sums too many"


@testbench
async def works_by_lane(bench: Bench) -> None:
    """Depthwise, shifted and rectified at random: every lane has an activation of its own."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    rng = np.random.default_rng(bench.seed)
    lanes, outputs = config.lanes, config.requantiser_outputs
    source, sink = bench.source("i", bench.parameters["idle"]), bench.sink("o")
    layout = sums_layout(config)
    bench.dut.depthwise.value = 1
    pixels = 6
    for shifted, rectified, depth in (
        (False, False, 9),
        (True, False, 4),
        (False, True, 18),
        (False, False, 1),
        (True, False, 2),
        (False, True, 2),
    ):
        limit = 4 if shifted else 128  # So that sums fit the narrowest accumulator.
        values = rng.integers(-128, 128, (pixels, depth, config.activation_word))
        weights = np.zeros((pixels, depth, lanes, config.width), np.int64)
        weights[..., 0] = rng.integers(-limit, limit, (pixels, depth, lanes))
        own = values[:, :, np.arange(lanes) % config.activation_word]
        terms = own * weights[..., 0]
        shift = np.zeros((pixels, depth), bool)
        shift[:, depth // 2] = shifted
        rectify = (rng.random((pixels, depth)) < 0.5) & rectified
        # What is marked on a first step has no effect.
        shift[:, 0], rectify[:, 0] = rng.random((2, pixels)) < 0.5
        expected = terms[:, 0]
        for n in range(1, depth):
            expected = np.where(rectify[:, [n]] & (expected < 0), 0, expected)
            expected = (expected << SUM_SHIFT * shift[:, [n]]) + terms[:, n]
        low = -(1 << config.accumulator_bits - 1)
        assert low <= expected.min()
        assert expected.max() < -low
        payloads = rows(
            operands_layout(config),
            activations=values.reshape(pixels * depth, -1),
            weights=weights.reshape(pixels * depth, -1),
            shift=shift.ravel(),
            rectify=rectify.ravel(),
            **marks(1, pixels, depth),
        )
        source.send(spaced(config, payloads, depth))
        got = await sink.receive(pixels * lanes // outputs)
        sums = field(layout, got, "values", count=outputs).reshape(expected.shape)
        bench.compare(
            expected, sums, axes=["pixel", "lane"], what=f"{shifted=}, {rectified=}, {depth} steps"
        )
        await bench.cycles(10)


@testbench
async def keeps_pace(bench: Bench) -> None:
    """Sums follow a pixel's last step at once, P lanes a cycle."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    latency = 5 if config.width > 1 else 4
    unload = config.lanes // config.requantiser_outputs
    pixels = 5
    source, sink = bench.source("i"), bench.sink("o")
    for depth in sorted({1, 2, unload - 1, unload, unload + 1, 3 * unload} - {0}):
        sent, received = len(source.cycles), len(sink.cycles)
        zeros = np.zeros((pixels * depth, config.stripes))
        payloads = rows(
            operands_layout(config),
            activations=np.zeros((pixels * depth, config.activation_word)),
            weights=zeros,
            **marks(1, pixels, depth),
        )
        source.send(spaced(config, payloads, depth))
        await sink.receive(pixels * unload)
        lasts = source.cycles[sent + depth - 1 :: depth]
        expected = [cycle + latency + n for cycle in lasts for n in range(unload)]
        assert sink.cycles[received:] == expected, f"{depth} steps a pixel"
        assert set(sim.intervals(lasts)) == {max(depth, unload)}
        await bench.cycles(4)


@pytest.mark.parametrize("config", CONFIGURATIONS)
@pytest.mark.parametrize("idle", ["never", "rarely", "often", "bursts"])
def test_convolves(config: str, idle: str, seed: int) -> None:
    parameters = {"config": config, "idle": idle}
    dut = MacArray(CONFIGURATIONS[config])
    sim.run(dut, __name__, "convolves", parameters=parameters, seed=seed)


@pytest.mark.parametrize("config", CONFIGURATIONS)
@pytest.mark.parametrize("idle", ["never", "often"])
def test_works_by_lane(config: str, idle: str, seed: int) -> None:
    dut = MacArray(CONFIGURATIONS[config])
    parameters = {"config": config, "idle": idle}
    sim.run(dut, __name__, "works_by_lane", parameters=parameters, seed=seed)


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_keeps_pace(config: str) -> None:
    dut = MacArray(CONFIGURATIONS[config])
    sim.run(dut, __name__, "keeps_pace", parameters={"config": config})


def test_refuses() -> None:
    refuses_other_configurations(MacArray)
