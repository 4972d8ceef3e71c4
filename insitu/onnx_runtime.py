"""ONNX Runtime, the runtime of `.onnx` files, as an oracle: on one thread."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from insitu.errors import InputError, ModelError
from insitu.files import read_file

__all__ = ["ONNXRuntime"]


class ONNXRuntime:
    """An `.onnx` file in ONNX Runtime.

    Parameters
    ----------
    path : path
    tensors : sequence of str, optional
        What to compute instead of the model's outputs.
    reference : bool, optional
        Each node by itself, as ONNX defines it: quantised models then compute in real numbers
        between DequantizeLinear and QuantizeLinear. Otherwise nodes are fused into faster ones.

    Raises
    ------
    FileError
        If the file cannot be read.
    InputError
        If ONNX Runtime is not installed.
    ModelError
        If ONNX Runtime does not take the model.
    """

    def __init__(self, path: str | Path, tensors: Sequence[str] = (), *, reference: bool = False):
        try:
            runtime = importlib.import_module("onnxruntime")
        except ImportError:
            raise InputError(
                "ONNX Runtime, which --compare needs for an .onnx, is not installed",
                "install it: pip install onnxruntime",
            ) from None
        self.version = f"ONNX Runtime {runtime.__version__}"
        model = onnx.load_model_from_string(read_file(path, "model"))
        if tensors:
            del model.graph.output[:]
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if reference:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session: Any = runtime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # Its own exceptions have no common class.
            raise ModelError(
                f"ONNX Runtime does not take model {path}: {error}", "export the model again"
            ) from None
        (self._input,) = self._session.get_inputs()

    def run(self, x: NDArray[np.float32]) -> list[NDArray[Any]]:
        """The tensors for one sample, float32 [C, H, W]; those of uint8 as int8, less 128."""
        given = x.reshape(1, *self._input.shape[1:])
        return [
            (y.astype(np.int16) - 128).astype(np.int8) if y.dtype == np.uint8 else y
            for y in self._session.run(None, {self._input.name: given})
        ]
