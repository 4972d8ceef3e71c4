"""Import a network in floating point from a `.tflite` file.

The operators are those of `insitu.import_tflite`, and so are the layers' names; maps and weights
are of float32. Weights that are kept as int8 with scales ("hybrid" models) become what they stand
for; LiteRT's own kernels for them round each layer's input to 8 bits too, which is left out here.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from insitu.errors import ModelError
from insitu.float_network import (
    FloatAdd,
    FloatConcatenation,
    FloatConvolution,
    FloatFunction,
    FloatLimit,
    FloatMean,
    FloatMultiply,
    FloatNetwork,
    FloatPad,
    FloatPooling,
)
from insitu.import_tflite import Importer, Padding, SourceMap
from insitu.tflite_file import Operator, Tensor, read_tflite

__all__ = ["holds_floats", "import_float_tflite"]

Floats = NDArray[np.floating[Any]]


def holds_floats(path: str | Path) -> bool:
    """Whether the input of the model in a `.tflite` file is in floating point.

    Raises
    ------
    FileError
        If the file cannot be read.
    ModelError
        If it is damaged.
    """
    graph = read_tflite(path)
    return any(graph.tensors[index].type == "FLOAT32" for index in graph.inputs)


def import_float_tflite(path: str | Path) -> FloatNetwork:
    """Read a network in floating point from a `.tflite` file.

    Raises
    ------
    FileError
        If the file cannot be read.
    ModelError
        If it is damaged or holds what cannot be imported; names the operator.
    """
    return _FloatImporter(read_tflite(path)).network(Path(path).stem)


class _FloatImporter(Importer):
    """The walk over the operators is the same; every map has scale 1 and zero point 0."""

    def network(self, name: str) -> FloatNetwork:
        """The imported network."""
        given, _ = self._walk()
        return FloatNetwork(name, given.shape, tuple(self._layers), notes=tuple(self._notes))

    def _quantisation(self, tensor: Tensor, where: str) -> tuple[np.float32, int]:
        if tensor.type != "FLOAT32":
            raise ModelError(
                f"{where} is {tensor.type.lower()}, and the model's input float32",
                "convert the model to int8 throughout, or to float32 throughout",
            )
        if tensor.odd:
            raise ModelError(f"{where} {tensor.odd}", "convert the model without it")
        return np.float32(1), 0

    def _weights(
        self, operator: Operator, channels: int, axis: int, data: Sequence[int]
    ) -> tuple[Tensor, Any, Any]:
        tensor = self._operand(operator, 1)
        where = self._where(operator, "weights", tensor)
        tensor = self._constant(operator, 1, "INT8" if tensor.type == "INT8" else "FLOAT32")
        if tensor.odd:
            raise ModelError(f"{where} {tensor.odd}", "convert the model without it")
        if tensor.shape != tuple(data):
            raise self._fail(operator, f"has weights of shape {list(tensor.shape)}, not {data}")
        if tensor.type == "INT8":
            tensor = self._dequantised(tensor, where, channels, axis)
        self._check_finite(operator, tensor)
        bias = np.zeros(channels)
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            found = self._constant(operator, 2, "FLOAT32")
            if found.data is None or found.shape != (channels,):
                raise self._fail(
                    operator, f"has a bias of shape {list(found.shape)}, not [{channels}]"
                )
            self._check_finite(operator, found)
            bias = found.data.astype(np.float64)
        return tensor, np.ones(channels), bias

    def _check_hybrid(self) -> None:
        """Int8 weights are dequantised."""

    def _dequantised(self, tensor: Tensor, where: str, channels: int, axis: int) -> Tensor:
        scales = self._weight_scales(tensor, where, channels, axis)
        shape = [1] * len(tensor.shape)
        shape[axis] = len(scales)
        self._notes.append(f"{where} are int8, and were dequantised")
        return replace(tensor, data=np.asarray(tensor.data) * scales.reshape(shape))

    def _check_finite(self, operator: Operator, tensor: Tensor) -> None:
        if not np.isfinite(np.asarray(tensor.data)).all():
            raise self._fail(
                operator, f"has infinities or NaN in {tensor.name!r}", "train the model again"
            )

    def _linear(
        self, operator: Operator, source: SourceMap, W: Any, scales: Any, bias: Any, **geometry: Any
    ) -> None:
        names = ("kernel", "stride", "padding", "dilation", "groups")
        self._emit_limited(
            operator,
            FloatConvolution,
            source,
            weights=W.astype(np.float64),
            bias=bias,
            dense=operator.name == "FULLY_CONNECTED",
            **{name: geometry[name] for name in names if name in geometry},
        )

    def _emit_limited(
        self, operator: Operator, layer: Callable[..., Any], *sources: SourceMap, **values: object
    ) -> None:
        """A layer with the limits of the fused activation."""
        low, high = self._activation(operator)
        self._emit(operator, layer, *sources, low=low, high=high, **values)

    def _pooling(self, operator: Operator, source: SourceMap, **geometry: object) -> None:
        self._emit_limited(operator, FloatPooling, source, **geometry)

    def _mean(self, operator: Operator) -> None:
        self._emit(operator, FloatMean, self._mean_source(operator))

    def _add(self, operator: Operator) -> None:
        sources = [self._map(operator, number, flat=True) for number in range(2)]
        self._emit_limited(operator, FloatAdd, *sources)

    def _multiply(self, operator: Operator) -> None:
        sources = [self._map(operator, number) for number in range(2)]
        self._emit_limited(operator, FloatMultiply, *sources)

    def _concatenated(self, operator: Operator, *sources: SourceMap) -> None:
        self._emit(operator, FloatConcatenation, *sources)

    def _rescale(self, operator: Operator, limits: tuple[float, float]) -> None:
        if operator.name == "QUANTIZE":
            raise self._fail(
                operator,
                "quantises a map of a network in floating point",
                "convert the model to int8 throughout, or to float32 throughout",
            )
        low, high = limits
        self._emit(operator, FloatLimit, self._map(operator, 0, flat=True), low=low, high=high)

    def _table(self, operator: Operator) -> None:
        source = self._map(operator, 0, flat=True)
        self._emit(operator, FloatFunction, source, function=_FUNCTIONS[operator.name])

    def _padded(self, operator: Operator, source: SourceMap, padding: Padding) -> None:
        self._emit(operator, FloatPad, source, padding=padding)


def _logistic(x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def _hard_swish(x: Floats) -> Floats:
    return x * np.clip(x + 3, 0, 6) / 6


_FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "HARD_SWISH": _hard_swish,
    "LOGISTIC": _logistic,
    "TANH": np.tanh,
}
