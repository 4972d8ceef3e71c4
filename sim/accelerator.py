"""Runs images on the accelerator's RTL, driven through its Wishbone port.

A :class:`Job` says what to write, run and read back; :func:`simulate` does it in a simulation and
returns what was read and the cycles that the device counted.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from rtl.accelerator import Accelerator
from rtl.config import Configuration
from rtl.registers import (
    ACTIVATIONS,
    COEFFICIENTS,
    CONTROL_BITS,
    IDENTITY,
    REGISTERS,
    STATUS_BITS,
    UNLOCK,
)

from .bench import Bench, testbench
from .build import Build, build
from .run import run

__all__ = ["Job", "Result", "Step", "Words", "accelerator", "load", "simulate", "work"]

_START = sum(1 << CONTROL_BITS[name].number for name in ("start", "clear"))
"""What starts a run: `done` is then that of this one."""

_POLL = 1024
"""Cycles between looks at the status while the device is at work."""

_LOOK_S = 0.5
"""Seconds between looks at what the simulators have done."""


@dataclass(frozen=True)
class Step:
    """A program to run, and what to read afterwards.

    Parameters
    ----------
    program
        32-bit words to write to address 0 first; none leaves the image's own.
    address, size
        Bytes of activation memory to read, both multiples of 4.
    """

    program: Sequence[int]
    address: int
    size: int


@dataclass(frozen=True)
class Job:
    """What to do with an accelerator.

    Parameters
    ----------
    payload
        Coefficient memory from address 0, a multiple of 4 bytes.
    input_address
        Byte address of the input, a multiple of 4.
    inputs
        Bytes of the input map, one entry an inference.
    steps
        What to run for each input, in order.
    """

    payload: bytes
    input_address: int
    inputs: Sequence[bytes]
    steps: Sequence[Step]


@dataclass(frozen=True)
class Result:
    """What came of a step: the bytes read, and the cycles that the device counted."""

    data: bytes
    cycles: int


@cache
def accelerator(config: Configuration, *, waves: bool = False) -> Build:
    """The simulator of the whole accelerator, built or from the cache."""
    return build(Accelerator(config), f"accelerator_{config.name.replace('-', '_')}", waves=waves)


def simulate(
    config: Configuration,
    job: Job,
    *,
    built: Build | None = None,
    driver: tuple[str, str] | None = None,
    waves: bool = False,
    cycles: int = 100_000_000,
    seed: int = 0,
    timeout_s: float = 3600,
    workers: int | None = 1,
    progress: Callable[[int], None] | None = None,
) -> list[list[Result]]:
    """Run ``job`` on the RTL; one list of results, one a step, for each input.

    Parameters
    ----------
    config, job, seed
    built
        A simulator of something else with the accelerator's ports, such as its netlist.
    driver
        Module and name of another testbench than `drive`, where that has other ports.
    waves
        Record a waveform; with one worker only.
    cycles, timeout_s
        Limits, for each worker.
    workers
        Simulators to share the inputs between; None for one a core.
    progress
        Called with the number of steps done, of all inputs.

    Raises
    ------
    SimulationError
        The device did not answer as it should, or not within ``cycles``.
    """
    count = min(workers or os.cpu_count() or 1, max(1, len(job.inputs)))
    if waves and count > 1:
        raise ValueError(f"workers must be 1 to record waves, not {workers!r}")
    built = built or accelerator(config, waves=waves)
    shares = [replace(job, inputs=job.inputs[first::count]) for first in range(count)]
    with TemporaryDirectory() as name, ThreadPoolExecutor(count) as pool:
        folders = [Path(name) / str(worker) for worker in range(count)]
        runs = []
        for share, folder in zip(shares, folders, strict=True):
            options = {"seed": seed, "timeout_cycles": cycles, "timeout_s": timeout_s}
            task = (built, driver or (__name__, "drive"), config, share, folder, waves, options)
            runs.append(pool.submit(_simulate, *task))
        while wait(runs, timeout=_LOOK_S).not_done:
            if progress is not None:
                progress(sum(1 for _ in Path(name).glob("*/output*")))
        results: list[list[Result]] = [[]] * len(job.inputs)
        for first, done in enumerate(runs):
            results[first::count] = done.result()
    if progress is not None:
        progress(len(job.inputs) * len(job.steps))
    return results


def _simulate(
    built: Build,
    driver: tuple[str, str],
    config: Configuration,
    job: Job,
    folder: Path,
    waves: bool,
    options: Any,
) -> list[list[Result]]:
    """One simulator's share of a job."""
    folder.mkdir()
    (folder / "payload").write_bytes(job.payload)
    for index, data in enumerate(job.inputs):
        (folder / f"input{index}").write_bytes(data)
    parameters = {
        "input_address": job.input_address,
        "inputs": len(job.inputs),
        "steps": [{**asdict(step), "program": list(step.program)} for step in job.steps],
        "digest": config.digest,
    }
    done = run(built, *driver, parameters=parameters, waves=waves, directory=folder, **options)
    return [
        [
            Result((folder / f"output{index}_{step}").read_bytes(), cycles)
            for step, cycles in enumerate(counted)
        ]
        for index, counted in enumerate(done.record["cycles"])
    ]


class Words(Protocol):
    """A master of a bus of 32-bit words, whatever bus that is; addresses are in words."""

    async def read(self, address: int) -> int:
        """Read one word."""

    async def write(self, address: int, word: int) -> None:
        """Write one word."""

    async def read_burst(self, address: int, count: int) -> list[int]:
        """Read successive words."""

    async def write_burst(self, address: int, words: Sequence[int]) -> None:
        """Write successive words."""


@testbench
async def drive(bench: Bench) -> None:
    """The host's side of a job, on the Wishbone bus."""
    bus = bench.wishbone("bus", patience=100_000)
    await load(bench, bus)
    await work(bench, bus)


async def load(bench: Bench, bus: Words) -> None:
    """Load the payload of a job into a device of its configuration, and check it there."""
    bench.compare(IDENTITY, await bus.read(_at("IDENTITY")), what="IDENTITY")
    bench.compare(bench.parameters["digest"], await bus.read(_at("DIGEST")), what="DIGEST")
    payload = (bench.directory / "payload").read_bytes()
    await bus.write(_at("LOCK"), UNLOCK)
    await bus.write_burst(COEFFICIENTS // 4, _words(payload))
    await bus.write(_at("LOCK"), 0)
    await bus.write(_at("CRC_ADDRESS"), COEFFICIENTS)
    await bus.write(_at("CRC_LENGTH"), len(payload) // 4)
    while await bus.read(_at("STATUS")) >> STATUS_BITS["crc_busy"].number & 1:
        await bench.cycles(_POLL)
    bench.compare(zlib.crc32(payload), await bus.read(_at("CRC_VALUE")), what="payload CRC")


async def work(bench: Bench, bus: Words) -> None:
    """Run the steps of a job on each of its inputs."""
    folder, parameters = bench.directory, bench.parameters
    input_address = (ACTIVATIONS + parameters["input_address"]) // 4
    counted: list[list[int]] = []
    for index in range(parameters["inputs"]):
        await bus.write_burst(input_address, _words((folder / f"input{index}").read_bytes()))
        counted.append([])
        for number, step in enumerate(parameters["steps"]):
            if step["program"]:
                await bus.write(_at("LOCK"), UNLOCK)
                await bus.write_burst(COEFFICIENTS // 4, step["program"])
                await bus.write(_at("LOCK"), 0)
            await bus.write(_at("CONTROL"), _START)
            while (status := await bus.read(_at("STATUS"))) & 1 << STATUS_BITS["busy"].number:
                await bench.cycles(_POLL)
            on = [name for name, bit in STATUS_BITS.items() if status >> bit.number & 1]
            bench.compare("done locked", " ".join(on), what="STATUS after a run")
            words = await bus.read_burst((ACTIVATIONS + step["address"]) // 4, step["size"] // 4)
            data = b"".join(word.to_bytes(4, "little") for word in words)
            (folder / f"output{index}_{number}").write_bytes(data)
            counted[-1].append(await bus.read(_at("CYCLES")))
    bench.record["cycles"] = counted


def _at(register: str) -> int:
    """Word address of a register."""
    return REGISTERS[register].offset // 4


def _words(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
