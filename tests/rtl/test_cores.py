"""The accelerator behind AXI4-Lite and between streams, with partners nobody here wrote."""

from __future__ import annotations

import numpy as np
import pytest
from cocotbext.axi import AxiResp

from golden.network import run
from insitu.pack import pack
from insitu.plan import Plan, plan
from rtl.config import configuration
from rtl.cores import AxiLiteAccelerator, StreamAccelerator
from rtl.registers import (
    ACTIVATIONS,
    COEFFICIENTS,
    REGISTERS,
    STATUS_BITS,
    STREAM_CONTROL_BITS,
    STREAM_REGISTERS,
    STREAM_STATUS_BITS,
)
from sim import Bench, build, testbench
from sim.accelerator import Job, Result, Step, load, simulate, work
from tests.insitu.networks import random_generated, random_network, random_stored
from tests.rtl.axi import AxiLite, Streams
from tests.rtl.weights import refuses_other_configurations

CONFIG = configuration("up5k")
SAMPLES = 3
AT = {name: register.offset // 4 for name, register in (REGISTERS | STREAM_REGISTERS).items()}


@testbench
async def drive_axi(bench: Bench) -> None:
    """A job on AXI4-Lite; what Wishbone refuses is refused here."""
    bench.parameters["pause"] = "often"
    bus = AxiLite(bench)
    await load(bench, bus)
    refused = [
        bus.master.write(COEFFICIENTS, bytes(4)),
        bus.master.write(ACTIVATIONS, bytes(3)),
        bus.master.read(0x30_0000, 4),
    ]
    for access in refused:
        assert (await access).resp == AxiResp.SLVERR
    status = await bus.read(AT["STATUS"])
    expected = ("locked", "write_refused", "access_error")
    assert status == sum(1 << STATUS_BITS[name].number for name in expected)
    await bus.write(AT["CONTROL"], 2)
    await work(bench, bus)


@testbench
async def drive_stream(bench: Bench) -> None:
    """All inputs of a job in one go, and among them frames of wrong lengths."""
    bench.parameters["pause"] = "often"
    host, streams = bench.wishbone("host", patience=100_000), Streams(bench)
    folder, (step,) = bench.directory, bench.parameters["steps"]
    await load(bench, host)
    inputs = [(folder / f"input{n}").read_bytes() for n in range(bench.parameters["inputs"])]
    inputs = [data + bytes(-len(data) % 4) for data in inputs]
    maps = {
        "INPUT_ADDRESS": ACTIVATIONS + bench.parameters["input_address"],
        "INPUT_WORDS": len(inputs[0]) // 4,
        "OUTPUT_ADDRESS": ACTIVATIONS + step["address"],
        "OUTPUT_WORDS": step["size"] // 4,
    }
    for name, value in maps.items():
        await host.write(AT[name], value)
    await host.write(AT["STREAM_CONTROL"], 1 << STREAM_CONTROL_BITS["enable"].number)
    for data in inputs:
        streams.send(data)
        streams.send(data[:-4])
        streams.send(data + bytes(8))
    for number in range(len(inputs)):
        data, users = await streams.receive()
        assert not any(users)
        (folder / f"output{number}_0").write_bytes(data)
        for name in ("short_frame", "long_frame"):
            cause = 1 << STREAM_STATUS_BITS[name].number
            assert await streams.receive() == (cause.to_bytes(4, "little"), [True])
    bench.record["cycles"] = [[await host.read(AT["CYCLES"])]] * len(inputs)


def small(seed: int) -> tuple[Plan, Job, np.ndarray]:
    """A network of two layers, a job that runs it, and what must come of it."""
    rng = np.random.default_rng(seed)
    layers = [
        {
            "weights": random_generated(rng, 12, 3, 9, terms=2, kernels=9, s1=0),
            "kernel": (3, 3),
            "padding": (1, 1, 1, 1),
        },
        {"weights": random_stored(rng, 10, 12, 30, 4), "kernel": (6, 5)},
    ]
    network = random_network(rng, layers, (6, 5, 3))
    planned = plan(network, CONFIG)
    x = rng.integers(-128, 128, (SAMPLES, 6, 5, 3)).astype(np.int8)
    job = Job(
        pack(planned),
        planned.input.address,
        [planned.input.place(values) for values in x],
        [Step([], planned.output.address, planned.output.span)],
    )
    return planned, job, run(network, x)


@pytest.mark.parametrize(
    ("core", "driver"), [(AxiLiteAccelerator, "drive_axi"), (StreamAccelerator, "drive_stream")]
)
def test_network(core: type, driver: str, seed: int) -> None:
    planned, job, expected = small(seed)
    built = build(core(CONFIG), f"{driver}_up5k")
    results: list[list[Result]] = simulate(
        CONFIG, job, built=built, driver=(__name__, driver), seed=seed
    )
    for sample, (result,) in enumerate(results):
        np.testing.assert_array_equal(planned.output.take(result.data), expected[sample])
        assert result.cycles == pytest.approx(planned.cycles, rel=0.05)


@pytest.mark.parametrize("core", [AxiLiteAccelerator, StreamAccelerator])
def test_refuses(core: type) -> None:
    refuses_other_configurations(core)
