"""Run an image on the accelerator's RTL and compare every value with the golden model."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.network import INPUT, Network, run, shapes, zero_points
from insitu.cost import program_cycles
from insitu.errors import DeviceError, ImageError, SimulatorError
from insitu.image import Image
from insitu.maps import Map
from insitu.network import from_bytes
from insitu.progress import Progress
from rtl.config import CONFIGURATIONS, Configuration
from rtl.record import OP_END, OP_LAYER, pack_step
from sim.accelerator import Job, Step, accelerator, simulate
from sim.build import BuildError
from sim.run import SimulationError

__all__ = [
    "LayerRun",
    "Simulation",
    "image_configuration",
    "image_network",
    "prepare",
    "simulate_image",
]

Int8 = NDArray[np.int8]

_HOST_CYCLES = 20
"""More than the bus takes for a word, with all that the host does."""


@dataclass(frozen=True)
class LayerRun:
    """A layer on the RTL, against the golden model.

    Parameters
    ----------
    name : str
    dataflow : "stored", "intra" or "cross"; "" without weights
    values, mismatches : int
        Output values compared, of all samples, and those that differ.
    cycles : int
        Counted by the device, of the slowest sample; without those of a program.
    predicted : int
        The cost model's figure.
    ideal : int
        The array's work alone.
    first : str or None
        Where the first mismatch is, what was expected there and what came.
    """

    name: str
    dataflow: str
    values: int
    mismatches: int
    cycles: int
    predicted: int
    ideal: int
    first: str | None = None

    def report(self) -> dict[str, Any]:
        """The figures as plain data."""
        return dict(vars(self))


@dataclass(frozen=True)
class Simulation:
    """An image on the RTL, against the golden model.

    Parameters
    ----------
    configuration : str
    samples : int
    values, mismatches : int
        Values compared, and those that differ.
    cycles : int
        Of one inference, from start to done, counted by the device: of the slowest sample.
    predicted, ideal : int
        The cost model's figure, and the array's work alone.
    outputs : int8 [N, H, W, C]
        What the RTL gave.
    layers : tuple of LayerRun
        Where they were compared one by one.
    first : str or None
        Where the first mismatch is.
    seconds : float
        That the simulation took, without building the simulator.
    """

    configuration: str
    samples: int
    values: int
    mismatches: int
    cycles: int
    predicted: int
    ideal: int
    outputs: Int8 = field(repr=False)
    layers: tuple[LayerRun, ...]
    first: str | None
    seconds: float

    def report(self) -> dict[str, Any]:
        """The figures as plain data."""
        return {
            "configuration": self.configuration,
            "samples": self.samples,
            "values": self.values,
            "mismatches": self.mismatches,
            "first_mismatch": self.first,
            "cycles": self.cycles,
            "predicted_cycles": self.predicted,
            "ideal_cycles": self.ideal,
            "seconds": round(self.seconds, 1),
            "layers": [layer.report() for layer in self.layers],
        }


def image_configuration(image: Image, source: str = "image") -> Configuration:
    """The named configuration that an image is for.

    Raises
    ------
    ImageError
        If there is none here.
    """
    name = image.metadata["configuration"]
    if name not in CONFIGURATIONS:
        raise ImageError(
            f"{source} is for configuration {name!r}, which this insitu does not have",
            f"compile the model again for one of {', '.join(CONFIGURATIONS)}",
        )
    image.check(CONFIGURATIONS[name], source)
    return CONFIGURATIONS[name]


def image_network(image: Image, source: str = "image") -> Network:
    """The network in an image, which is that of its metadata.

    Raises
    ------
    NetworkError
        If it is damaged.
    ImageError
        If the metadata are of another one.
    """
    network = from_bytes(image.network, f"the network in {source}")
    values = image.metadata
    said = [(INPUT, values["input"])]
    said += [(layer["name"], layer["output"]) for layer in values["layers"]]
    names = [INPUT, *(layer.name for layer in network.layers)]
    inside = zip(names, shapes(network), zero_points(network), strict=True)
    if [(name, tuple(one["shape"]), one["zero_point"]) for name, one in said] != [*inside]:
        raise ImageError(
            f"{source} has metadata of another network than the one inside",
            "compile the model again with insitu compile",
        )
    return network


def prepare(config: Configuration, progress: Progress) -> None:
    """Build the simulator of a configuration, unless that has been done.

    Raises
    ------
    SimulatorError
        If it cannot be built.
    """
    progress(0, None, f"simulator of {config.name}: a minute the first time")
    try:
        accelerator(config)
    except BuildError as error:
        raise SimulatorError(
            f"the simulator of {config.name} cannot be built: {error}",
            "see that a C++ compiler is installed (apt-get install g++), then try again",
        ) from None


def simulate_image(
    image: Image,
    inputs: Int8,
    *,
    layers: bool = False,
    network: Network | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Simulation:
    """Run an image on the RTL, and compare.

    Parameters
    ----------
    image : Image
    inputs : int8 [N, H, W, C]
    layers : bool, optional
        Run layer by layer and compare every layer's output; the whole program then runs for the
        first sample only.
    network : Network, optional
        What to compare with; by default the network read back from the image.
    workers : int, optional
        Simulators to run side by side, by default one a core.
    progress : callable, optional

    Raises
    ------
    ImageError
        If the image is for no configuration here, or its contents contradict each other.
    DeviceError
        If the device reports an error or does not come to an end.
    SimulatorError
        If the simulator cannot be built.
    """
    tell = progress or (lambda done, total, what: None)
    config = image_configuration(image)
    if network is None:
        network = image_network(image)
    golden = run(network, inputs, keep=True)

    prepare(config, tell)
    started = time.monotonic()
    maps = [Map.from_report(layer["output"]) for layer in image.metadata["layers"]]
    whole = Step((), maps[-1].address, maps[-1].span)
    parts = _parts(image, maps)
    singles = [
        Step([*part.program, pack_step(OP_END)], part.output.address, part.output.span)
        for part in parts
    ]
    predicted = sum(layer["cost"]["cycles"] for layer in image.metadata["layers"])
    around = program_cycles(config)
    total = len(inputs) * len(parts) + 1 if layers else len(inputs)
    what = f"simulating {config.name}"

    def go(samples: Int8, steps: list[Step], before: int) -> Any:
        source = Map.from_report(image.metadata["input"])
        job = Job(image.payload, source.address, [source.place(x) for x in samples], steps)
        moved = len(image.payload) + source.span + sum(step.size for step in steps)
        limit = 100_000 + len(samples) * (4 * predicted + _HOST_CYCLES * moved)
        try:
            return simulate(
                config,
                job,
                cycles=limit,
                timeout_s=600 + limit / 10_000,
                workers=workers,
                progress=lambda done: tell(before + done, total, what),
            )
        except SimulationError as error:
            raise DeviceError(
                f"the simulation of {config.name} failed: {error}",
                "this is a bug of the hardware or of this program: report it with the lines above",
            ) from None

    tell(0, total, what)
    runs: list[LayerRun] = []
    if layers:
        results = go(inputs, singles, 0)
        for index, report in enumerate(image.metadata["layers"]):
            own = [n for n, part in enumerate(parts) if part.layer == index]
            got = np.stack(
                [
                    np.concatenate([parts[n].output.take(sample[n].data) for n in own])
                    for sample in results
                ]
            )
            wrong, first = _compare(golden[index], got, report["name"])
            runs.append(
                LayerRun(
                    name=report["name"],
                    dataflow=report["dataflow"],
                    values=got.size,
                    mismatches=wrong,
                    cycles=max(sum(sample[n].cycles - around for n in own) for sample in results),
                    predicted=report["cost"]["cycles"],
                    ideal=report["cost"]["ideal"],
                    first=first,
                )
            )
        outputs = got
        ends = go(inputs[:1], [whole], total - 1)
    else:
        ends = go(inputs, [whole], 0)
    got = np.stack([maps[-1].take(sample[0].data) for sample in ends])
    wrong, first = _compare(golden[-1][: len(ends)], got, "output")
    return Simulation(
        configuration=config.name,
        samples=len(inputs),
        values=got.size + sum(layer.values for layer in runs),
        mismatches=wrong + sum(layer.mismatches for layer in runs),
        cycles=max(sample[0].cycles for sample in ends),
        predicted=image.metadata["cycles"],
        ideal=image.metadata["ideal_cycles"],
        outputs=outputs if layers else got,
        layers=tuple(runs),
        first=next((layer.first for layer in runs if layer.first), first),
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class _Part:
    """A layer's program, or that of some rows of its output, and what these are then."""

    layer: int
    program: list[int]
    output: Map


def _parts(image: Image, maps: Sequence[Map]) -> list[_Part]:
    """The program of an image: layer by layer, or in bands of rows."""
    layers = image.metadata["layers"]
    steps = image.metadata.get("steps") or [
        {
            "layer": index,
            "rows": [0, one.shape[0]],
            "address": one.address,
            "operations": len(layer["operations"]),
        }
        for index, (layer, one) in enumerate(zip(layers, maps, strict=True))
    ]
    words = np.frombuffer(image.payload, "<u4").tolist()
    end = sum(step["operations"] for step in steps)
    if [word >> 28 for word in words[: end + 1]] != [OP_LAYER] * end + [OP_END]:
        raise ImageError(
            "image has a program that does not run its layers in order",
            "compile the model again with insitu compile",
        )
    parts = []
    program = iter(words)
    for step in steps:
        one, (first, last) = maps[step["layer"]], step["rows"]
        rows = replace(one, shape=(last - first, *one.shape[1:]), address=step["address"])
        parts.append(_Part(step["layer"], [*islice(program, step["operations"])], rows))
    return parts


def _compare(expected: Int8, got: Int8, name: str) -> tuple[int, str | None]:
    """How many values differ, and where the first does."""
    wrong = np.argwhere(expected != got)
    if not len(wrong):
        return 0, None
    sample, y, x, channel = (int(n) for n in wrong[0])
    at = f"{name}, sample {sample}, row {y}, column {x}, channel {channel}"
    return len(wrong), f"{at}: expected {expected[tuple(wrong[0])]}, got {got[tuple(wrong[0])]}"
