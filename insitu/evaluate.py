"""Run a network's golden model over a whole set, and compare it with a runtime nobody here wrote.

For a `.tflite` that runtime is LiteRT: its reference kernels, which golden has to equal, and its
default kernels, tensor by tensor. For a quantised `.onnx` it is ONNX Runtime, node by node (the
reference) and as it runs by default, tensor by tensor too. Of models in floating point
only the classes can be compared.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from golden.network import INPUT, run
from insitu.errors import InputError, ModelError
from insitu.litert import LiteRT
from insitu.models import Model
from insitu.onnx_runtime import ONNXRuntime
from insitu.progress import Progress
from insitu.quantise import (
    are_classes,
    check_classes,
    check_inputs,
    check_labels,
    has_shape,
    quantise_inputs,
    read_given,
)

__all__ = ["Inputs", "Takes", "evaluate", "read_inputs"]

Int8 = NDArray[np.int8]

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


class Takes(Protocol):
    """What there is to know of a network in order to give it inputs: `Network`, or a device's."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""

    @property
    def input_scale(self) -> float:
        """What a step of the input is worth."""

    @property
    def input_zero_point(self) -> int:
        """What stands for 0."""

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""


def read_inputs(
    path: str | Path,
    network: Takes,
    *,
    channels_last: bool | None = None,
    samples: int | None = None,
) -> Inputs:
    """Read inputs, and labels where there are any, from an .npz file.

    `inputs` are either int8 [N, H, W, C], quantised as the network takes them, or real values as
    the model takes them: float [N, H, W, C] where `channels_last`, else [N, C, H, W]; or uint8,
    which stands for value * `scale`, a number in the file, without which those [N, C, H, W] stand
    for value / 255. Where nobody knows, what is float or has a scale may be either: what has both
    shapes is [N, C, H, W]. Axes of length 1 may be left out. `labels` are integers [N].

    Parameters
    ----------
    path : path
    network : Takes
    channels_last : bool, optional
        Whether the model's inputs are [N, H, W, C], as those of a `.tflite`; nobody knows of an
        integer network.
    samples : int, optional
        Take so many, the first ones.

    Raises
    ------
    FileError
        If the file cannot be read.
    InputError
        If it is damaged, its contents are not as above, or it holds fewer than `samples`.
    """
    found = read_given(path)
    given, source = found.inputs, found.source
    height, width, channels = network.input_shape
    orders = {False: (channels, height, width), True: (height, width, channels)}
    last = channels_last or given.dtype == np.int8
    either = given.dtype in (np.float32, np.float64) or found.scale is not None
    if channels_last is None and either:
        last = next((order for order in orders if has_shape(given, orders[order])), False)
    shape = orders[last]
    if channels_last and given.dtype == np.uint8 and found.scale is None:
        raise InputError(
            f"{source} are of uint8 without a scale, and the network takes int8 of scale "
            f"{network.input_scale:g} and zero point {network.input_zero_point}",
            "save them as int8 (images often as value - 128) or float32, or a scale with them",
        )
    if not has_shape(given, shape):
        raise InputError(
            f"{source} have shape {given.shape}, the network takes (N, "
            f"{', '.join(str(n) for n in shape)})",
            "give inputs in the shape that the model takes, or int8 with the channels last",
        )
    given = given.reshape(-1, *shape)
    if samples is not None and samples > len(given):
        raise InputError(f"{source} hold {len(given)} samples, not {samples}", "lower --samples")
    labels = check_labels(found.labels, len(given), source)
    if labels is not None:
        check_classes(network.output_shape, source)
    given = given[:samples]
    real = None
    if given.dtype == np.int8:
        integers = given
    else:
        real = check_inputs(
            given, network.input_shape, source, channels_last=last, scale=found.scale
        )
        integers = quantise_inputs(real, network.input_scale, network.input_zero_point)
    return Inputs(integers, real, None if labels is None else labels[:samples])


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
    ModelError
        If a sum leaves 32 bits, or the runtime does not take the model.
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
        try:
            maps = run(model.network, x, keep=True) if compare else [run(model.network, x)]
        except OverflowError as error:
            raise ModelError(
                f"network {model.path} has sums that no accumulator holds: {error}",
                "quantise the model again, with biases that leave room for sums",
            ) from None
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


def _runtime(model: Model, inputs: Inputs) -> "_EveryLayer | _AgainstFloat":
    if model.path.suffix == ".tflite":
        return (_AgainstLiteRT if model.tensors else _AgainstFloatLiteRT)(model, inputs)
    if model.path.suffix == ".onnx":
        return (_AgainstQuantisedONNX if model.tensors else _AgainstFloatONNX)(model, inputs)
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


class _EveryLayer:
    """Counts what differs from two sets of kernels, layer by layer.

    Parameters
    ----------
    model : Model
    inputs : Inputs
    """

    runtime: str

    def __init__(self, model: Model, inputs: Inputs):
        self._inputs = inputs
        self._index = {layer.name: index for index, layer in enumerate(model.network.layers)}
        self._names = [name for name in self._index if name in model.tensors]
        self._kept = model.kept
        self._differences: dict[str, dict[str, _Difference]] = {"reference": {}, "default": {}}
        self._outputs: dict[str, list[NDArray[Any]]] = {"reference": [], "default": []}

    def add(self, start: int, maps: list[Int8]) -> None:
        """Compare the layers' outputs, from sample `start` on."""
        for number in range(len(maps[-1])):
            for kernels, tensors in self._tensors(start + number).items():
                for name, theirs in tensors.items():
                    ours = maps[self._index[name]][number]
                    left = self._left(name, ours.shape[0] * ours.shape[1], theirs)
                    self._differences[kernels].setdefault(name, _Difference()).add(ours, left)
                self._outputs[kernels].append(left.copy())

    def _tensors(self, sample: int) -> dict[str, dict[str, NDArray[Any]]]:
        """What each set of kernels gives for a sample, by layer, flat with the channels last.

        The network's output comes last, and is always there.
        """
        raise NotImplementedError

    def _left(self, name: str, pixels: int, values: NDArray[Any]) -> NDArray[Any]:
        """The channels of a tensor that pruning left."""
        if name not in self._kept:
            return values
        return values.reshape(pixels, -1)[:, self._kept[name]].reshape(-1)

    def report(self, results: NDArray[Any]) -> dict[str, Any]:
        """All figures."""
        return {
            "runtime": self.runtime,
            "kernels": {name: self._kernels(name, results) for name in self._outputs},
        }

    def _kernels(self, name: str, results: NDArray[Any]) -> dict[str, Any]:
        theirs = np.stack(self._outputs[name])
        differences = self._differences[name]
        report: dict[str, Any] = {
            "equal_outputs": 1 - differences[self._names[-1]].samples / len(theirs),
            "same_class": float(np.mean(theirs.argmax(axis=1) == results.argmax(axis=1))),
            "layers": {name: difference.report() for name, difference in differences.items()},
        }
        if self._inputs.labels is not None:
            report["accuracy"] = _accuracy(theirs, self._inputs.labels)
        return report


class _AgainstLiteRT(_EveryLayer):
    def __init__(self, model: Model, inputs: Inputs):
        super().__init__(model, inputs)
        self._numbers = {name: int(model.tensors[name]) for name in self._names}
        self._reference = LiteRT(model.path, reference=True)
        self.runtime = self._reference.version
        # The default kernels keep what is an output, and nothing else.
        self._default = {
            name: LiteRT(model.path, reference=False, output=tensor)
            for name, tensor in self._numbers.items()
        }

    def _tensors(self, sample: int) -> dict[str, dict[str, NDArray[Any]]]:
        x = self._inputs.integers[sample]
        self._reference.run(x)
        for runtime in self._default.values():
            runtime.run(x)
        numbers = self._numbers.items()
        return {
            "reference": {name: self._reference.tensor(number) for name, number in numbers},
            "default": {name: self._default[name].tensor(number) for name, number in numbers},
        }


class _AgainstQuantisedONNX(_EveryLayer):
    def __init__(self, model: Model, inputs: Inputs):
        super().__init__(model, inputs)
        if model.network.layers[-1].name not in self._names:
            raise InputError(
                f"the output of model {model.path} is transposed, and cannot be compared",
                "leave --compare out",
            )
        tensors = [str(model.tensors[name]) for name in self._names]
        self._reference = ONNXRuntime(model.path, tensors, reference=True)
        # What is an output is not fused with what follows: the default kernels keep the last alone.
        self._default = ONNXRuntime(model.path, tensors[-1:])
        self.runtime = self._default.version
        network = model.network
        steps = inputs.integers.astype(np.float32) - np.float32(network.input_zero_point)
        real = steps * np.float32(network.input_scale) if inputs.real is None else inputs.real
        self._real = real.transpose(0, 3, 1, 2)
        self._layers = network.layers
        self._alone = {name: _Difference() for name in self._names}

    def _tensors(self, sample: int) -> dict[str, dict[str, NDArray[Any]]]:
        x = self._real[sample]
        found = {
            kernels: dict(zip(names, map(_flat, runtime.run(x)), strict=True))
            for kernels, runtime, names in (
                ("reference", self._reference, self._names),
                ("default", self._default, self._names[-1:]),
            )
        }
        self._compare_alone(self._inputs.integers[sample : sample + 1], found["reference"])
        return found

    def _compare_alone(self, x: Int8, theirs: dict[str, NDArray[Any]]) -> None:
        """Each layer by itself: what it makes of the runtime's maps, not of golden's own."""
        maps = {INPUT: x}
        for layer in self._layers:
            y = layer.compute(*(maps[name] for name in layer.inputs))
            if layer.name in theirs:
                expected = self._left(layer.name, y.shape[1] * y.shape[2], theirs[layer.name])
                self._alone[layer.name].add(y, expected)
                y = expected.astype(np.int8).reshape(y.shape)
            maps[layer.name] = y

    def report(self, results: NDArray[Any]) -> dict[str, Any]:
        """All figures."""
        alone = {name: difference.report() for name, difference in self._alone.items()}
        return super().report(results) | {"alone": {"layers": alone}}


def _flat(y: NDArray[Any]) -> NDArray[Any]:
    """A tensor [1, C, H, W], or one that is flat anyway, as it lies with its channels last."""
    return (y.transpose(0, 2, 3, 1) if y.ndim == 4 else y).reshape(-1)


class _AgainstFloat:
    """Compares the classes with those of a model in floating point.

    Parameters
    ----------
    model : Model
    inputs : Inputs
    """

    version: str

    def __init__(self, model: Model, inputs: Inputs):
        if inputs.real is None:
            raise InputError(
                f"the inputs are of int8, and this {model.path.suffix} runs in floating point",
                "give the inputs that the model takes, or leave --compare out",
            )
        self._real = inputs.real
        self._labels = inputs.labels
        self._outputs: list[NDArray[Any]] = []

    def add(self, start: int, maps: list[Int8]) -> None:
        """Run the samples from `start` on."""
        for x in self._real[start : start + len(maps[-1])]:
            self._outputs.append(self._output(x).copy())

    def _output(self, x: NDArray[np.float32]) -> NDArray[Any]:
        """What the model gives for a sample [H, W, C], flat."""
        raise NotImplementedError

    def report(self, results: NDArray[Any]) -> dict[str, Any]:
        """All figures."""
        theirs = np.stack(self._outputs)
        report: dict[str, Any] = {
            "runtime": self.version,
            "same_class": float(np.mean(theirs.argmax(axis=1) == results.argmax(axis=1))),
        }
        if self._labels is not None:
            report["accuracy"] = _accuracy(theirs, self._labels)
        return report


class _AgainstFloatLiteRT(_AgainstFloat):
    def __init__(self, model: Model, inputs: Inputs):
        super().__init__(model, inputs)
        self._runtime = LiteRT(model.path, reference=False)
        self.version = self._runtime.version

    def _output(self, x: NDArray[np.float32]) -> NDArray[Any]:
        self._runtime.run(x)
        return self._runtime.output()


class _AgainstFloatONNX(_AgainstFloat):
    def __init__(self, model: Model, inputs: Inputs):
        super().__init__(model, inputs)
        height, width, channels = model.network.output_shape
        if not are_classes(model.network.output_shape):
            raise InputError(
                f"model {model.path} gives {height} x {width} pixels of {channels} channels, which "
                "cannot be compared as classes",
                "leave --compare out",
            )
        self._runtime = ONNXRuntime(model.path)
        self.version = self._runtime.version

    def _output(self, x: NDArray[np.float32]) -> NDArray[Any]:
        return _flat(self._runtime.run(x.transpose(2, 0, 1))[0])
