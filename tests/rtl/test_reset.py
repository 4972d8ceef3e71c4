"""A reset of one cycle, whatever the accelerator is at: it then works as if nothing had been."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import cocotb
import numpy as np
import pytest

from golden.network import run
from insitu.pack import pack
from insitu.plan import plan
from rtl.config import configuration
from rtl.registers import ACTIVATIONS, COEFFICIENTS, CONTROL_BITS, REGISTERS, STATUS_BITS, UNLOCK
from sim import Bench, WishboneMaster, testbench
from sim.accelerator import Job, Step, load, simulate, work
from tests.insitu.networks import random_generated, random_network, random_stored

AT = {name: register.offset // 4 for name, register in REGISTERS.items()}


def disturbances(
    bench: Bench, bus: WishboneMaster
) -> list[tuple[int, int, Callable[[], Awaitable[object]]]]:
    """How many resets, the cycle in which they come at the latest, and what a host is at then."""
    run_cycles = bench.record["cycles"][0][0]

    def noise() -> list[int]:
        return [bench.rng.getrandbits(32) for _ in range(100)]

    async def runs() -> None:
        await bus.write(AT["CONTROL"], 1 << CONTROL_BITS["start"].number)

    async def waits_for_a_run() -> None:
        await runs()
        await bus.read(ACTIVATIONS // 4)

    async def loads() -> None:
        await bus.write(AT["LOCK"], UNLOCK)
        await bus.write_burst(COEFFICIENTS // 4, noise())

    async def writes() -> None:
        await bus.write_burst(ACTIVATIONS // 4, noise())

    async def reads() -> None:
        await bus.read_burst(COEFFICIENTS // 4, 50)
        await bus.read_burst(ACTIVATIONS // 4, 50)

    async def checks() -> None:
        await bus.write(AT["CRC_LENGTH"], 100)
        await bus.read(AT["CRC_VALUE"])

    return [
        (10, run_cycles, runs),
        (4, run_cycles, waits_for_a_run),
        *((2, 200, what) for what in (loads, writes, reads, checks)),
    ]


@testbench
async def recovers(bench: Bench) -> None:
    """A job again and again, each time after a reset in the middle of something."""
    dut = bench.dut
    bus = bench.wishbone("bus", patience=100_000)

    async def whole() -> tuple[bytes, int]:
        await load(bench, bus)
        await work(bench, bus)
        return (bench.directory / "output0_0").read_bytes(), bench.record["cycles"][0][0]

    wanted = await whole()
    for count, latest, disturb in disturbances(bench, bus):
        for _ in range(count):
            at = bench.rng.randint(1, latest)
            task = cocotb.start_soon(disturb())
            await bench.cycles(at)
            task.cancel()
            dut.bus__cyc.value = dut.bus__stb.value = 0
            dut.rst.value = 1
            await bench.cycles()
            dut.rst.value = 0
            where = f"after a reset in cycle {at}, host {disturb.__name__}"
            locked = 1 << STATUS_BITS["locked"].number
            bench.compare(locked, await bus.read(AT["STATUS"]), what=f"STATUS {where}")
            output, cycles = await whole()
            bench.compare([*wanted[0]], [*output], what=f"output {where}")
            bench.compare(wanted[1], cycles, what=f"cycles {where}")


@pytest.mark.parametrize("name", ["up5k", pytest.param("ecp5-25f", marks=pytest.mark.slow)])
def test_recovers(name: str, seed: int) -> None:
    config = configuration(name)
    rng = np.random.default_rng(seed)
    same = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
    layers = [
        {"weights": random_generated(rng, 10, 3, 9, terms=2, kernels=9, s1=0), **same},
        {"weights": random_generated(rng, 9, 10, 9, terms=2, s1=0), **same},
        {"weights": random_stored(rng, 10, 9, 1, 4), "kernel": (1, 1)},
    ]
    network = random_network(rng, layers, (4, 4, 3))
    planned = plan(network, config)
    x = rng.integers(-128, 128, (1, 4, 4, 3)).astype(np.int8)
    job = Job(
        pack(planned),
        planned.input.address,
        [planned.input.place(x[0])],
        [Step([], planned.output.address, planned.output.span)],
    )
    driver = __name__, "recovers"
    ((result,),) = simulate(config, job, driver=driver, seed=seed, cycles=1_000_000)
    np.testing.assert_array_equal(planned.output.take(result.data), run(network, x)[0])
