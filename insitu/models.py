"""One way to a network, whatever the file: `.tflite`, `.onnx` or an integer network as `.npz`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from golden.network import Convolution, Network
from insitu.errors import InputError, ModelError
from insitu.files import read_file
from insitu.progress import Progress
from rtl.config import Configuration

if TYPE_CHECKING:
    from insitu.float_network import FloatNetwork
    from insitu.quantise import Calibration

__all__ = ["Model", "calibration_beside", "load_float", "load_model"]


@dataclass(frozen=True, eq=False)
class Model:
    """A network from a file.

    Parameters
    ----------
    path : path
    network : Network
    notes : tuple of str
        What the import left out or changed.
    tensors : dict
        For each layer's name the tensor of a `.tflite` or a quantised `.onnx` that its output
        equals: an index there, a name here.
    compression : list of dict
        The error of each layer, where the network was compressed.
    kept : dict
        For each layer's name the channels that are left, where the network was pruned.
    """

    path: Path
    network: Network
    notes: tuple[str, ...] = ()
    tensors: Mapping[str, int | str] = field(default_factory=dict)
    compression: list[dict[str, Any]] = field(default_factory=list)
    kept: dict[str, NDArray[np.intp]] = field(default_factory=dict)

    @property
    def channels_last(self) -> bool | None:
        """Whether inputs are [N, H, W, C] as the model takes them, not [N, C, H, W].

        None for an integer network, which may come from either.
        """
        return {".tflite": True, ".onnx": False}.get(self.path.suffix)


def load_model(
    path: str | Path,
    configuration: Configuration | None = None,
    *,
    calibration: Path | None = None,
    stored: int | None = None,
    prune: bool = False,
    progress: Progress | None = None,
) -> Model:
    """Read a network.

    Parameters
    ----------
    path : path
    configuration : Configuration, optional
        What a floating-point network is compressed for. Without it, weights are stored.
    calibration : path, optional
        Sample inputs for a floating-point network; by default `calibration.npz` beside it.
    stored : int, optional
        Store a floating-point network's weights at so many bits instead of compressing them.
    prune : bool, optional
        Drop the channels that do not matter (`insitu.prune`).
    progress : callable, optional

    Raises
    ------
    FileError
        If a file cannot be read.
    ModelError, NetworkError, InputError
        If the model or its samples are damaged or cannot be imported.
    FitError
        If it cannot be compressed or pruned.
    """
    tell = progress or (lambda done, total, what: None)
    model = _load(Path(path), configuration, calibration, stored, tell)
    return _pruned(model) if prune else model


def load_float(path: str | Path) -> "FloatNetwork":
    """Read a network in floating point, from a `.tflite` or an `.onnx`.

    Raises
    ------
    FileError
        If the file cannot be read.
    ModelError
        If it is damaged, cannot be imported, or holds integers.
    """
    path = Path(path)
    network = _float_network(path)
    if network is None or network.quantisations:
        raise ModelError(
            f"model {path} is no network in floating point",
            "name the .onnx or .tflite that it was before it was quantised",
        )
    return network


def calibration_beside(model: Path) -> Path:
    """Sample inputs that lie beside a model, `calibration.npz`.

    Raises
    ------
    InputError
        If there are none.
    """
    beside = model.parent / "calibration.npz"
    if not beside.is_file():
        raise InputError(
            f"scales are found with sample inputs, and there is no {beside}",
            "name some hundred of them with --calibration FILE.npz",
        )
    return beside


def _float_network(path: Path) -> "FloatNetwork | None":
    """What the file holds if it is an .onnx, or a .tflite in floating point."""
    if path.suffix == ".onnx":
        from insitu.import_onnx import import_onnx

        return import_onnx(path)
    if path.suffix == ".tflite":
        from insitu.import_float_tflite import holds_floats, import_float_tflite

        if holds_floats(path):
            return import_float_tflite(path)
    return None


def _pruned(model: Model) -> Model:
    from insitu.prune import prune

    smaller = prune(model.network)
    before, after = (
        sum(layer.weights.W.size for layer in network.layers if isinstance(layer, Convolution))
        for network in (model.network, smaller.network)
    )
    note = f"{before - after:,} of {before:,} weights belong to channels that do not matter"
    return replace(model, network=smaller.network, kept=smaller.kept, notes=(*model.notes, note))


def _load(
    path: Path,
    configuration: Configuration | None,
    calibration: Path | None,
    stored: int | None,
    tell: Progress,
) -> Model:
    floating = _float_network(path)
    if floating is not None:
        return _floating(path, floating, configuration, calibration, stored, tell)
    if path.suffix == ".image":
        raise ModelError(
            f"{path} is an image, no model", "name the model or network that it was compiled from"
        )
    if path.suffix not in (".npz", ".tflite"):
        read_file(path, "model")  # What is no file is told first.
        raise ModelError(
            f"model {path} is no .tflite, .onnx or .npz file",
            "convert it to TensorFlow Lite, or export it as ONNX",
        )
    if calibration is not None or stored is not None:
        raise _needs_nothing(path, "--calibration or --stored")
    if path.suffix == ".npz":
        from insitu.network import load

        return Model(path, load(path))
    from insitu.import_tflite import import_tflite

    made = import_tflite(path)
    return Model(path, made.network, made.notes, made.tensors)


def _needs_nothing(path: Path, options: str) -> InputError:
    return InputError(
        f"network {path} is of integers already: it needs no {options}",
        "leave that out, or name a model (.onnx, .tflite) in floating point",
    )


def _floating(
    path: Path,
    floating: "FloatNetwork",
    configuration: Configuration | None,
    calibration: Path | None,
    stored: int | None,
    tell: Progress,
) -> Model:
    from insitu.quantise import (
        calibrate,
        check_varied,
        load_inputs,
        quantise,
        quantised_network,
    )

    missing = [layer.name for layer in floating.layers if layer.name not in floating.quantisations]
    if floating.quantisations and stored is not None:
        raise _needs_nothing(path, "--stored")
    if floating.quantisations and calibration is not None and not missing:
        raise _needs_nothing(path, "--calibration")
    if calibration is None and not floating.quantisations:
        calibration = calibration_beside(path)
    scales = None
    if calibration is not None:
        inputs, _ = load_inputs(
            calibration, floating.input_shape, channels_last=path.suffix == ".tflite"
        )
        check_varied(inputs, f"calibration samples {calibration}")
        tell(0, None, "calibrating")
        scales = calibrate(floating, inputs)
    notes = floating.notes
    if floating.quantisations or scales is None:
        if missing:
            notes += (f"scales of {', '.join(missing)} come from the calibration",)
        return Model(path, quantised_network(floating, scales), notes, floating.tensors)
    if floating.chain is None and configuration is not None and stored is None:
        notes += ("weights are stored at 8 bits: only chains of convolutions are compressed",)
        stored = 8
    if stored is not None or configuration is None:
        tell(0, None, "quantising")
        network = quantise(floating, scales, 8 if stored is None else stored)
        return Model(path, network, notes)
    return _compressed(path, floating, scales, configuration, tell)


def _compressed(
    path: Path,
    floating: "FloatNetwork",
    scales: "Calibration",
    configuration: Configuration,
    tell: Progress,
) -> Model:
    from insitu.compress import compress, default_choices

    network, results = compress(
        floating,
        scales,
        default_choices(floating, configuration),
        configuration,
        progress=lambda done, total, name: tell(done, total, "compressing"),
    )
    errors = [
        {
            "name": result.name,
            "weight_error": result.weight_error,
            "output_error": result.output_error,
            "bits": result.bits,
        }
        for result in results
    ]
    return Model(path, network, floating.notes, compression=errors)
