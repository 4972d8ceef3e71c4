"""LiteRT, the runtime of `.tflite` files, as an oracle: one sample at a time, on one thread."""

import importlib
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from numpy.typing import NDArray

from insitu.errors import InputError, ModelError
from insitu.files import read_file

__all__ = ["LiteRT"]

Int8 = NDArray[np.int8]


class LiteRT:
    """A `.tflite` file in LiteRT.

    Parameters
    ----------
    path : path
    reference : bool
        The reference kernels, which the specification of TFLite is about, and every tensor kept;
        otherwise the default ones, which are made for speed.
    output : int, optional
        The tensor to give, which the default kernels need to know beforehand.

    Raises
    ------
    FileError
        If the file cannot be read.
    InputError
        If LiteRT is not installed.
    ModelError
        If LiteRT does not take the model.
    """

    def __init__(self, path: str | Path, *, reference: bool, output: int | None = None):
        try:
            interpreter = importlib.import_module("ai_edge_litert.interpreter")
        except ImportError:
            raise InputError(
                "LiteRT, which --compare needs for a .tflite, is not installed",
                "install it: pip install ai-edge-litert",
            ) from None
        data = read_file(path, "model")
        if output is not None:
            data = _with_output(data, output)
        resolvers = interpreter.OpResolverType
        try:
            self._runtime: Any = interpreter.Interpreter(
                model_content=data,
                experimental_op_resolver_type=(
                    resolvers.BUILTIN_REF if reference else resolvers.BUILTIN
                ),
                experimental_preserve_all_tensors=reference,
                num_threads=1,
            )
            self._runtime.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                f"LiteRT does not take model {path}: {error}", "convert the model again"
            ) from None
        (self._input,) = self._runtime.get_input_details()
        self.version = f"LiteRT {metadata.version('ai-edge-litert')}"

    def run(self, x: Int8 | NDArray[np.float32]) -> None:
        """Compute one sample [H, W, C], of int8 or float32 as the model takes it."""
        self._runtime.set_tensor(self._input["index"], x.reshape(self._input["shape"]))
        self._runtime.invoke()

    def output(self) -> NDArray[Any]:
        """The model's output for the last sample, flat."""
        return self.tensor(self._runtime.get_output_details()[0]["index"])

    def tensor(self, index: int) -> NDArray[Any]:
        """A tensor of the last sample, flat: with the default kernels only `output`."""
        values: NDArray[Any] = self._runtime.get_tensor(index).reshape(-1)
        return values


def _with_output(data: bytes, tensor: int) -> bytes:
    """The file with another tensor as its one output."""
    graph = tflite.Model.GetRootAs(data, 0).Subgraphs(0)
    field = graph._tab.Offset(8)  # the slot of `outputs` in the schema
    changed = bytearray(data)
    start = graph._tab.Vector(field)
    changed[start : start + 4] = tensor.to_bytes(4, "little")
    return bytes(changed)
