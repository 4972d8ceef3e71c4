"""What training and retraining share: batches, accuracy, and a resumable training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from dataset import TRAINING, load
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from insitu.train.loop import write_checkpoint

SIDE = 28

console = Console()


def tensors(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Load a split as tensors: images uint8 [N,1,28,28], labels int64 [N].

    Raises: what dataset.load raises.
    """
    images, labels = load(folder, split)
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))


def augmented_batches(
    images: Tensor, labels: Tensor, size: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of shuffled, augmented batches, the incomplete last one dropped.

    Each image is mirrored with probability 1/2 and shifted by up to 2 pixels in both directions,
    zeros moving in. The same seed gives the same batches.

    Yields: images float [size,1,28,28] in 0..1, labels int64 [size].
    """
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=random)
    span = torch.arange(SIDE)
    n = torch.arange(size)[:, None, None]
    for chosen in order.split(size)[: len(images) // size]:
        rows, columns = (span + torch.randint(0, 5, (size, 1), generator=random) for _ in range(2))
        mirrored = torch.rand(size, 1, generator=random) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
        padded = functional.pad(images[chosen].float() / 255, (2, 2, 2, 2))
        x = padded[n, 0, rows[:, :, None], columns[:, None, :]][:, None]
        yield x.contiguous(memory_format=torch.channels_last), labels[chosen]


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Measure top-1 accuracy in percent over uint8 images [N,1,28,28]; sets evaluation mode."""
    network.eval()
    logits = torch.cat([network(x.float() / 255) for x in images.split(1000)])
    return 100 * int((logits.argmax(1) == labels).sum()) / len(labels)


@dataclass(frozen=True)
class Run:
    """One training run: where its data and checkpoint are, and what identifies it."""

    data: Path
    checkpoint: Path
    epochs: int
    batch: int
    rate: float
    seed: int
    source: str = ""
    """What else it is made of."""

    @property
    def epoch_steps(self) -> int:
        """Batches an epoch."""
        return TRAINING // self.batch

    @property
    def steps(self) -> int:
        """Batches in all."""
        return self.epochs * self.epoch_steps

    def settings(self) -> list[Any]:
        """What must be equal for a checkpoint to be resumed."""
        return [self.epochs, self.batch, self.rate, self.seed, self.source]


def fit(
    run: Run,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    objective: Callable[[Tensor, Tensor], Tensor],
    *,
    begin_epoch: Callable[[int], None] = lambda epoch: None,
    end_step: Callable[[], None] = lambda: None,
) -> None:
    """Train, resuming from the run's checkpoint where there is one; a finished run is not repeated.

    `objective` maps images float [N,1,28,28] and labels [N] to the loss; `schedule` advances with
    each of the run's steps. `begin_epoch` is called once the network is in training mode,
    `end_step` after each update. At the end the network holds the weights of the epoch with the
    best accuracy on the held-out training images.

    Raises: typer.BadParameter where the checkpoint is of other settings, DatasetError.
    """
    images, labels = tensors(run.data, "train")
    held_out = tensors(run.data, "held-out")
    state: dict[str, Any] = {"epoch": 0, "best": -1.0, "settings": run.settings()}
    if run.checkpoint.exists():
        state = torch.load(run.checkpoint, weights_only=True)
        if state["settings"] != run.settings():
            raise typer.BadParameter(
                f"{run.checkpoint} was trained with other settings ({state['settings']}); "
                "delete it or name another folder with --work"
            )
        network.load_state_dict(state["latest"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        console.print(f"resuming after epoch {state['epoch']} from {run.checkpoint}")
    for epoch in range(state["epoch"], run.epochs):
        network.train()
        begin_epoch(epoch)
        stream = augmented_batches(images, labels, run.batch, run.seed * 10_000 + epoch)
        title = f"epoch {epoch + 1}/{run.epochs}"
        for x, y in track(stream, title, run.epoch_steps, transient=True):
            loss = objective(x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            end_step()
            schedule.step()
        score = accuracy(network, *held_out)
        console.print(f"epoch {epoch + 1}: loss {loss.item():.3f}, held out {score:.2f} %")
        if score > state["best"]:
            weights = {name: value.clone() for name, value in network.state_dict().items()}
            state |= {"best": score, "best_epoch": epoch + 1, "network": weights}
        state |= {
            "epoch": epoch + 1,
            "latest": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
        }
        write_checkpoint(state, run.checkpoint)
    network.load_state_dict(state["network"])
    console.print(f"best held out: {state['best']:.2f} % after epoch {state['best_epoch']}")
