"""Run a network's golden model over a whole set, and compare it with a runtime nobody here wrote.

For a `.tflite` that runtime is LiteRT: its reference kernels, which golden has to equal, and its
default kernels, tensor by tensor. For an `.onnx` it is ONNX Runtime in floating point, of which
only the classes can be compared.
"""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.network import Network, run
from insitu.errors import InputError
from insitu.files import read_arrays
from insitu.litert import LiteRT
from insitu.models import Model
from insitu.quantise import check_inputs, check_labels, quantise_inputs

__all__ = ["Inputs", "evaluate", "read_inputs"]

Int8 = NDArray[np.int8]
Progress = Callable[[int, int | None, str], None]

_FORMAT = "save them with numpy.savez(FILE, inputs=array)"
_BATCH = 100
"""Samples whose every tensor is in memory at a time."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """A set of inputs.

    Parameters
    ----------
    integers : int8 [N, H, W, C]
    real : float32 [N, H, W, C] or None
        As they were before quantisation, where the file has them so.
    labels : int64 [N] or None
    """

    integers: Int8
    real: NDArray[np.float32] | None
    labels: NDArray[np.int64] | None


def read_inputs(
    path: str | Path,
    network: Network,
    *,
    channels_last: bool = False,
    samples: int | None = None,
) -> Inputs:
    """Read inputs, and labels where there are any, from an .npz file.

    `inputs` are either int8 [N, H, W, C], quantised as the network takes them, or real values as
    the model takes them: float [N, H, W, C] where `channels_last`, else float or uint8 (which
    stands for value / 255) [N, C, H, W]. Axes of length 1 may be left out. `labels` are integers
    [N].

    Parameters
    ----------
    path : path
    network : Network
    channels_last : bool, optional
        Whether the model's inputs are [N, H, W, C], as those of a `.tflite`.
    samples : int, optional
        Take so many, the first ones.

    Raises
    ------
    FileError
        If the file cannot be read.
    InputError
        If it is damaged, its contents are not as above, or it holds fewer than `samples`.
    """
    arrays = read_arrays(path, "inputs", InputError, _FORMAT)
    source = f"inputs {path}"
    if "inputs" not in arrays:
        raise InputError(
            f"{source} has no array 'inputs', only {', '.join(arrays) or 'nothing'}", _FORMAT
        )
    given = arrays["inputs"]
    height, width, channels = network.input_shape
    last = channels_last or given.dtype == np.int8
    shape = (height, width, channels) if last else (channels, height, width)
    if channels_last and given.dtype == np.uint8:
        raise InputError(
            f"{source} are of uint8, and the network takes int8 of scale "
            f"{network.input_scale:g} and zero point {network.input_zero_point}",
            "save them as int8 (images often as value - 128), or as float32",
        )
    if given.ndim < 2 or _squeezed(given.shape[1:]) != _squeezed(shape) or not len(given):
        raise InputError(
            f"{source} have shape {given.shape}, the network takes (N, "
            f"{', '.join(str(n) for n in shape)})",
            "give inputs in the shape that the model takes, or int8 with the channels last",
        )
    given = given.reshape(-1, *shape)
    if samples is not None and samples > len(given):
        raise InputError(f"{source} hold {len(given)} samples, not {samples}", "lower --samples")
    labels = check_labels(arrays.get("labels"), len(given), source)
    given = given[:samples]
    real = None
    if given.dtype == np.int8:
        integers = given
    else:
        if last:
            given = given.transpose(0, 3, 1, 2)
        real = check_inputs(given, network.input_shape, source)
        integers = quantise_inputs(real, network.input_scale, network.input_zero_point)
    return Inputs(integers, real, None if labels is None else labels[:samples])


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def evaluate(
    model: Model, inputs: Inputs, *, compare: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Run a network over a set.

    Parameters
    ----------
    model : Model
    inputs : Inputs
    compare : bool, optional
        Also run the model in its runtime, and compare.
    progress : callable, optional

    Returns
    -------
    dict
        Plain data: `samples`, `seconds`, `accuracy` where there are labels, and of a comparison
        what differs.

    Raises
    ------
    InputError
        If there is nothing to compare with, or the runtime is not installed.
    """
    tell = progress or (lambda done, total, what: None)
    runtime = _runtime(model, inputs) if compare else None
    report: dict[str, Any] = {
        "model": str(model.path),
        "samples": len(inputs.integers),
        "notes": list(model.notes),
    }
    count = len(inputs.integers)
    outputs = []
    seconds = 0.0
    for start in range(0, count, _BATCH):
        tell(start, count, "evaluating")
        x = inputs.integers[start : start + _BATCH]
        began = time.monotonic()
        maps = run(model.network, x, keep=True) if compare else [run(model.network, x)]
        seconds += time.monotonic() - began
        outputs.append(maps[-1].reshape(len(x), -1))
        if runtime is not None:
            runtime.add(start, maps)
    tell(count, count, "evaluating")
    report["seconds"] = round(seconds, 2)
    results = np.concatenate(outputs)
    if inputs.labels is not None:
        report["accuracy"] = _accuracy(results, inputs.labels)
    if runtime is not None:
        report["comparison"] = runtime.report(results)
    return report


def _accuracy(outputs: NDArray[Any], labels: NDArray[np.int64]) -> float:
    return float(np.mean(outputs.argmax(axis=1) == labels))


def _runtime(model: Model, inputs: Inputs) -> "_AgainstLiteRT | _AgainstONNX":
    if model.path.suffix == ".tflite":
        return _AgainstLiteRT(model, inputs)
    if model.path.suffix == ".onnx":
        return _AgainstONNX(model, inputs)
    raise InputError(
        f"network {model.path} is insitu's own, and no other runtime runs it",
        "leave --compare out, or name the .tflite or .onnx",
    )


@dataclass
class _Difference:
    """Values of a map that differ from those of a runtime."""

    values: int = 0
    different: int = 0
    largest: int = 0
    samples: int = 0

    def add(self, got: Int8, expected: NDArray[Any]) -> None:
        """Count one sample."""
        apart = np.abs(got.reshape(-1).astype(np.int32) - expected.astype(np.int32))
        wrong = int(np.count_nonzero(apart))
        self.values += apart.size
        self.different += wrong
        self.largest = max(self.largest, int(apart.max()))
        self.samples += bool(wrong)

    def report(self) -> dict[str, int]:
        """The figures as plain data."""
        return dict(vars(self))


class _AgainstLiteRT:
    def __init__(self, model: Model, inputs: Inputs):
        self._inputs = inputs
        self._tensors = [int(model.tensors[layer.name]) for layer in model.network.layers]
        self._names = [layer.name for layer in model.network.layers]
        self._kept = model.kept
        self._reference = LiteRT(model.path, reference=True)
        # The default kernels keep what is an output, and nothing else.
        self._default = [
            LiteRT(model.path, reference=False, output=tensor) for tensor in self._tensors
        ]
        self._differences = {
            kernels: [_Difference() for _ in self._tensors] for kernels in ("reference", "default")
        }
        self._outputs: dict[str, list[NDArray[Any]]] = {"reference": [], "default": []}

    def add(self, start: int, maps: list[Int8]) -> None:
        """Compare every layer's outputs, from sample `start` on."""
        for number in range(len(maps[-1])):
            x = self._inputs.integers[start + number]
            self._reference.run(x)
            for kernels, runtimes in (
                ("reference", [self._reference] * len(maps)),
                ("default", self._default),
            ):
                for layer, runtime in enumerate(runtimes):
                    if runtime is not self._reference:
                        runtime.run(x)
                    ours = maps[layer][number]
                    pixels = ours.shape[0] * ours.shape[1]
                    theirs = runtime.tensor(self._tensors[layer])
                    theirs = self._left(self._names[layer], pixels, theirs)
                    self._differences[kernels][layer].add(ours, theirs)
                self._outputs[kernels].append(theirs.copy())

    def _left(self, name: str, pixels: int, values: NDArray[Any]) -> NDArray[Any]:
        """The channels of a tensor that pruning left."""
        if name not in self._kept:
            return values
        return values.reshape(pixels, -1)[:, self._kept[name]].reshape(-1)

    def report(self, results: NDArray[Any]) -> dict[str, Any]:
        """All figures."""
        return {
            "runtime": f"LiteRT {metadata.version('ai-edge-litert')}",
            "kernels": {name: self._kernels(name, results) for name in self._outputs},
        }

    def _kernels(self, name: str, results: NDArray[Any]) -> dict[str, Any]:
        theirs = np.stack(self._outputs[name])
        differences = self._differences[name]
        report: dict[str, Any] = {
            "equal_outputs": 1 - differences[-1].samples / len(theirs),
            "same_class": float(np.mean(theirs.argmax(axis=1) == results.argmax(axis=1))),
            "layers": {
                layer: difference.report()
                for layer, difference in zip(self._names, differences, strict=True)
            },
        }
        if self._inputs.labels is not None:
            report["accuracy"] = _accuracy(theirs, self._inputs.labels)
        return report


class _AgainstONNX:
    def __init__(self, model: Model, inputs: Inputs):
        if inputs.real is None:
            raise InputError(
                "the inputs are of int8, and an .onnx runs in floating point",
                "give float32 or uint8 inputs, or leave --compare out",
            )
        try:
            self._onnxruntime: Any = importlib.import_module("onnxruntime")
        except ImportError:
            raise InputError(
                "ONNX Runtime, which --compare needs for an .onnx, is not installed",
                "install it: pip install onnxruntime",
            ) from None
        self._real = inputs.real.transpose(0, 3, 1, 2)
        self._labels = inputs.labels
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = self._onnxruntime.InferenceSession(
            str(model.path), options, providers=["CPUExecutionProvider"]
        )
        self._outputs: list[NDArray[Any]] = []

    def add(self, start: int, maps: list[Int8]) -> None:
        """Run the samples from `start` on."""
        (given,) = self._session.get_inputs()
        for x in self._real[start : start + len(maps[-1])]:
            shape = [1, *(n for n in given.shape[1:])]
            (output, *_) = self._session.run(None, {given.name: x.reshape(shape)})
            self._outputs.append(output.reshape(-1))

    def report(self, results: NDArray[Any]) -> dict[str, Any]:
        """All figures."""
        theirs = np.stack(self._outputs)
        report: dict[str, Any] = {
            "runtime": f"ONNX Runtime {self._onnxruntime.__version__}",
            "same_class": float(np.mean(theirs.argmax(axis=1) == results.argmax(axis=1))),
        }
        if self._labels is not None:
            report["accuracy"] = _accuracy(theirs, self._labels)
        return report
