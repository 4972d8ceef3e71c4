"""The weight tile: written channel by channel, read in the order of the MAC array."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from amaranth.back.rtlil import convert
from numpy.typing import NDArray

import sim
from boards.tools import run
from rtl.coefficient_decoder import vector_delay
from rtl.config import Configuration, configuration
from rtl.requantiser import results_layout
from rtl.weight_tile import WeightTile
from sim import Bench, testbench
from tests.rtl.weights import CONFIGURATIONS, join, refuses_other_configurations

TILES = 4


def payloads(config: Configuration, weights: NDArray[np.int64]) -> list[int]:
    """What the requantiser makes of the weights [lane, channel, tap]."""
    ordered = weights.transpose(1, 2, 0)
    rows = sim.pack_rows(ordered.reshape(-1, config.activation_word), 8)
    chunks = config.lanes // config.activation_word
    layout = results_layout(config)
    return [
        join(
            layout,
            values=row,
            last=n % chunks == chunks - 1,
            final=n >= len(rows) - chunks,
        )
        for n, row in enumerate(rows)
    ]


def words(config: Configuration, weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """The weights in the order of use: [word, stripe]; channels that do not exist are zero."""
    lanes, channels, taps = weights.shape
    groups = -(-channels // config.width)
    padded = np.zeros((lanes, groups * config.width, taps), np.int64)
    padded[:, :channels] = weights
    ordered = padded.reshape(lanes, groups, config.width, taps).transpose(1, 3, 0, 2)
    return ordered.reshape(groups * taps, config.stripes)


@testbench
async def stores(bench: Bench) -> None:
    """Tiles of many shapes, the largest among them, one after the other; each is read twice."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    dut, rng = bench.dut, np.random.default_rng(bench.seed)
    source = bench.source("i", bench.parameters["idle"])
    for tile in range(TILES):
        taps = int(rng.integers(1, min(9, config.tile_depth), endpoint=True))
        most = config.tile_depth // taps * config.width
        channels = most if tile == 0 else int(rng.integers(1, min(most, 9), endpoint=True))
        weights = rng.integers(-127, 128, (config.lanes, channels, taps))
        dut.taps.value = taps - 1
        sent, completed = payloads(config, weights), 0
        source.send(sent)
        began, taken = bench.cycle, len(source.cycles)
        while len(source.cycles) < taken + len(sent):
            await bench.cycles()
            completed += int(dut.complete.value)
            assert not completed or len(source.cycles) >= taken + len(sent) - 1
        assert completed == 1
        if bench.parameters["idle"] == "never":
            assert source.cycles[-1] - began == len(sent)

        expected = words(config, weights)
        delay = vector_delay(config)
        got, reads = [], []
        step = 0
        while len(got) < 2 * len(expected):
            reads.append(step < 2 * len(expected) and bool(rng.integers(3)))
            dut.next.value = int(reads[-1])
            dut.last.value = int(step % len(expected) == len(expected) - 1)
            step += reads[-1]
            await bench.cycles()
            if len(reads) > delay and reads[-1 - delay]:
                got.append(int(dut.weights.value))
        dut.next.value = 0
        stripes = sim.unpack_rows(got, config.stripes, 8, signed=True)
        what = f"tile {tile}, {channels} channels, {taps} taps"
        axes = ["word", "stripe"]
        bench.compare(np.concatenate([expected] * 2), stripes, axes=axes, what=what)


@pytest.mark.parametrize("config", ["up5k", "ecp5-45f", "least", "square", "bitwise"])
@pytest.mark.parametrize("idle", ["never", "often"])
def test_stores(config: str, idle: str, seed: int) -> None:
    parameters = {"config": config, "idle": idle}
    sim.run(
        WeightTile(CONFIGURATIONS[config]), __name__, "stores", parameters=parameters, seed=seed
    )


def test_a_tile_of_any_depth_is_block_ram_on_ice40(tmp_path: Path) -> None:
    """There is no LUT RAM, which a bank of few words would be."""
    odd = replace(configuration("up5k"), tile_bytes=5120)
    assert odd.tile_depth == 512 + 128
    (tmp_path / "tile.il").write_text(convert(WeightTile(odd), name="top", emit_src=False))
    steps = "read_rtlil tile.il; synth_ice40 -top top -run begin:map_ffs; tee -o stat stat"
    run("yosys", ["-q", "-p", steps], directory=tmp_path, log="log")
    assert re.search(r"\b\d+\s+SB_RAM40_4K", (tmp_path / "stat").read_text())


def test_refuses() -> None:
    refuses_other_configurations(WeightTile)
