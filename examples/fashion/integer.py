"""The compressed network in integers only: weight recovery, inference, and its file format.

This is the arithmetic that the trained network is judged by. It needs NumPy and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = "insitu-network-1"
INPUT_SHAPE = (28, 28, 1)  # height, width, channels
INPUT_SCALE = 1 / 255
INPUT_ZERO_POINT = -128

Integers = NDArray[np.integer[Any]]


def round_shift(x: Integers, s: int) -> Integers:
    """`(x + (1 << s >> 1)) >> s` in int64: halves round towards plus infinity."""
    return (x.astype(np.int64) + (1 << s >> 1)) >> s


def clamp8(x: Integers) -> Integers:
    """Saturate to the symmetric 8-bit range, -127 to 127."""
    return x.clip(-127, 127)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer, a convolution; fully connected is one whose kernel is the whole map.

    Weights are either stored (`W` int8 [Co,Ci,T], `q` bits) or generated (`B` int8 [Bo,Bi,T],
    `U` int8 [Bo,Ci,Bi], `V` int8 [Co,Bo] of `qb`, `qu`, `qv` bits, shifts `s1`, `s2`), tap
    t = ky * kw + kx. `acc = sum x * W + bias` over raw int8 activations x, padded taps being the
    input's zero point; `y = clamp(output_zero_point + round_shift(acc * multiplier, 31 + shift))`.
    """

    name: str
    kind: str
    dataflow: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int] = (1, 1)
    W: Integers | None = None
    q: int | None = None
    B: Integers | None = None
    U: Integers | None = None
    V: Integers | None = None
    qb: int | None = None
    qu: int | None = None
    qv: int | None = None
    s1: int | None = None
    s2: int | None = None
    bias: Integers
    weight_scale: NDArray[np.float64]
    output_scale: float
    output_zero_point: int
    multiplier: Integers
    shift: Integers
    activation_min: int
    activation_max: int

    def weights(self) -> Integers:
        """Return the weights the multipliers see, int64 [Co,Ci,T].

        Raises: ValueError where the layer holds neither W nor all of B, U, V and their shifts.
        """
        if self.W is not None:
            return self.W.astype(np.int64)
        if self.B is None or self.U is None or self.V is None:
            raise ValueError(f"layer {self.name!r} has neither W nor all of B, U and V")
        if self.s1 is None or self.s2 is None:
            raise ValueError(f"generated layer {self.name!r} lacks s1 or s2")
        u, b, v = (a.astype(np.int64) for a in (self.U, self.B, self.V))
        w1 = clamp8(round_shift(np.einsum("bci,bit->bct", u, b), self.s1))
        return clamp8(round_shift(np.einsum("ob,bct->oct", v, w1), self.s2))

    def stored_bits(self) -> int:
        """Count the bits of stored W, or of B, U and V; biases and requantisation not counted."""
        parts = ((self.W, self.q), (self.B, self.qb), (self.U, self.qu), (self.V, self.qv))
        return sum(array.size * bits for array, bits in parts if array is not None and bits)

    def run(self, x: Integers, zero_point: int) -> Integers:
        """Return the output int64 [N,Co,H,W] for input x [N,Ci,H,W] of that zero point."""
        weights = self.weights()
        top, left, bottom, right = self.padding
        edges = ((0, 0), (0, 0), (top, bottom), (left, right))
        padded = np.pad(x, edges, constant_values=zero_point)
        (ky, kx), (dy, dx) = self.kernel, self.dilation
        extent = (ky - 1) * dy + 1, (kx - 1) * dx + 1
        windows = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(2, 3))
        windows = windows[:, :, :: self.stride[0], :: self.stride[1], ::dy, ::dx]
        n, _, height, width, *_ = windows.shape
        columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * height * width, -1)
        # float64 is exact here, all sums being below 2**53, and lets BLAS do the product
        sums = columns.astype(np.float64) @ weights.reshape(len(weights), -1).T.astype(np.float64)
        acc = sums.astype(np.int64) + self.bias
        shift = 31 + self.shift.astype(np.int64)
        scaled = (acc * self.multiplier.astype(np.int64) + (1 << (shift - 1))) >> shift
        y = np.clip(self.output_zero_point + scaled, self.activation_min, self.activation_max)
        return y.reshape(n, height, width, -1).transpose(0, 3, 1, 2)


def infer(layers: list[Layer], images: NDArray[np.uint8]) -> Integers:
    """Return the quantised logits int64 [N,10] of uint8 images [N,1,28,28]."""
    parts = []
    for start in range(0, len(images), 500):
        x: Integers = images[start : start + 500].astype(np.int64) + INPUT_ZERO_POINT
        zero_point = INPUT_ZERO_POINT
        for layer in layers:
            x = layer.run(x, zero_point)
            zero_point = layer.output_zero_point
        parts.append(x.reshape(len(x), -1))
    return np.concatenate(parts)


def save(path: Path, layers: list[Layer]) -> None:
    """Write the network as a compressed .npz of the format that FORMAT names."""
    arrays: dict[str, Any] = {
        "format": FORMAT,
        "n_layers": len(layers),
        "input_shape": np.array(INPUT_SHAPE),
        "input_scale": INPUT_SCALE,
        "input_zero_point": np.int8(INPUT_ZERO_POINT),
    }
    for index, layer in enumerate(layers):
        values = {field.name: getattr(layer, field.name) for field in fields(Layer)}
        arrays |= {f"L{index}.{k}": v for k, v in values.items() if v is not None}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def load(path: Path) -> list[Layer]:
    """Read a file that `save` wrote. Raises: ValueError for another format."""
    with np.load(path, allow_pickle=False) as file:
        if str(file["format"]) != FORMAT:
            raise ValueError(f"{path} has format {str(file['format'])!r}, not {FORMAT!r}")
        layers = []
        for index in range(int(file["n_layers"])):
            values: dict[str, Any] = {}
            for field in fields(Layer):
                if (key := f"L{index}.{field.name}") in file:
                    array = file[key]
                    values[field.name] = array.item() if array.ndim == 0 else array
            for name in ("kernel", "stride", "padding", "dilation"):
                values[name] = tuple(int(v) for v in values[name])
            layers.append(Layer(**values))
        return layers
