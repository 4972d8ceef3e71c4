"""VWW and AD of MLPerf Tiny, for which there are no labelled samples, in an iCE40UP5K's memory.

    python examples/mlperf_tiny/inputs.py synthetic FOLDER/ad_int8.tflite -o ~/.cache/insitu/ad.npz
    python examples/compression/unlabelled.py FOLDER ad --budget 60KB
    python examples/compression/unlabelled.py FOLDER vww --budget 58KB
    insitu compile build/compression/ad.npz -o ad.image --config up5k
    insitu simulate ad.image --samples 2 --layers

FOLDER holds MLPerf Tiny's `NAME_int8.tflite`, which says what inputs are like, and
`NAME_float32.tflite`, which is compressed. Of the inputs, a third random, a third smooth and a
third shapes on a background, the first 256 are calibrated with; on the next 256 outputs are
compared with those of the float network. Errors are relative: the norm of the error over the norm
of what it is an error of, of outputs about their mean. Beside the search's network stands the best
that storing the weights gives at the same budget.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from golden.network import Network, run
from insitu.cli_options import parse_bytes
from insitu.compress import LayerResult, compress
from insitu.console import progress
from insitu.errors import InsituError
from insitu.evaluate import read_inputs
from insitu.files import write_file
from insitu.float_network import FloatConvolution, FloatNetwork
from insitu.menu import Store
from insitu.models import load_float, load_model
from insitu.network import save
from insitu.plan import Plan, plan
from insitu.quantise import Calibration, calibrate, quantise, quantise_inputs
from insitu.search import Built, Search
from rtl.config import LARGEST_MEMORY, Configuration, configuration

CACHE = Path.home() / ".cache" / "insitu"
WORK = Path("build/compression")
SAMPLES = 256
Floats = NDArray[np.floating[Any]]
console = Console(highlight=False)


def real_inputs(model: Path, file: Path) -> Floats:
    """Inputs [2 * SAMPLES, H, W, C] of an int8 model as its float network takes them."""
    network = load_model(model).network
    integers = read_inputs(file, network).integers[: 2 * SAMPLES].astype(np.float32)
    return (integers - network.input_zero_point) * np.float32(network.input_scale)


def output_error(network: Network, floating: FloatNetwork, inputs: Floats) -> float:
    """Relative error of the outputs about their mean."""
    wanted = floating.run(inputs).reshape(len(inputs), -1)
    integers = quantise_inputs(inputs, network.input_scale, network.input_zero_point)
    outputs = run(network, integers).reshape(len(inputs), -1)
    real = network.output_scale * (outputs - np.float64(network.output_zero_point))
    return float(np.linalg.norm(real - wanted) / np.linalg.norm(wanted - wanted.mean(axis=0)))


def weight_errors(floating: FloatNetwork, results: list[LayerResult]) -> tuple[float, float]:
    """Relative error of all weights together, and the largest of a layer."""
    power = {
        layer.name: float(np.square(layer.weights).sum())
        for layer in floating.layers
        if isinstance(layer, FloatConvolution)
    }
    wrong = sum(one.weight_error**2 * power[one.name] for one in results)
    return (wrong / sum(power.values())) ** 0.5, max(one.weight_error for one in results)


def figures(
    floating: FloatNetwork,
    calibration: Calibration,
    built: Built,
    config: Configuration,
    unseen: Floats,
) -> dict[str, Any]:
    """What a network of the search is like."""
    choices = built.allocation.choices
    _, results = compress(floating, calibration, choices, config)
    whole, largest = weight_errors(floating, results)
    return {
        "memory": memory(built.plan),
        "cycles": built.plan.cycles,
        "weight_error": whole,
        "largest_weight_error": largest,
        "output_error": output_error(built.network, floating, unseen),
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


def memory(planned: Plan) -> dict[str, int]:
    """Bytes of coefficient memory, and of maps."""
    report = planned.report()
    return {
        "weights": report["weight_bytes"],
        "parameters": report["parameter_bytes"],
        "program": report["program_bytes"],
        "payload": planned.payload_bytes,
        "activations": planned.activation_bytes,
    }


def main() -> None:
    """Compress the network that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="MLPerf Tiny's networks")
    parser.add_argument("name", choices=("ad", "vww"))
    parser.add_argument("--budget", required=True, help="of weights and parameters, as 60KB")
    parser.add_argument("--cycles", type=int, help="of an inference at most")
    parser.add_argument("--inputs", type=Path, help="default: ~/.cache/insitu/NAME.npz")
    parser.add_argument("--config", default="up5k", help="default: %(default)s")
    arguments = parser.parse_args()
    name, config = arguments.name, configuration(arguments.config)
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        inputs = real_inputs(
            arguments.folder / f"{name}_int8.tflite", arguments.inputs or CACHE / f"{name}.npz"
        )
        floating = load_float(arguments.folder / f"{name}_float32.tflite")
        seen, unseen = inputs[:SAMPLES], inputs[SAMPLES:]
        with progress() as tell:
            calibration = calibrate(floating, seen)
            search = Search(
                floating, calibration, config, store=Store(Path("build/compress")), progress=tell
            )
            budget = parse_bytes(arguments.budget)
            built = {"compressed": search.build(search.menus, budget, arguments.cycles)}
            built["plain"] = search.build(search.plain, budget, arguments.cycles)
            found: dict[str, Any] = {
                what: figures(floating, calibration, one, config, unseen)
                for what, one in built.items()
            }
        whole = quantise(floating, calibration, 8)
        roomy = plan(whole, replace(config, coefficient_bytes=LARGEST_MEMORY))
        found["stored_int8"] = {
            "memory": memory(roomy),
            "cycles": roomy.cycles,
            "output_error": output_error(whole, floating, unseen),
        }
        save(built["compressed"].network, WORK / f"{name}.npz")
        write_file(WORK / f"{name}.json", (json.dumps(found, indent=1) + "\n").encode(), "figures")
    except InsituError as error:
        sys.exit(f"error: {error}")
    for what, one in found.items():
        console.print(f"{what}: { {key: value for key, value in one.items() if key != 'layers'} }")


if __name__ == "__main__":
    main()
