"""Import an int8 network from a `.tflite` file, as TFLite's reference kernels compute it.

Every operator becomes a layer of `golden.layers` with the multipliers that LiteRT itself derives
from the scales, so that all maps are equal to its reference kernels' value for value. Layouts
(RESHAPE, SQUEEZE) leave nothing behind, PAD goes into the convolution that follows it where it can,
and SOFTMAX at the end is left to the host. `insitu.import_float_tflite` reads floating point.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.network import (
    INPUT,
    Add,
    Concatenation,
    Convolution,
    Mean,
    Multiply,
    Network,
    Pad,
    Pooling,
    Requantise,
    Rounding,
    Scaling,
    Shape,
    Stored,
    Table,
)
from insitu import tflite_tables
from insitu.errors import ModelError
from insitu.tflite_file import Graph, Operator, Tensor, read_tflite

__all__ = [
    "Importer",
    "SourceMap",
    "TFLiteModel",
    "fold_constant_channels",
    "import_tflite",
    "quantise_multiplier",
]

Padding = tuple[int, int, int, int]

REPLACEMENTS = {
    "CONV_3D": "use CONV_2D",
    "DEPTH_TO_SPACE": "leave it to the host",
    "DEQUANTIZE": "convert with int8 outputs (inference_output_type=tf.int8), and without weights "
    "of float16",
    "ELU": "use RELU",
    "GELU": "use RELU",
    "LEAKY_RELU": "use RELU",
    "LOG_SOFTMAX": "remove it; the largest output stays the largest",
    "LSTM": "use convolutions",
    "PRELU": "use RELU",
    "RESIZE_BILINEAR": "leave it to the host",
    "RESIZE_NEAREST_NEIGHBOR": "leave it to the host",
    "SPLIT": "use a convolution for each part",
    "STRIDED_SLICE": "leave it to the host",
    "SUB": "use ADD",
    "SUM": "use MEAN",
    "TRANSPOSE_CONV": "use a convolution at the smaller size",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "use convolutions",
}

_VERSIONS = {
    "ADD": 5,
    "AVERAGE_POOL_2D": 3,
    "CONCATENATION": 5,
    "CONV_2D": 8,
    "DEPTHWISE_CONV_2D": 7,
    "FULLY_CONNECTED": 14,
    "HARD_SWISH": 1,
    "LOGISTIC": 3,
    "MAX_POOL_2D": 3,
    "MEAN": 3,
    "MUL": 7,
    "PAD": 4,
    "QUANTIZE": 4,
    "RELU": 3,
    "RELU6": 3,
    "RESHAPE": 1,
    "SOFTMAX": 4,
    "SQUEEZE": 2,
    "TANH": 3,
}
"""The newest version of each operator that is known here."""

_RANGES = {0: (-math.inf, math.inf), 1: (0.0, math.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
"""Fused activations: none, RELU, RELU_N1_TO_1, RELU6."""

_AGAIN = "convert the model again, or check it with the tool that made it"
_FULL_INT8 = (
    "convert it to full int8: Optimize.DEFAULT, a representative data set, TFLITE_BUILTINS_INT8, "
    "and int8 inputs and outputs"
)


@dataclass(frozen=True, eq=False)
class TFLiteModel:
    """An imported model.

    Parameters
    ----------
    network : Network
    tensors : dict
        For each layer's name the tensor in the file that its output equals.
    notes : tuple of str
        What became of operators that left no layer, and what was simplified.
    """

    network: Network
    tensors: dict[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SourceMap:
    """A tensor that a layer makes: who makes it, its shape there, scale and zero point."""

    source: str
    shape: Shape
    scale: np.float32
    zero_point: int
    padding: Padding = (0, 0, 0, 0)
    """Of a PAD that the convolution which reads it does."""


def import_tflite(path: str | Path) -> TFLiteModel:
    """Read a network from a `.tflite` file.

    Raises
    ------
    FileError
        If the file cannot be read.
    ModelError
        If it is damaged or holds what cannot be imported; names the operator.
    """
    return Importer(read_tflite(path)).model()


def quantise_multiplier(real: float) -> tuple[int, int]:
    """`real` as multiplier and right shift, as LiteRT's QuantizeMultiplier gives them.

    real = multiplier / 2**(31 + shift), the multiplier at least 2**30; both are 0 where it is 0 or
    would have to be shifted by more than 31.
    """
    mantissa, exponent = math.frexp(real)
    multiplier = math.floor(mantissa * (1 << 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier, exponent = 1 << 30, exponent + 1
    if exponent < -31:
        return 0, 0
    return multiplier, -exponent


def fold_constant_channels(layer: Convolution) -> tuple[Convolution, int]:
    """A layer that computes the same, with constants in place of channels that are constant.

    A channel is constant if the least and the greatest sum that any input can give have the same
    output, since the requantiser never falls. It gets weights of 0, a multiplier of 1/2 and twice
    the output as its bias. Trained networks have such channels: weights of 0, or so small a scale
    that the multiplier is 0 and the bias near 2**30.

    Returns
    -------
    (Convolution, int)
        The layer, and how many channels were folded.
    """
    weights = layer.weights.W.astype(np.int64)
    positive = np.maximum(weights, 0).sum(axis=(1, 2))
    negative = positive - weights.sum(axis=(1, 2))
    bias = layer.bias.astype(np.int64)
    low = bias - 128 * positive - 127 * negative
    high = bias + 127 * positive + 128 * negative
    # Beyond int32 sums, or what a left shift leaves of them, would wrap around.
    left = np.left_shift(np.int64(1), np.maximum(-layer.shift.astype(np.int64), 0))
    fits = (low * left >= -(1 << 31)) & (high * left < 1 << 31)
    ends = [
        layer.requantised(np.clip(sums, -(1 << 31), (1 << 31) - 1).astype(np.int32))
        for sums in (low, high)
    ]
    constant = (fits & (ends[0] == ends[1])) | (layer.multiplier == 0)
    plain = (weights == 0).all(axis=(1, 2)) & (np.abs(bias) <= 512)
    fold = constant & ~(plain & (layer.shift == 0))
    if not fold.any():
        return layer, 0
    W = layer.weights.W.copy()
    W[fold] = 0
    value = ends[0].astype(np.int64) - layer.output_zero_point
    folded = replace(
        layer,
        weights=Stored(W, 8),
        bias=np.where(fold, 2 * value, bias).astype(np.int32),
        multiplier=np.where(fold, 1 << 30, layer.multiplier).astype(np.int32),
        shift=np.where(fold, 0, layer.shift).astype(np.int8),
    )
    sums = folded.bias[fold]
    proof = replace(
        folded,
        weights=Stored(W[fold], 8),
        bias=sums,
        multiplier=folded.multiplier[fold],
        shift=folded.shift[fold],
        groups=1,
    )
    if (proof.requantised(sums) != ends[0][fold]).any():
        raise RuntimeError(f"layer {layer.name!r}: folding changed a constant channel")
    return folded, int(fold.sum())


class Importer:
    """Walks the operators in the order of the file, which is that of execution.

    Parameters
    ----------
    graph : Graph
    """

    def __init__(self, graph: Graph):
        self._graph = graph
        self._source = graph.source
        self._maps: dict[int, SourceMap] = {}
        self._layers: list[Any] = []
        self._tensors: dict[str, int] = {}
        self._notes: list[str] = []
        self._readers: dict[int, list[Operator]] = {}
        for operator in graph.operators:
            for tensor in set(operator.inputs):
                self._readers.setdefault(tensor, []).append(operator)
        self._handlers: dict[str, Callable[[Operator], None]] = {
            "ADD": self._add,
            "AVERAGE_POOL_2D": self._pool,
            "CONCATENATION": self._concatenation,
            "CONV_2D": self._convolution,
            "DEPTHWISE_CONV_2D": self._depthwise,
            "FULLY_CONNECTED": self._fully_connected,
            "HARD_SWISH": self._table,
            "LOGISTIC": self._table,
            "MAX_POOL_2D": self._pool,
            "MEAN": self._mean,
            "MUL": self._multiply,
            "PAD": self._pad,
            "QUANTIZE": self._quantize,
            "RELU": self._relu,
            "RELU6": self._relu,
            "RESHAPE": self._layout,
            "SOFTMAX": self._softmax,
            "SQUEEZE": self._layout,
            "TANH": self._table,
        }

    # What can be wrong

    def _fail(self, operator: Operator, what: str, next_step: str = _AGAIN) -> ModelError:
        names = [repr(self._graph.tensors[index].name) for index in operator.outputs]
        output = f", output {' and '.join(names)}" if names else ""
        return ModelError(
            f"{self._source}: operator {operator.index} ({operator.name}{output}) {what}", next_step
        )

    def _operand(self, operator: Operator, number: int) -> Tensor:
        if number >= len(operator.inputs) or operator.inputs[number] < 0:
            raise self._fail(operator, f"has no input {number}")
        return self._graph.tensors[operator.inputs[number]]

    def _result(self, operator: Operator) -> Tensor:
        if len(operator.outputs) != 1:
            raise self._fail(operator, f"has {len(operator.outputs)} outputs, not one")
        return self._graph.tensors[operator.outputs[0]]

    def _quantisation(self, tensor: Tensor, where: str) -> tuple[np.float32, int]:
        """Scale and zero point of an int8 map."""
        if tensor.type != "INT8":
            raise ModelError(
                f"{where} is {tensor.type.lower()}, not int8",
                _FULL_INT8 if tensor.type == "FLOAT32" else "convert it to int8",
            )
        if tensor.odd:
            raise ModelError(f"{where} {tensor.odd}", "convert the model without it")
        if len(tensor.scales) != 1:
            what = f"{len(tensor.scales)} scales" if len(tensor.scales) else "no scale"
            raise ModelError(f"{where} has {what}, not one", _AGAIN)
        scale, zero_point = tensor.scales[0], int(tensor.zero_points[0])
        if not 0 < scale < np.inf or not -128 <= zero_point <= 127:
            raise ModelError(f"{where} has scale {scale} and zero point {zero_point}", _AGAIN)
        return scale, zero_point

    def _where(self, operator: Operator, what: str, tensor: Tensor) -> str:
        return (
            f"{self._source}: operator {operator.index} ({operator.name}): {what} {tensor.name!r}"
        )

    def _map(
        self, operator: Operator, number: int, *, padded: bool = False, flat: bool = False
    ) -> SourceMap:
        """The map that an operator reads.

        `padded` says that the operator does the padding of a PAD, `flat` that the order of the
        values is all that matters to it, whether the file calls them flattened or not.
        """
        tensor = self._operand(operator, number)
        if tensor.constant:
            raise self._fail(
                operator,
                f"reads the constant {tensor.name!r} as a map",
                "fold the constant into the layers around it",
            )
        if tensor.index not in self._maps:
            self._quantisation(tensor, self._where(operator, "input", tensor))
            raise self._fail(operator, f"reads {tensor.name!r}, which nothing before it makes")
        found = self._maps[tensor.index]
        if any(found.padding) and not padded:
            raise RuntimeError(f"operator {operator.index} reads a padding that was not made")
        top, left, bottom, right = found.padding
        height, width, channels = found.shape
        if not flat and _as_map(tensor.shape) != (
            height + top + bottom,
            width + left + right,
            channels,
        ):
            raise self._fail(
                operator,
                f"reads {tensor.name!r}, a map of shape {found.shape} that was flattened",
                "only flatten maps before a fully connected layer",
            )
        return found

    def _constant(self, operator: Operator, number: int, kind: str) -> Tensor:
        tensor = self._operand(operator, number)
        if not tensor.constant:
            raise self._fail(
                operator,
                f"takes its input {tensor.name!r} from the graph",
                "use trained, constant weights",
            )
        if tensor.type != kind or tensor.data is None:
            raise self._fail(
                operator, f"has {tensor.name!r} of {tensor.type.lower()}, not {kind.lower()}"
            )
        return tensor

    def _option(self, operator: Operator, name: str, low: int, high: int) -> int:
        if name not in operator.options:
            raise self._fail(operator, "has no options")
        value = operator.options[name]
        if not low <= value <= high:
            raise self._fail(operator, f"has {name} {value}, not {low} to {high}")
        return value

    def _activation(self, operator: Operator) -> tuple[float, float]:
        """Range of the fused activation."""
        fused = self._option(operator, "FusedActivationFunction", 0, 1 << 10)
        if fused not in _RANGES:
            raise self._fail(
                operator, f"has the fused activation {fused}", "use RELU, RELU6 or none"
            )
        return _RANGES[fused]

    def _limits(self, operator: Operator, scale: np.float32, zero_point: int) -> tuple[int, int]:
        """The same in the output's integers."""
        return _integer_range(self._activation(operator), scale, zero_point)

    # The graph

    def model(self) -> TFLiteModel:
        """The imported model."""
        given, last = self._walk()
        try:
            network = Network(
                layers=tuple(self._layers),
                input_shape=given.shape,
                input_scale=float(given.scale),
                input_zero_point=given.zero_point,
                output_scale=float(last.scale),
            )
        except ValueError as error:
            raise ModelError(f"{self._source} is inconsistent: {error}", _AGAIN) from None
        return TFLiteModel(network, self._tensors, tuple(self._notes))

    def _walk(self) -> tuple[SourceMap, SourceMap]:
        """Make the layers; the input's map and the output's."""
        graph = self._graph
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise ModelError(
                f"{self._source} has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs",
                "convert a model with one of each",
            )
        given = graph.tensors[graph.inputs[0]]
        where = f"{self._source}: the input {given.name!r}"
        self._check_hybrid()
        scale, zero_point = self._quantisation(given, where)
        if any(axis > 0 for axis in given.dynamic):
            raise ModelError(
                f"{where} has a dynamic shape: axes {given.dynamic} are open",
                "convert the model for inputs of a fixed shape",
            )
        first = SourceMap(INPUT, self._input_shape(given, where), scale, zero_point)
        self._maps[given.index] = first
        for operator in graph.operators:
            if operator.name not in self._handlers:
                raise self._fail(
                    operator,
                    "is an operator that insitu cannot run",
                    REPLACEMENTS.get(
                        operator.name, f"build the model from {', '.join(self._handlers)}"
                    ),
                )
            if operator.version > _VERSIONS[operator.name]:
                raise self._fail(
                    operator,
                    f"has version {operator.version}, the newest known is "
                    f"{_VERSIONS[operator.name]}",
                    "convert the model with an older converter, or use a newer insitu",
                )
            self._handlers[operator.name](operator)
        output = graph.outputs[0]
        if output not in self._maps or not self._layers:
            raise ModelError(
                f"{self._source} does not compute its output "
                f"{graph.tensors[output].name!r} from its input",
                _AGAIN,
            )
        last = self._maps[output]
        if last.source != self._layers[-1].name:
            raise ModelError(
                f"{self._source} ends in {graph.tensors[output].name!r}, which is not what its "
                f"last operator makes",
                "convert a model with one output",
            )
        return first, last

    def _check_hybrid(self) -> None:
        """Refuse int8 weights where maps are in floating point: they must not be misread."""
        tensors = self._graph.tensors
        for operator in self._graph.operators:
            read = [tensors[index] for index in operator.inputs if index >= 0]
            if any(one.type == "FLOAT32" and not one.constant for one in read) and any(
                one.type == "INT8" and one.constant for one in read
            ):
                raise self._fail(
                    operator,
                    "computes in floating point with int8 weights (a hybrid model)",
                    _FULL_INT8,
                )

    def _input_shape(self, given: Tensor, where: str) -> Shape:
        """Shape of the input map: the input's own, or what a RESHAPE that alone reads it says."""
        readers = self._readers.get(given.index, [])
        shape = given.shape
        if len(readers) == 1 and readers[0].name == "RESHAPE" and len(shape) != 4:
            shape = self._result(readers[0]).shape
        found = _as_map(shape)
        if found is None or math.prod(found) != math.prod(given.shape):
            raise ModelError(
                f"{where} has shape {list(given.shape)}",
                "convert it for one input [1, height, width, channels] or [1, features]",
            )
        return found

    def _emit(
        self, operator: Operator, layer: Callable[..., Any], *sources: SourceMap, **values: object
    ) -> None:
        """Append the layer of an operator, and check it against the shape that the file says."""
        result = self._result(operator)
        scale, zero_point = self._quantisation(result, self._where(operator, "output", result))
        try:
            made = layer(
                name=f"{_NAMES[operator.name]}_{operator.index}",
                inputs=tuple(source.source for source in sources),
                **values,
            )
            shape = made.output_shape(*(source.shape for source in sources))
        except (ValueError, TypeError) as error:
            raise self._fail(operator, f"is inconsistent: {error}") from None
        if math.prod(result.shape) != math.prod(shape) or _as_map(result.shape) not in (
            None,
            shape,
            (1, 1, math.prod(shape)),
        ):
            raise self._fail(operator, f"gives {list(shape)}, the file says {list(result.shape)}")
        if isinstance(made, Convolution):
            made, folded = fold_constant_channels(made)
            if folded:
                self._notes.append(
                    f"layer {made.name!r}: {folded} of {made.output_channels} output channels "
                    "are constant, their weights and scales were dropped"
                )
        self._layers.append(made)
        self._tensors[made.name] = result.index
        self._maps[result.index] = SourceMap(made.name, shape, scale, zero_point)

    # Operators

    def _weights(
        self, operator: Operator, channels: int, axis: int, data: Sequence[int]
    ) -> tuple[Tensor, NDArray[np.float64], NDArray[np.int64]]:
        """Filter of a checked shape, its scale a channel, and the bias, both [channels]."""
        tensor = self._operand(operator, 1)
        where = self._where(operator, "weights", tensor)
        tensor = self._constant(operator, 1, "INT8")
        if tensor.odd:
            raise ModelError(f"{where} {tensor.odd}", "convert the model without it")
        if tensor.shape != tuple(data):
            raise self._fail(operator, f"has weights of shape {list(tensor.shape)}, not {data}")
        scales = self._weight_scales(tensor, where, channels, axis)
        values = tensor.data
        if values is not None and (values == -128).any():
            raise ModelError(
                f"{where} hold -128, which TFLite's specification leaves out",
                "quantise weights to -127..127",
            )
        bias = np.zeros(channels, np.int64)
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            found = self._constant(operator, 2, "INT32")
            if found.data is None or found.shape != (channels,):
                raise self._fail(
                    operator, f"has a bias of shape {list(found.shape)}, not [{channels}]"
                )
            bias = found.data.astype(np.int64)
            self._check_bias(operator, found, scales)
        return tensor, np.broadcast_to(scales, (channels,)), bias

    def _weight_scales(
        self, tensor: Tensor, where: str, channels: int, axis: int
    ) -> NDArray[np.float64]:
        """Scales of int8 weights, checked: one, or [channels]."""
        scales = tensor.scales.astype(np.float64)
        if len(scales) not in (1, channels) or (len(scales) > 1 and tensor.axis != axis):
            raise ModelError(
                f"{where} have {len(scales)} scales along axis {tensor.axis}, not one or "
                f"{channels} along axis {axis}",
                _AGAIN,
            )
        if not ((scales > 0) & np.isfinite(scales)).all() or tensor.zero_points.any():
            raise ModelError(
                f"{where} have a scale that is not positive, or a zero point that is not 0", _AGAIN
            )
        return scales

    def _check_bias(self, operator: Operator, bias: Tensor, scales: NDArray[np.float64]) -> None:
        """LiteRT's own rule: its scale is the product of the others', to 2 % of the output's.

        Single precision is not enough for that where the product is much the larger.
        """
        given, result = self._operand(operator, 0), self._result(operator)
        if not len(bias.scales) or len(given.scales) != 1 or len(result.scales) != 1:
            return
        product = float(given.scales[0]) * scales
        wrong = np.abs(product - bias.scales.astype(np.float64))
        limit = np.maximum(0.02 * float(result.scales[0]), 1e-5 * product)
        if bias.zero_points.any() or (wrong > limit).any():
            raise self._fail(
                operator, f"has the bias {bias.name!r}, whose scale is not input times weights"
            )

    def _linear(
        self,
        operator: Operator,
        source: SourceMap,
        W: NDArray[np.int8],
        scales: NDArray[np.float64],
        bias: NDArray[np.int64],
        **geometry: object,
    ) -> None:
        """A convolution with W [Co, Ci / groups, T]."""
        result = self._result(operator)
        scale, zero_point = self._quantisation(result, self._where(operator, "output", result))
        pairs = [
            quantise_multiplier(real)
            for real in (float(source.scale) * scales / float(scale)).tolist()
        ]
        multiplier, shift = (np.array(values, np.int64) for values in zip(*pairs, strict=True))
        if (shift < -30).any():
            raise self._fail(operator, "multiplies its sums by more than 2**30")
        bias = bias - source.zero_point * W.astype(np.int64).sum(axis=(1, 2))
        dead = multiplier == 0
        bias[dead] = 0
        if (np.abs(bias) >= 1 << 31).any():
            raise self._fail(operator, "has a bias that leaves int32 with the input's zero point")
        low, high = self._limits(operator, scale, zero_point)
        self._emit(
            operator,
            Convolution,
            source,
            weights=Stored(W, 8),
            bias=bias.astype(np.int32),
            multiplier=multiplier.astype(np.int32),
            shift=shift.astype(np.int8),
            input_zero_point=source.zero_point,
            output_zero_point=zero_point,
            activation_min=low,
            activation_max=high,
            **geometry,
        )

    def _window(
        self,
        operator: Operator,
        source: SourceMap,
        kernel: tuple[int, int],
        dilation: tuple[int, int],
    ) -> tuple[tuple[int, int], Padding]:
        """Stride and padding of an operator's window."""
        stride = (
            self._option(operator, "StrideH", 1, 1 << 15),
            self._option(operator, "StrideW", 1, 1 << 15),
        )
        before, after = [0, 0], [0, 0]
        if self._option(operator, "Padding", 0, 1) == 0:  # SAME
            for axis in range(2):
                # What a folded PAD added belongs to the map that SAME is measured on.
                size = source.shape[axis] + source.padding[axis] + source.padding[axis + 2]
                reach = dilation[axis] * (kernel[axis] - 1) + 1
                total = max(0, (-(-size // stride[axis]) - 1) * stride[axis] + reach - size)
                before[axis], after[axis] = total // 2, total - total // 2
        top, left, bottom, right = source.padding
        return stride, (before[0] + top, before[1] + left, after[0] + bottom, after[1] + right)

    def _dilation(self, operator: Operator) -> tuple[int, int]:
        return (
            self._option(operator, "DilationHFactor", 1, 1 << 15),
            self._option(operator, "DilationWFactor", 1, 1 << 15),
        )

    def _filter_shape(self, operator: Operator) -> tuple[int, int, int, int]:
        shape = self._operand(operator, 1).shape
        if len(shape) != 4 or min(shape) < 1:
            raise self._fail(operator, f"has weights of shape {list(shape)}, not of 4 axes")
        return shape[0], shape[1], shape[2], shape[3]

    def _convolution(self, operator: Operator) -> None:
        co, height, width, ci = self._filter_shape(operator)
        tensor, scales, bias = self._weights(operator, co, 0, [co, height, width, ci])
        source = self._map(operator, 0, padded=True)
        groups, rest = divmod(source.shape[2], ci)
        if rest or co % max(groups, 1):
            raise self._fail(
                operator,
                f"takes {ci} channels a group and gives {co}, its input has {source.shape[2]}",
            )
        dilation = self._dilation(operator)
        stride, padding = self._window(operator, source, (height, width), dilation)
        W = np.asarray(tensor.data).reshape(co, height * width, ci).transpose(0, 2, 1)
        self._linear(
            operator,
            source,
            np.ascontiguousarray(W),
            scales,
            bias,
            kernel=(height, width),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            rounding=Rounding.TWICE,
        )

    def _depthwise(self, operator: Operator) -> None:
        _, height, width, co = self._filter_shape(operator)
        tensor, scales, bias = self._weights(operator, co, 3, [1, height, width, co])
        source = self._map(operator, 0, padded=True)
        if co % source.shape[2]:
            raise self._fail(operator, f"gives {co} channels, its input has {source.shape[2]}")
        dilation = self._dilation(operator)
        stride, padding = self._window(operator, source, (height, width), dilation)
        W = np.asarray(tensor.data).reshape(height * width, co).T[:, np.newaxis]
        self._linear(
            operator,
            source,
            np.ascontiguousarray(W),
            scales,
            bias,
            kernel=(height, width),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=source.shape[2],
            rounding=Rounding.TWICE,
        )

    def _fully_connected(self, operator: Operator) -> None:
        shape = self._operand(operator, 1).shape
        if len(shape) != 2 or min(shape) < 1:
            raise self._fail(operator, f"has weights of shape {list(shape)}, not of 2 axes")
        if self._option(operator, "WeightsFormat", 0, 1 << 10):
            raise self._fail(operator, "has shuffled weights", "convert it for int8")
        co, features = shape
        tensor, scales, bias = self._weights(operator, co, 0, [co, features])
        source = self._map(operator, 0, flat=True)
        height, width, channels = source.shape
        if features == height * width * channels:
            kernel = (height, width)
        elif features == channels and len(self._result(operator).shape) == 4:
            kernel = (1, 1)
        else:
            raise self._fail(
                operator,
                f"takes {features} features, its input has {height * width * channels}",
            )
        W = np.asarray(tensor.data).reshape(co, kernel[0] * kernel[1], channels)
        self._linear(
            operator,
            source,
            np.ascontiguousarray(W.transpose(0, 2, 1)),
            scales,
            bias,
            kernel=kernel,
            rounding=Rounding.UP,
        )

    def _same_scale(self, operator: Operator, *sources: SourceMap) -> None:
        result = self._result(operator)
        wanted = self._quantisation(result, self._where(operator, "output", result))
        for source in sources:
            if (source.scale, source.zero_point) != wanted:
                raise self._fail(
                    operator,
                    f"has an input of scale {source.scale} and zero point {source.zero_point} and "
                    f"an output of {wanted[0]} and {wanted[1]}, which must be the same",
                )

    def _pool(self, operator: Operator) -> None:
        source = self._map(operator, 0)
        self._same_scale(operator, source)
        kernel = (
            self._option(operator, "FilterHeight", 1, 1 << 15),
            self._option(operator, "FilterWidth", 1, 1 << 15),
        )
        stride, padding = self._window(operator, source, kernel, (1, 1))
        mode = "average" if operator.name == "AVERAGE_POOL_2D" else "maximum"
        self._pooling(operator, source, mode=mode, kernel=kernel, stride=stride, padding=padding)

    def _pooling(self, operator: Operator, source: SourceMap, **geometry: object) -> None:
        low, high = self._limits(operator, source.scale, source.zero_point)
        self._emit(operator, Pooling, source, activation_min=low, activation_max=high, **geometry)

    def _axes(self, operator: Operator, number: int, rank: int) -> set[int]:
        tensor = self._constant(operator, number, "INT32")
        axes = {int(axis) for axis in np.asarray(tensor.data).flat}
        if any(not -rank <= axis < rank for axis in axes):
            raise self._fail(operator, f"has axes {sorted(axes)} of {rank}")
        return {axis % rank for axis in axes}

    def _mean_source(self, operator: Operator) -> SourceMap:
        """What a MEAN over height and width reads."""
        source = self._map(operator, 0)
        rank = len(self._operand(operator, 0).shape)
        axes = self._axes(operator, 1, rank)
        if rank != 4 or axes != {1, 2}:
            raise self._fail(
                operator,
                f"takes the mean over axes {sorted(axes)} of {rank}",
                "take the mean over height and width",
            )
        return source

    def _mean(self, operator: Operator) -> None:
        source = self._mean_source(operator)
        scale, zero_point = self._output(operator)
        multiplier, shift = quantise_multiplier(float(source.scale) / float(scale))
        # The division by the number of pixels goes into the multiplier, as in LiteRT.
        pixels = source.shape[0] * source.shape[1]
        places = min(pixels.bit_length() - 1, 32, 31 - shift)
        scaling = Scaling(zero_point, (multiplier << places) // pixels, shift + places)
        self._emit(
            operator,
            Mean,
            source,
            input_zero_point=source.zero_point,
            output_scaling=scaling,
        )

    def _output(self, operator: Operator) -> tuple[np.float32, int]:
        result = self._result(operator)
        return self._quantisation(result, self._where(operator, "output", result))

    def _scaling(self, operator: Operator, real: float, zero_point: int) -> Scaling:
        multiplier, shift = quantise_multiplier(real)
        if shift < -30:
            raise self._fail(operator, f"multiplies by {real:g}")
        return Scaling(zero_point, multiplier, shift)

    def _add(self, operator: Operator) -> None:
        sources = [self._map(operator, number, flat=True) for number in range(2)]
        if sources[0].shape != sources[1].shape:
            raise self._fail(
                operator,
                f"adds maps of shapes {sources[0].shape} and {sources[1].shape}",
                "add maps of the same shape",
            )
        scale, zero_point = self._output(operator)
        twice = 2 * max(float(source.scale) for source in sources)
        real = twice / (float(scale) * (1 << 20))
        if real >= 1:
            raise self._fail(operator, f"has an output scale of {scale}, far below its inputs'")
        low, high = self._limits(operator, scale, zero_point)
        self._emit(
            operator,
            Add,
            *sources,
            scalings=tuple(
                self._scaling(operator, float(source.scale) / twice, source.zero_point)
                for source in sources
            ),
            output_scaling=self._scaling(operator, real, zero_point),
            activation_min=low,
            activation_max=high,
        )

    def _multiply(self, operator: Operator) -> None:
        sources = [self._map(operator, number) for number in range(2)]
        scale, zero_point = self._output(operator)
        # In single precision, as LiteRT does it here.
        real = float(sources[0].scale * sources[1].scale / scale)
        low, high = self._limits(operator, scale, zero_point)
        self._emit(
            operator,
            Multiply,
            *sources,
            input_zero_points=tuple(source.zero_point for source in sources),
            output_scaling=self._scaling(operator, real, zero_point),
            activation_min=low,
            activation_max=high,
        )

    def _concatenation(self, operator: Operator) -> None:
        sources = [self._map(operator, number) for number in range(len(operator.inputs))]
        if not sources:
            raise self._fail(operator, "has no inputs")
        rank = len(self._operand(operator, 0).shape)
        axis = self._option(operator, "Axis", -rank, rank - 1) % rank
        if axis != rank - 1:
            raise self._fail(
                operator,
                f"concatenates along axis {axis} of {rank}",
                "concatenate channels, the last axis",
            )
        if self._option(operator, "FusedActivationFunction", 0, 1 << 10):
            raise self._fail(operator, "has a fused activation", "put it before")
        self._same_scale(operator, *sources)
        self._concatenated(operator, *sources)

    def _concatenated(self, operator: Operator, *sources: SourceMap) -> None:
        self._emit(operator, Concatenation, *sources)

    def _quantize(self, operator: Operator) -> None:
        self._rescale(operator, (-math.inf, math.inf))

    def _relu(self, operator: Operator) -> None:
        self._rescale(operator, _RANGES[1 if operator.name == "RELU" else 3])

    def _rescale(self, operator: Operator, limits: tuple[float, float]) -> None:
        given = self._operand(operator, 0)
        if operator.name == "QUANTIZE" and given.type != "INT8":
            raise self._fail(
                operator,
                f"takes {given.type.lower()}",
                "convert with int8 inputs (inference_input_type=tf.int8)",
            )
        source = self._map(operator, 0, flat=True)
        scale, zero_point = self._output(operator)
        low, high = _integer_range(limits, scale, zero_point)
        self._emit(
            operator,
            Requantise,
            source,
            input_zero_point=source.zero_point,
            output_scaling=self._scaling(operator, float(source.scale) / float(scale), zero_point),
            activation_min=low,
            activation_max=high,
        )

    def _table(self, operator: Operator) -> None:
        source = self._map(operator, 0, flat=True)
        result = self._output(operator)
        try:
            table = _TABLES[operator.name]((source.scale, source.zero_point), result)
        except ValueError as error:
            raise self._fail(operator, f"cannot be tabulated: {error}") from None
        self._emit(operator, Table, source, table=table, output_zero_point=result[1])

    def _pad(self, operator: Operator) -> None:
        source = self._map(operator, 0)
        self._same_scale(operator, source)
        pads = self._constant(operator, 1, "INT32")
        values = np.asarray(pads.data)
        if values.shape != (4, 2) or (values < 0).any():
            raise self._fail(operator, f"has padding {values.tolist()}, not 4 pairs from 0")
        if values[[0, 3]].any():
            raise self._fail(operator, "pads samples or channels", "pad height and width only")
        (top, bottom), (left, right) = (tuple(int(n) for n in row) for row in values[1:3])
        padding = top, left, bottom, right
        result = self._result(operator)
        readers = self._readers.get(result.index, [])
        foldable = ("CONV_2D", "DEPTHWISE_CONV_2D")
        if (
            len(readers) == 1
            and readers[0].name in foldable
            and readers[0].inputs[0] == result.index
            and result.index not in self._graph.outputs
        ):
            height, width, channels = source.shape
            if _as_map(result.shape) != (height + top + bottom, width + left + right, channels):
                raise self._fail(operator, f"does not give {list(result.shape)}")
            self._maps[result.index] = replace(source, padding=padding)
            self._notes.append(
                f"operator {operator.index} (PAD) is done by operator {readers[0].index}"
            )
            return
        self._padded(operator, source, padding)

    def _padded(self, operator: Operator, source: SourceMap, padding: Padding) -> None:
        self._emit(operator, Pad, source, padding=padding, input_zero_point=source.zero_point)

    def _layout(self, operator: Operator) -> None:
        source = self._map(operator, 0, flat=True)
        self._same_scale(operator, source)
        result = self._result(operator)
        shape = _as_map(result.shape)
        flat = (1, 1, math.prod(source.shape))
        if math.prod(result.shape) != math.prod(source.shape) or shape not in (source.shape, flat):
            raise self._fail(
                operator,
                f"makes a map of shape {list(result.shape)} from {list(source.shape)}",
                "only flatten maps, before a fully connected layer",
            )
        self._maps[result.index] = source

    def _softmax(self, operator: Operator) -> None:
        source = self._map(operator, 0, flat=True)
        result = self._result(operator)
        if result.index not in self._graph.outputs or self._readers.get(result.index):
            raise self._fail(
                operator,
                "is not at the end of the network",
                "only at the end it can be left to the host",
            )
        self._quantisation(result, self._where(operator, "output", result))
        self._maps[result.index] = source
        self._notes.append(
            f"operator {operator.index} (SOFTMAX) is left to the host: outputs are its inputs, "
            "and the largest stays the largest"
        )


_TABLES = {
    "HARD_SWISH": tflite_tables.hard_swish,
    "LOGISTIC": tflite_tables.logistic,
    "TANH": tflite_tables.tanh,
}

_NAMES = {
    "ADD": "add",
    "AVERAGE_POOL_2D": "pool",
    "CONCATENATION": "concat",
    "CONV_2D": "conv",
    "DEPTHWISE_CONV_2D": "depthwise",
    "FULLY_CONNECTED": "dense",
    "HARD_SWISH": "hardswish",
    "LOGISTIC": "logistic",
    "MAX_POOL_2D": "pool",
    "MEAN": "mean",
    "MUL": "multiply",
    "PAD": "pad",
    "QUANTIZE": "requantise",
    "RELU": "relu",
    "RELU6": "relu",
    "TANH": "tanh",
}
"""What layers are called, before the operator's index."""


def _integer_range(
    limits: tuple[float, float], scale: np.float32, zero_point: int
) -> tuple[int, int]:
    """A real range in the integers of a map, as LiteRT rounds it: in single precision."""
    low, high = -128, 127
    if not math.isinf(limits[0]):
        low = max(low, zero_point + _round(np.float32(limits[0]) / scale))
    if not math.isinf(limits[1]):
        high = min(high, zero_point + _round(np.float32(limits[1]) / scale))
    return min(low, 127), max(high, -128)


def _round(value: np.float32) -> int:
    """To the nearest integer, halves away from zero."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), float(value)))


def _as_map(shape: tuple[int, ...]) -> Shape | None:
    """(H, W, C) of one sample's tensor: [1, H, W, C] or [1, C]."""
    if len(shape) not in (2, 4) or min(shape) < 1 or shape[0] != 1:
        return None
    return (shape[1], shape[2], shape[3]) if len(shape) == 4 else (1, 1, shape[1])
