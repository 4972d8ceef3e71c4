"""Where memory, cycles and accuracy meet: IC2 without training, under budgets of both.

    python examples/mlperf_tiny/inputs.py cifar10 -o ~/.cache/insitu/cifar10.npz
    python examples/mlperf_tiny/inputs.py cifar10-training -o ~/.cache/insitu/cifar10_training.npz
    python examples/compression/frontier.py

For each budget of weights and parameters, and each share of the cycles of weights stored at 8 bits
on the same array (`sim-8x1`, whose memory gives all weights that it multiplies by), the solver's
choice is compressed and measured on the first test images. Fits stay in build/compress: what was
interrupted goes on. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from budgets import FITS, KB, cycles_stored
from rows import CACHE, Row, read_row

from insitu.console import progress
from insitu.errors import FitError, InsituError
from insitu.menu import Store
from insitu.quantise import read_given
from insitu.search import Labelled, Search
from rtl.config import configuration

ROW = Row("ic2_tuned.onnx", None, False)
BUDGETS = (46, 64, 92, None)
SPEED_UPS = (None, 2.0, 3.0, 4.0)


def read_images(test: Path, count: int) -> Labelled:
    """The first test images as the float network takes them, pixels / 255, with labels."""
    given = read_given(test, "test images")
    pixels = given.inputs[:count].astype(np.float32) + 128
    return Labelled(pixels / 255, given.needed_labels()[:count].astype(np.int64))


def frontier(training: Path, labelled: Labelled) -> None:
    """Print a line of Markdown for each pair of budgets."""
    network, _, calibration = read_row(ROW, Path(), training)
    config = configuration(ROW.configuration)
    stored = cycles_stored(network, calibration, config)
    if stored is None:
        raise FitError("IC2 at 8 bits exceeds the largest memory", "name another network")
    print("| budget | cycles at most | bytes | cycles | times fewer | divergence | right |")
    print("|---|---|---|---|---|---|---|")
    with progress() as tell:
        store = Store(FITS)
        search = Search(network, calibration, config, store=store, progress=tell)
        for budget in BUDGETS:
            for times in SPEED_UPS:
                limit = None if times is None else int(stored / times)
                memory = "any" if budget is None else f"{budget} KB"
                asked = f"| {memory} | {'any' if limit is None else f'{limit:,}'} |"
                try:
                    built = search.build(search.menus, budget and budget * KB, limit)
                except FitError as error:
                    print(f"{asked} {error.cause} | | | | |", flush=True)
                    continue
                right = search.accuracy(built.network, labelled)
                print(
                    f"{asked} {built.bytes:,} | {built.plan.cycles:,} "
                    f"| {stored / built.plan.cycles:.2f} | {built.loss:.3f} | {right:.2%} |",
                    flush=True,
                )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--training", type=Path, default=CACHE / "cifar10_training.npz")
    parser.add_argument("--test", type=Path, default=CACHE / "cifar10.npz")
    parser.add_argument("--images", type=int, default=2000, help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        frontier(arguments.training, read_images(arguments.test, arguments.images))
    except InsituError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
