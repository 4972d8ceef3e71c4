"""Train the example network on Fashion-MNIST in floating point and export it as ONNX.

Example: python examples/fashion/train.py --epochs 40
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import onnxruntime
import torch
import typer
from dataset import DEBIAN_FOLDER, DatasetError, load
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional
from training import Run, accuracy, console, fit, tensors

HERE = Path(__file__).parent
# (input channels, output channels, stride) of each 3x3 convolution, all padded by 1
CONVOLUTIONS = ((1, 16, 1), (16, 32, 2), (32, 64, 2), (64, 64, 1), (64, 64, 2))
FEATURES = 64 * 4 * 4
CLASSES = 10
SAMPLES = 500
CALIBRATION = 256


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return gain and offset [channels] of a batch normalisation in evaluation mode."""
    state = norm.state_dict()
    gain = state["weight"] / torch.sqrt(state["running_var"] + norm.eps)
    return gain, state["bias"] - state["running_mean"] * gain


class Network(nn.Module):
    """Five convolutions with batch normalisation and ReLU, then one fully connected layer.

    Input: float [N,1,28,28], pixel / 255. Output: logits [N,10].
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = [
            nn.Conv2d(ci, co, 3, stride, 1, bias=False) for ci, co, stride in CONVOLUTIONS
        ]
        self.norms = [nn.BatchNorm2d(co) for _, co, _ in CONVOLUTIONS]
        self.registered = nn.ModuleList([*self.convolutions, *self.norms])
        self.classifier = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits [N,10] of images float [N,1,28,28] in 0..1."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.relu(norm(convolution(x)))
        logits: Tensor = self.classifier(x.flatten(1))
        return logits

    def folded(self) -> list[tuple[Tensor, Tensor]]:
        """Fold the batch normalisations into the weights.

        Returns: (weight [Co,Ci,3,3], bias [Co]) of each convolution, then those of the
        classifier ([10,1024], [10]).
        """
        layers = []
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            gain, offset = affine(norm)
            layers.append((convolution.weight.detach() * gain[:, None, None, None], offset))
        return [*layers, (self.classifier.weight.detach(), self.classifier.bias.detach())]


def train(run: Run) -> Network:
    """Train with SGD, Nesterov momentum, a one-cycle cosine learning rate and label smoothing.

    Returns: the network of the epoch with the best accuracy on the held-out training images.
    Raises: what training.fit raises.
    """
    torch.manual_seed(run.seed)
    network = Network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), run.rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, run.rate, total_steps=run.steps, pct_start=0.15, cycle_momentum=False
    )

    def objective(x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(network(x), y, label_smoothing=0.05)

    fit(run, network, optimizer, schedule, objective)
    return network


def export(network: Network, path: Path) -> None:
    """Write the network, batch normalisations folded, as ONNX (opset 17, IR version 8).

    Input `image` float [N,1,28,28], pixel / 255; output `logits` float [N,10].
    """
    nodes, initializers = [], []
    tensor = "image"
    for index, (weight, bias) in enumerate(network.folded()):
        last = index == len(CONVOLUTIONS)
        name = "classifier" if last else f"conv{index + 1}"
        for suffix, value in (("weight", weight), ("bias", bias)):
            array = np.ascontiguousarray(value.numpy())
            initializers.append(numpy_helper.from_array(array, f"{name}.{suffix}"))
        parameters = [f"{name}.weight", f"{name}.bias"]
        if last:
            nodes.append(helper.make_node("Flatten", [tensor], ["features"], "flatten", axis=1))
            gemm = helper.make_node("Gemm", ["features", *parameters], ["logits"], name, transB=1)
            nodes.append(gemm)
            break
        stride = CONVOLUTIONS[index][2]
        nodes.append(
            helper.make_node(
                "Conv",
                [tensor, *parameters],
                [f"{name}.sum"],
                name,
                kernel_shape=[3, 3],
                strides=[stride, stride],
                pads=[1, 1, 1, 1],
            )
        )
        tensor = f"{name}.out"
        nodes.append(helper.make_node("Relu", [f"{name}.sum"], [tensor], f"relu{index + 1}"))
    graph = helper.make_graph(
        nodes,
        "fashion",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        initializers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="insitu examples/fashion/train.py",
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def onnx_logits(path: Path, images: Tensor) -> Tensor:
    """Compute the logits [N,10] with ONNX Runtime for uint8 images [N,1,28,28]."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"image": (x.float() / 255).numpy()})[0] for x in images.split(1000)]
    return torch.from_numpy(np.concatenate(parts))


def main(
    data: Annotated[Path, typer.Option(help="Folder with the four .gz files.")] = DEBIAN_FOLDER,
    work: Annotated[Path, typer.Option(help="Folder for checkpoints.")] = Path("build/fashion"),
    epochs: Annotated[int, typer.Option(min=1)] = 40,
    batch: Annotated[int, typer.Option(min=1)] = 128,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Train, then write fashion.onnx, fashion500.npz and calibration.npz beside this script.

    Example: python examples/fashion/train.py --epochs 40
    """
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    try:
        test_images, test_labels = tensors(data, "test")
        network = train(Run(data, work / "float.pt", epochs, batch, rate, seed))
        held_out, _ = load(data, "held-out")
    except DatasetError as error:
        console.print(f"[red]error:[/] {error}", soft_wrap=True)
        raise typer.Exit(1) from None
    export(network, HERE / "fashion.onnx")
    np.savez_compressed(
        HERE / "fashion500.npz",
        inputs=test_images[:SAMPLES].numpy(),
        labels=test_labels[:SAMPLES].numpy().astype(np.uint8),
    )
    np.savez_compressed(HERE / "calibration.npz", inputs=held_out[:CALIBRATION])

    hits = onnx_logits(HERE / "fashion.onnx", test_images).argmax(1) == test_labels
    exported = 100 * int(hits.sum()) / len(hits)
    trained = accuracy(network, test_images, test_labels)
    console.print(f"test accuracy: PyTorch {trained:.2f} %, ONNX Runtime {exported:.2f} %")
    console.print(f"first {SAMPLES} test images: {100 * int(hits[:SAMPLES].sum()) / SAMPLES:.2f} %")
    if exported != trained:
        console.print("[red]error:[/] the exported network differs from the trained one")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
