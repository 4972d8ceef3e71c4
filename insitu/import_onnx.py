"""Import a trained network from an ONNX file, in floating point or quantised.

A quantised file has QuantizeLinear and DequantizeLinear around its operators (QDQ), or operators on
integers (QLinearConv and its like), as ONNX Runtime's quantiser writes them. Those are taken apart
into the first form. What then lies between dequantising and quantising is real arithmetic, as in a
file in floating point, and becomes the layers of `insitu.float_network`; the scales and zero points
become their quantisations.

Batch normalisation and other scales a channel go into the convolution before them, activations
into the layer before them, padding into the convolution after it, where nothing else reads what is
in between. Flatten, Reshape and Transpose leave nothing behind, Softmax at the end is left to the
host.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from golden.network import INPUT, Shape
from insitu.errors import ModelError
from insitu.files import read_file
from insitu.float_network import (
    FloatAdd,
    FloatConcatenation,
    FloatConvolution,
    FloatFunction,
    FloatLayer,
    FloatLimit,
    FloatMean,
    FloatMultiply,
    FloatNetwork,
    FloatPad,
    FloatPooling,
    Quantisation,
)
from insitu.onnx_qlinear import expand

__all__ = ["import_onnx"]

Floats = NDArray[np.floating[Any]]
Padding = tuple[int, int, int, int]

REPLACEMENTS = {
    "ConvInteger": "quantise the model statically, not dynamically",
    "ConvTranspose": "use a convolution at the smaller size",
    "DynamicQuantizeLinear": "quantise the model statically, not dynamically",
    "Elu": "use Relu",
    "Erf": "use Relu or HardSwish",
    "Gelu": "use Relu or HardSwish",
    "InstanceNormalization": "use BatchNormalization",
    "LayerNormalization": "use BatchNormalization",
    "LeakyRelu": "use Relu",
    "LogSoftmax": "remove it; the largest output stays the largest",
    "MatMulInteger": "quantise the model statically, not dynamically",
    "PRelu": "use Relu",
    "QLinearLeakyRelu": "use Relu",
    "ReduceMax": "use MaxPool",
    "Resize": "leave it to the host",
    "Slice": "leave it to the host",
    "Split": "use a convolution for each part",
    "Upsample": "leave it to the host",
}

_AGAIN = "export the model again, or check it with the tool that made it"
_EVALUATION = "export it as it is evaluated: of PyTorch's modules, after module.eval()"
_EXPORT = "check the model"
_LAYOUTS = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_RANDOM = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
_LIMITABLE = (FloatAdd, FloatConvolution, FloatLimit, FloatMultiply, FloatPooling)


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
        if not all(isinstance(name, str) for node in model.graph.node for name in _names(node)):
            raise ValueError("a name is no text")
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise ModelError(
                    f"{source} keeps {tensor.name!r} in another file",
                    "save it as one file: onnx.save(onnx.load(FILE), NEW)",
                )
        onnx.checker.check_model(model)
    except (DecodeError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{source} is not an undamaged ONNX model: {reason}",
            "copy the file again, or export the model again",
        ) from None
    return _Importer(model, source, Path(path).stem).network()


@dataclass(frozen=True, eq=False)
class _Constant:
    """A tensor of the file, or what follows from such; `scale` where it was quantised."""

    value: NDArray[Any]
    scale: Floats | None = None


@dataclass(frozen=True, eq=False)
class _Map:
    """A tensor that a layer makes.

    Parameters
    ----------
    source : str
        The layer, or "input".
    shape : (int, int, int)
        Height, width, channels.
    axes : str
        In which order the model has them: "CHW", or what a Transpose makes of that.
    flat : bool
        Whether the model calls them one axis.
    integers : str
        Type of the model's tensor if it is of integers, "int8" or "uint8".
    alone : bool
        Whether nothing but the reader of this tensor reads the layer.
    host : str
        The node after the network's end that the host computes, if this is what it gives.
    """

    source: str
    shape: Shape
    axes: str = "CHW"
    flat: bool = False
    integers: str = ""
    alone: bool = True
    host: str = ""

    @property
    def single(self) -> bool:
        """Whether it is one pixel, so that only its channels count."""
        return self.shape[:2] == (1, 1)


class _Importer:
    """Walks the nodes, which stand in the order of execution."""

    def __init__(self, model: Any, source: str, name: str):
        graph = model.graph
        self._graph = graph
        self._source = source
        self._name = name
        self._opsets = {opset.domain: opset.version for opset in model.opset_import}
        self._constants = {t.name: self._stored(t) for t in graph.initializer}
        self._maps: dict[str, _Map] = {}
        self._layers: dict[str, FloatLayer] = {}
        self._quantisations: dict[str, Quantisation] = {}
        self._tensors: dict[str, str] = {}
        self._nodes: dict[str, Any] = {}
        self._notes: list[str] = []
        self._outputs = [value.name for value in graph.output]
        arrays = {name: constant.value for name, constant in self._constants.items()}
        self._expanded, extra = expand(graph.node, arrays, self._fail)
        self._constants |= {name: _Constant(value) for name, value in extra.items()}
        self._readers: dict[str, int] = {}
        for node in self._expanded:
            for tensor in {*node.input}:
                self._readers[tensor] = self._readers.get(tensor, 0) + 1
        for tensor in self._outputs:
            self._readers[tensor] = self._readers.get(tensor, 0) + 1
        self._handlers: dict[str, Callable[[Any], None]] = {
            "Add": self._arithmetic,
            "AveragePool": self._pool,
            "BatchNormalization": self._batch_normalization,
            "Clip": self._clip,
            "Concat": self._concat,
            "Conv": self._conv,
            "DequantizeLinear": self._dequantize,
            "Div": self._arithmetic,
            "Dropout": self._dropout,
            "Flatten": self._flatten,
            "Gemm": self._gemm,
            "GlobalAveragePool": self._mean,
            "HardSigmoid": self._function,
            "HardSwish": self._function,
            "Identity": self._identity,
            "MatMul": self._matmul,
            "MaxPool": self._pool,
            "Mul": self._arithmetic,
            "Pad": self._pad,
            "QuantizeLinear": self._quantize,
            "ReduceMean": self._mean,
            "Relu": self._relu,
            "Reshape": self._layout,
            "Shape": self._shape,
            "Sigmoid": self._function,
            "Softmax": self._softmax,
            "Squeeze": self._layout,
            "Sub": self._arithmetic,
            "Tanh": self._function,
            "Transpose": self._transpose,
            "Unsqueeze": self._layout,
        }

    # What can be wrong

    def _stored(self, tensor: Any) -> _Constant:
        try:
            return _Constant(numpy_helper.to_array(tensor))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{self._source} holds {tensor.name!r}, which is no undamaged tensor: {error}",
                _AGAIN,
            ) from None

    def _fail(self, node: Any, what: str, next_step: str = _EXPORT) -> ModelError:
        name = node.name or (node.output[0] if node.output else "")
        return ModelError(f"{self._source}: node {name!r} ({node.op_type}) {what}", next_step)

    def _map(
        self,
        node: Any,
        index: int = 0,
        *,
        integers: bool = False,
        flat: bool = True,
        host: bool = False,
    ) -> _Map:
        """The map that a node reads.

        `integers` says that the node is meant for them too, `flat` that it takes flattened maps,
        `host` that it may be one of the host's.
        """
        name = node.input[index] if index < len(node.input) else ""
        if name in self._constants:
            raise self._fail(
                node,
                f"reads the constant {name!r} as a map",
                "fold the constant into the layers around it",
            )
        if name not in self._maps:
            raise self._fail(node, f"reads {name!r}, which nothing before it makes")
        found = self._maps[name]
        if found.host and not host:
            raise self._fail(
                node,
                f"reads what {found.host!r} gives",
                f"end the network in {found.host!r}: only there it can be left to the host",
            )
        if found.integers and not integers:
            raise self._fail(
                node, f"computes with the integers {name!r}", "put DequantizeLinear before it"
            )
        if not flat and found.flat and not found.single:
            raise self._fail(node, "follows a Flatten", "put it before the Flatten")
        if not flat and found.axes != "CHW" and math.prod(found.shape) > 1:
            raise self._fail(
                node, f"reads {name!r} with its axes transposed", "transpose back before it"
            )
        return replace(found, alone=found.alone and self._readers[name] == 1)

    def _weights(self, node: Any, index: int, ranks: Sequence[int]) -> _Constant:
        name = node.input[index] if index < len(node.input) else ""
        if name not in self._constants:
            raise self._fail(
                node, f"takes its input {name!r} from the graph", "use trained, constant weights"
            )
        constant = self._constants[name]
        value = constant.value
        if value.dtype.kind != "f" or (ranks and value.ndim not in ranks) or 0 in value.shape:
            axes = " or ".join(str(rank) for rank in ranks)
            raise self._fail(
                node,
                f"has {name!r} of {value.dtype} {value.shape}, not float with {axes} axes",
                "export the model again in float32",
            )
        if not np.isfinite(value).all():
            raise self._fail(node, f"has {name!r} with infinities or NaN", "train it again")
        return _Constant(value.astype(np.float64), constant.scale)

    def _integers(self, node: Any, index: int, attribute: str = "") -> list[int] | None:
        """Integers from a constant input or an attribute; None if there are none."""
        if index < len(node.input) and node.input[index]:
            name = node.input[index]
            constant = self._constants.get(name)
            if constant is None or constant.value.dtype.kind not in "iu":
                raise self._fail(
                    node, f"takes {name!r} from the graph", "fix shapes and axes in the model"
                )
            return [int(n) for n in constant.value.reshape(-1)]
        values = _attributes(node).get(attribute)
        return None if values is None else [int(n) for n in np.atleast_1d(values)]

    # The graph

    def network(self) -> FloatNetwork:
        """The imported network."""
        graph = self._graph
        inputs = [value for value in graph.input if value.name not in self._constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise ModelError(
                f"{self._source} has {len(inputs)} inputs and {len(graph.output)} outputs",
                "export a model with one of each",
            )
        given = self._input(inputs[0])
        self._maps[inputs[0].name] = given
        for node in self._expanded:
            if node.domain not in ("", "ai.onnx") or (
                node.op_type not in self._handlers and not self._is_constant(node)
            ):
                raise self._fail(
                    node,
                    "is an operator that insitu cannot run",
                    REPLACEMENTS.get(
                        node.op_type, f"build the model from {', '.join(self._handlers)}"
                    ),
                )
            if self._is_constant(node):
                self._evaluate(node)
            else:
                self._handlers[node.op_type](node)
        output = self._maps.get(self._outputs[0])
        if output is None or output.source == INPUT:
            raise ModelError(
                f"{self._source} does not compute its output {self._outputs[0]!r} from its input "
                "with at least one layer",
                "export a network with layers",
            )
        if not output.single and (output.flat or output.axes != "CHW"):
            self._notes.append(
                "the model flattens or transposes its output; here it stays height, width, channels"
            )
        layers = tuple(self._saturated(layer) for layer in self._needed(output.source))
        kept = {layer.name for layer in layers}
        return FloatNetwork(
            self._name,
            given.shape,
            layers,
            {k: v for k, v in self._quantisations.items() if k in kept | {INPUT}},
            {k: v for k, v in self._tensors.items() if k in kept},
            tuple(self._notes),
        )

    def _input(self, value: Any) -> _Map:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise ModelError(
                f"{self._source} takes an input that is not float32",
                "export it with float32 inputs, which it may quantise itself",
            )
        if len(dims) not in (2, 4) or min(dims[1:]) < 1 or dims[0] > 1:
            raise ModelError(
                f"{self._source} takes inputs of shape {dims}",
                "export it for inputs [N, channels, height, width] or [N, features], N open or 1, "
                "all else fixed",
            )
        if len(dims) == 2:
            return _Map(INPUT, (1, 1, dims[1]), flat=True)
        return _Map(INPUT, (dims[2], dims[3], dims[1]))

    def _needed(self, last: str) -> tuple[FloatLayer, ...]:
        """The layers that the output depends on."""
        needed = {last}
        for layer in reversed(self._layers.values()):
            if layer.name in needed:
                needed |= {*layer.inputs}
        return tuple(layer for layer in self._layers.values() if layer.name in needed)

    def _saturated(self, layer: FloatLayer) -> FloatLayer:
        """A layer whose limits are those of its integers too: they often are its activation."""
        if layer.name not in self._quantisations:
            return layer
        scale, zero_point = self._quantisations[layer.name]
        low, high = (-128 - zero_point) * scale, (127 - zero_point) * scale
        return replace(layer, low=max(layer.low, low), high=min(layer.high, high))

    def _append(self, node: Any, layer: FloatLayer, *sources: _Map, **changes: object) -> None:
        """Add the layer of a node, which reads `sources`."""
        used = {INPUT, *self._layers}
        if layer.name in used or not layer.name:
            name = node.output[0]
            while name in used:
                name += "_"
            layer = replace(layer, name=name)
        layer = replace(layer, inputs=tuple(source.source for source in sources))
        try:
            shape = layer.output_shape(*(source.shape for source in sources))
        except ValueError as error:
            raise self._fail(node, f"cannot take its input: {error}") from None
        self._layers[layer.name] = layer
        self._nodes[layer.name] = node
        made = _Map(layer.name, shape, sources[0].axes, sources[0].flat)
        self._maps[node.output[0]] = replace(made, **changes)  # type: ignore[arg-type]
        if sources[0].integers:
            # An operator on integers that leaves scale and zero point as they are.
            made = self._maps[node.output[0]]
            self._quantised(node, made, self._quantisations[sources[0].source])
            self._maps[node.output[0]] = replace(made, integers=sources[0].integers)

    def _open(self, source: _Map) -> FloatLayer | None:
        """The layer that makes a map, if what follows it can still become part of it."""
        if not source.alone or source.source in self._quantisations:
            return None
        return self._layers.get(source.source)

    def _alias(self, node: Any, source: _Map, **changes: object) -> None:
        self._maps[node.output[0]] = replace(source, **changes)  # type: ignore[arg-type]

    def _is_constant(self, node: Any) -> bool:
        return bool(node.output) and all(name in self._constants for name in node.input if name)

    def _evaluate(self, node: Any) -> None:
        """A node that reads constants only."""
        if node.op_type == "DequantizeLinear":
            self._constants[node.output[0]] = self._dequantised(node)
            return
        if node.op_type in _RANDOM:
            raise self._fail(node, "gives random numbers", "use trained, constant weights")
        feeds = {name: self._constants[name].value for name in node.input if name}
        try:
            results = ReferenceEvaluator(node, opsets=self._opsets).run(None, feeds)
        except Exception as error:  # Whatever a node of a foreign file provokes.
            raise self._fail(
                node, f"cannot be evaluated: {error}", "fold constants before the export"
            ) from None
        for name, value in zip(node.output, results, strict=False):
            self._constants[name] = _Constant(np.asarray(value))
        first = self._constants[node.input[0]] if node.input else None
        if first is not None and first.scale is not None and node.op_type in _LAYOUTS:
            feeds[node.input[0]] = first.scale
            (scale,) = ReferenceEvaluator(node, opsets=self._opsets).run(None, feeds)
            made = self._constants[node.output[0]]
            self._constants[node.output[0]] = _Constant(made.value, np.asarray(scale))

    # Quantisation

    def _dequantised(self, node: Any) -> _Constant:
        """(value - zero point) * scale of a constant."""
        value = self._constants[node.input[0]].value
        scale = self._constants[node.input[1]].value.astype(np.float64)
        zero_point = np.zeros(scale.size, np.int64)
        if len(node.input) > 2 and node.input[2]:
            zero_point = self._constants[node.input[2]].value.astype(np.int64)
        axis = _attributes(node).get("axis", 1)
        size = value.shape[axis] if value.ndim and -value.ndim <= axis < value.ndim else 1
        if (
            value.dtype not in (np.int8, np.uint8, np.int32)
            or scale.size not in (1, size)
            or zero_point.size != scale.size
        ):
            raise self._fail(
                node,
                f"has {node.input[0]!r} of {value.dtype} {value.shape} with {scale.size} scales",
                "quantise weights to int8 with one scale, or one an output channel",
            )
        if not ((scale > 0) & np.isfinite(scale)).all():
            raise self._fail(node, "has a scale that is not positive", _AGAIN)
        shape = [1] * value.ndim
        if scale.size > 1:
            shape[axis] = -1
        scale = scale.reshape(shape)
        integers = value.astype(np.int64) - zero_point.reshape(shape)
        return _Constant(integers * scale, np.broadcast_to(scale, value.shape))

    def _quantisation(self, node: Any, integers: str) -> Quantisation:
        """Scale and zero point, for int8, of what a node quantises or dequantises.

        `integers` is their type where there is no zero point to have it.
        """
        names = [name for name in node.input[1:] if name]
        if any(name not in self._constants for name in names):
            raise self._fail(
                node, "takes its scale from the graph", "quantise the model statically"
            )
        scale, *others = (self._constants[name].value for name in names)
        zero_point = others[0] if others else np.zeros(())
        if scale.size != 1 or zero_point.size != 1:
            raise self._fail(
                node, f"has {scale.size} scales for a map", "quantise maps with one scale each"
            )
        if others:
            integers = str(zero_point.dtype)
        if integers not in ("int8", "uint8"):
            raise self._fail(
                node, f"quantises a map to {integers}", "quantise maps to int8 or uint8"
            )
        real = float(np.float32(scale.reshape(())))
        if not 0 < real < math.inf:
            raise self._fail(node, f"has the scale {real}", _AGAIN)
        # uint8 with a zero point of z is int8 with z - 128.
        offset = 128 if integers == "uint8" else 0
        return Quantisation(real, int(zero_point.reshape(())) - offset)

    def _quantize(self, node: Any) -> None:
        source = self._map(node, host=True)
        if source.host:
            self._alias(node, source)
            return
        integers = self._integer_type(node)
        wanted = self._quantisation(node, integers)
        found = self._quantisations.get(source.source)
        if found is None:
            self._quantised(node, source, wanted)
        elif found != wanted:
            self._append(node, FloatLimit(name=node.name), source)
            source = self._maps[node.output[0]]
            self._quantised(node, source, wanted)
        self._alias(node, source, integers=integers)

    def _integer_type(self, node: Any) -> str:
        """What a node quantises to."""
        if len(node.input) > 2 and node.input[2]:
            zero_point = self._constants.get(node.input[2])
            return "" if zero_point is None else str(zero_point.value.dtype)
        wanted = _attributes(node).get("output_dtype", 0) or onnx.TensorProto.UINT8
        return str(onnx.helper.tensor_dtype_to_np_dtype(wanted))

    def _quantised(self, node: Any, source: _Map, quantisation: Quantisation) -> None:
        self._quantisations[source.source] = quantisation
        if source.single or (source.axes == "CHW" and not source.flat):
            self._tensors[source.source] = node.output[0]

    def _dequantize(self, node: Any) -> None:
        source = self._map(node, integers=True, host=True)
        if source.host:
            self._alias(node, source)
            return
        if not source.integers:
            raise self._fail(node, f"reads {node.input[0]!r}, which is not quantised", _AGAIN)
        found = self._quantisations[source.source]
        wanted = self._quantisation(node, source.integers)
        if found != wanted:
            raise self._fail(
                node,
                f"has scale {wanted.scale:g} and zero point {wanted.zero_point}, its input was "
                f"quantised with {found.scale:g} and {found.zero_point}",
                _AGAIN,
            )
        self._alias(node, source, integers="")

    # Convolutions and fully connected layers

    def _bias(self, node: Any, index: int, channels: int) -> Floats:
        if index >= len(node.input) or not node.input[index]:
            return np.zeros(channels)
        value = self._weights(node, index, ()).value
        if value.size not in (1, channels) or value.size != max(value.shape, default=1):
            raise self._fail(
                node, f"has {node.input[index]!r} of {value.size} values, not {channels}"
            )
        return np.broadcast_to(value.reshape(-1), (channels,)).copy()

    def _output_scale(
        self, node: Any, scale: Floats | None, axis: int, channels: int
    ) -> Floats | None:
        """The scale of each output channel, for weights that have one for each value."""
        if scale is None:
            return None
        rows = np.moveaxis(scale, axis, 0).reshape(channels, -1)
        if (rows != rows[:, :1]).any():
            raise self._fail(
                node,
                "has weights with a scale for each input channel",
                "quantise weights with one scale, or one an output channel",
            )
        return rows[:, 0].copy()

    def _check_integers(self, node: Any, layer: FloatConvolution) -> None:
        if layer.weight_scale is None:
            return
        integers = np.rint(layer.weights / layer.weight_scale[:, np.newaxis, np.newaxis])
        if np.abs(integers).max() > 127:
            worst = int(integers.reshape(-1)[np.abs(integers).argmax()])
            raise self._fail(
                node,
                f"has a weight of {worst} after its zero point",
                "quantise weights to int8 with a zero point of 0, and to -127..127",
            )

    def _conv(self, node: Any) -> None:
        weights = self._weights(node, 1, (3, 4, 5))
        if weights.value.ndim != 4:
            raise self._fail(
                node, f"is over {weights.value.ndim - 2} dimensions", "use two-dimensional ones"
            )
        source = self._map(node, flat=False)
        co, ci, ky, kx = weights.value.shape
        groups = _attributes(node).get("group", 1)
        if groups < 1 or co % groups:
            raise self._fail(node, f"has {groups} groups for {co} output channels")
        stride, dilation, padding = self._window(node, source, (ky, kx))
        before = self._open_pad(source)
        if before is not None:
            source = self._before(before)
            top, left, bottom, right = before.padding
            padding = padding[0] + top, padding[1] + left, padding[2] + bottom, padding[3] + right
        layer = FloatConvolution(
            name=node.name,
            kernel=(ky, kx),
            stride=stride,
            padding=padding,
            dilation=dilation,
            weights=weights.value.reshape(co, ci, -1),
            bias=self._bias(node, 2, co),
            groups=groups,
            weight_scale=self._output_scale(node, weights.scale, 0, co),
        )
        self._check_integers(node, layer)
        self._append(node, layer, source, axes="CHW", flat=False)

    def _open_pad(self, source: _Map) -> FloatPad | None:
        """A layer that pads for the one that reads `source`, and changes no scale."""
        layer = self._layers.get(source.source)
        if not isinstance(layer, FloatPad) or not source.alone:
            return None
        scale = self._quantisations.get(layer.name)
        given = self._quantisations.get(layer.inputs[0])
        return layer if scale is None or scale == given else None

    def _before(self, layer: FloatPad) -> _Map:
        """Take a padding out again: the map that it pads."""
        del self._layers[layer.name]
        node = self._nodes[layer.name]
        self._notes.append(f"node {layer.name!r} ({node.op_type}) is done by what reads it")
        return replace(self._maps[node.input[0]], integers="")

    def _window(
        self, node: Any, source: _Map, kernel: tuple[int, int]
    ) -> tuple[tuple[int, int], tuple[int, int], Padding]:
        """Stride, dilation and padding of a node's window."""
        attributes = _attributes(node)
        stride = tuple(attributes.get("strides", (1, 1)))
        dilation = tuple(attributes.get("dilations", (1, 1)))
        if len(stride) != 2 or len(dilation) != 2 or min(*stride, *dilation) < 1:
            raise self._fail(node, f"has strides {stride} and dilations {dilation}")
        auto_pad = attributes.get("auto_pad", b"NOTSET").decode()
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            pads = _same(source.shape, kernel, stride, dilation, auto_pad == "SAME_LOWER")
        else:
            pads = (0, 0, 0, 0)
            if auto_pad != "VALID":
                pads = tuple(attributes.get("pads", pads))
        if len(pads) != 4 or min(pads) < 0:
            raise self._fail(node, f"has padding {pads}")
        top, left, bottom, right = pads
        return (stride[0], stride[1]), (dilation[0], dilation[1]), (top, left, bottom, right)

    def _gemm(self, node: Any) -> None:
        attributes = _attributes(node)
        if attributes.get("transA", 0):
            raise self._fail(node, "transposes its input", "export it without transA")
        weights = self._weights(node, 1, (2,))
        value, scale = weights.value, weights.scale
        if not attributes.get("transB", 0):
            value, scale = value.T, None if scale is None else scale.T
        alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
        if scale is not None:
            scale = scale * abs(alpha)
        self._dense(node, alpha * value, scale, beta * self._bias(node, 2, len(value)))

    def _matmul(self, node: Any) -> None:
        weights = self._weights(node, 1, (2,))
        scale = None if weights.scale is None else weights.scale.T
        self._dense(node, weights.value.T, scale, np.zeros(weights.value.shape[1]))

    def _dense(self, node: Any, weights: Floats, scale: Floats | None, bias: Floats) -> None:
        """A fully connected layer: a convolution with the whole map."""
        source = self._map(node)
        height, width, channels = source.shape
        if not source.flat:
            raise self._fail(node, "reads a map that is not flattened", "put a Flatten before it")
        co, features = weights.shape
        if features != height * width * channels:
            raise self._fail(
                node, f"takes {features} features, its input has {height * width * channels}"
            )
        sizes = dict(zip("HWC", source.shape, strict=True))
        order = weights.reshape(co, *(sizes[axis] for axis in source.axes))
        order = order.transpose(0, *(1 + source.axes.index(axis) for axis in "CHW"))
        layer = FloatConvolution(
            name=node.name,
            kernel=(height, width),
            weights=order.reshape(co, channels, height * width),
            bias=bias,
            dense=True,
            weight_scale=self._output_scale(node, scale, 0, co),
        )
        self._check_integers(node, layer)
        self._append(node, layer, source, axes="CHW", flat=True)

    # A scale and an offset a channel

    def _affine(self, node: Any, source: _Map, gain: Floats, offset: Floats) -> None:
        """gain * x + offset: part of the convolution before it, or one of a tap."""
        layer = self._open(source)
        if isinstance(layer, FloatConvolution) and math.isinf(layer.low) and math.isinf(layer.high):
            scale = layer.weight_scale
            if scale is not None:
                scale = np.where(gain == 0, 1, scale * np.abs(gain))
            self._layers[layer.name] = replace(
                layer,
                weights=layer.weights * gain[:, np.newaxis, np.newaxis],
                bias=layer.bias * gain + offset,
                weight_scale=scale,
            )
            self._alias(node, source)
            return
        channels = len(gain)
        scaling = FloatConvolution(
            name=node.name,
            kernel=(1, 1),
            weights=gain.reshape(channels, 1, 1),
            bias=offset,
            groups=channels,
        )
        self._append(node, scaling, source)

    def _batch_normalization(self, node: Any) -> None:
        source = self._map(node)
        channels = source.shape[2]
        if _attributes(node).get("training_mode", 0):
            raise self._fail(node, "is in training mode", _EVALUATION)
        if source.axes[0] != "C" or (source.flat and not source.single):
            raise self._fail(node, "does not normalise channels", "put it before the Flatten")
        scale, offset, mean, variance = (self._bias(node, i, channels) for i in range(1, 5))
        epsilon = _attributes(node).get("epsilon", 1e-5)
        if (variance + epsilon <= 0).any():
            raise self._fail(node, "has a variance that is not positive", "train it again")
        gain = scale / np.sqrt(variance + epsilon)
        self._affine(node, source, gain, offset - mean * gain)

    def _arithmetic(self, node: Any) -> None:
        """Add, Sub, Mul or Div: of two maps, or of a map and a constant a channel."""
        constant = [name in self._constants for name in node.input]
        if not any(constant):
            self._two_maps(node)
            return
        where = constant.index(False)
        if where and node.op_type in ("Sub", "Div"):
            raise self._fail(
                node, f"has the constant {node.input[0]!r} first", "use a Mul and an Add instead"
            )
        source = self._map(node, where)
        channels = source.shape[2]
        value = self._weights(node, 1 - where, ()).value
        # Which axis of the constant is the channels', counted from the end.
        behind = 0 if source.flat else 2 - source.axes.index("C")
        axis = value.ndim - 1 - behind
        if value.size > 1 and not (
            0 <= axis < value.ndim
            and value.shape[axis] == value.size == channels
            and (not source.flat or source.single)
        ):
            raise self._fail(
                node,
                f"has {node.input[1 - where]!r} of shape {value.shape} for {channels} channels",
                "use a constant for each channel, or one for all",
            )
        values = np.broadcast_to(value.reshape(-1), (channels,))
        one, none = np.ones(channels), np.zeros(channels)
        if node.op_type == "Div" and not values.all():
            raise self._fail(node, "divides by 0")
        gain, offset = {
            "Add": lambda: (one, values),
            "Sub": lambda: (one, -values),
            "Mul": lambda: (values, none),
            "Div": lambda: (one / values, none),
        }[node.op_type]()
        self._affine(node, source, gain, offset)

    def _two_maps(self, node: Any) -> None:
        if node.op_type not in ("Add", "Mul"):
            raise self._fail(
                node, "takes two maps", "use Add" if node.op_type == "Sub" else "use Mul"
            )
        sources = self._map(node, 0), self._map(node, 1)
        self._same_layout(node, sources)
        if node.op_type == "Add" and sources[0].shape != sources[1].shape:
            raise self._fail(
                node,
                f"adds maps of shapes {sources[0].shape} and {sources[1].shape}",
                "add maps of the same shape; only a Mul takes one pixel for all",
            )
        kind = FloatAdd if node.op_type == "Add" else FloatMultiply
        axes = max(sources, key=lambda source: source.shape)
        self._append(node, kind(name=node.name), *sources, axes=axes.axes, flat=axes.flat)

    def _same_layout(self, node: Any, sources: Sequence[_Map]) -> None:
        # A flattened pixel has no order of axes, nor has a single value.
        free = ((one.single and one.flat) or one.shape == (1, 1, 1) for one in sources)
        ordered = [one for one, any_order in zip(sources, free, strict=True) if not any_order]
        if len({(one.axes, one.flat) for one in ordered}) > 1:
            raise self._fail(
                node, "takes maps whose axes are in different order", "transpose both or none"
            )
        flat = {source.flat for source in sources}
        if len(flat) > 1:
            raise self._fail(
                node,
                "takes a flattened map and one that is not",
                "give both the shape [N, channels, 1, 1]",
            )

    # Activations

    def _limit(self, node: Any, low: float, high: float) -> None:
        source = self._map(node)
        if low > high:
            raise self._fail(node, f"leaves nothing: {low} to {high}")
        layer = self._open(source)
        if not isinstance(layer, _LIMITABLE):
            self._append(node, FloatLimit(name=node.name, low=low, high=high), source)
            return
        low, high = max(layer.low, low), min(layer.high, high)
        if low > high:
            raise self._fail(node, f"leaves nothing: {low} to {high}")
        self._layers[layer.name] = replace(layer, low=low, high=high)
        self._alias(node, source)

    def _relu(self, node: Any) -> None:
        self._limit(node, 0.0, math.inf)

    def _clip(self, node: Any) -> None:
        attributes = _attributes(node)
        limits = []
        for index, name, default in ((1, "min", -math.inf), (2, "max", math.inf)):
            value = attributes.get(name, default)
            if index < len(node.input) and node.input[index]:
                constant = self._constants.get(node.input[index])
                if constant is None or constant.value.size != 1:
                    raise self._fail(
                        node,
                        f"has no constant number {node.input[index]!r} as {name}",
                        "give one constant for each limit",
                    )
                value = float(constant.value.reshape(()))
                if math.isnan(value):
                    raise self._fail(node, f"has NaN as {name}", "train it again")
            limits.append(float(value))
        self._limit(node, *limits)

    def _function(self, node: Any) -> None:
        attributes = _attributes(node)
        function = _FUNCTIONS.get(node.op_type)
        if function is None:  # HardSigmoid
            alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
            function = partial(_hard_sigmoid, alpha=alpha, beta=beta)
        self._append(node, FloatFunction(name=node.name, function=function), self._map(node))

    def _softmax(self, node: Any) -> None:
        source = self._map(node)
        name = node.name or node.output[0]
        self._notes.append(
            f"node {name!r} (Softmax) is left to the host: outputs are its inputs, and the largest "
            "stays the largest"
        )
        self._alias(node, source, host=name)

    # Pooling and padding

    def _pool(self, node: Any) -> None:
        source = self._map(node, integers=node.op_type == "MaxPool", flat=False)
        attributes = _attributes(node)
        kernel = tuple(attributes["kernel_shape"])
        if len(kernel) != 2 or len(node.output) > 1:
            raise self._fail(
                node, "pools other than two dimensions, or gives indices", "use a plain one"
            )
        stride, dilation, padding = self._window(node, source, (kernel[0], kernel[1]))
        if dilation != (1, 1):
            raise self._fail(node, f"has dilations {dilation}", "pool without dilation")
        average = node.op_type == "AveragePool"
        counted = average and bool(attributes.get("count_include_pad", 0))
        if attributes.get("ceil_mode", 0):
            rounded = _ceil(source.shape, kernel, stride, padding)
            if counted and rounded != padding:
                raise self._fail(
                    node, "rounds its size up and counts padding", "export it without ceil_mode"
                )
            padding = rounded
        layer: FloatLayer
        if counted and any(padding):
            # Zeros that count are those of a convolution.
            channels, taps = source.shape[2], kernel[0] * kernel[1]
            layer = FloatConvolution(
                name=node.name,
                kernel=(kernel[0], kernel[1]),
                stride=stride,
                padding=padding,
                weights=np.full((channels, 1, taps), 1 / taps),
                bias=np.zeros(channels),
                groups=channels,
                weight_scale=np.full(channels, 1 / taps),
            )
        else:
            layer = FloatPooling(
                name=node.name,
                mode="average" if average else "maximum",
                kernel=(kernel[0], kernel[1]),
                stride=stride,
                padding=padding,
            )
        self._append(node, layer, source)

    def _mean(self, node: Any) -> None:
        source = self._map(node, flat=False)
        keep = True
        if node.op_type == "ReduceMean":
            axes = self._integers(node, 1, "axes")
            keep = bool(_attributes(node).get("keepdims", 1))
            if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
                raise self._fail(
                    node, f"takes the mean over axes {axes}", "take the mean over height and width"
                )
        self._append(node, FloatMean(name=node.name), source, flat=not keep)

    def _concat(self, node: Any) -> None:
        sources = [self._map(node, index) for index in range(len(node.input))]
        self._same_layout(node, sources)
        axis = _attributes(node).get("axis", 0)
        rank = 2 if sources[0].flat else 4
        axes = ("N", "C") if sources[0].flat else ("N", *sources[0].axes)
        mixed = sources[0].flat and not all(source.single for source in sources)
        if not -rank <= axis < rank or axes[axis] != "C" or mixed:
            raise self._fail(node, f"concatenates along axis {axis}", "concatenate channels")
        self._append(node, FloatConcatenation(name=node.name), *sources)

    def _pad(self, node: Any) -> None:
        source = self._map(node, integers=True, flat=False)
        attributes = _attributes(node)
        mode = attributes.get("mode", b"constant").decode()
        pads = self._integers(node, 1, "pads")
        chosen = self._integers(node, 3)
        if mode != "constant" or pads is None or chosen is not None or len(pads) != 8:
            raise self._fail(
                node, f"pads with mode {mode} and {pads}", "pad height and width with zeros"
            )
        value = float(attributes.get("value", 0.0))
        if source.integers and not (len(node.input) > 2 and node.input[2]):
            raise self._fail(node, "pads integers with 0", "pad with the zero point")
        if len(node.input) > 2 and node.input[2]:
            constant = self._constants.get(node.input[2])
            if constant is None or constant.value.size != 1:
                raise self._fail(node, "takes its value from the graph", "pad with zeros")
            value = float(constant.value.reshape(()))
            if source.integers:
                offset = 128 if constant.value.dtype == np.uint8 else 0
                value -= offset + self._quantisations[source.source].zero_point
        if value != 0:
            raise self._fail(node, f"pads with {value:g}", "pad with zeros")
        if any(pads[axis] for axis in (0, 1, 4, 5)) or min(pads) < 0:
            raise self._fail(node, f"pads {pads}", "pad height and width only, and cut nothing")
        layer = FloatPad(name=node.name, padding=(pads[2], pads[3], pads[6], pads[7]))
        self._append(node, layer, source)

    # Layout

    def _dropout(self, node: Any) -> None:
        if len(node.input) > 2 and node.input[2]:
            training = self._constants.get(node.input[2])
            if training is None or training.value.any():
                raise self._fail(node, "is in training mode", _EVALUATION)
        self._identity(node)

    def _identity(self, node: Any) -> None:
        self._alias(node, self._map(node, integers=True))

    def _transpose(self, node: Any) -> None:
        source = self._map(node, integers=True)
        perm = list(_attributes(node).get("perm", ()))
        if source.flat:
            if perm != [0, 1]:
                raise self._fail(node, f"permutes axes {perm}", "keep samples first")
            self._alias(node, source)
            return
        if len(perm) != 4 or perm[0] != 0 or sorted(perm) != [0, 1, 2, 3]:
            raise self._fail(node, f"permutes axes {perm}", "keep samples first")
        axes = "".join(source.axes[axis - 1] for axis in perm[1:])
        self._alias(node, source, axes=axes)

    def _flatten(self, node: Any) -> None:
        source = self._map(node, integers=True)
        if _attributes(node).get("axis", 1) not in ((1, -1) if source.flat else (1, -3)):
            raise self._fail(node, "does not flatten from axis 1", "export it with axis=1")
        self._alias(node, source, flat=True)

    def _shape(self, node: Any) -> None:
        """One sample's shape: a constant, from which exporters compute flattened ones."""
        shape = np.array([1, *_dimensions(self._map(node, integers=True))], np.int64)
        attributes = _attributes(node)
        self._constants[node.output[0]] = _Constant(
            shape[attributes.get("start", 0) : attributes.get("end")]
        )

    def _layout(self, node: Any) -> None:
        """Reshape, Squeeze or Unsqueeze: to one axis, or to [N, C, 1, 1]."""
        source = self._map(node, integers=True)
        shape = _dimensions(source)
        features = math.prod(shape)
        if node.op_type == "Reshape":
            wanted = self._integers(node, 1) or []
            wanted = [
                (0, *shape)[axis] if n == 0 and 0 < axis <= len(shape) else n
                for axis, n in enumerate(wanted)
            ][1:]
            if wanted.count(-1) == 1:
                rest = math.prod(n for n in wanted if n != -1)
                wanted = [features // max(rest, 1) if n == -1 else n for n in wanted]
        else:
            axes = self._integers(node, 1, "axes") or []
            rank = 1 + len(shape)
            if node.op_type == "Squeeze":
                removed = {axis % rank for axis in axes}
                wanted = [n for axis, n in enumerate(shape, 1) if axis not in removed]
                if any((0, *shape)[axis] != 1 for axis in removed):
                    wanted = []
            else:
                rank += len(axes)
                added = {axis % rank for axis in axes}
                left = iter(shape)
                wanted = []
                if 0 not in added and len(added) == len(axes):
                    wanted = [1 if axis in added else next(left) for axis in range(1, rank)]
        if wanted == [features]:
            self._alias(node, source, flat=True)
        elif wanted == [source.shape[2], 1, 1] and source.single:
            self._alias(node, source, flat=False, axes="CHW")
        elif wanted == shape:
            self._alias(node, source)
        else:
            raise self._fail(
                node, f"makes {wanted} of {shape}: more than flatten the map", "use Flatten"
            )


def _dimensions(source: _Map) -> list[int]:
    """What the model calls the shape of one sample's map."""
    if source.flat:
        return [math.prod(source.shape)]
    sizes = dict(zip("HWC", source.shape, strict=True))
    return [sizes[axis] for axis in source.axes]


def _sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)), x.dtype)


def _hard_sigmoid(x: Floats, alpha: float, beta: float) -> Floats:
    return np.clip(x.dtype.type(alpha) * x + x.dtype.type(beta), 0, 1)


def _hard_swish(x: Floats) -> Floats:
    return x * _hard_sigmoid(x, 1 / 6, 0.5)


_FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "HardSwish": _hard_swish,
    "Sigmoid": _sigmoid,
    "Tanh": np.tanh,
}


def _same(
    shape: Shape,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    low: bool,
) -> tuple[int, ...]:
    """Padding that auto_pad stands for."""
    before, after = [], []
    for size, k, s, d in zip(shape[:2], kernel, stride, dilation, strict=True):
        total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
        less, more = total // 2, total - total // 2
        before.append(more if low else less)
        after.append(less if low else more)
    return *before, *after


def _ceil(
    shape: Shape, kernel: tuple[int, ...], stride: tuple[int, ...], padding: Padding
) -> Padding:
    """Padding with which a size that is rounded up comes out."""
    after = []
    for axis in range(2):
        size, before = shape[axis], padding[axis]
        padded = size + before + padding[axis + 2]
        count = -(-(padded - kernel[axis]) // stride[axis]) + 1
        if (count - 1) * stride[axis] >= size + before:
            count -= 1  # No window begins behind the map.
        reach = (count - 1) * stride[axis] + kernel[axis]
        after.append(max(0, reach - size - before))
    return padding[0], padding[1], after[0], after[1]


def _names(node: Any) -> list[Any]:
    return [node.name, node.op_type, node.domain, *node.input, *node.output]


def _attributes(node: Any) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
