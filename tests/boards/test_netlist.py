"""What yosys makes of the design, simulated on models of the cells: it answers like the RTL."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from amaranth import Instance, Module
from amaranth.lib import wiring

import sim
from boards.netlist import TOP, netlist
from golden.network import run
from insitu.errors import BuildError
from insitu.pack import pack
from insitu.plan import plan
from rtl.accelerator import Accelerator
from rtl.config import configuration
from rtl.multiplier import ByteMultipliers, WideMultiplier
from rtl.queue import Queue
from rtl.storage import Storage
from sim.accelerator import Job, Step, simulate
from sim.build import Build, build_verilog
from tests.boards.cells import models
from tests.rtl.test_accelerator import example

FAMILIES = ["ice40", "ecp5"]

DEPTH = {"ice40": 32768, "ecp5": 1024}
"""Words of 64 bits in two banks of SPRAM, or in four block RAMs."""

BLOCKS: dict[str, tuple[Callable[[str], wiring.Component], str]] = {
    "multiplies_bytes": (ByteMultipliers, "multiplier"),
    "multiplies_wide": (
        lambda family: WideMultiplier(family, slow=family == "ecp5"),
        "multiplier",
    ),
    "remembers": (
        lambda family: Storage(64, DEPTH[family], family, slow=family == "ecp5"),
        "storage",
    ),
    "keeps_order": (lambda family: Queue(8, 4), "queue"),
}
"""A block for each testbench, and the module in `tests/rtl` that has both."""

LUTS = {
    "ice40": r"(?<=\.LUT_INIT\(16'h)[0-9a-f]{4}(?=\))",
    "ecp5": r"(?<= LUT4 #\(\n    \.INIT\(16'h)[0-9a-f]{4}(?=\))",
}
"""The truth tables in a netlist."""

RESETS = {"ice40": r"(?<=\.[RS]\()rst(?=\))", "ecp5": r"(?<=\.LSR\()rst(?=\))"}
"""The resets of registers in a netlist."""


def simulator(source: str, family: str) -> Build:
    """Of a netlist: at first everything is random that has no reset and is not configured."""
    return build_verilog(source + models(family), TOP, random_x=True)


def check(test: str, family: str, source: str, seed: int) -> None:
    """Run the testbench of a block on its netlist, or on one that is wrong."""
    parameters = {"bits": 64, "depth": DEPTH[family], "technology": family}
    parameters |= {"idle": "rarely", "stall": "often", "hesitant": False, "slow": family == "ecp5"}
    module = f"tests.rtl.test_{BLOCKS[test][1]}"
    sim.run(simulator(source, family), module, test, parameters=parameters, seed=seed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("test", BLOCKS)
def test_block(test: str, family: str, seed: int, tmp_path: Path) -> None:
    block = BLOCKS[test][0](family)
    check(test, family, netlist(block, family, directory=tmp_path), seed)


@pytest.mark.parametrize("test", ["remembers", "keeps_order"])
def test_replicated_registers(test: str, seed: int, tmp_path: Path) -> None:
    """Where each register has but two sinks, a block is as it was."""
    make, _ = BLOCKS[test]
    before, source = (
        netlist(make("ecp5"), "ecp5", directory=tmp_path, replicated=replicated)
        for replicated in (False, True)
    )
    assert source.count("TRELLIS_FF #(") > before.count("TRELLIS_FF #(")
    check(test, "ecp5", source, seed)


@pytest.mark.parametrize("family", FAMILIES)
def test_inverted_truth_table_is_seen(family: str, seed: int, tmp_path: Path) -> None:
    source = netlist(Queue(8, 4), family, directory=tmp_path)
    tables = list(re.finditer(LUTS[family], source))
    table = tables[seed % len(tables)]
    inverted = f"{int(table[0], 16) ^ 0xFFFF:04x}"
    source = source[: table.start()] + inverted + source[table.end() :]
    with pytest.raises(sim.SimulationError):
        check("keeps_order", family, source, seed)


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_reset_is_seen(family: str, seed: int, tmp_path: Path) -> None:
    source = netlist(Queue(8, 4), family, directory=tmp_path)
    source, count = re.subn(RESETS[family], "1'h0", source)
    assert count
    # Registers may by chance begin as after a reset, hence several seeds.
    passed = 0
    for other in range(4):
        with contextlib.suppress(sim.SimulationError):
            check("keeps_order", family, source, seed + other)
            passed += 1
    assert passed < 4


@pytest.mark.slow
@pytest.mark.parametrize("config", ["up5k", "ecp5-45f"])
def test_example(config: str, seed: int, tmp_path: Path) -> None:
    """The example network on two images: golden's answers, in the cycles that the RTL takes."""
    chosen = configuration(config)
    network, images = example()
    planned = plan(network, chosen)
    job = Job(
        pack(planned),
        planned.input.address,
        [planned.input.place(values) for values in images[:2]],
        [Step([], planned.output.address, planned.output.span)],
    )
    source = netlist(Accelerator(chosen, chosen.family), chosen.family, directory=tmp_path)
    results = simulate(chosen, job, built=simulator(source, chosen.family), seed=seed)
    expected = run(network, images[:2])
    for sample, (result,) in enumerate(results):
        np.testing.assert_array_equal(planned.output.take(result.data), expected[sample])
    rtl = simulate(chosen, job, seed=seed)
    assert [result.cycles for (result,) in results] == [result.cycles for (result,) in rtl]


def test_unknown_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="family must be one of ice40, ecp5, not 'xc7'"):
        netlist(Queue(8, 4), "xc7", directory=tmp_path)


class _OfUnknownCells(wiring.Component):
    def __init__(self) -> None:
        super().__init__({})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.cell = Instance("NO_SUCH_CELL")
        return m


def test_failed_synthesis_names_the_log(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"yosys failed: .*NO_SUCH_CELL.* read .*yosys\.out"):
        netlist(_OfUnknownCells(), "ice40", directory=tmp_path)
