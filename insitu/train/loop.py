"""Training of a student: batches, objective, checkpoints.

An epoch is chosen by the accuracy on samples that are held out from training. All
random numbers are drawn on the CPU, so that a GPU sees the same batches.
"""

import io
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from insitu.errors import InputError
from insitu.files import write_file
from insitu.progress import Progress
from insitu.train.float_module import FloatModule
from insitu.train.student import Student

__all__ = [
    "Options",
    "Samples",
    "accuracy",
    "batches",
    "best_device",
    "chosen",
    "fit",
    "has_bfloat16",
    "read_checkpoint",
    "samples_from",
    "split",
    "write_checkpoint",
]


_CHECKPOINT = {"settings", "student", "optimizer", "schedule", "figures", "best"}

_SETTLING = 24
"""Batches that set the normalisations before a student is measured."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to train.

    Parameters
    ----------
    epochs : int
    batch : int
        Samples a step.
    rate : float
        Highest learning rate of Adam; latent weights have a mean magnitude of 1.
    distillation : float
        Share of the teacher's output in the objective, 0..1.
    temperature : float
        By which both outputs are divided before they are compared.
    orthonormality : float
        Weight of the bases' coherence in the objective.
    shift : int
        Images are moved by up to so many pixels.
    mirror : bool
        Half of the images are mirrored, left to right.
    cutout : int
        Side of a square that is hidden in each image.
    held_out : int or None
        Samples that are not trained on, but choose the epoch; None is a tenth, at most 5,000.
    bfloat16 : bool
        Convolve in bfloat16, which is exact for the integers, and rounds their sums, if the device
        `has_bfloat16`: without units for it PyTorch takes ten times as long as without the option.
    seed : int
    """

    epochs: int = 20
    batch: int = 128
    rate: float = 5e-3
    distillation: float = 0.7
    temperature: float = 3.0
    orthonormality: float = 0.1
    shift: int = 0
    mirror: bool = False
    cutout: int = 0
    held_out: int | None = None
    bfloat16: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs and labels, as they lie in memory.

    Parameters
    ----------
    inputs : uint8 or float32 [N, C, H, W]
    labels : int64 [N]
    scale : float
        What an input is multiplied with to be what the network takes.
    """

    inputs: Tensor
    labels: Tensor
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, chosen: Tensor) -> "Samples":
        """Some of them."""
        return Samples(self.inputs[chosen], self.labels[chosen], self.scale)

    def to(self, device: torch.device) -> "Samples":
        """The same in the memory of a device."""
        return Samples(self.inputs.to(device), self.labels.to(device), self.scale)

    def real(self) -> Tensor:
        """The inputs as the network takes them."""
        x = self.inputs.float() * self.scale
        return x.contiguous(memory_format=torch.channels_last)


def best_device() -> torch.device:
    """A GPU where PyTorch has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has units for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def split(samples: Samples, held_out: int | None) -> tuple[Samples, Samples]:
    """Samples to train on, and samples that choose the epoch, always the same.

    Raises
    ------
    InputError
        If there are too few.
    """
    if held_out is None:
        held_out = min(5000, max(1, len(samples) // 10))
    if len(samples) <= 2 * held_out:
        raise InputError(
            f"{len(samples)} samples are too few to hold out {held_out}", "hold out fewer"
        )
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(samples)))
    return samples.at(order[held_out:]), samples.at(order[:held_out])


def batches(samples: Samples, options: Options, epoch: int) -> Iterator[Samples]:
    """One epoch, shuffled and changed as the options say; the incomplete last batch is dropped."""
    random = torch.Generator().manual_seed(1000 * options.seed + epoch)
    order = torch.randperm(len(samples), generator=random)
    size = options.batch
    for chosen in order.split(size)[: len(samples) // size]:
        part = samples.at(chosen)
        yield Samples(_augmented(part.inputs, options, random), part.labels, part.scale)


def _augmented(x: Tensor, options: Options, random: torch.Generator) -> Tensor:
    count, _, height, width = x.shape
    if not (options.shift or options.mirror or options.cutout):
        return x
    reach = options.shift
    padded = functional.pad(x, (reach, reach, reach, reach))
    moved = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=random)
    rows, columns = torch.arange(height) + moved[0], torch.arange(width) + moved[1]
    if options.mirror:
        mirrored = torch.rand(count, 1, generator=random) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    index = torch.arange(count)[:, None, None]
    places = (at.to(x.device) for at in (index, rows[:, :, None], columns[:, None, :]))
    last = padded.permute(0, 2, 3, 1)[tuple(places)]
    if options.cutout:
        centre = torch.stack(
            [torch.randint(0, side, (count,), generator=random) for side in (height, width)]
        )
        inside = [
            (torch.arange(side) - at[:, None] + options.cutout // 2) % (1 << 30) < options.cutout
            for side, at in zip((height, width), centre, strict=True)
        ]
        hidden = (inside[0][:, :, None] & inside[1][:, None, :]).to(x.device)
        mean = last.float().mean(dim=(0, 1, 2)).to(last.dtype)
        last = torch.where(hidden[..., None], mean, last)
    return last.permute(0, 3, 1, 2)


@torch.no_grad()
def outputs(network: torch.nn.Module, samples: Samples, batch: int = 500) -> Tensor:
    """Outputs [N, classes] in evaluation mode."""
    network.eval()
    parts = torch.arange(len(samples)).split(batch)
    return torch.cat([network(samples.at(part).real()) for part in parts])


def accuracy(network: torch.nn.Module, samples: Samples) -> float:
    """Share of right answers in percent."""
    right = outputs(network, samples).argmax(dim=1) == samples.labels
    return 100 * int(right.sum()) / len(samples)


def objective(
    student: Student, teacher: FloatModule | None, batch: Samples, options: Options
) -> Tensor:
    """Cross entropy with the labels and with the teacher, and the bases' coherence."""
    x = batch.real()
    narrow = options.bfloat16 and has_bfloat16(x.device)
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=narrow):
        y = student(x)
        with torch.no_grad():
            wanted = None if teacher is None else teacher(x)
    y = y.float()
    loss = functional.cross_entropy(y, batch.labels)
    if wanted is not None:
        t = options.temperature
        soft = functional.kl_div(
            functional.log_softmax(y / t, dim=1),
            functional.log_softmax(wanted.float() / t, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        loss = (1 - options.distillation) * loss + options.distillation * t * t * soft
    if options.orthonormality:
        loss = loss + options.orthonormality * student.coherence()
    return loss


def fit(
    student: Student,
    teacher: FloatModule | None,
    samples: Samples,
    options: Options,
    checkpoint: Path,
    *,
    source: str = "",
    progress: Progress = lambda done, total, what: None,
    report: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> list[dict[str, Any]]:
    """Train, or go on where a checkpoint is; at the end the student is that of the epoch chosen.

    Parameters
    ----------
    student, teacher, samples, options
    checkpoint : Path
        Written after each epoch.
    source : str, optional
        Stands for the network and the samples: a checkpoint of others is refused.
    progress : callable, optional
        Called with the steps that are done, all steps, and what is being done.
    report : callable, optional
        Called with each epoch's figures.

    Returns
    -------
    list of dict
        For each epoch: epoch, loss, held_out (accuracy in percent).

    Raises
    ------
    InputError
        If the checkpoint is damaged or of another training, there are too few samples, or the loss
        is no number any more.
    """
    device = best_device()
    training, held_out = (part.to(device) for part in split(samples, options.held_out))
    steps = len(training) // options.batch
    if steps == 0:
        raise InputError(
            f"{len(training)} samples to train on are less than a batch of {options.batch}",
            "give more samples, or make batches smaller",
        )
    # Changed like those it trains on: it has learnt with their statistics.
    settling = list(islice(batches(training, options, options.epochs), _SETTLING))
    student.to(device)
    if teacher is not None:
        teacher.to(device)
    optimizer = torch.optim.Adam(student.parameters(), options.rate, betas=(0.9, 0.99))
    total_steps = options.epochs * steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        options.rate,
        total_steps=total_steps,
        # A tenth; it divides by its length, less a step.
        pct_start=min(0.9, max(0.1, 1.5 / total_steps)),
        cycle_momentum=False,
    )
    settings = repr((asdict(options), sorted(student.choices.items()), len(samples))) + source
    figures: list[dict[str, Any]] = []
    best: dict[str, Any] = {}
    if checkpoint.exists():
        state = read_checkpoint(checkpoint, device, _CHECKPOINT)
        if state["settings"] != settings:
            raise InputError(
                f"{checkpoint} is of a training with other settings",
                "delete it, or name another file for it",
            )
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        figures, best = state["figures"], state["best"]
    for epoch in range(len(figures), options.epochs):
        student.train()
        total = 0.0
        for number, batch in enumerate(batches(training, options, epoch)):
            progress(epoch * steps + number, total_steps, f"epoch {epoch + 1}")
            loss = objective(student, teacher, batch, options)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            student.limit()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise InputError(
                f"the loss of epoch {epoch + 1} is no number",
                f"lower the rate, with another checkpoint than {checkpoint}",
            )
        student.settle(part.real() for part in settling)
        score = accuracy(student, held_out)
        figures.append({"epoch": epoch + 1, "loss": total / steps, "held_out": score})
        report(figures[-1])
        if chosen(figures, len(held_out)) is figures[-1]:
            best = {name: value.clone() for name, value in student.state_dict().items()}
        state = {
            "settings": settings,
            "student": student.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "figures": figures,
            "best": best,
        }
        write_checkpoint(state, checkpoint)
    student.load_state_dict(best)
    student.to("cpu")
    return figures


def chosen(figures: Sequence[dict[str, Any]], held_out: int) -> dict[str, Any]:
    """The last epoch that is right on as many held-out samples as the best, less a deviation.

    Of epochs that so few samples do not tell apart the last was trained longest, at the lowest
    rate; the best of many is rather one that was lucky.
    """
    best = max(one["held_out"] for one in figures)
    least = best - math.sqrt(best * (100 - best) / held_out)
    return [one for one in figures if one["held_out"] >= least][-1]


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint; the one before it is replaced only at the end.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_file(path, buffer.getvalue(), "checkpoint")


def read_checkpoint(path: Path, device: torch.device, keys: Collection[str]) -> dict[str, Any]:
    """What a checkpoint holds.

    Raises
    ------
    InputError
        If it is damaged, or lacks one of the keys.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, LookupError, ValueError, UnpicklingError) as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{path} is no checkpoint, or a damaged one: {cause}",
            "delete it, or name another file for it",
        ) from None
    if not isinstance(state, dict) or not state.keys() >= set(keys):
        raise InputError(
            f"{path} is no checkpoint of such a training",
            "delete it, or name another file for it",
        )
    return state


def samples_from(
    inputs: NDArray[np.uint8] | NDArray[np.float32], labels: NDArray[Any], scale: float = 1.0
) -> Samples:
    """Samples of arrays [N, H, W, C] and [N]."""
    x = torch.from_numpy(np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)))
    return Samples(x, torch.from_numpy(labels.astype(np.int64)), scale)
