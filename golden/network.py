"""A whole network: what is stored of it, and what it must compute, bit by bit.

A network is a sequence of convolutions; a fully connected layer is a convolution whose kernel is
the whole map. Activations are int8, channels last. A layer computes

    acc = sum over taps and channels of x * W + bias              int32
    y   = clamp(rescale(acc) + output_zero_point, activation_min, activation_max)

with the raw x, so that `bias` already holds `-input_zero_point * sum W`; taps outside the map
read `input_zero_point`. `golden.requantise` defines `rescale`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from golden import checks
from golden.convolve import convolve
from golden.fixed import in_range
from golden.generate import cross, intra
from golden.requantise import requantise
from golden.windows import output_size

__all__ = ["Generated", "Layer", "Network", "Stored", "run", "shapes"]

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]

BATCH_ACTIVATIONS = 1 << 20
"""Activations of a layer that `run` computes at a time: what stays in a processor's cache."""


def _keep(target: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass; an array as a read-only copy."""
    if isinstance(value, np.ndarray):
        value = value.copy()
        value.setflags(write=False)
    object.__setattr__(target, name, value)


@dataclass(frozen=True, eq=False)
class Stored:
    """Weights stored as they are.

    Parameters
    ----------
    W : int8 [Co, Ci, T]
        Weights, taps rows first: t = ky * kw + kx. Ci counts the input channels of one group.
    q : int
        Precision in bits, 1..8; every weight is in `golden.fixed.symmetric_range(q)`.

    Raises
    ------
    TypeError, ValueError
        For a type, shape, precision or weight outside these; the message quotes it.
    """

    W: Int8
    q: int

    def __post_init__(self) -> None:
        checks.array("W", self.W, np.int8, "Co", "Ci", "T")
        _keep(self, "q", checks.integer("q", self.q, 1, 8))
        in_range("W", self.W, self.q)
        _keep(self, "W", self.W)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Co, Ci, T)."""
        co, ci, taps = self.W.shape
        return co, ci, taps

    @property
    def bits(self) -> dict[str, int]:
        """Bits that must be stored, without padding, by kind."""
        return {"basis": 0, "coefficients": 0, "stored": self.W.size * self.q}


@dataclass(frozen=True, eq=False, kw_only=True)
class Generated:
    """Weights recovered from a basis and coefficients.

    Source: Gu et al., Towards Memory-Efficient Neural Networks via Multi-Level in situ
    Generation, ICCV 2021; the rounding is this project's. At least one level is on:

        W1[b,c,t] = clamp8(round_shift(sum_i U[b,c,i] * B[b,i,t], s1))    intra level
        W [o,c,t] = clamp8(round_shift(sum_b V[o,b] * W1[b,c,t], s2))     cross level

    Parameters
    ----------
    U : int8 [Bo, Ci, Bi], or [Bo, Ci, T] without B
        Coefficients of the intra level; without it, W1 itself.
    B : int8 [Bo, Bi, T] or None
        Basis of the intra level; None where that level is off.
    V : int8 [Co, Bo] or None
        Coefficients of the cross level; None where that level is off, and then Bo = Co.
    qu, qb, qv : int
        Precision of U, B and V in bits, 1..8; 0 for a B or V that is None. Every element is in
        the `golden.fixed.symmetric_range` of its precision.
    s1, s2 : int
        Right shifts after the intra and the cross level, 0..31; 0 for a level that is off.

    Raises
    ------
    TypeError, ValueError
        For a type, shape, precision, shift or element outside these; the message quotes it.
    """

    U: Int8
    B: Int8 | None = None
    V: Int8 | None = None
    qu: int
    qb: int = 0
    qv: int = 0
    s1: int = 0
    s2: int = 0

    def __post_init__(self) -> None:
        if self.B is None and self.V is None:
            raise ValueError("Generated must have B or V; weights without either are Stored")
        checks.array("U", self.U, np.int8, "Bo", "Ci", "T" if self.B is None else "Bi")
        if self.B is not None:
            checks.array("B", self.B, np.int8, "Bo", "Bi", "T")
            if self.B.shape[:2] != (self.U.shape[0], self.U.shape[2]):
                raise ValueError(
                    f"B must be [Bo, Bi, T] with the Bo and Bi of U [Bo, Ci, Bi], "
                    f"not {self.B.shape} with {self.U.shape}"
                )
        if self.V is not None:
            checks.array("V", self.V, np.int8, "Co", "Bo")
            if self.V.shape[1] != self.U.shape[0]:
                raise ValueError(
                    f"V must be [Co, Bo] with the Bo of U, not {self.V.shape} with {self.U.shape}"
                )
        for name, precision, shift in (("U", "qu", None), ("B", "qb", "s1"), ("V", "qv", "s2")):
            values = getattr(self, name)
            for field, low, high in ((precision, 1, 8), (shift, 0, 31)):
                if field is None:
                    continue
                value = getattr(self, field)
                if values is None and value != 0:
                    raise ValueError(f"{field} must be 0 where {name} is None, not {value!r}")
                if values is not None:
                    _keep(self, field, checks.integer(field, value, low, high))
            if values is not None:
                in_range(name, values, getattr(self, precision))
                _keep(self, name, values)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Co, Ci, T) of W."""
        bo, ci, last = self.U.shape
        co = bo if self.V is None else self.V.shape[0]
        return co, ci, last if self.B is None else self.B.shape[2]

    @cached_property
    def W1(self) -> Int8:
        """Basis kernels of the cross level, int8 [Bo, Ci, T]."""
        return self.U if self.B is None else intra(self.U, self.B, self.s1)

    @cached_property
    def W(self) -> Int8:
        """Weights, int8 [Co, Ci, T]."""
        return self.W1 if self.V is None else cross(self.V, self.W1, self.s2)

    @property
    def bits(self) -> dict[str, int]:
        """Bits that must be stored, without padding, by kind.

        `basis` counts B, or W1 where there is no intra level; `coefficients` counts V, and U
        where it is not W1.
        """
        u = self.U.size * self.qu
        v = 0 if self.V is None else self.V.size * self.qv
        if self.B is None:
            return {"basis": u, "coefficients": v, "stored": 0}
        return {"basis": self.B.size * self.qb, "coefficients": u + v, "stored": 0}


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """A convolution with its requantisation.

    Parameters
    ----------
    name : str
        Name, unique in its network.
    kernel : (int, int)
        Taps (y, x); their product is the T of the weights.
    stride, dilation : (int, int)
        Steps of the window and from tap to tap (y, x), at least 1.
    padding : (int, int, int, int)
        Pixels of `input_zero_point` at top, left, bottom, right.
    weights : Stored or Generated
        W [Co, Ci / groups, T].
    bias : int32 [Co]
        Added to the accumulator; includes -input_zero_point * sum W.
    multiplier : int32 [Co]
        0..2**31 - 1, in units of 2**-31.
    shift : int8 [Co]
        Right shift 0..31 after the multiplication.
    input_zero_point, output_zero_point : int
        -128..127.
    activation_min, activation_max : int
        Range that outputs saturate to, within -128..127.
    double_rounding : bool
        Whether the requantiser rounds after the multiplication and again after the shift.
    groups : int
        Divides Ci and Co; groups = Ci is a depthwise convolution.

    Raises
    ------
    TypeError, ValueError
        For anything outside these; the message names the layer and quotes the value.
    """

    name: str
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    weights: Stored | Generated
    bias: Int32
    multiplier: Int32
    shift: Int8
    input_zero_point: int
    output_zero_point: int
    activation_min: int = -128
    activation_max: int = 127
    double_rounding: bool
    groups: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name of a layer must be a string, not {self.name!r}")
        try:
            self._check()
        except (TypeError, ValueError) as error:
            raise type(error)(f"layer {self.name!r}: {error}") from None

    def _check(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty")
        for field, count, low in (
            ("kernel", 2, 1),
            ("stride", 2, 1),
            ("padding", 4, 0),
            ("dilation", 2, 1),
        ):
            _keep(self, field, checks.integers(field, getattr(self, field), count, low))
        if not isinstance(self.weights, Stored | Generated):
            raise TypeError(
                f"weights must be Stored or Generated, not {type(self.weights).__name__}"
            )
        co, _, taps = self.weights.shape
        if self.kernel[0] * self.kernel[1] != taps:
            raise ValueError(f"kernel {self.kernel} must have the {taps} taps of the weights")
        _keep(self, "groups", checks.integer("groups", self.groups, 1, 1 << 16))
        if co % self.groups:
            raise ValueError(f"groups must divide {co} output channels, not {self.groups}")
        checks.bias(self.bias, co)
        checks.array("multiplier", self.multiplier, np.int32, "Co")
        checks.array("shift", self.shift, np.int8, "Co")
        for field, high in (("multiplier", (1 << 31) - 1), ("shift", 31)):
            values = getattr(self, field)
            if len(values) != co:
                raise ValueError(
                    f"{field} must have one element for each of {co} output channels, "
                    f"not {len(values)}"
                )
            for value in values[(values < 0) | (values > high)]:
                raise ValueError(f"{field} must be in 0..{high}, not {value}")
        for field in ("bias", "multiplier", "shift"):
            _keep(self, field, getattr(self, field))
        for field in ("input_zero_point", "output_zero_point", "activation_min", "activation_max"):
            _keep(self, field, checks.integer(field, getattr(self, field), -128, 127))
        if self.activation_min > self.activation_max:
            raise ValueError(
                f"activation_min must be at most activation_max {self.activation_max}, "
                f"not {self.activation_min}"
            )
        if not isinstance(self.double_rounding, bool):
            raise TypeError(f"double_rounding must be a bool, not {self.double_rounding!r}")

    @property
    def input_channels(self) -> int:
        """Channels of the input map, over all groups."""
        return self.weights.shape[1] * self.groups

    @property
    def output_channels(self) -> int:
        """Channels of the output map."""
        return self.weights.shape[0]

    def output_shape(self, input_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(H, W, C) of the output map for an input map of (H, W, C).

        Raises
        ------
        ValueError
            If the layer cannot take that map; the message names the layer.
        """
        if input_shape[2] != self.input_channels:
            raise ValueError(
                f"layer {self.name!r}: takes {self.input_channels} channels, not {input_shape[2]}"
            )
        try:
            height, width = output_size(
                input_shape[:2], self.kernel, self.stride, self.padding, self.dilation
            )
        except ValueError as error:
            raise ValueError(f"layer {self.name!r}: {error}") from None
        return height, width, self.output_channels


@dataclass(frozen=True, eq=False, kw_only=True)
class Network:
    """Layers, each fed by the one before it.

    Parameters
    ----------
    layers : tuple of Layer
        At least one; each takes the shape and the zero point that the one before it gives.
    input_shape : (int, int, int)
        (H, W, C) of the input.
    input_scale : float
        Positive; the real value of an input is input_scale * (x - input_zero_point).
    input_zero_point : int
        That of the first layer.
    output_scale : float
        Positive; the same for the output, with `output_zero_point`.

    Raises
    ------
    TypeError, ValueError
        For anything outside these; the message names the layer and quotes the value.
    """

    layers: tuple[Layer, ...]
    input_shape: tuple[int, int, int]
    input_scale: float
    input_zero_point: int
    output_scale: float

    def __post_init__(self) -> None:
        if not isinstance(self.layers, tuple | list) or not all(
            isinstance(layer, Layer) for layer in self.layers
        ):
            raise TypeError(f"layers must be a sequence of Layer, not {self.layers!r}")
        if not self.layers:
            raise ValueError("layers must not be empty")
        _keep(self, "layers", tuple(self.layers))
        _keep(self, "input_shape", checks.integers("input_shape", self.input_shape, 3, 1))
        for field in ("input_scale", "output_scale"):
            value = getattr(self, field)
            if not isinstance(value, int | float | np.floating) or isinstance(value, bool):
                raise TypeError(f"{field} must be a number, not {value!r}")
            if not 0 < value < float("inf"):
                raise ValueError(f"{field} must be positive and finite, not {float(value)}")
            _keep(self, field, float(value))
        zero_point = checks.integer("input_zero_point", self.input_zero_point, -128, 127)
        _keep(self, "input_zero_point", zero_point)
        names = set()
        for layer in self.layers:
            if layer.name in names:
                raise ValueError(f"layer {layer.name!r}: the name occurs twice")
            names.add(layer.name)
            if layer.input_zero_point != zero_point:
                raise ValueError(
                    f"layer {layer.name!r}: input_zero_point must be {zero_point}, that of "
                    f"what feeds it, not {layer.input_zero_point}"
                )
            zero_point = layer.output_zero_point
        shapes(self)

    @property
    def output_zero_point(self) -> int:
        """That of the last layer."""
        return self.layers[-1].output_zero_point


def shapes(network: Network) -> list[tuple[int, int, int]]:
    """(H, W, C) of the input, then of each layer's output: one more than there are layers."""
    result = [network.input_shape]
    for layer in network.layers:
        result.append(layer.output_shape(result[-1]))
    return result


def _forward(layer: Layer, x: Int8) -> Int8:
    """Output of one layer, int8 [N, H, W, Co], for x int8 [N, H, W, Ci]."""
    try:
        acc = convolve(
            x,
            layer.weights.W,
            layer.bias,
            layer.kernel,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.input_zero_point,
            layer.groups,
        )
    except OverflowError as error:
        raise OverflowError(f"layer {layer.name!r}: {error}") from None
    return requantise(
        acc,
        layer.multiplier,
        layer.shift,
        layer.output_zero_point,
        layer.activation_min,
        layer.activation_max,
        double_rounding=layer.double_rounding,
    )


@overload
def run(network: Network, x: Int8, keep: Literal[False] = False) -> Int8: ...


@overload
def run(network: Network, x: Int8, keep: Literal[True]) -> list[Int8]: ...


def run(network: Network, x: Int8, keep: bool = False) -> Int8 | list[Int8]:
    """Run a network.

    Parameters
    ----------
    network : Network
        What to run.
    x : int8 [N, H, W, C]
        Quantised inputs.
    keep : bool
        Whether to return every layer's output instead of the last one's.

    Returns
    -------
    int8 [N, Ho, Wo, Co], or a list of one such array a layer.

    Raises
    ------
    TypeError, ValueError
        If `x` is not int8 of the network's input shape.
    OverflowError
        If an accumulator leaves int32; the message names the layer.
    """
    checks.array("x", x, np.int8, "N", "H", "W", "C")
    if x.shape[1:] != network.input_shape:
        raise ValueError(
            f"x must be [N, H, W, C] with H, W, C {network.input_shape}, not of shape {x.shape}"
        )
    maps = shapes(network)[1:]
    first = 0 if keep else len(maps) - 1
    results = [np.empty((len(x), *shape), np.int8) for shape in maps[first:]]
    batch = max(1, BATCH_ACTIVATIONS // max(int(np.prod(shape)) for shape in maps))
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        for index, layer in enumerate(network.layers):
            part = _forward(layer, part)
            if index >= first:
                results[index - first][start : start + batch] = part
    return results if keep else results[0]
