"""KWS of MLPerf Tiny at memory budgets, on 500 samples none of which its network has seen.

    python examples/compression/kws.py FOLDER
    python examples/compression/kws.py FOLDER kws_6kb kws_6kb_plain

FOLDER holds MLPerf Tiny's `kws_float32.tflite` and `kws01_even.npz`, whose 500 labelled samples are
the only ones there are. Every row is therefore made twice: calibrated and searched with every
second sample, retrained with 200 of these, an epoch chosen by the other 50, and measured on the
others. The figures of both halves together are 500 answers. The form and precision of each layer
are the solver's (`insitu.search`). `loss`, before retraining, is what `insitu compress` compares a
row with its plain one by, on every fourth sample that was calibrated with. Rows are written to
build/compression, where `rows.py table` finds them. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from budgets import KB, Counted, cycles_stored, memory_of, solved
from rich.console import Console

from golden.network import Network
from insitu.errors import FitError, InsituError
from insitu.files import write_file
from insitu.float_network import FloatNetwork
from insitu.models import load_float
from insitu.network import to_bytes
from insitu.quantise import calibrate, read_given
from insitu.search import Labelled, outputs_of
from insitu.train.loop import Options, samples_from
from insitu.train.retrain import retrain
from rtl.config import configuration

WORK = Path("build/compression")
CONFIGURATION = "up5k"
OPTIONS = Options(epochs=20, batch=25, orthonormality=0.0, held_out=50)
SCALE, ZERO_POINT = 0.5847029, 83
"""Of the file's integers."""


@dataclass(frozen=True)
class Row:
    """A budget, and what it is of.

    Parameters
    ----------
    budget : int
        KB.
    plain : bool
        Whether all weights are stored.
    counted : Counted
    """

    budget: int
    plain: bool
    counted: Counted = Counted.WEIGHTS


ROWS = {
    "kws_11kb": Row(11, False),
    "kws_11kb_plain": Row(11, True),
    "kws_6kb": Row(6, False),
    "kws_6kb_plain": Row(6, True),
    "kws_11kb_in_all": Row(11, False, counted=Counted.ALL),
    "kws_11kb_in_all_plain": Row(11, True, counted=Counted.ALL),
}
console = Console(highlight=False)


def read_samples(folder: Path) -> Labelled:
    """The 500 samples as the float network takes them."""
    given = read_given(folder / "kws01_even.npz", "samples")
    integers, labels = given.inputs[..., np.newaxis], given.needed_labels()
    real = (integers.astype(np.float32) - ZERO_POINT) * np.float32(SCALE)
    return Labelled(real, labels.astype(np.int64))


def half(samples: Labelled, number: int) -> Labelled:
    """Every second sample, from the first (0) or the second (1)."""
    inputs = np.ascontiguousarray(samples.inputs[number::2])
    return Labelled(inputs, samples.labels[number::2])


def right(network: Network | FloatNetwork, samples: Labelled) -> int:
    """How many answers are right, of the golden model or in floating point."""
    return int((outputs_of(network, samples.inputs).argmax(axis=1) == samples.labels).sum())


def make_half(
    name: str, network: FloatNetwork, seen: Labelled, unseen: Labelled, number: int
) -> dict[str, Any]:
    """What is made and retrained with one half, measured on the other."""
    config = configuration(CONFIGURATION)
    calibration, row = calibrate(network, seen.inputs), ROWS[name]
    built = solved(
        name, network, calibration, config, row.budget * KB, plain=row.plain, counted=row.counted
    )
    choices = built.allocation.choices
    figures: dict[str, Any] = {
        "choices": {layer: asdict(choice) for layer, choice in choices.items()},
        "forms": {layer: str(choice) for layer, choice in choices.items()},
        "loss": built.loss,
        "right": right(built.network, unseen),
        "plan": built.plan.report(),
        "cycles_stored_int8": cycles_stored(network, calibration, config),
    }
    made, record = built.network, None
    try:
        retrained = retrain(
            network,
            choices,
            samples_from(seen.inputs, seen.labels),
            [OPTIONS],
            WORK / f"{name}_{number}.pt",
            configuration=config,
        )
    except FitError as error:
        console.print(f"{name} is not retrained: {error.cause}")
    else:
        made, record = retrained.network, retrained.record
        figures |= {"training": record, "right_retrained": right(made, unseen)}
    write_file(WORK / f"{name}_{number}.npz", to_bytes(made, record), "network")
    return figures


def make_row(name: str, network: FloatNetwork, samples: Labelled) -> dict[str, Any]:
    """A row, of both halves; retrained only if both could be."""
    row = ROWS[name]
    halves = [
        make_half(name, network, half(samples, number), half(samples, 1 - number), number)
        for number in (0, 1)
    ]
    # The larger of the two networks stands for the row.
    first = max(halves, key=lambda one: one["plan"]["weight_bytes"])
    planned = first["plan"]
    memory = memory_of(planned)
    count = len(samples.labels)
    figures: dict[str, Any] = {
        "row": name,
        "model": "kws_float32.tflite",
        "plain": row.plain,
        "budget_bytes": row.budget * KB,
        "counted": row.counted.value,
        "over": row.counted.exceeds(memory, row.budget * KB),
        "choices": first["choices"],
        "weights": network.weights,
        "bits_a_weight": round(8 * memory["weights"] / network.weights, 3),
        "memory": memory | {"total": sum(memory.values())},
        "configuration": CONFIGURATION,
        "cycles": planned["cycles"],
        "cycles_stored_int8": first["cycles_stored_int8"],
        "accuracy": {
            "samples": count,
            "float": round(100 * right(network, samples) / count, 2),
            "untrained": 100 * sum(one["right"] for one in halves) / count,
        },
        "halves": [
            {key: one.get(key) for key in ("forms", "loss", "right", "right_retrained")}
            for one in halves
        ],
        "plan": planned,
    }
    if all("training" in one for one in halves):
        retrained = sum(one["right_retrained"] for one in halves)
        figures["accuracy"]["retrained"] = 100 * retrained / count
        figures["training"] = first["training"]
    return figures


def main() -> None:
    """Make the rows that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="MLPerf Tiny's networks")
    parser.add_argument("--threads", type=int, help="default: as many as cores")
    parser.add_argument("rows", nargs="*", help=f"default: all of {', '.join(ROWS)}")
    arguments = parser.parse_intermixed_args()
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"there is no row {min(unknown)}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        network = load_float(arguments.folder / "kws_float32.tflite")
        samples = read_samples(arguments.folder)
        for name in arguments.rows or ROWS:
            path = WORK / f"{name}.json"
            if path.exists():
                console.print(f"{name}: {path} is there")
                continue
            figures = make_row(name, network, samples)
            write_file(path, (json.dumps(figures, indent=2) + "\n").encode(), "row")
            losses = ", ".join(f"{one['loss']:.4f}" for one in figures["halves"])
            console.print(f"{name}: {figures['accuracy']}, {figures['memory']}, losses {losses}")
    except InsituError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
