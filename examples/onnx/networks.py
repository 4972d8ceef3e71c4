"""Networks of known families as ONNX files, with seeded weights, and quantised by ONNX Runtime.

Nobody trained them: convolutions have He's initialisation, each batch normalisation the mean and
the variance of what it sees, so that maps spread as in a trained network. They test import and
arithmetic, and recognise nothing. The inputs are smooth images with shapes on them.

Writes NAME.onnx, NAME_qdq.onnx and NAME_qlinear.onnx (int8 maps, int8 weights with a scale a
channel), and NAME_calibration.npz and NAME_inputs.npz, whose labels are the answers of NAME.onnx.

Example:
    python examples/onnx/networks.py resnet18 mobilenetv3 -o build/onnx
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from insitu.float_network import FloatConvolution, FloatPooling

Floats = NDArray[np.float32]

CALIBRATION = 32
SAMPLES = 32


class Builder:
    """Builds a graph and computes it for some samples at the same time.

    Parameters
    ----------
    rng : numpy.random.Generator
    x : float32 [N, H, W, C]
        Those samples.
    """

    def __init__(self, rng: np.random.Generator, x: Floats):
        self.rng = rng
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.values = {"x": x}

    def node(
        self, operator: str, inputs: list[str], value: Floats, *constants: Any, **attributes: Any
    ) -> str:
        """Add a node whose output has this value, and `constants` behind its inputs."""
        name = f"{operator.lower()}{len(self.nodes)}"
        names = []
        for index, constant in enumerate(constants):
            names.append(f"{name}.{index}")
            self.constants[names[-1]] = np.asarray(constant, np.float32)
        self.nodes.append(
            helper.make_node(operator, [*inputs, *names], [name], name=name, **attributes)
        )
        self.values[name] = np.asarray(value, np.float32)
        return name

    def conv(self, x: str, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> str:
        """A convolution that keeps height and width but for its stride, without bias."""
        shape = channels, self.values[x].shape[3] // groups, kernel, kernel
        fan_in = shape[1] * kernel * kernel
        weights = self.rng.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)
        pad = (kernel - 1) // 2
        layer = FloatConvolution(
            name="",
            kernel=(kernel, kernel),
            stride=(stride, stride),
            padding=(pad,) * 4,
            weights=weights.reshape(channels, shape[1], -1),
            bias=np.zeros(channels),
            groups=groups,
        )
        return self.node(
            "Conv",
            [x],
            layer.run(self.values[x]),
            weights,
            strides=[stride] * 2,
            pads=[pad] * 4,
            group=groups,
        )

    def norm(self, x: str) -> str:
        """Batch normalisation for the samples, with a gain and an offset as training leaves."""
        value = self.values[x]
        channels = value.shape[3]
        gain = self.rng.uniform(0.5, 1.5, channels)
        offset = self.rng.normal(0, 0.3, channels)
        mean, variance = value.mean(axis=(0, 1, 2)), value.var(axis=(0, 1, 2)) + 1e-3
        result = (value - mean) / np.sqrt(variance + 1e-5) * gain + offset
        return self.node("BatchNormalization", [x], result, gain, offset, mean, variance)

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self.node("Relu", [x], np.maximum(self.values[x], 0))

    def relu6(self, x: str) -> str:
        """min(max(x, 0), 6)."""
        return self.node("Clip", [x], np.clip(self.values[x], 0, 6), 0, 6)

    def hard_swish(self, x: str) -> str:
        """x * min(max(x + 3, 0), 6) / 6."""
        value = self.values[x]
        return self.node("HardSwish", [x], value * np.clip(value / 6 + 0.5, 0, 1))

    def unit(
        self,
        x: str,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: Callable[[str], str] | None = None,
    ) -> str:
        """Convolution, batch normalisation, activation."""
        y = self.conv(x, channels, kernel, stride, groups)
        for function in (self.norm, activation):
            if function is not None:
                before, y = y, function(y)
                del self.values[before]  # Nothing else reads it.
        return y

    def add(self, a: str, b: str) -> str:
        """a + b."""
        return self.node("Add", [a, b], self.values[a] + self.values[b])

    def concat(self, a: str, b: str) -> str:
        """Channels of a, then those of b."""
        value = np.concatenate([self.values[a], self.values[b]], axis=3)
        return self.node("Concat", [a, b], value, axis=1)

    def average(self, x: str) -> str:
        """Average of 2 x 2 pixels."""
        pool = FloatPooling(name="", mode="average", kernel=(2, 2), stride=(2, 2), padding=(0,) * 4)
        window = {"kernel_shape": [2, 2], "strides": [2, 2]}
        return self.node("AveragePool", [x], pool.run(self.values[x]), **window)

    def mean(self, x: str) -> str:
        """Mean over all pixels."""
        value = self.values[x].mean(axis=(1, 2), keepdims=True)
        return self.node("GlobalAveragePool", [x], value)

    def excite(self, x: str, channels: int) -> str:
        """Squeeze-and-excitation through so many channels."""
        y = self.relu(self._biased(self.mean(x), channels))
        y = self._biased(y, self.values[x].shape[3])
        gate = self.node(
            "HardSigmoid", [y], np.clip(self.values[y] / 6 + 0.5, 0, 1), alpha=1 / 6, beta=0.5
        )
        return self.node("Mul", [x, gate], self.values[x] * self.values[gate])

    def _biased(self, x: str, channels: int) -> str:
        inputs = self.values[x].shape[3]
        weights = self.rng.normal(0, (2 / inputs) ** 0.5, (channels, inputs)).astype(np.float32)
        bias = self.rng.normal(0, 0.3, channels)
        value = self.values[x] @ weights.T + bias
        return self.node("Conv", [x], value, weights.reshape(channels, inputs, 1, 1), bias)

    def dense(self, x: str, classes: int) -> str:
        """A fully connected layer after the last map is flattened."""
        value = self.values[x]
        flat = self.node("Flatten", [x], value, axis=1)
        inputs = value.shape[3]
        weights = self.rng.normal(0, inputs**-0.5, (classes, inputs)).astype(np.float32)
        bias = self.rng.normal(0, 0.1, classes)
        return self.node("Gemm", [flat], value @ weights.T + bias, weights, bias, transB=1)

    def model(self, name: str, classes: int) -> Any:
        """The model, which ends in its last node."""
        height, width, channels = self.values["x"].shape[1:]
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, height, width])],
            [
                helper.make_tensor_value_info(
                    self.nodes[-1].output[0], TensorProto.FLOAT, ["N", classes]
                )
            ],
            [numpy_helper.from_array(value, key) for key, value in self.constants.items()],
        )
        opset = [helper.make_opsetid("", 19)]
        return helper.make_model(graph, opset_imports=opset, ir_version=9)


def _resnet(b: Builder, widths: tuple[int, ...], blocks: int) -> None:
    """For CIFAR: a first convolution of 3 x 3, no pooling behind it, so many blocks a width."""
    x = b.unit("x", widths[0], 3, activation=b.relu)
    for stage, channels in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = b.unit(x, channels, 3, stride, activation=b.relu)
            y = b.unit(y, channels, 3)
            x = b.relu(b.add(y, b.unit(x, channels, 1, stride) if stride == 2 else x))
    b.dense(b.mean(x), 10)


def resnet18(b: Builder) -> None:
    """ResNet-18 for CIFAR, 11.2 M weights."""
    _resnet(b, (64, 128, 256, 512), 2)


def resnet20(b: Builder) -> None:
    """ResNet-20 for CIFAR, 0.27 M weights; where the width changes, a convolution of 1 x 1."""
    _resnet(b, (16, 32, 64), 3)


def densenet121(b: Builder) -> None:
    """DenseNet-121 for CIFAR: growth 32, a first convolution of 3 x 3."""
    growth = 32
    x = b.conv("x", 2 * growth, 3)
    for stage, blocks in enumerate((6, 12, 24, 16)):
        if stage:
            half = b.values[x].shape[3] // 2
            x = b.average(b.conv(b.relu(b.norm(x)), half))
        for _ in range(blocks):
            y = b.unit(b.relu(b.norm(x)), 4 * growth, activation=b.relu)
            x = b.concat(x, b.conv(y, growth, 3))
    b.dense(b.mean(b.relu(b.norm(x))), 10)


def mobilenetv2(b: Builder) -> None:
    """MobileNetV2, width 1."""
    x = b.unit("x", 32, 3, 2, activation=b.relu6)
    for factor, channels, blocks, first in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(blocks):
            stride = first if block == 0 else 1
            inputs = b.values[x].shape[3]
            y = b.unit(x, factor * inputs, activation=b.relu6) if factor > 1 else x
            y = b.unit(y, factor * inputs, 3, stride, factor * inputs, b.relu6)
            y = b.unit(y, channels)
            x = b.add(y, x) if stride == 1 and inputs == channels else y
    b.dense(b.mean(b.unit(x, 1280, activation=b.relu6)), 1000)


def mobilenetv3(b: Builder) -> None:
    """MobileNetV3-Small, width 1."""
    x = b.unit("x", 16, 3, 2, activation=b.hard_swish)
    for kernel, wide, channels, excited, swish, stride in (
        (3, 16, 16, True, False, 2),
        (3, 72, 24, False, False, 2),
        (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2),
        (5, 240, 40, True, True, 1),
        (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1),
        (5, 144, 48, True, True, 1),
        (5, 288, 96, True, True, 2),
        (5, 576, 96, True, True, 1),
        (5, 576, 96, True, True, 1),
    ):
        activation = b.hard_swish if swish else b.relu
        inputs = b.values[x].shape[3]
        y = b.unit(x, wide, activation=activation) if wide > inputs else x
        y = b.unit(y, wide, kernel, stride, wide, activation)
        if excited:
            y = b.excite(y, max(8, (wide // 4 + 4) // 8 * 8))
        y = b.unit(y, channels)
        x = b.add(y, x) if stride == 1 and inputs == channels else y
    x = b.mean(b.unit(x, 576, activation=b.hard_swish))
    b.dense(b.hard_swish(b._biased(x, 1024)), 1000)


def small(b: Builder) -> None:
    """Every kind of layer in few: what a simulator runs in seconds."""
    x = b.unit("x", 16, 3, 2, activation=b.hard_swish)
    y = b.unit(x, 24, activation=b.relu)
    y = b.excite(b.unit(y, 24, 3, 1, 24, b.relu), 8)
    x = b.add(b.unit(y, 16), x)
    x = b.concat(x, b.unit(b.relu(b.norm(x)), 16, 3, activation=b.relu))
    x = b.unit(b.relu(b.norm(b.average(x))), 32, activation=b.relu6)
    b.dense(b.mean(x), 10)


NETWORKS: dict[str, tuple[Callable[[Builder], None], int, int]] = {
    "resnet18": (resnet18, 32, 10),
    "resnet20": (resnet20, 32, 10),
    "densenet121": (densenet121, 32, 10),
    "mobilenetv2": (mobilenetv2, 224, 1000),
    "mobilenetv3": (mobilenetv3, 224, 1000),
    "small": (small, 16, 10),
}
"""What builds each, the size of its inputs, its classes."""


def images(rng: np.random.Generator, count: int, size: int) -> Floats:
    """Smooth images with a disc on each: float32 [N, size, size, 3], from about -2 to 2."""
    y, x = np.mgrid[:size, :size] / size
    result = np.empty((count, size, size, 3), np.float32)
    for image in result:
        values = np.zeros((size, size, 3))
        for _ in range(6):
            fy, fx = rng.uniform(-5, 5, 2)
            wave = (fy * y + fx * x)[..., np.newaxis] + rng.uniform(0, 1, 3)
            values += rng.uniform(0, 0.5) * np.cos(2 * np.pi * wave)
        cy, cx, radius = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.05, 0.5)
        inside = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        values[inside] = rng.uniform(-2, 2, 3) + 0.3 * values[inside]
        image[:] = values + rng.normal(0, 0.05, values.shape)
    return result


def quantise(model: Path, result: Path, form: str, samples: Floats, *, unsigned: bool) -> None:
    """Quantise a model with ONNX Runtime, its scales from samples [N, C, H, W]."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """One sample at a time."""

        def __init__(self) -> None:
            self._left = iter(samples)

        def get_next(self) -> dict[str, Floats] | None:
            """The next sample, or None after the last."""
            sample = next(self._left, None)
            return None if sample is None else {"x": sample[np.newaxis]}

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        types = quantization.QuantType
        quantization.quantize_static(
            prepared,
            result,
            Reader(),
            quant_format={
                "qdq": quantization.QuantFormat.QDQ,
                "qlinear": quantization.QuantFormat.QOperator,
            }[form],
            per_channel=True,
            activation_type=types.QUInt8 if unsigned else types.QInt8,
            weight_type=types.QInt8,
        )


def answers(model: Path, samples: Floats) -> NDArray[np.int64]:
    """The class that a model in floating point gives each sample [N, C, H, W]."""
    from onnxruntime import InferenceSession

    session = InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs = [session.run(None, {"x": sample[np.newaxis]})[0] for sample in samples]
    return np.concatenate(outputs).argmax(axis=1)


def write(name: str, folder: Path, samples: int, seed: int, *, unsigned: bool = False) -> None:
    """Write all files of a network."""
    build, size, classes = NETWORKS[name]
    rng = np.random.default_rng([seed, *name.encode()])
    inputs = images(rng, CALIBRATION + samples, size)
    builder = Builder(rng, inputs[:CALIBRATION])
    build(builder)
    path = folder / f"{name}.onnx"
    onnx.save(builder.model(name, classes), path)
    onnx.checker.check_model(path, full_check=True)
    first = inputs.transpose(0, 3, 1, 2)
    np.savez(folder / f"{name}_calibration.npz", inputs=first[:CALIBRATION])
    labels = answers(path, first[CALIBRATION:])
    np.savez(folder / f"{name}_inputs.npz", inputs=first[CALIBRATION:], labels=labels)
    for form in ("qdq", "qlinear"):
        result = folder / f"{name}_{form}.onnx"
        quantise(path, result, form, first[:CALIBRATION], unsigned=unsigned)
        print(result)


def main() -> None:
    """Write the files that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(NETWORKS)}; default: all"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("build/onnx"), metavar="FOLDER")
    parser.add_argument("-n", "--samples", type=int, default=SAMPLES, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--uint8", action="store_true", help="quantise maps to uint8")
    arguments = parser.parse_args()
    if arguments.samples < 1:
        parser.error("--samples must be at least 1")
    unknown = set(arguments.names) - set(NETWORKS)
    if unknown:
        parser.error(f"no network {sorted(unknown)[0]!r}: choose from {', '.join(NETWORKS)}")
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
        for name in arguments.names or NETWORKS:
            write(
                name, arguments.output, arguments.samples, arguments.seed, unsigned=arguments.uint8
            )
    except ImportError as error:
        sys.exit(f"error: {error}; install it: pip install onnxruntime")
    except OSError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
