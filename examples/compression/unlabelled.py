"""VWW and AD of MLPerf Tiny, for which there are no labelled samples, in an iCE40UP5K's memory.

    python examples/mlperf_tiny/inputs.py synthetic FOLDER/ad_int8.tflite -o ~/.cache/insitu/ad.npz
    python examples/compression/unlabelled.py FOLDER ad [--choose]
    insitu compile build/compression/ad.npz -o ad.image --config up5k
    insitu simulate ad.image --inputs ~/.cache/insitu/ad.npz --samples 2 --layers

FOLDER holds MLPerf Tiny's `NAME_int8.tflite`, which says what inputs are like, and
`NAME_float32.tflite`, which is compressed as `choices/NAME.json` says, beside `NAME_plain.json`,
the best that storing the weights gives in as much memory. Both are what the search of `insitu
compress` chose: `--choose` writes them anew. Of the inputs, a third random, a third smooth and a
third shapes on a background, the first 256 are calibrated with; on the next 256 outputs are
compared with those of the float network. Errors are relative: the norm of the error over the norm
of what it is an error of, of outputs about their mean.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from budgets import KB, Counted, solved
from numpy.typing import NDArray
from rich.console import Console

from golden.network import Network
from insitu.choice import read_choices, write_choices
from insitu.compress import LayerResult, compress
from insitu.console import progress
from insitu.errors import InsituError
from insitu.evaluate import read_inputs
from insitu.files import write_file
from insitu.float_network import FloatConvolution, FloatNetwork
from insitu.models import load_float, load_model
from insitu.network import save
from insitu.plan import plan
from insitu.quantise import Calibration, calibrate, quantise
from insitu.search import outputs_of
from rtl.config import LARGEST_MEMORY, Configuration, configuration

HERE = Path(__file__).parent
CACHE = Path.home() / ".cache" / "insitu"
WORK = Path("build/compression")
SAMPLES = 256
CONFIGURATION = "up5k"
BUDGETS = {"ad": (60 * KB, 70_000), "vww": (58 * KB, None)}
"""Bytes of weights and parameters, and cycles."""
Floats = NDArray[np.floating[Any]]
console = Console(highlight=False)


def real_inputs(model: Path, file: Path) -> Floats:
    """Inputs [2 * SAMPLES, H, W, C] of an int8 model as its float network takes them."""
    network = load_model(model).network
    integers = read_inputs(file, network, samples=2 * SAMPLES).integers.astype(np.float32)
    return (integers - network.input_zero_point) * np.float32(network.input_scale)


def output_error(network: Network, floating: FloatNetwork, inputs: Floats) -> float:
    """Relative error of the outputs about their mean."""
    wanted = outputs_of(floating, inputs)
    return float(
        np.linalg.norm(outputs_of(network, inputs) - wanted)
        / np.linalg.norm(wanted - wanted.mean(axis=0))
    )


def weight_errors(floating: FloatNetwork, results: list[LayerResult]) -> dict[str, Any]:
    """Relative error of all weights together, and of each layer's."""
    power = {
        layer.name: float(np.square(layer.weights).sum())
        for layer in floating.layers
        if isinstance(layer, FloatConvolution)
    }
    wrong = sum(one.weight_error**2 * power[one.name] for one in results)
    return {
        "weight_error": (wrong / sum(power.values())) ** 0.5,
        "layers": [
            {
                "name": one.name,
                "choice": str(one.choice),
                "weight_error": one.weight_error,
                "output_error": one.output_error,
            }
            for one in results
        ],
    }


def choose(name: str, floating: FloatNetwork, calibration: Calibration) -> None:
    """Write the solver's choices, and those of stored weights."""
    (budget, cycles), config = BUDGETS[name], configuration(CONFIGURATION)
    for row, plain in ((name, False), (f"{name}_plain", True)):
        built = solved(
            row,
            floating,
            calibration,
            config,
            budget,
            plain=plain,
            counted=Counted.PARAMETERS,
            cycles=cycles,
        )
        write_choices(built.allocation.choices, HERE / "choices" / f"{row}.json")
        console.print(
            f"{row}: {built.bytes:,} bytes, {built.plan.cycles:,} cycles, loss {built.loss:.4g}"
        )


def figures(
    network: Network, floating: FloatNetwork, config: Configuration, unseen: Floats
) -> dict[str, Any]:
    """Memory, cycles and error of a network."""
    planned = plan(network, config)
    report = planned.report()
    return {
        "weights": report["weight_bytes"],
        "parameters": report["parameter_bytes"],
        "program": report["program_bytes"],
        "coefficient_memory": planned.payload_bytes,
        "activation_memory": planned.activation_bytes,
        "bands": planned.banded,
        "cycles": planned.cycles,
        "output_error": output_error(network, floating, unseen),
    }


def main() -> None:
    """Compress and measure the network that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="MLPerf Tiny's networks")
    parser.add_argument("name", choices=("ad", "vww"))
    parser.add_argument("--inputs", type=Path, help="default: ~/.cache/insitu/NAME.npz")
    parser.add_argument("--choose", action="store_true", help="search for the choices first")
    arguments = parser.parse_args()
    name, config = arguments.name, configuration(CONFIGURATION)
    found: dict[str, Any] = {}
    try:
        inputs = real_inputs(
            arguments.folder / f"{name}_int8.tflite", arguments.inputs or CACHE / f"{name}.npz"
        )
        floating = load_float(arguments.folder / f"{name}_float32.tflite")
        seen, unseen = inputs[:SAMPLES], inputs[SAMPLES:]
        calibration = calibrate(floating, seen)
        if arguments.choose:
            choose(name, floating, calibration)
        WORK.mkdir(parents=True, exist_ok=True)
        for row in (name, f"{name}_plain"):
            choices = read_choices(HERE / "choices" / f"{row}.json")
            with progress() as tell:
                network, results = compress(
                    floating,
                    calibration,
                    choices,
                    config,
                    progress=lambda done, total, layer: tell(done, total, f"compressing {name}"),
                )
            save(network, WORK / f"{row}.npz")
            found[row] = figures(network, floating, config, unseen)
            found[row] |= weight_errors(floating, results)
        roomy = replace(config, coefficient_bytes=LARGEST_MEMORY)
        found["stored_int8"] = figures(quantise(floating, calibration), floating, roomy, unseen)
        text = json.dumps(found, indent=1) + "\n"
        write_file(WORK / f"{name}.figures", text.encode(), "figures")
    except InsituError as error:
        sys.exit(f"error: {error}")
    for row, one in found.items():
        console.print(f"{row}: { {key: one[key] for key in one if key != 'layers'} }")


if __name__ == "__main__":
    main()
