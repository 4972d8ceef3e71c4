"""Import a trained floating-point network from an ONNX file.

A chain of Conv, Gemm or MatMul with BatchNormalization (folded), Relu and Clip(0, high), with
Flatten or Reshape before a fully connected layer, which becomes a convolution whose kernel is the
whole map. Everything else is refused by name, with what could stand in its place.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from insitu.errors import ModelError
from insitu.files import read_file

__all__ = ["FloatLayer", "FloatNetwork", "import_onnx"]

Floats = NDArray[np.floating[Any]]

REPLACEMENTS = {
    "Add": "train without residual connections",
    "AveragePool": "use a convolution with a stride",
    "ConvTranspose": "use a convolution at the smaller size",
    "Dropout": "export the model for inference",
    "GlobalAveragePool": "flatten the map into a fully connected layer",
    "HardSigmoid": "use Relu",
    "HardSwish": "use Relu",
    "LeakyRelu": "use Relu",
    "LogSoftmax": "remove it; the largest output stays the largest",
    "MaxPool": "use a convolution with a stride",
    "QLinearConv": "export the model before quantisation",
    "QuantizeLinear": "export the model before quantisation",
    "Sigmoid": "use Relu, or remove it at the end of the network",
    "Softmax": "remove it; the largest output stays the largest",
    "Tanh": "use Relu",
}
_SUPPORTED = "Conv, Gemm, MatMul, BatchNormalization, Relu, Clip, Flatten, Reshape"


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatLayer:
    """A convolution in floating point, with what follows it.

    Parameters
    ----------
    name : str
    kernel, stride, dilation : (int, int)
        (y, x).
    padding : (int, int, int, int)
        Top, left, bottom, right; zeros.
    weights : float64 [Co, Ci, T]
        Taps rows first.
    bias : float64 [Co]
    low, high : float
        Range the output is limited to; infinite where it is not.
    dense : bool
        A fully connected layer in the model.
    """

    name: str
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    weights: Floats
    bias: Floats
    low: float = -math.inf
    high: float = math.inf
    dense: bool = False

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(H, W, C) of the output for an input of (H, W, C); ValueError if there is none."""
        top, left, bottom, right = self.padding
        sizes = [
            (size + pads - dilation * (kernel - 1) - 1) // stride + 1
            for size, pads, kernel, stride, dilation in zip(
                shape[:2],
                (top + bottom, left + right),
                self.kernel,
                self.stride,
                self.dilation,
                strict=True,
            )
        ]
        if min(sizes) < 1:
            raise ValueError(f"a kernel of {self.kernel} is larger than the padded map {shape[:2]}")
        return sizes[0], sizes[1], len(self.weights)

    def patches(self, x: Floats) -> Floats:
        """What each output pixel sees: [N, H', W', Ci, T] for x [N, H, W, Ci]."""
        top, left, bottom, right = self.padding
        padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
        n, _, _, channels = x.shape
        height, width, _ = self.output_shape((x.shape[1], x.shape[2], channels))
        result = np.empty((n, height, width, channels, self.kernel[0] * self.kernel[1]), x.dtype)
        (dy, dx), (sy, sx) = self.dilation, self.stride
        for ky in range(self.kernel[0]):
            for kx in range(self.kernel[1]):
                rows = slice(ky * dy, ky * dy + (height - 1) * sy + 1, sy)
                columns = slice(kx * dx, kx * dx + (width - 1) * sx + 1, sx)
                result[..., ky * self.kernel[1] + kx] = padded[:, rows, columns]
        return result

    def run(self, x: Floats) -> Floats:
        """Output [N, H', W', Co] for x [N, H, W, Ci]."""
        return np.clip(self.sums(x), self.low, self.high)

    def sums(self, x: Floats) -> Floats:
        """Output before the limits."""
        patches = self.patches(x)
        matrix = self.weights.reshape(len(self.weights), -1).T.astype(x.dtype)
        return patches.reshape(*patches.shape[:3], -1) @ matrix + self.bias.astype(x.dtype)


@dataclass(frozen=True, eq=False)
class FloatNetwork:
    """A chain of layers in floating point.

    Parameters
    ----------
    name : str
    input_shape : (int, int, int)
        Height, width, channels.
    layers : tuple of FloatLayer
    """

    name: str
    input_shape: tuple[int, int, int]
    layers: tuple[FloatLayer, ...]

    def run(self, x: Floats) -> Floats:
        """Output [N, H', W', Co] for x [N, H, W, C]."""
        for layer in self.layers:
            x = layer.run(x)
        return x


def import_onnx(path: str | Path) -> FloatNetwork:
    """Read a network from an ONNX file.

    Raises
    ------
    FileError
        If the file cannot be read.
    ModelError
        If it is damaged or holds what cannot be imported; names the node.
    """
    data = read_file(path, "model")
    source = f"model {path}"
    try:
        model = onnx.load_model_from_string(data)
        if not data or not model.graph.node:
            raise ValueError("it has no nodes")
        onnx.checker.check_model(model)
    except (DecodeError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{source} is not an undamaged ONNX model: {reason}",
            "copy the file again, or export the model again",
        ) from None
    return _Importer(model.graph, source, Path(path).stem).network()


class _Importer:
    """Walks a graph that is a chain."""

    def __init__(self, graph: Any, source: str, name: str):
        self._graph = graph
        self._source = source
        self._name = name
        self._constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self._layers: list[FloatLayer] = []
        self._shape: tuple[int, int, int] = (1, 1, 1)
        self._flat = False  # the tensor is [N, features] in the model
        self._open = False  # the last layer can still take a BatchNormalization or bias

    def _fail(self, node: Any, what: str, next_step: str) -> ModelError:
        name = node.name or (node.output[0] if node.output else "")
        return ModelError(f"{self._source}: node {name!r} ({node.op_type}) {what}", next_step)

    def network(self) -> FloatNetwork:
        """The imported network."""
        graph = self._graph
        inputs = [value for value in graph.input if value.name not in self._constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise ModelError(
                f"{self._source} has {len(inputs)} inputs and {len(graph.output)} outputs",
                "export a model with one of each",
            )
        input_shape = self._shape = self._input_shape(inputs[0])
        current = inputs[0].name
        handlers: dict[str, Callable[[Any], None]] = {
            "Conv": self._conv,
            "Gemm": self._gemm,
            "MatMul": self._matmul,
            "Add": self._add,
            "BatchNormalization": self._batch_normalization,
            "Relu": self._relu,
            "Clip": self._clip,
            "Flatten": self._flatten,
            "Reshape": self._reshape,
            "Identity": lambda node: None,
        }
        for node in graph.node:
            if node.op_type == "Constant" and node.output:
                self._constants[node.output[0]] = self._constant(node)
                continue
            if node.op_type not in handlers or node.domain not in ("", "ai.onnx"):
                raise self._fail(
                    node,
                    "is an operator that insitu cannot run",
                    REPLACEMENTS.get(node.op_type, f"build the model from {_SUPPORTED}"),
                )
            if node.op_type == "Add" and list(node.input)[1:] == [current]:
                node.input[:] = [current, node.input[0]]
            if not node.input or node.input[0] != current:
                raise self._fail(
                    node,
                    f"does not read {current!r}, the output of the node before it",
                    "use a network without branches",
                )
            handlers[node.op_type](node)
            current = node.output[0]
        if current != graph.output[0].name or not self._layers:
            raise ModelError(
                f"{self._source} does not end in its output {graph.output[0].name!r} after at "
                "least one layer",
                "export a network that is one chain",
            )
        return FloatNetwork(self._name, input_shape, tuple(self._layers))

    def _input_shape(self, value: Any) -> tuple[int, int, int]:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise ModelError(
                f"{self._source} takes an input that is not float32", "export a float32 model"
            )
        if len(dims) not in (2, 4) or min(dims[1:]) < 1:
            raise ModelError(
                f"{self._source} takes inputs of shape {dims}",
                "export it for inputs [N, channels, height, width] or [N, features], all but N "
                "fixed",
            )
        if len(dims) == 2:
            self._flat = True
            return 1, 1, dims[1]
        return dims[2], dims[3], dims[1]

    def _constant(self, node: Any) -> NDArray[Any]:
        attributes = _attributes(node)
        if "value" not in attributes:
            raise self._fail(node, "has no tensor value", "export the constant as a tensor")
        return numpy_helper.to_array(attributes["value"])

    def _weights(self, node: Any, index: int, rank: int) -> Floats:
        name = node.input[index] if index < len(node.input) else ""
        if name not in self._constants:
            raise self._fail(
                node, f"takes its input {name!r} from the graph", "use trained, constant weights"
            )
        value = self._constants[name]
        if value.dtype.kind != "f" or value.ndim != rank or 0 in value.shape:
            raise self._fail(
                node,
                f"has {name!r} of {value.dtype} {value.shape}, not float with {rank} axes",
                "export the model again in float32",
            )
        if not np.isfinite(value).all():
            raise self._fail(node, f"has {name!r} with infinities or NaN", "train it again")
        return value.astype(np.float64)

    def _vector(self, node: Any, index: int, length: int) -> Floats:
        if index >= len(node.input) or not node.input[index]:
            return np.zeros(length)
        name = node.input[index]
        rank = self._constants[name].ndim if name in self._constants else 1
        value = self._weights(node, index, rank).reshape(-1)
        if len(value) not in (1, length):
            raise self._fail(
                node, f"has {name!r} of {len(value)} values, not {length}", "check the model"
            )
        return np.broadcast_to(value, (length,)).copy()

    def _append(self, node: Any, layer: FloatLayer) -> None:
        channels = layer.weights.shape[1]
        if channels != self._shape[2]:
            raise self._fail(
                node,
                f"takes {channels} channels, its input has {self._shape[2]}",
                "check the model",
            )
        try:
            self._shape = layer.output_shape(self._shape)
        except ValueError as error:
            raise self._fail(node, f"cannot take its input: {error}", "check the model") from None
        names = {other.name for other in self._layers}
        if layer.name in names or not layer.name:
            layer = replace(layer, name=f"layer{len(self._layers)}")
        self._layers.append(layer)
        self._open = True

    def _conv(self, node: Any) -> None:
        weights = self._weights(node, 1, 4)
        attributes = _attributes(node)
        co, ci, ky, kx = weights.shape
        if attributes.get("group", 1) != 1:
            raise self._fail(
                node, f"has {attributes['group']} groups", "use an ordinary convolution"
            )
        if self._flat:
            raise self._fail(node, "follows a Flatten", "put convolutions before it")
        stride = tuple(attributes.get("strides", (1, 1)))
        dilation = tuple(attributes.get("dilations", (1, 1)))
        auto_pad = attributes.get("auto_pad", b"NOTSET").decode()
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            pads = self._same((ky, kx), stride, dilation, auto_pad == "SAME_LOWER")
        else:
            pads = (0, 0, 0, 0)
            if auto_pad != "VALID":
                pads = tuple(attributes.get("pads", pads))
        if len(pads) != 4 or min(pads) < 0 or min(*stride, *dilation) < 1:
            raise self._fail(node, f"has padding {pads} and strides {stride}", "check the model")
        layer = FloatLayer(
            name=node.name,
            kernel=(ky, kx),
            stride=(stride[0], stride[1]),
            padding=(pads[0], pads[1], pads[2], pads[3]),
            dilation=(dilation[0], dilation[1]),
            weights=weights.reshape(co, ci, -1),
            bias=self._vector(node, 2, co),
        )
        self._append(node, layer)

    def _same(
        self, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], low: bool
    ) -> tuple[int, ...]:
        before, after = [], []
        for size, k, s, d in zip(self._shape[:2], kernel, stride, dilation, strict=True):
            total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
            less, more = total // 2, total - total // 2
            before.append(more if low else less)
            after.append(less if low else more)
        return *before, *after

    def _gemm(self, node: Any) -> None:
        attributes = _attributes(node)
        if attributes.get("transA", 0):
            raise self._fail(node, "transposes its input", "export it without transA")
        weights = self._weights(node, 1, 2)
        if not attributes.get("transB", 0):
            weights = weights.T
        bias = self._vector(node, 2, len(weights))
        alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
        self._dense(node, alpha * weights, beta * bias)

    def _matmul(self, node: Any) -> None:
        weights = self._weights(node, 1, 2).T
        self._dense(node, weights, np.zeros(len(weights)))

    def _dense(self, node: Any, weights: Floats, bias: Floats) -> None:
        """A fully connected layer: a convolution with the whole map, channels first in ONNX."""
        height, width, channels = self._shape
        if not self._flat and (height, width) != (1, 1):
            raise self._fail(node, "reads a map that is not flattened", "put a Flatten before it")
        if weights.shape[1] != height * width * channels:
            raise self._fail(
                node,
                f"takes {weights.shape[1]} features, its input has {height * width * channels}",
                "check the model",
            )
        layer = FloatLayer(
            name=node.name,
            kernel=(height, width),
            weights=weights.reshape(len(weights), channels, height * width),
            bias=bias,
            dense=True,
        )
        self._append(node, layer)
        self._flat = True

    def _last(self, node: Any) -> FloatLayer:
        if not self._layers:
            raise self._fail(node, "comes before the first layer", "put a Conv or Gemm before it")
        return self._layers[-1]

    def _affine(self, node: Any, gain: Floats, offset: Floats) -> None:
        layer = self._last(node)
        if not self._open:
            raise self._fail(
                node, "does not directly follow a Conv or Gemm", "put it before the activation"
            )
        self._layers[-1] = replace(
            layer, weights=layer.weights * gain[:, None, None], bias=layer.bias * gain + offset
        )

    def _add(self, node: Any) -> None:
        if len(node.input) < 2 or node.input[1] not in self._constants:
            raise self._fail(node, "adds two maps", REPLACEMENTS["Add"])
        channels = len(self._last(node).weights)
        self._affine(node, np.ones(channels), self._vector(node, 1, channels))

    def _batch_normalization(self, node: Any) -> None:
        channels = len(self._last(node).weights)
        scale, offset, mean, variance = (self._vector(node, i, channels) for i in range(1, 5))
        epsilon = _attributes(node).get("epsilon", 1e-5)
        if (variance + epsilon <= 0).any():
            raise self._fail(node, "has a variance that is not positive", "train it again")
        gain = scale / np.sqrt(variance + epsilon)
        self._affine(node, gain, offset - mean * gain)

    def _limit(self, node: Any, low: float, high: float) -> None:
        layer = self._last(node)
        low, high = max(layer.low, low), min(layer.high, high)
        if low > high:
            raise self._fail(node, f"leaves nothing: {low} to {high}", "check the model")
        self._layers[-1] = replace(layer, low=low, high=high)
        self._open = False

    def _relu(self, node: Any) -> None:
        self._limit(node, 0.0, math.inf)

    def _clip(self, node: Any) -> None:
        attributes = _attributes(node)
        limits = []
        for index, name, default in ((1, "min", -math.inf), (2, "max", math.inf)):
            value = attributes.get(name, default)
            if index < len(node.input) and node.input[index]:
                value = float(self._weights(node, index, 0))
            limits.append(float(value))
        self._limit(node, *limits)

    def _flatten(self, node: Any) -> None:
        if _attributes(node).get("axis", 1) != 1:
            raise self._fail(node, "does not flatten from axis 1", "export it with axis=1")
        self._flat = True
        self._open = False

    def _reshape(self, node: Any) -> None:
        name = node.input[1] if len(node.input) > 1 else ""
        shape = self._constants.get(name)
        features = math.prod(self._shape)
        if shape is None or len(shape) != 2 or int(shape[1]) not in (-1, features):
            raise self._fail(node, "does more than flatten the map", "use Flatten")
        self._flat = True
        self._open = False


def _attributes(node: Any) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
