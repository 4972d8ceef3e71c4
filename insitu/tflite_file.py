"""What a `.tflite` file holds, as plain data: tensors and operators of its one graph.

The flatbuffer is read with the package `tflite`. Offsets in a damaged file lead anywhere: whatever
that brings is one message, and no length is believed that the file is too short for.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from numpy.typing import NDArray

from insitu.errors import ModelError
from insitu.files import read_file

__all__ = ["Graph", "Operator", "Tensor", "read_tflite"]

_DAMAGED = "copy the file again, or convert the model again"
_DTYPES = {
    "FLOAT32": "<f4",
    "INT32": "<i4",
    "INT64": "<i8",
    "INT8": "<i1",
    "UINT8": "<u1",
}


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


_OPERATORS = _names(tflite.BuiltinOperator)
_TYPES = _names(tflite.TensorType)

_OPTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "ADD": (tflite.AddOptions, ("FusedActivationFunction",)),
    "AVERAGE_POOL_2D": (
        tflite.Pool2DOptions,
        (
            "Padding",
            "StrideH",
            "StrideW",
            "FilterHeight",
            "FilterWidth",
            "FusedActivationFunction",
        ),
    ),
    "CONCATENATION": (tflite.ConcatenationOptions, ("Axis", "FusedActivationFunction")),
    "CONV_2D": (
        tflite.Conv2DOptions,
        (
            "Padding",
            "StrideH",
            "StrideW",
            "DilationHFactor",
            "DilationWFactor",
            "FusedActivationFunction",
        ),
    ),
    "DEPTHWISE_CONV_2D": (
        tflite.DepthwiseConv2DOptions,
        (
            "Padding",
            "StrideH",
            "StrideW",
            "DilationHFactor",
            "DilationWFactor",
            "FusedActivationFunction",
        ),
    ),
    "FULLY_CONNECTED": (
        tflite.FullyConnectedOptions,
        ("WeightsFormat", "KeepNumDims", "FusedActivationFunction"),
    ),
    "MEAN": (tflite.ReducerOptions, ("KeepDims",)),
    "MUL": (tflite.MulOptions, ("FusedActivationFunction",)),
}
_OPTIONS["MAX_POOL_2D"] = _OPTIONS["AVERAGE_POOL_2D"]


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the graph.

    Parameters
    ----------
    index : int
    name : str
    shape : tuple of int
    dynamic : tuple of int
        Axes whose length the file leaves open.
    type : str
        As the schema calls it: "INT8", "FLOAT32", ...
    scales : float32 [n]
        Empty where there is no quantisation, one, or one for each index along `axis`.
    zero_points : int64 [n]
    axis : int
    data : array or None
        Of the tensor's shape, for a constant of a type that the importer reads.
    constant : bool
    odd : str
        What is out of the ordinary: sparse, a variable, ...; empty if nothing is.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dynamic: tuple[int, ...]
    type: str
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    axis: int
    data: NDArray[Any] | None
    constant: bool
    odd: str


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator of the graph.

    Parameters
    ----------
    index : int
    name : str
        As the schema calls it: "CONV_2D", ...; "CUSTOM x" for a custom operator.
    version : int
    inputs, outputs : tuple of int
        Tensors; -1 for one that is left out.
    options : mapping
        Those that the importer reads, as the schema calls them; empty if the file has none.
    """

    index: int
    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Graph:
    """A model's only graph.

    Parameters
    ----------
    source : str
        What messages call the file.
    tensors : tuple of Tensor
    operators : tuple of Operator
    inputs, outputs : tuple of int
        Tensors.
    """

    source: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_tflite(path: str | Path) -> Graph:
    """Read a `.tflite` file.

    Raises
    ------
    FileError
        If the file cannot be read.
    ModelError
        If it is not an undamaged model of one graph.
    """
    data = read_file(path, "model")
    source = f"model {path}"
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise ModelError(f"{source} is truncated or no TensorFlow Lite model", _DAMAGED)
    try:
        return _Reader(data, source).graph()
    except (
        struct.error,
        ValueError,
        TypeError,
        IndexError,
        OverflowError,
        AttributeError,
        MemoryError,
    ) as error:
        reason = str(error) or type(error).__name__
        raise ModelError(f"{source} is truncated or corrupt: {reason}", _DAMAGED) from None


class _Reader:
    def __init__(self, data: bytes, source: str):
        self._size = len(data)
        self._source = source
        self._model = tflite.Model.GetRootAs(data, 0)

    def _count(self, number: int) -> range:
        if not 0 <= number <= self._size:
            raise ValueError(f"a list of {number} elements")
        return range(number)

    def _row(self, values: Any, dtype: str) -> NDArray[Any]:
        """A vector of the flatbuffer; the package gives 0 for one that is not there."""
        return np.zeros(0, dtype) if isinstance(values, int) else np.asarray(values, dtype)

    def graph(self) -> Graph:
        model = self._model
        if model.Version() != 3:
            raise ModelError(
                f"{self._source} has schema version {model.Version()}, this insitu reads 3",
                "convert the model again with a newer converter",
            )
        if model.SubgraphsLength() != 1:
            raise ModelError(
                f"{self._source} has {model.SubgraphsLength()} graphs, not one",
                "convert the model without control flow",
            )
        graph = model.Subgraphs(0)
        tensors = tuple(self._tensor(graph, n) for n in self._count(graph.TensorsLength()))
        operators = tuple(
            self._operator(graph, n, len(tensors)) for n in self._count(graph.OperatorsLength())
        )
        return Graph(
            self._source,
            tensors,
            operators,
            self._indices(graph.InputsAsNumpy(), len(tensors)),
            self._indices(graph.OutputsAsNumpy(), len(tensors)),
        )

    def _indices(self, values: Any, tensors: int, low: int = 0) -> tuple[int, ...]:
        indices = tuple(int(n) for n in self._row(values, "<i4"))
        for index in indices:
            if not low <= index < tensors:
                raise ValueError(f"tensor {index} of {tensors}")
        return indices

    def _tensor(self, graph: Any, index: int) -> Tensor:
        tensor = graph.Tensors(index)
        shape = tuple(int(n) for n in self._row(tensor.ShapeAsNumpy(), "<i4"))
        signature = self._row(tensor.ShapeSignatureAsNumpy(), "<i4")
        kind = _TYPES.get(tensor.Type(), f"of type {tensor.Type()}")
        odd = ""
        if tensor.Sparsity() is not None:
            odd = "is sparse"
        elif tensor.IsVariable():
            odd = "is a variable"
        scales, zero_points, axis = np.zeros(0, np.float32), np.zeros(0, np.int64), 0
        quantization = tensor.Quantization()
        if quantization is not None:
            scales = self._row(quantization.ScaleAsNumpy(), "<f4")
            zero_points = self._row(quantization.ZeroPointAsNumpy(), "<i8")
            axis = quantization.QuantizedDimension()
            if len(zero_points) not in (len(scales), 0):
                raise ValueError(
                    f"tensor {index} with {len(scales)} scales and {len(zero_points)} zero points"
                )
            if not len(zero_points):
                zero_points = np.zeros(len(scales), np.int64)
            if quantization.DetailsType():
                odd = "has a quantisation of another kind"
        data, constant = self._data(tensor, index, shape, kind)
        return Tensor(
            index=index,
            name=(tensor.Name() or b"").decode("utf-8", "replace"),
            shape=shape,
            dynamic=tuple(int(n) for n in np.flatnonzero(signature < 0)),
            type=kind,
            scales=scales,
            zero_points=zero_points,
            axis=axis,
            data=data,
            constant=constant,
            odd=odd,
        )

    def _data(
        self, tensor: Any, index: int, shape: tuple[int, ...], kind: str
    ) -> tuple[NDArray[Any] | None, bool]:
        number = tensor.Buffer()
        if not 0 <= number < self._model.BuffersLength():
            raise ValueError(f"tensor {index} in buffer {number} of {self._model.BuffersLength()}")
        buffer = self._model.Buffers(number)
        if buffer.Size() > 1:
            raise ModelError(
                f"{self._source} keeps the data of tensor {index} outside its flatbuffer",
                "convert the model into one file of less than 2 GB",
            )
        content = self._row(buffer.DataAsNumpy(), "u1")
        if not len(content):
            return None, False
        if kind not in _DTYPES:
            return None, True
        wanted = int(np.prod(shape, dtype=np.int64)) * np.dtype(_DTYPES[kind]).itemsize
        if min(shape, default=1) < 0 or len(content) != wanted:
            raise ValueError(f"tensor {index} of shape {shape} with {len(content)} bytes of data")
        return content.view(_DTYPES[kind]).reshape(shape), True

    def _operator(self, graph: Any, index: int, tensors: int) -> Operator:
        operator = graph.Operators(index)
        number = operator.OpcodeIndex()
        if not 0 <= number < self._model.OperatorCodesLength():
            raise ValueError(f"operator {index} of kind {number}")
        code = self._model.OperatorCodes(number)
        # Files from before there were more than 127 operators have only the deprecated field.
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = _OPERATORS.get(builtin, f"number {builtin}")
        if name == "CUSTOM":
            name = f"CUSTOM {(code.CustomCode() or b'').decode('utf-8', 'replace')}"
        options: dict[str, int] = {}
        table = operator.BuiltinOptions()
        if name in _OPTIONS and table is not None:
            kind, fields = _OPTIONS[name]
            if operator.BuiltinOptionsType() != getattr(tflite.BuiltinOptions, kind.__name__):
                raise ValueError(f"operator {index}, {name}, with options of another operator")
            reader = kind()
            reader.Init(table.Bytes, table.Pos)
            options = {field: int(getattr(reader, field)()) for field in fields}
        return Operator(
            index=index,
            name=name,
            version=code.Version(),
            inputs=self._indices(operator.InputsAsNumpy(), tensors, -1),
            outputs=self._indices(operator.OutputsAsNumpy(), tensors),
            options=options,
        )
