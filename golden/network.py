"""A whole network: a graph of layers, and what it must compute, bit by bit.

Layers stand in an order in which each comes after what it reads; the last one's output is the
network's. Activations are int8, channels last. The kinds of layer are in `golden.layers`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from golden import checks
from golden.checks import keep as _keep
from golden.layers import (
    INPUT,
    Add,
    Concatenation,
    Convolution,
    Layer,
    Mean,
    Multiply,
    Pad,
    Pooling,
    Requantise,
    Shape,
    Table,
)
from golden.requantise import Rounding, Scaling
from golden.weights import Generated, Stored

__all__ = [
    "INPUT",
    "Add",
    "Concatenation",
    "Convolution",
    "Generated",
    "Layer",
    "Mean",
    "Multiply",
    "Network",
    "Pad",
    "Pooling",
    "Requantise",
    "Rounding",
    "Scaling",
    "Shape",
    "Stored",
    "Table",
    "chain",
    "run",
    "shapes",
    "zero_points",
]

Int8 = NDArray[np.int8]

BATCH_ACTIVATIONS = 1 << 20
"""Activations of a layer that `run` computes at a time: what stays in a processor's cache."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Network:
    """Layers, each fed by the network's input or by layers before it.

    Parameters
    ----------
    layers : tuple of Layer
        At least one. Each takes the shapes and zero points that its inputs give, and all but the
        last are read by another; the last one's output is the network's.
    input_shape : (int, int, int)
        (H, W, C) of the input.
    input_scale : float
        Positive; the real value of an input is input_scale * (x - input_zero_point).
    input_zero_point : int
        -128..127.
    output_scale : float
        Positive; the same for the output, with `output_zero_point`.

    Raises
    ------
    TypeError, ValueError
        For anything outside these; the message names the layer and quotes the value.
    """

    layers: tuple[Layer, ...]
    input_shape: Shape
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
        self._check_graph()
        zero_points(self)
        shapes(self)

    def _check_graph(self) -> None:
        known, unread = {INPUT}, set[str]()
        for layer in self.layers:
            if layer.name in known:
                reason = "is that of the input" if layer.name == INPUT else "occurs twice"
                raise ValueError(f"layer {layer.name!r}: the name {reason}")
            for name in layer.inputs:
                if name not in known:
                    raise ValueError(
                        f"layer {layer.name!r}: reads {name!r}, which is not before it"
                    )
            unread -= {*layer.inputs}
            known.add(layer.name)
            unread.add(layer.name)
        for name in sorted(unread - {self.layers[-1].name}):
            raise ValueError(f"layer {name!r} is read by no other, and is not the last")

    @property
    def output_shape(self) -> Shape:
        """Height, width and channels of the last layer's output."""
        return shapes(self)[-1]

    @property
    def output_zero_point(self) -> int:
        """That of the last layer's output."""
        return zero_points(self)[-1]


def chain(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Copies of layers with one input each, each fed by the one before it."""
    result: list[Layer] = []
    for layer in layers:
        before = result[-1].name if result else INPUT
        result.append(replace(layer, inputs=(before,)))
    return tuple(result)


def shapes(network: Network) -> list[Shape]:
    """(H, W, C) of the input, then of each layer's output: one more than there are layers."""
    result = {INPUT: network.input_shape}
    for layer in network.layers:
        result[layer.name] = layer.output_shape(*(result[name] for name in layer.inputs))
    return list(result.values())


def zero_points(network: Network) -> list[int]:
    """Zero points of the input, then of each layer's output."""
    result = {INPUT: network.input_zero_point}
    for layer in network.layers:
        result[layer.name] = layer.zero_point(*(result[name] for name in layer.inputs))
    return list(result.values())


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
    sizes = shapes(network)[1:]
    first = 0 if keep else len(sizes) - 1
    results = [np.empty((len(x), *shape), np.int8) for shape in sizes[first:]]
    last_reader = {
        name: index for index, layer in enumerate(network.layers) for name in layer.inputs
    }
    batch = max(1, BATCH_ACTIVATIONS // max(int(np.prod(shape)) for shape in sizes))
    for start in range(0, len(x), batch):
        maps = {INPUT: x[start : start + batch]}
        for index, layer in enumerate(network.layers):
            maps[layer.name] = layer.compute(*(maps[name] for name in layer.inputs))
            if index >= first:
                results[index - first][start : start + batch] = maps[layer.name]
            for name in {*layer.inputs}:
                if last_reader[name] == index:
                    del maps[name]
    return results if keep else results[0]
