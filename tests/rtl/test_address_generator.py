"""The address generator against loops over addresses, and its pace."""

from __future__ import annotations

import numpy as np
import pytest

import sim
from rtl.address_generator import AddressGenerator, tap_layout
from rtl.config import Configuration
from rtl.record import WALK_WORDS
from sim import Bench, testbench
from tests.rtl.activations import CONFIGURATIONS, SHAPES, Shape, compare_marks, field, groups, marks
from tests.rtl.weights import refuses_other_configurations


def fields(config: Configuration, shape: Shape, shifted: int, rectified: int) -> dict[str, int]:
    """The counters' limits. Written from the comments of `rtl.record`, as are the steps."""
    height, width = shape.size
    oh, ow = shape.output_size
    return {
        "kernel_height": shape.kernel[0] - 1,
        "kernel_width": shape.kernel[1] - 1,
        "channel_groups": groups(shape.channels, config.width) - 1,
        "output_width": ow - 1,
        "output_height": oh - 1,
        "groups": groups(shape.outputs, config.lanes) - 1,
        "input_width": width,
        "input_height": height,
        "shifted_sums": shifted,
        "rectified_sums": rectified,
    }


def steps(config: Configuration, shape: Shape, base: int, pitch: int, on: int) -> list[int]:
    """The walk's words for a map whose pixels lie `pitch` beats apart from beat `base` on.

    A lane group begins `on` beats behind the one before.
    """
    (kh, kw), (sy, sx), (dy, dx) = shape.kernel, shape.stride, shape.dilation
    oh, ow = shape.output_size
    top, left = shape.padding[:2]
    pixel, row = pitch, pitch * shape.size[1]
    cg = groups(shape.channels, config.width)
    rows, columns = (kh - 1) * dy, (kw - 1) * dx
    back = rows * row + columns * pixel
    entries = {
        "start": (base - top * row - left * pixel, -top, -left),
        "kx": (dx * pixel, 0, dx),
        "ky": (dy * row - columns * pixel, dy, -columns),
        "channel": (1 - back, -rows, -columns),
        "x": (sx * pixel - (cg - 1) - back, -rows, sx - columns),
        "y": (sy * row - (ow - 1) * sx * pixel - (cg - 1) - back, sy - rows, -left),
        "group": (
            on - (oh - 1) * sy * row - (ow - 1) * sx * pixel - (cg - 1) - back,
            -top,
            -left,
        ),
    }
    return [
        beat % (1 << 20) | (down % 64) << 20 | (right % 64) << 26
        for beat, down, right in (entries[name] for name in WALK_WORDS)
    ]


def visits(config: Configuration, shape: Shape, base: int, pitch: int) -> tuple[list, list]:
    """Beat and padding of every step of one lane group, by the loops themselves."""
    height, width = shape.size
    oh, ow = shape.output_size
    beats, padding = [], []
    for y in range(oh):
        for x in range(ow):
            for c in range(groups(shape.channels, config.width)):
                for ky in range(shape.kernel[0]):
                    for kx in range(shape.kernel[1]):
                        row = y * shape.stride[0] + ky * shape.dilation[0] - shape.padding[0]
                        column = x * shape.stride[1] + kx * shape.dilation[1] - shape.padding[1]
                        beats.append(base + (row * width + column) * pitch + c)
                        padding.append(not (0 <= row < height and 0 <= column < width))
    return beats, padding


async def start(bench: Bench, walk: dict[str, int], words: list[int], *, single: bool) -> int:
    """Write the steps and start a walk; the cycle in which `start` was high."""
    for name, value in walk.items():
        getattr(bench.dut, f"walk__{name}").value = value
    bench.dut.steps__write.value = 1
    for entry, word in enumerate(words):
        bench.dut.steps__entry.value = entry
        bench.dut.steps__data.value = word
        await bench.cycles()
    bench.dut.steps__write.value = 0
    bench.dut.single.value = single
    bench.dut.start.value = 1
    await bench.cycles()
    bench.dut.start.value = 0
    return bench.cycle


@testbench
async def walks(bench: Bench) -> None:
    """Layers of every shape, over all lane groups and over one, each at a step a cycle."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    stall = bench.parameters["stall"]
    rng = np.random.default_rng(bench.seed)
    layout = tap_layout(config)
    sink = bench.sink("o", stall, hesitant=bench.parameters["hesitant"])
    memory = config.activation_bytes // config.width
    for name, shape in [*SHAPES.items()]:
        for single in (False, True):
            base = int(rng.integers(memory))
            pitch = groups(shape.channels, config.width) + int(rng.integers(3))
            lane_groups = 1 if single else groups(shape.outputs, config.lanes)
            pixels = shape.output_size[0] * shape.output_size[1]
            beats, padding = visits(config, shape, base, pitch)
            received = len(sink.cycles)
            on = int(rng.integers(9))
            words = steps(config, shape, base, pitch, on)
            shifted, rectified = rng.integers(2, size=2).tolist()
            walk = fields(config, shape, shifted, rectified)
            started = await start(bench, walk, words, single=single)
            got = await sink.receive(lane_groups * len(beats))
            what = f"{name}, {single=}"
            bench.compare(
                padding * lane_groups,
                field(layout, got, "padding", signed=False),
                axes=["step"],
                what=f"padding, {what}",
            )
            # What is read of the padding does not matter.
            every = np.add.outer(on * np.arange(lane_groups), beats).ravel()
            inside = np.flatnonzero(np.logical_not(padding * lane_groups))
            bench.compare(
                every[inside] % memory,
                field(layout, got, "beat", signed=False)[inside],
                axes=["step"],
                what=f"beat, {what}",
            )
            depth = len(beats) // pixels
            begins = np.arange(depth) % shape.taps == 0  # a channel group
            later = np.tile(
                np.arange(depth) != 0, lane_groups * pixels
            )  # shifts of the first are void
            shift = field(layout, got, "shift", signed=False)
            bench.compare(
                (shifted * np.tile(begins, lane_groups * pixels))[later],
                shift[later],
                axes=["step"],
                what=f"shift, {what}",
            )
            row_ends = np.arange(1, 1 + len(got)) % shape.kernel[1] == 0
            ends = marks(lane_groups, pixels, depth) | {"rectify": rectified * row_ends}
            compare_marks(bench, layout, ends, got)
            if stall == "never":
                assert sink.cycles[received] == started + 2, what
                assert set(sim.intervals(sink.cycles[received:])) <= {1}, what
            await bench.cycles(bench.rng.randint(1, 3))
            assert len(sink.payloads) == received + len(got), f"steps too many, {what}"


@pytest.mark.parametrize("config", CONFIGURATIONS)
@pytest.mark.parametrize("stall", ["never", "rarely", "bursts"])
def test_walks(config: str, stall: str, seed: int) -> None:
    parameters = {"config": config, "stall": stall, "hesitant": stall == "bursts"}
    dut = AddressGenerator(CONFIGURATIONS[config])
    sim.run(dut, __name__, "walks", parameters=parameters, seed=seed)


def test_refuses() -> None:
    refuses_other_configurations(AddressGenerator)
