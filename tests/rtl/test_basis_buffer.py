"""The basis buffer: what is written is read, in the right half, and never overwritten in use."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import sim
from rtl.basis_buffer import BasisBuffer, basis_delay
from rtl.coefficient_decoder import Segment
from rtl.config import Configuration
from sim import Bench, testbench
from tests.rtl.weights import (
    CONFIGURATIONS,
    Vector,
    VectorSource,
    draw,
    refuses_other_configurations,
)

SEGMENTS = 6


def vectors(config: Configuration, basis: NDArray[np.int8]) -> list[Vector]:
    """The vectors of `basis` [word, lane, term]."""
    count, lanes, terms = basis.shape
    groups = -(-terms // config.width)
    padded = np.zeros((count, lanes, groups * config.width), np.int8)
    padded[:, :, :terms] = basis
    stripes = padded.reshape(count, lanes, groups, config.width).transpose(0, 2, 1, 3)
    rows = sim.pack_rows(stripes.reshape(count * groups, config.stripes), 8)
    return [Vector(row, Segment.BASIS, last=n == len(rows) - 1) for n, row in enumerate(rows)]


async def read(bench: Bench, config: Configuration, start: int, count: int) -> NDArray[np.int64]:
    """Words from `start` on, one a cycle: [word, lane, term]."""
    dut, words = bench.dut, []
    delay = basis_delay(config)
    for address in range(start, start + count + delay):
        dut.read__enable.value = int(address < start + count)
        dut.read__address.value = address % config.basis_depth
        await bench.cycles()
        if address >= start + delay:
            words.append(int(dut.read__data.value))
    dut.read__address.value = start
    await bench.cycles(2)
    assert int(dut.read__data.value) == words[-1], "does not hold"
    bits, terms = config.generator_b_bits, config.generator_terms
    codes = sim.unpack_rows(words, terms * config.lanes, bits, signed=False)
    return number(codes, bits).reshape(count, terms, config.lanes).transpose(0, 2, 1)


def number(code: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """What a recoded number is (`rtl.fixed.recoded`)."""
    digits = [code >> place & 1 for place in range(bits)]
    return 1 - digits[0] + sum((1 - 2 * digits[j]) << j - 1 for j in range(1, bits))


@testbench
async def stores(bench: Bench) -> None:
    """Segments of every number of terms, each written as soon as its half is free."""
    config = CONFIGURATIONS[bench.parameters["config"]]
    halves, idle = bench.parameters["halves"], bench.parameters["idle"]
    dut, rng = bench.dut, np.random.default_rng(bench.seed)
    source = VectorSource(bench, idle)
    room = config.basis_depth // 2 if halves else config.basis_depth
    dut.halves.value = int(halves)
    for terms in range(1, config.generator_terms + 1):
        dut.terms.value = terms - 1
        dut.clear.value = 1
        await bench.cycles()
        dut.clear.value = 0
        stored = {}
        for segment in range(SEGMENTS):
            half = segment % 2 if halves else 0
            precision = int(rng.integers(1, config.generator_b_bits, endpoint=True))
            count = (
                room if segment + terms == 1 else int(rng.integers(1, min(room, 40), endpoint=True))
            )
            stored[half] = draw(rng, (count, config.lanes, terms), precision)
            payloads = vectors(config, stored[half])
            assert len(payloads) == count * -(-terms // config.width)

            dut.busy.value = int(rng.choice([1 << half, 3] if halves else [1, 2, 3]))
            sent = len(source.cycles)
            source.send(payloads)
            await bench.cycles(10)
            assert len(source.cycles) == sent, "written while it may be read"
            dut.busy.value = 2 - half if halves else 0
            began = bench.cycle
            await source.drain()
            if idle == "never":
                assert source.cycles[-1] <= began + len(payloads) + 1
            await bench.cycles()
            if halves:
                assert dut.half.value == half
            for half, basis in stored.items():
                got = await read(bench, config, half * room, len(basis))
                what = f"{terms} terms, segment {segment}, half {half}"
                axes = ["word", "lane", "term"]
                bench.compare(basis, got[:, :, :terms], axes=axes, what=what)


@pytest.mark.parametrize("config", CONFIGURATIONS)
@pytest.mark.parametrize(("halves", "idle"), [(True, "never"), (False, "never"), (True, "often")])
def test_stores(config: str, halves: bool, idle: str, seed: int) -> None:
    parameters = {"config": config, "halves": halves, "idle": idle}
    sim.run(
        BasisBuffer(CONFIGURATIONS[config]), __name__, "stores", parameters=parameters, seed=seed
    )


def test_refuses() -> None:
    refuses_other_configurations(BasisBuffer)
