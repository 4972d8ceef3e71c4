"""Retrain the example network in the compressed, weight-generating form.

Projection by alternating least squares, then quantisation-aware training with distillation from
the float network, after Gu et al., "Towards Memory-Efficient Neural Networks via Multi-Level in
situ Generation" (ICCV 2021). The forward pass uses exactly the integer weights of the hardware.

Example: python examples/fashion/retrain.py --epochs 40
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import torch
import typer
from dataset import DEBIAN_FOLDER, DatasetError
from integer import INPUT_SCALE, INPUT_ZERO_POINT, Layer, infer, load, save
from numpy.typing import NDArray
from onnx import numpy_helper
from projection import Floats, Generated, Stored, highest, project, quantise_rows
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional
from train import CONVOLUTIONS, FEATURES, SAMPLES, affine
from training import Run, console, fit, tensors

HERE = Path(__file__).parent
UNIT = 64.0  # integer weights are divided by this, to train at ordinary magnitudes
TEMPERATURE = 3.0

PLAN: tuple[Stored | Generated, ...] = (
    Stored(8),
    Generated(24),
    Generated(40),
    Generated(40),
    Generated(40),
    Stored(4),
)
TAPS = (9, 9, 9, 9, 9, 16)


class _StraightThrough(torch.autograd.Function):
    """The exact value forward, the gradient of the smooth one backward."""

    @staticmethod
    def forward(_ctx: Any, _smooth: Tensor, exact: Tensor) -> Tensor:
        return exact

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_round(x: Tensor) -> Tensor:
    """Round to the nearest integer, with the gradient of the identity."""
    rounded: Tensor = _StraightThrough.apply(x, x.detach().round())
    return rounded


def straight_shift8(x: Tensor, s: int) -> Tensor:
    """Compute clamp8((x + (1 << s >> 1)) >> s) of integers x, with the gradient of x / 2**s."""
    exact = torch.floor((x.detach() + (1 << s >> 1)) / (1 << s))
    shifted: Tensor = _StraightThrough.apply(x / (1 << s), exact)
    return shifted.clamp(-127, 127)


class GeneratedWeights(nn.Module):
    """Integer weights recovered from latent B, U and V, all in -1..1."""

    def __init__(self, w: Floats, plan: Generated) -> None:
        super().__init__()
        self.plan = plan
        b, u, v = (torch.from_numpy(a).float() for a in project(w, plan))
        self.b, self.u, self.v = nn.Parameter(b), nn.Parameter(u), nn.Parameter(v)
        self.s2 = 1
        while self._clipped() > 1e-3:
            self.s2 += 1

    @torch.no_grad()
    def _clipped(self) -> float:
        """Measure the fraction of weights at the limit of the 8-bit range."""
        return float((self().abs() == 127).float().mean())

    def integers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return B [Bo,Bi,T], U [Bo,Ci,Bi] and V [Co,Bo] as integers in float tensors."""
        plan = self.plan
        pairs = ((self.b, plan.qb), (self.u, plan.qu), (self.v, plan.qv))
        b, u, v = (straight_round(x * highest(q)) for x, q in pairs)
        return b, u, v

    def forward(self) -> Tensor:
        """Return W [Co,Ci,T], integers in a float tensor; float32 holds every sum exactly."""
        b, u, v = self.integers()
        w1 = straight_shift8(torch.einsum("bci,bit->bct", u, b), self.plan.s1)
        return straight_shift8(torch.einsum("ob,bct->oct", v, w1), self.s2)

    def description(self) -> dict[str, Any]:
        """Return the fields of integer.Layer that hold these weights."""
        b, u, v = (x.detach().numpy().astype(np.int8) for x in self.integers())
        plan = self.plan
        precisions = {"qb": plan.qb, "qu": plan.qu, "qv": plan.qv, "s1": plan.s1, "s2": self.s2}
        return {"dataflow": "generated", "B": b, "U": u, "V": v, **precisions}


class StoredWeights(nn.Module):
    """Integer weights rounded from latent ones in -1..1."""

    def __init__(self, w: Floats, plan: Stored) -> None:
        super().__init__()
        self.plan = plan
        self.w = nn.Parameter(torch.from_numpy(quantise_rows(w, plan.q)).float())

    def forward(self) -> Tensor:
        """Return W [Co,Ci,T], integers in a float tensor."""
        return straight_round(self.w * highest(self.plan.q))

    def description(self) -> dict[str, Any]:
        """Return the fields of integer.Layer that hold these weights."""
        w = self().detach().numpy().astype(np.int8)
        return {"dataflow": "stored", "W": w, "q": self.plan.q}


def recoverable(w: Floats, plan: Stored | Generated) -> StoredWeights | GeneratedWeights:
    """Hold weights w [Co,Ci,T] in the form that the plan says."""
    return StoredWeights(w, plan) if isinstance(plan, Stored) else GeneratedWeights(w, plan)


class Teacher(nn.Module):
    """The float network as exported: logits, and the sums before each ReLU."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        constants = {
            i.name: torch.from_numpy(numpy_helper.to_array(i).copy())
            for i in onnx.load(path).graph.initializer
        }
        names = [*(f"conv{i + 1}" for i in range(len(CONVOLUTIONS))), "classifier"]
        self.layers = [(constants[f"{n}.weight"], constants[f"{n}.bias"]) for n in names]

    @torch.no_grad()
    def sums(self, x: Tensor) -> list[Tensor]:
        """Compute the sums of every layer before its ReLU; the last are the logits [N,10]."""
        sums = []
        for (weight, bias), (_, _, stride) in zip(self.layers, CONVOLUTIONS, strict=False):
            sums.append(functional.conv2d(x, weight, bias, stride, 1))
            x = functional.relu(sums[-1])
        return [*sums, functional.linear(x.flatten(1), *self.layers[-1])]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits [N,10] of images float [N,1,28,28] in 0..1."""
        return self.sums(x)[-1]


class Student(nn.Module):
    """The compressed network: integer weights, 8-bit activations, batch normalisation between.

    The normalisations start from the mean and deviation of the teacher's sums, the activation
    scales from its largest activations but one in 10,000, both over `images` (float [N,1,28,28]
    in 0..1).
    """

    def __init__(self, teacher: Teacher, images: Tensor) -> None:
        super().__init__()
        self.weights = [
            recoverable(weight.reshape(len(weight), -1, taps).double().numpy(), plan)
            for (weight, _), taps, plan in zip(teacher.layers, TAPS, PLAN, strict=True)
        ]
        *sums, logits = teacher.sums(images)
        self.norms = [nn.BatchNorm2d(x.shape[1]) for x in sums]
        self.registered = nn.ModuleList([*self.weights, *self.norms])
        for norm, x in zip(self.norms, sums, strict=True):
            norm.weight.data = x.std((0, 2, 3))
            norm.bias.data = x.mean((0, 2, 3))
        outliers = [-(-x.numel() // 10_000) for x in sums]
        limits = [x.flatten().topk(n).values[-1] for x, n in zip(sums, outliers, strict=True)]
        self.scales = [float(limit) / 255 for limit in limits]
        self.logit_scale = float(logits.abs().max()) / 127
        weight, bias = teacher.layers[-1]
        unit = self.weights[-1]().detach().abs().amax((1, 2)) / UNIT
        self.gain = nn.Parameter(weight.abs().amax(1) / unit)
        self.bias = nn.Parameter(bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits [N,10] of images float [N,1,28,28] in 0..1."""
        for index, (norm, scale) in enumerate(zip(self.norms, self.scales, strict=True)):
            w = (self.weights[index]() / UNIT).unflatten(2, (3, 3))
            x = norm(functional.conv2d(x, w, None, CONVOLUTIONS[index][2], 1))
            x = straight_round((x / scale).clamp(0, 255)) * scale
        w = (self.weights[-1]() / UNIT).reshape(-1, FEATURES)
        return functional.linear(x.flatten(1), w) * self.gain + self.bias

    @torch.no_grad()
    def project(self) -> None:
        """Keep the latents within -1..1 and every scale positive."""
        for weights in self.weights:
            for latent in weights.parameters():
                latent.clamp_(-1, 1)
        for scale in (self.gain, *(norm.weight for norm in self.norms)):
            scale.clamp_(min=1e-3)


def retrain(run: Run, teacher: Teacher) -> Student:
    """Train the student with Adam and a cosine learning rate.

    The loss is the divergence from the teacher's softened distribution plus that from the labels.
    The statistics of batch normalisation are frozen over the last fifth of the epochs.

    Returns: the student of the epoch with the best accuracy on the held-out training images.
    Raises: what training.fit raises.
    """
    images, _ = tensors(run.data, "train")
    torch.manual_seed(run.seed)
    student = Student(teacher, images[:2000].float() / 255)
    latents = [latent for weights in student.weights for latent in weights.parameters()]
    others = [p for norm in student.norms for p in norm.parameters()]
    groups: list[dict[str, Any]] = [
        {"params": latents},
        {"params": [*others, student.gain, student.bias], "lr": run.rate / 2},
    ]
    optimizer = torch.optim.Adam(groups, run.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.steps)

    def freeze_norms(epoch: int) -> None:
        if epoch >= run.epochs - run.epochs // 5:
            for norm in student.norms:
                norm.eval()

    def objective(x: Tensor, y: Tensor) -> Tensor:
        logits = student(x)
        soft = functional.kl_div(
            functional.log_softmax(logits / TEMPERATURE, 1),
            functional.softmax(teacher(x) / TEMPERATURE, 1),
            reduction="batchmean",
        )
        return soft * TEMPERATURE**2 + 0.2 * functional.cross_entropy(logits, y)

    fit(
        run,
        student,
        optimizer,
        schedule,
        objective,
        begin_epoch=freeze_norms,
        end_step=student.project,
    )
    return student


def requantiser(ratio: Floats) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    """Multipliers [Co] in 2**30..2**31 and right shifts [Co] for ratios in 2**-32..1.

    Raises: ValueError for a ratio outside that range.
    """
    mantissa, exponent = np.frexp(ratio)
    multiplier = np.round(mantissa * 2.0**31).astype(np.int64)
    exponent = np.where(multiplier == 1 << 31, exponent + 1, exponent)
    multiplier = np.where(multiplier == 1 << 31, 1 << 30, multiplier)
    if exponent.max() > 0 or exponent.min() < -31:
        raise ValueError(f"requantisation ratios must lie in 2**-32..1, not {ratio}")
    return multiplier.astype(np.int32), (-exponent).astype(np.int8)


@torch.no_grad()
def describe(student: Student) -> list[Layer]:
    """Turn the trained student into an integer network."""
    layers = []
    scale, zero_point = INPUT_SCALE, INPUT_ZERO_POINT
    for index, weights in enumerate(student.weights):
        last = index == len(CONVOLUTIONS)
        gain: Tensor
        bias: Tensor
        if last:
            gain, bias = student.gain, student.bias
            output_scale, output_zero_point = student.logit_scale, 0
            geometry: dict[str, Any] = {
                "name": "classifier",
                "kind": "fc",
                "kernel": (4, 4),
                "stride": (1, 1),
                "padding": (0, 0, 0, 0),
            }
        else:
            gain, bias = affine(student.norms[index])
            output_scale, output_zero_point = student.scales[index], -128
            stride = CONVOLUTIONS[index][2]
            geometry = {
                "name": f"conv{index + 1}",
                "kind": "conv",
                "kernel": (3, 3),
                "stride": (stride, stride),
                "padding": (1, 1, 1, 1),
            }
        weight_scale = gain.double().numpy() / UNIT
        offset = zero_point * weights().sum((1, 2)).double().numpy()
        folded = np.round(bias.double().numpy() / (scale * weight_scale) - offset)
        if np.abs(folded).max() >= 1 << 30:
            raise ValueError(f"a bias of layer {index} does not fit 31 bits: a channel is dead")
        multiplier, shift = requantiser(scale * weight_scale / output_scale)
        layers.append(
            Layer(
                **geometry,
                **weights.description(),
                bias=folded.astype(np.int32),
                weight_scale=weight_scale,
                output_scale=output_scale,
                output_zero_point=output_zero_point,
                multiplier=multiplier,
                shift=shift,
                activation_min=-128,
                activation_max=127,
            )
        )
        scale, zero_point = output_scale, output_zero_point
    return layers


def report(layers: list[Layer]) -> None:
    """Print the memory and the ranges of the weights, layer by layer."""
    table = Table(
        "layer", "weights", "stored bits", "bits a weight", "|W| max", "|W| rms", "s1, s2"
    )
    weights, bits = 0, 0
    for layer in layers:
        w = layer.weights()
        weights, bits = weights + w.size, bits + layer.stored_bits()
        ranges = f"{np.abs(w).max()}", f"{np.sqrt((w**2).mean()):.1f}"
        shifts = "" if layer.s1 is None else f"{layer.s1}, {layer.s2}"
        share = f"{layer.stored_bits() / w.size:.2f}"
        table.add_row(layer.name, f"{w.size}", f"{layer.stored_bits()}", share, *ranges, shifts)
    table.add_row("all", f"{weights}", f"{bits}", f"{bits / weights:.2f}")
    console.print(table)
    console.print(f"weights: {bits / 8:.0f} bytes, {bits / 8 / weights:.3f} of int8")


def main(
    data: Annotated[Path, typer.Option(help="Folder with the four .gz files.")] = DEBIAN_FOLDER,
    work: Annotated[Path, typer.Option(help="Folder for checkpoints.")] = Path("build/fashion"),
    epochs: Annotated[int, typer.Option(min=1)] = 40,
    batch: Annotated[int, typer.Option(min=1)] = 128,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Compress fashion.onnx, retrain, and write fashion_compressed.npz beside this script.

    Example: python examples/fashion/retrain.py --epochs 40
    """
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    teacher_path = HERE / "fashion.onnx"
    teacher = Teacher(teacher_path)
    try:
        images, labels = tensors(data, "test")
        source = f"{PLAN!r}, {sha256(teacher_path.read_bytes()).hexdigest()}"
        run = Run(data, work / "compressed.pt", epochs, batch, rate, seed, source)
        student = retrain(run, teacher)
    except DatasetError as error:
        console.print(f"[red]error:[/] {error}", soft_wrap=True)
        raise typer.Exit(1) from None
    path = HERE / "fashion_compressed.npz"
    save(path, describe(student))
    layers = load(path)
    report(layers)
    integer = infer(layers, images.numpy()).argmax(1) == labels.numpy()
    floating = torch.cat([teacher(x.float() / 255) for x in images.split(1000)]).argmax(1) == labels
    for count in (SAMPLES, len(images)):
        console.print(
            f"first {count} test images: float {100 * floating[:count].float().mean():.2f} %, "
            f"integer {100 * integer[:count].mean():.2f} %"
        )


if __name__ == "__main__":
    typer.run(main)
