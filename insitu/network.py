"""The integer network as a file: an .npz archive with a format version.

Keys: `format` ("insitu-network-1"), `n_layers`, `input_shape` (height, width, channels),
`input_scale`, `input_zero_point`; for each layer i `L{i}.` and name, kernel, stride, padding (top,
left, bottom, right), dilation, bias (int32, -zero_point * sum W included), multiplier, shift,
output_scale, output_zero_point, activation_min, activation_max, double_rounding, and either W
[Co,Ci,T] and q, or those of B [Bo,Bi,T], U, V [Co,Bo] that there are, with qb, qu, qv, s1, s2.
`kind`, `dataflow` and `weight_scale` are for the reader of the file. Taps count rows first.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.network import Generated, Layer, Network, Stored, shapes
from insitu.errors import NetworkError
from insitu.files import read_arrays, write_file

__all__ = ["FORMAT", "load", "save"]

FORMAT = "insitu-network-1"
_AGAIN = "copy the file again, or compress the model again"
_REWRITE = "write the file again with this version of insitu"


def save(network: Network, path: str | Path) -> None:
    """Write a network, whole or not at all.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    arrays: dict[str, Any] = {
        "format": FORMAT,
        "n_layers": len(network.layers),
        "input_shape": np.array(network.input_shape),
        "input_scale": network.input_scale,
        "input_zero_point": network.input_zero_point,
    }
    maps = shapes(network)
    for index, layer in enumerate(network.layers):
        weights = layer.weights
        whole = maps[index + 1][:2] == (1, 1) and layer.kernel == maps[index][:2]
        values: dict[str, Any] = {
            "name": layer.name,
            "kind": "fc" if whole else "conv",
            "kernel": np.array(layer.kernel),
            "stride": np.array(layer.stride),
            "padding": np.array(layer.padding),
            "dilation": np.array(layer.dilation),
            "groups": layer.groups,
            "bias": layer.bias,
            "multiplier": layer.multiplier,
            "shift": layer.shift,
            "output_zero_point": layer.output_zero_point,
            "activation_min": layer.activation_min,
            "activation_max": layer.activation_max,
            "double_rounding": layer.double_rounding,
        }
        if index == len(network.layers) - 1:
            values["output_scale"] = network.output_scale
        if isinstance(weights, Stored):
            values |= {"dataflow": "stored", "W": weights.W, "q": weights.q}
        else:
            values |= {"dataflow": "generated", "U": weights.U, "qu": weights.qu}
            if weights.B is not None:
                values |= {"B": weights.B, "qb": weights.qb, "s1": weights.s1}
            if weights.V is not None:
                values |= {"V": weights.V, "qv": weights.qv, "s2": weights.s2}
        arrays |= {f"L{index}.{key}": value for key, value in values.items()}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_file(path, file.getvalue(), "network")


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
    arrays = read_arrays(path, "network", NetworkError, _AGAIN)
    source = f"network {path}"
    found = str(arrays["format"]) if "format" in arrays else None
    if found != FORMAT:
        fault = f"has format {found!r}" if found else "has no format"
        raise NetworkError(f"{source} {fault}, this insitu reads {FORMAT!r}", _REWRITE)
    try:
        return _Reader(arrays).network(input_shape)
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

    def network(self, input_shape: tuple[int, int, int] | None) -> Network:
        """All of it."""
        if "input_shape" in self:
            height, width, channels = (int(n) for n in self.integers("input_shape", np.int32, 3))
            input_shape = height, width, channels
        if input_shape is None:
            raise ValueError("input_shape is missing")
        count = self.integer("n_layers")
        if not 1 <= count <= len(self._arrays):
            raise ValueError(f"n_layers must be positive and match the file, not {count}")
        zero_point = self.integer("input_zero_point")
        layers = []
        for index in range(count):
            layer = _Reader(self._arrays, f"L{index}.").layer(zero_point)
            layers.append(layer)
            zero_point = layer.output_zero_point
        last = _Reader(self._arrays, f"L{count - 1}.")
        return Network(
            layers=tuple(layers),
            input_shape=input_shape,
            input_scale=self.number("input_scale"),
            input_zero_point=self.integer("input_zero_point"),
            output_scale=last.number("output_scale"),
        )

    def layer(self, zero_point: int) -> Layer:
        """The layer that the prefix names."""
        ky, kx = (int(n) for n in self.integers("kernel", np.int32, 2))
        sy, sx = (int(n) for n in self.integers("stride", np.int32, 2))
        top, left, bottom, right = (int(n) for n in self.integers("padding", np.int32, 4))
        dy, dx = (int(n) for n in self.integers("dilation", np.int32, 2))
        return Layer(
            name=self.text("name"),
            kernel=(ky, kx),
            stride=(sy, sx),
            padding=(top, left, bottom, right),
            dilation=(dy, dx),
            groups=self.integer("groups") if "groups" in self else 1,
            weights=self._weights(),
            bias=self.integers("bias", np.int32),
            multiplier=self.integers("multiplier", np.int32),
            shift=self.integers("shift", np.int8),
            input_zero_point=zero_point,
            output_zero_point=self.integer("output_zero_point"),
            activation_min=self.integer("activation_min"),
            activation_max=self.integer("activation_max"),
            double_rounding="double_rounding" in self and self.flag("double_rounding"),
        )

    def _weights(self) -> Stored | Generated:
        if "W" in self:
            return Stored(self.integers("W", np.int8), self.integer("q"))
        values: dict[str, Any] = {"U": self.integers("U", np.int8), "qu": self.integer("qu")}
        for name, precision, shift in (("B", "qb", "s1"), ("V", "qv", "s2")):
            if name in self:
                values[name] = self.integers(name, np.int8)
                values[precision] = self.integer(precision)
                values[shift] = self.integer(shift)
        return Generated(**values)
