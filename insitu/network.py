"""The integer network as a file: an .npz archive with a format version.

Keys: `format` ("insitu-network-5"), `n_layers`, `input_shape` (height, width, channels),
`input_scale`, `input_zero_point`, `output_scale`; for each layer i `L{i}.` and kind, name, inputs
(names) and the fields of that kind in `golden.layers`: a scaling is (zero point, multiplier,
shift), one that is None is left out. In place of weights a convolution has either W [Co,Ci,T] and
q, or those of B [Bo,Bi,T], U, V [Co,Bo] that there are, with qb, qu, qv, s1, s2 and, beside B, the
`code` of U (`golden.code.Code`). Taps count rows first. Where the network was retrained there is
`training`, the record of it as JSON (`insitu.train.retrain`).

Versions 1 to 4 are read too: U has the uniform code. In versions 1 to 3 sums round twice, averages
keep the scale. Versions 1 and 2 have `double_rounding`, true or false, in place of `rounding`.
Version 1 held chains of convolutions: it has no `inputs`, `kind` is for its reader alone, and the
`output_scale` is the last layer's. `groups`, `double_rounding` and `input_shape` may be missing.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.code import Code
from golden.network import (
    Add,
    Concatenation,
    Convolution,
    Generated,
    Layer,
    Mean,
    Multiply,
    Network,
    Pad,
    Pooling,
    Requantise,
    Rounding,
    Stored,
    Table,
    chain,
)
from insitu.errors import NetworkError
from insitu.files import parse_arrays, read_file, write_file

__all__ = [
    "FORMAT",
    "from_bytes",
    "held_out_accuracy",
    "load",
    "save",
    "to_bytes",
    "training_record",
]

FORMAT = "insitu-network-5"
_UNIFORM = "insitu-network-4"
_SUMS_TWICE = "insitu-network-3"
_TWO_ROUNDINGS = "insitu-network-2"
_CHAINS = "insitu-network-1"
_AGAIN = "copy the file again, or compress the model again"
_OTHER = "name a network that insitu wrote, or a model (.onnx, .tflite)"
_NEWER = "use a newer insitu, or write the file again with this one"


def save(network: Network, path: str | Path) -> None:
    """Write a network, whole or not at all.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    write_file(path, to_bytes(network), "network")


def to_bytes(network: Network, training: Mapping[str, Any] | None = None) -> bytes:
    """A network, and the record of its training if it has one, as the bytes of a file."""
    arrays: dict[str, Any] = {
        "format": FORMAT,
        "n_layers": len(network.layers),
        "input_shape": np.array(network.input_shape),
        "input_scale": network.input_scale,
        "input_zero_point": network.input_zero_point,
        "output_scale": network.output_scale,
    }
    for index, layer in enumerate(network.layers):
        values = {"kind": layer.kind}
        values |= {f.name: getattr(layer, f.name) for f in fields(layer) if f.name != "weights"}
        if isinstance(layer, Convolution):
            values |= _stored(layer.weights)
        arrays |= {
            f"L{index}.{key}": np.array(value) for key, value in values.items() if value is not None
        }
    if training is not None:
        arrays["training"] = json.dumps(training)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def training_record(path: str | Path) -> dict[str, Any] | None:
    """The record of a network's training; None where the file has none.

    Raises
    ------
    FileError
        If the file cannot be read.
    NetworkError
        If it is damaged.
    """
    source = f"network {path}"
    arrays = parse_arrays(read_file(path, "network"), source, NetworkError, _AGAIN)
    if "training" not in arrays:
        return None
    try:
        record = json.loads(_Reader(arrays).text("training"))
    except ValueError as error:
        raise NetworkError(f"{source} is inconsistent: training: {error}", _AGAIN) from None
    if not isinstance(record, dict):
        raise NetworkError(f"{source} is inconsistent: training is no JSON object", _AGAIN)
    return record


def held_out_accuracy(path: str | Path) -> float | None:
    """Percent of the samples held out from training that a network is right on, if its file says.

    Raises
    ------
    FileError, NetworkError
        As for `training_record`.
    """
    found = (training_record(path) or {}).get("held_out")
    return found if isinstance(found, float) and 0 <= found <= 100 else None


def _stored(weights: Stored | Generated) -> dict[str, Any]:
    if isinstance(weights, Stored):
        return {"W": weights.W, "q": weights.q}
    values: dict[str, Any] = {"U": weights.U, "qu": weights.qu}
    if weights.B is not None:
        values |= {"B": weights.B, "qb": weights.qb, "s1": weights.s1, "code": str(weights.code)}
    if weights.V is not None:
        values |= {"V": weights.V, "qv": weights.qv, "s2": weights.s2}
    return values


def load(path: str | Path, input_shape: tuple[int, int, int] | None = None) -> Network:
    """Read a network.

    Parameters
    ----------
    path : path
    input_shape : (int, int, int), optional
        Height, width and channels of the input, for a file that does not say.

    Raises
    ------
    FileError
        If the file cannot be read.
    NetworkError
        If it is not an undamaged, complete and consistent network of this version.
    """
    return from_bytes(read_file(path, "network"), f"network {path}", input_shape)


def from_bytes(
    data: bytes, source: str, input_shape: tuple[int, int, int] | None = None
) -> Network:
    """The network in the bytes of a file; `source` says for messages where they come from.

    Raises
    ------
    NetworkError
        As for `load`.
    """
    arrays = parse_arrays(data, source, NetworkError, _AGAIN)
    found = str(arrays["format"]) if "format" in arrays else None
    if found is None:
        raise NetworkError(f"{source} has no format: it is none of insitu's", _OTHER)
    if found not in (FORMAT, _UNIFORM, _SUMS_TWICE, _TWO_ROUNDINGS, _CHAINS):
        reads = f"this insitu reads {FORMAT!r} and those before it"
        raise NetworkError(f"{source} has format {found!r}, {reads}", _NEWER)
    try:
        return _Reader(arrays).network(found == _CHAINS, input_shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise NetworkError(f"{source} is inconsistent: {error}", _AGAIN) from None


class _Reader:
    """Takes typed values out of the arrays of a file."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], prefix: str = ""):
        self._arrays = arrays
        self._prefix = prefix

    def __contains__(self, key: str) -> bool:
        return self._prefix + key in self._arrays

    def _get(self, key: str, *dims: int) -> NDArray[Any]:
        key = self._prefix + key
        if key not in self._arrays:
            raise ValueError(f"{key} is missing")
        value = self._arrays[key]
        if dims and value.shape not in (dims, () if dims == (1,) else dims):
            raise ValueError(f"{key} must have shape {dims}, not {value.shape}")
        return value

    def integers(self, key: str, dtype: Any, *dims: int) -> NDArray[Any]:
        """An integer array, cast to `dtype` if that holds every value."""
        value = self._get(key, *dims)
        if value.dtype.kind not in "iu":
            raise ValueError(f"{self._prefix}{key} must be of integers, not {value.dtype}")
        limits = np.iinfo(dtype)
        if value.size and not limits.min <= int(value.min()) <= int(value.max()) <= limits.max:
            raise ValueError(f"{self._prefix}{key} must fit {np.dtype(dtype)}")
        return value.astype(dtype)

    def integer(self, key: str) -> int:
        """One integer."""
        return int(self.integers(key, np.int64, 1).reshape(()))

    def flag(self, key: str) -> bool:
        """One truth value."""
        value = self._get(key, 1)
        if value.dtype.kind not in "biu" or int(value.reshape(())) not in (0, 1):
            raise ValueError(f"{self._prefix}{key} must be true or false, not {value}")
        return bool(value.reshape(()))

    def rounding(self, key: str) -> Rounding:
        """How a layer rounds."""
        if key in self:
            return Rounding(self.text(key))
        twice = "double_rounding" in self and self.flag("double_rounding")
        return Rounding.TWICE if twice else Rounding.UP

    def number(self, key: str) -> float:
        """One real number."""
        value = self._get(key, 1)
        if value.dtype.kind not in "fiu":
            raise ValueError(f"{self._prefix}{key} must be a number, not {value.dtype}")
        return float(value.reshape(()))

    def text(self, key: str) -> str:
        """A string."""
        value = self._get(key, 1)
        if value.dtype.kind != "U":
            raise ValueError(f"{self._prefix}{key} must be a string, not {value.dtype}")
        return str(value.reshape(()))

    def network(self, old: bool, input_shape: tuple[int, int, int] | None) -> Network:
        """All of it."""
        if "input_shape" in self:
            height, width, channels = (int(n) for n in self.integers("input_shape", np.int32, 3))
            input_shape = height, width, channels
        if input_shape is None:
            raise ValueError("input_shape is missing")
        count = self.integer("n_layers")
        if not 1 <= count <= len(self._arrays):
            raise ValueError(f"n_layers must be positive and match the file, not {count}")
        input_zero_point = self.integer("input_zero_point")
        readers = [_Reader(self._arrays, f"L{index}.") for index in range(count)]
        layers: tuple[Layer, ...]
        if old:
            before = input_zero_point
            found = []
            for reader in readers:
                found.append(reader.old_layer(before))
                before = found[-1].output_zero_point
            layers = chain(found)
        else:
            layers = tuple(reader.layer() for reader in readers)
        return Network(
            layers=layers,
            input_shape=input_shape,
            input_scale=self.number("input_scale"),
            input_zero_point=input_zero_point,
            output_scale=(readers[-1] if old else self).number("output_scale"),
        )

    def layer(self) -> Layer:
        """The layer that the prefix names."""
        kind = self.text("kind")
        if kind not in _KINDS:
            raise ValueError(f"{self._prefix}kind must be one of {', '.join(_KINDS)}, not {kind!r}")
        values = {
            f.name: _FIELDS[f.name](self, f.name)
            for f in fields(_KINDS[kind])
            if f.name in self or f.name not in _LATER.get(kind, ())
        }
        return _KINDS[kind](**values)

    def old_layer(self, zero_point: int) -> Convolution:
        """The layer that the prefix names, in a file of version 1."""
        given = {"input_zero_point": zero_point, "inputs": ("input",)}
        optional = {"groups": 1}
        values: dict[str, Any] = {}
        for name in (f.name for f in fields(Convolution)):
            if name in given:
                values[name] = given[name]
            elif name in optional and name not in self:
                values[name] = optional[name]
            else:
                values[name] = _FIELDS[name](self, name)
        return Convolution(**values)

    def texts(self, key: str) -> tuple[str, ...]:
        """A row of strings."""
        value = self._get(key)
        if value.dtype.kind != "U" or value.ndim != 1:
            raise ValueError(f"{self._prefix}{key} must be a row of strings, not {value.dtype}")
        return tuple(str(name) for name in value)

    def row(self, key: str, count: int) -> tuple[int, ...]:
        """`count` integers."""
        return tuple(int(n) for n in self.integers(key, np.int32, count))

    def scalings(self, key: str) -> tuple[tuple[int, ...], ...]:
        """Two scalings."""
        return tuple(tuple(int(n) for n in row) for row in self.integers(key, np.int32, 2, 3))

    def weights(self) -> Stored | Generated:
        """Weights of a convolution."""
        if "W" in self:
            return Stored(self.integers("W", np.int8), self.integer("q"))
        values: dict[str, Any] = {"U": self.integers("U", np.int8), "qu": self.integer("qu")}
        for name, precision, shift in (("B", "qb", "s1"), ("V", "qv", "s2")):
            if name in self:
                values[name] = self.integers(name, np.int8)
                values[precision] = self.integer(precision)
                values[shift] = self.integer(shift)
        if "code" in self:
            values["code"] = Code(self.text("code"))
        return Generated(**values)


_KINDS: dict[str, type[Layer]] = {
    kind.kind: kind
    for kind in (Add, Concatenation, Convolution, Mean, Multiply, Pad, Pooling, Requantise, Table)
}


_LATER = {Add.kind: ("rounding",), Pooling.kind: ("input_zero_point", "output_scaling")}
"""Fields that need not be there."""


def _row(count: int) -> Callable[[_Reader, str], tuple[int, ...]]:
    return lambda reader, key: reader.row(key, count)


def _array(dtype: Any) -> Callable[[_Reader, str], NDArray[Any]]:
    return lambda reader, key: reader.integers(key, dtype)


_FIELDS: dict[str, Callable[[_Reader, str], Any]] = {
    "activation_max": _Reader.integer,
    "activation_min": _Reader.integer,
    "bias": _array(np.int32),
    "dilation": _row(2),
    "groups": _Reader.integer,
    "input_zero_point": _Reader.integer,
    "input_zero_points": _row(2),
    "inputs": _Reader.texts,
    "kernel": _row(2),
    "mode": _Reader.text,
    "multiplier": _array(np.int32),
    "name": _Reader.text,
    "output_scaling": _row(3),
    "output_zero_point": _Reader.integer,
    "padding": _row(4),
    "rounding": _Reader.rounding,
    "scalings": _Reader.scalings,
    "shift": _array(np.int8),
    "stride": _row(2),
    "table": _array(np.int8),
    "weights": lambda reader, key: reader.weights(),
}
"""How each field of a layer is read."""
