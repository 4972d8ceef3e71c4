"""From a network in floating point, choices and samples to a retrained integer network."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from golden.network import Network, run
from insitu.choice import Choice
from insitu.errors import InputError
from insitu.float_network import FloatNetwork
from insitu.menu import digest, network_digest
from insitu.plan import plan
from insitu.progress import Progress
from insitu.quantise import (
    Calibration,
    calibrate,
    check_classes,
    check_inputs,
    check_knowledge,
    check_labels,
    check_scale,
    in_order,
    quantise_inputs,
    read_given,
)
from insitu.train.float_module import FloatModule
from insitu.train.loop import (
    Options,
    Samples,
    accuracy,
    best_device,
    chosen,
    fit,
    has_bfloat16,
    outputs,
    samples_from,
    split,
)
from insitu.train.student import Student
from rtl.config import Configuration

__all__ = ["Retrained", "calibration_from", "read_samples", "retrain"]

_CALIBRATION = 256
"""Training samples that set the scales of maps."""
_COMPARED = 1000
"""Samples that the student and the network it becomes both run."""


@dataclass(frozen=True, eq=False)
class Retrained:
    """What retraining gives.

    Parameters
    ----------
    network : Network
        That of the epoch chosen.
    record : dict
        Plain data: `held_out`, accuracy of the last stage's `epoch` chosen on `held_out_samples`
        samples that were not trained on, in percent; `untrained` and `teacher`, that of the student
        before the first epoch and of the float network (absent if no stage distils); `bfloat16`,
        whether any stage convolved in that; `epochs`, each one's figures and number of its `stage`;
        `agreement`, how many `outputs` of the network were compared with those of the student, for
        up to 1,000 of the samples held out, how many `differ`, and by at most how many `steps` of
        int8.
    """

    network: Network
    record: dict[str, Any]


def read_samples(
    path: str | Path, network: FloatNetwork, *, channels_last: bool = False
) -> Samples:
    """Read samples to train on from an .npz file.

    Parameters
    ----------
    path : path
        `inputs`: float [N, C, H, W] as the network takes them, [N, H, W, C] where `channels_last`;
        or uint8, which stands for value * `scale`, a number in the file that may be missing where
        not `channels_last` and is then 1 / 255. Axes of length 1 may be left out. `labels`:
        integers [N], each the number of an output.
    network : FloatNetwork
    channels_last : bool, optional
        Whether the model's inputs are [N, H, W, C], as those of a `.tflite`.

    Raises
    ------
    FileError
        If the file cannot be read.
    InputError
        If it is damaged, or its contents are not as above.
    """
    given = read_given(path, "samples")
    inputs, labels, source = given.inputs, given.needed_labels(), given.source
    if inputs.dtype == np.uint8:
        check_scale(given.scale, source, channels_last=channels_last)
        scale = 1 / 255 if given.scale is None else float(given.scale)
        values: NDArray[Any] = in_order(
            inputs, network.input_shape, source, channels_last=channels_last
        )
    else:
        scale = 1.0
        values = check_inputs(inputs, network.input_shape, source, channels_last=channels_last)
    return samples_from(values, np.asarray(check_labels(labels, len(values), source)), scale)


def calibration_from(network: FloatNetwork, samples: Samples, held_out: int | None) -> Calibration:
    """Scales of maps from the first samples to train on, where so many are held out."""
    training, _ = split(samples, held_out)
    some = training.at(torch.arange(min(_CALIBRATION, len(training))))
    return calibrate(network, np.ascontiguousarray(some.real().permute(0, 2, 3, 1).numpy()))


def retrain(
    network: FloatNetwork,
    choices: Mapping[str, Choice],
    samples: Samples,
    stages: Sequence[Options],
    checkpoint: Path,
    *,
    configuration: Configuration | None = None,
    progress: Progress | None = None,
) -> Retrained:
    """Compress a network and train it in that form, or go on where a checkpoint is.

    Parameters
    ----------
    network : FloatNetwork
        Also the teacher, in stages that distil.
    choices : mapping of layer name to Choice
        Layers left out are stored at 8 bits.
    samples : Samples
    stages : sequence of Options
        At least one, each trains on what the one before it gave; all hold out the same samples.
    checkpoint : Path
        Written after each epoch of the first stage; "-2" and so on are added to its stem for those
        of others.
    configuration : Configuration, optional
        What the network must fit.
    progress : callable, optional

    Raises
    ------
    InputError
        For labels that no output stands for, too few samples, samples of which the network knows
        nothing, or checkpoints of another training.
    FitError
        For choices that a layer cannot have, or a network that does not fit the configuration.
    ValueError
        For no stage, or stages that hold out other samples than the first.
    """
    tell = progress or (lambda done, total, what: None)
    if not stages:
        raise ValueError("stages must be at least one Options, not ()")
    if len({options.held_out for options in stages}) != 1:
        counts = [options.held_out for options in stages]
        raise ValueError(f"stages must hold out the same samples, not {counts}")
    checkpoints = _checkpoints(checkpoint, len(stages))
    _, held_out = split(samples, stages[0].held_out)
    _check_labels(samples.labels.numpy(), network)
    tell(0, None, "calibrating")
    calibration = calibration_from(network, samples, stages[0].held_out)
    student = Student(network, choices, calibration)
    integers = student.golden()  # What cannot become one is not trained.
    if configuration is not None:
        plan(integers, configuration)
    tell(0, None, "measuring what was there")
    device = best_device()
    narrow = has_bfloat16(device) and any(options.bfloat16 for options in stages)
    record: dict[str, Any] = {"held_out_samples": len(held_out), "bfloat16": narrow}
    teacher = None
    if any(options.distillation for options in stages):
        teacher = FloatModule(network).to(device)
        record["teacher"] = _teacher_accuracy(teacher, held_out.to(device))
    record["untrained"] = accuracy(student.to(device), held_out.to(device))

    stage = last = ""

    def epoch(figures: dict[str, Any]) -> None:
        nonlocal last
        last = f", held out {figures['held_out']:.2f} %"

    def working(done: int, total: int | None, what: str) -> None:
        tell(done, total, f"{stage}{what}{last}")

    source = digest(
        network_digest(network),
        calibration.scales,
        calibration.zero_points,
        samples.scale,
        samples.inputs.numpy(),
        samples.labels.numpy(),
    )
    record["epochs"] = []
    for number, (options, path) in enumerate(zip(stages, checkpoints, strict=True), 1):
        stage = f"stage {number}, " if len(stages) > 1 else ""
        figures = fit(
            student,
            teacher if options.distillation else None,
            samples,
            options,
            path,
            source=source,
            progress=working,
            report=epoch,
        )
        record["epochs"] += [{"stage": number, **one} for one in figures]
        source += repr(figures)
    taken = chosen(figures, len(held_out))
    record |= {name: taken[name] for name in ("epoch", "held_out")}
    integers = student.golden()
    some = held_out.at(torch.arange(min(_COMPARED, len(held_out))))
    tell(0, None, "comparing with the network in integers")
    record["agreement"] = _agreement(student, integers, some)
    return Retrained(integers, record)


def _checkpoints(first: Path, count: int) -> list[Path]:
    """Those of each stage."""
    paths = [first, *(first.with_stem(f"{first.stem}-{stage}") for stage in range(2, count + 1))]
    for before, path in pairwise(paths):
        if path.exists() and not before.exists():
            raise InputError(
                f"{path} is of a later stage than {before}, which is not there", "delete it"
            )
    return paths


def _check_labels(labels: NDArray[np.int64], network: FloatNetwork) -> None:
    check_classes(network.output_shape, "samples")
    classes = math.prod(network.output_shape)
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise InputError(
            f"label {wrong[0]} stands for no output: the network has {classes}",
            f"number the classes from 0 to {classes - 1}, in the order of the network's outputs",
        )


def _teacher_accuracy(teacher: FloatModule, held_out: Samples) -> float:
    found = accuracy(teacher, held_out)
    check_knowledge(round(found / 100 * len(held_out)), held_out.labels.cpu().numpy())
    return found


def _agreement(student: Student, network: Network, samples: Samples) -> dict[str, int]:
    """How far the network's outputs are from those of the student in evaluation mode."""
    scale, zero_point = network.input_scale, network.input_zero_point
    integers = quantise_inputs(samples.real().permute(0, 2, 3, 1).numpy(), scale, zero_point)
    real = (integers.astype(np.float32) - zero_point) * np.float32(scale)
    found = outputs(student, samples_from(real, samples.labels.numpy()))
    steps = np.rint(found.numpy() / network.output_scale)
    expected = run(network, integers).reshape(steps.shape).astype(int)
    apart = np.abs(steps + network.output_zero_point - expected)
    return {
        "outputs": apart.size,
        "differ": int(np.count_nonzero(apart)),
        "steps": int(apart.max()),
    }
