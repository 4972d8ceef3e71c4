"""Networks on `up5k`, those that fit and those that do not: bits, memory, cycles, accuracy.

    python examples/compression/up5k.py examples/mlperf_tiny/ic2_up5k.npz [NETWORK.npz ...]
    python examples/compression/up5k.py NETWORK.npz --test ~/.cache/insitu/cifar10.npz

Prints Markdown. A network that is too large is planned as if coefficient memory were larger, as is
what it was compressed from, stored at 8 bits, whose cycles are so many times as many. With
`--test` golden runs on all its images, two minutes or so for each network.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from golden.network import Convolution
from insitu.bench import dense
from insitu.console import progress
from insitu.errors import InputError, InsituError
from insitu.evaluate import evaluate, read_inputs
from insitu.models import Model
from insitu.network import load
from insitu.plan import plan_roomy
from rtl.config import configuration

CONFIG = configuration("up5k")


def row(path: Path, test: Path | None) -> str:
    """Name, bits, bytes and what is too much of them, cycles, those of 8 bits, accuracy."""
    network = load(path)
    report = plan_roomy(network, CONFIG, name=path.stem).report()
    whole = dense(network)
    weights = sum(
        one.weights.W.size
        for one in whole.layers
        if isinstance(one, Convolution) and np.ptp(one.weights.W)  # A mean has equal ones.
    )
    parts = [report[f"{what}_bytes"] for what in ("weight", "parameter", "program")]
    over = report["payload_bytes"] - CONFIG.coefficient_bytes
    cells = [
        f"`{path.stem}`",
        f"{8 * report['weight_bytes'] / weights:.2f}",
        f"{' + '.join(f'{part:,}' for part in parts)} = {sum(parts):,}",
        f"{over:,} too much" if over > 0 else "fits",
        f"{report['cycles']:,}",
        f"{plan_roomy(whole, CONFIG).cycles / report['cycles']:.2f}",
    ]
    if test is not None:
        inputs = read_inputs(test, network)
        if inputs.labels is None:
            raise InputError(f"{test} has no labels", "name one that has")
        with progress() as tell:
            found = evaluate(Model(path, network), inputs, progress=tell)
        cells.append(f"{found['accuracy']:.2%}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="+", type=Path, metavar="NETWORK.npz")
    parser.add_argument("--test", type=Path, metavar="FILE.npz", help="inputs and labels")
    arguments = parser.parse_args()
    names = ["network", "bits a weight", "weights + parameters + program", "coefficient memory"]
    names += ["cycles", "8 bits, times as many"]
    names += ["right"] * (arguments.test is not None)
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    try:
        for path in arguments.networks:
            print(row(path, arguments.test), flush=True)
    except InsituError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
