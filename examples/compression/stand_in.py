"""What the solver's stand-in for a network's loss is worth, on allocations of IC.

    python examples/mlperf_tiny/inputs.py cifar10-training -o ~/.cache/insitu/cifar10_training.npz
    python examples/compression/stand_in.py FOLDER

FOLDER holds MLPerf Tiny's `ic_float32.tflite`. At each budget of weights and parameters the solver
chooses for `up5k`, from all options and twice from a random third of each layer's. What it chose is
compressed, and runs on training images that nothing was fitted to. Printed are what the layers'
losses add up to, the divergence measured, and the rank correlation of the two. Needs the extra
`train`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from budgets import FITS, KB
from rows import CACHE, OPTIONS, Row, read_row
from scipy.stats import spearmanr

from insitu.console import progress
from insitu.errors import FitError, InsituError
from insitu.menu import Menu, Store, distance
from insitu.search import Search, outputs_of
from insitu.train.loop import split
from rtl.config import configuration

ROW = Row("ic_float32.tflite", None, False)
BUDGETS = (14, 17, 21, 28, 38)
IMAGES = 400
"""Of those held out of the training set."""


def third(menu: Menu, rng: np.random.Generator) -> Menu:
    """A random third of a layer's options, and the smallest."""
    smallest = min(menu.options, key=lambda one: one.bytes)
    kept = (one for one in menu.options if one is smallest or rng.random() < 1 / 3)
    return Menu(menu.name, tuple(kept))


def measure(models: Path, training: Path) -> None:
    """Print a line of Markdown for each allocation, and how well the two columns agree."""
    network, samples, calibration = read_row(ROW, models, training)
    _, held_out = split(samples, OPTIONS.held_out)
    unseen = held_out.at(torch.arange(IMAGES)).real().permute(0, 2, 3, 1).numpy()
    wanted = outputs_of(network, unseen)
    rng = np.random.default_rng(0)
    found = []
    print("| budget | options | bytes | losses of the layers | divergence |\n|---|---|---|---|---|")
    with progress() as tell:
        config = configuration("up5k")
        search = Search(network, calibration, config, store=Store(FITS), progress=tell)
        for budget in BUDGETS:
            for options in ("all", "a third", "another third"):
                menus = search.menus
                if options != "all":
                    menus = [third(menu, rng) for menu in menus]
                try:
                    built = search.build(menus, budget * KB)
                except FitError:
                    continue  # A third may have nothing so small.
                loss = distance(outputs_of(built.network, unseen), wanted)
                found.append((built.allocation.loss, loss))
                print(
                    f"| {budget} KB | {options} | {built.bytes:,} | {built.allocation.loss:.3f} "
                    f"| {loss:.3f} |",
                    flush=True,
                )
    expected, measured = np.transpose(found)
    ratios = expected / measured
    print(
        f"rank correlation {spearmanr(expected, measured).statistic:.2f}, "
        f"expected / measured {ratios.min():.1f} to {ratios.max():.1f}"
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, metavar="FOLDER")
    parser.add_argument("--training", type=Path, default=CACHE / "cifar10_training.npz")
    arguments = parser.parse_args()
    try:
        measure(arguments.models, arguments.training)
    except InsituError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
