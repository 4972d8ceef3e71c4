"""Networks in real numbers: what a model computes before, or in spite of, its quantisation.

The kinds of layer are those of `golden.layers`, with real values in place of integers, and maps are
channels last too. A network from a quantised file also has the scale and the zero point of each
map; for others `insitu.quantise.calibrate` finds them.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from golden.network import INPUT, Shape
from golden.windows import output_size

__all__ = [
    "FloatAdd",
    "FloatConcatenation",
    "FloatConvolution",
    "FloatFunction",
    "FloatLayer",
    "FloatLimit",
    "FloatMean",
    "FloatMultiply",
    "FloatNetwork",
    "FloatPad",
    "FloatPooling",
    "Quantisation",
]

Floats = NDArray[np.floating[Any]]

_MOST_PATCHES = 1 << 24
"""Values that a convolution looks at, at a time."""


class Quantisation(NamedTuple):
    """Scale and zero point of an int8 map."""

    scale: float
    zero_point: int


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatLayer:
    """What all kinds have in common.

    Parameters
    ----------
    name : str
    inputs : tuple of str
        Names of the layers that it reads, in order; "input" is the network's input.
    low, high : float
        Range the output is limited to; infinite where it is not.
    """

    name: str
    inputs: tuple[str, ...] = (INPUT,)
    low: float = -math.inf
    high: float = math.inf

    def output_shape(self, *shapes: Shape) -> Shape:
        """(H, W, C) of the output for inputs of (H, W, C); ValueError if there is none."""
        return self._output_shape(*shapes)

    def run(self, *maps: Floats) -> Floats:
        """Output [N, H', W', Co] for maps [N, H, W, C]."""
        return self.limited(self.sums(*maps))

    def limited(self, sums: Floats) -> Floats:
        """Output for what it was before the limits."""
        if math.isinf(self.low) and math.isinf(self.high):
            return sums
        return np.clip(sums, self.low, self.high)

    def sums(self, *maps: Floats) -> Floats:
        """Output before the limits."""
        return self._sums(*maps)

    def _output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def _sums(self, *maps: Floats) -> Floats:
        raise NotImplementedError


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatConvolution(FloatLayer):
    """A convolution.

    Parameters
    ----------
    kernel, stride, dilation : (int, int)
        (y, x).
    padding : (int, int, int, int)
        Top, left, bottom, right; zeros.
    weights : float64 [Co, Ci / groups, T]
        Taps rows first.
    bias : float64 [Co]
    groups : int
    dense : bool
        A fully connected layer in the model.
    weight_scale : float64 [Co], optional
        Where the weights are quantised already: they are integers times this.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    weights: Floats
    bias: Floats
    groups: int = 1
    dense: bool = False
    weight_scale: Floats | None = None

    def _output_shape(self, *shapes: Shape) -> Shape:
        ((height, width, channels),) = shapes
        if channels != self.weights.shape[1] * self.groups:
            raise ValueError(
                f"it takes {self.weights.shape[1] * self.groups} channels, its input has {channels}"
            )
        size = output_size((height, width), self.kernel, self.stride, self.padding, self.dilation)
        return *size, len(self.weights)

    def patches(self, x: Floats) -> Floats:
        """What each output pixel sees: [N, H', W', Ci, T] for x [N, H, W, Ci]."""
        top, left, bottom, right = self.padding
        padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
        n, _, _, channels = x.shape
        height, width, _ = self.output_shape((x.shape[1], x.shape[2], channels))
        result = np.empty((n, height, width, channels, self.kernel[0] * self.kernel[1]), x.dtype)
        (dy, dx), (sy, sx) = self.dilation, self.stride
        for ky in range(self.kernel[0]):
            for kx in range(self.kernel[1]):
                rows = slice(ky * dy, ky * dy + (height - 1) * sy + 1, sy)
                columns = slice(kx * dx, kx * dx + (width - 1) * sx + 1, sx)
                result[..., ky * self.kernel[1] + kx] = padded[:, rows, columns]
        return result

    def _sums(self, *maps: Floats) -> Floats:
        (x,) = maps
        height, width, channels = self.output_shape((x.shape[1], x.shape[2], x.shape[3]))
        patch = height * width * x.shape[3] * self.weights.shape[2]
        batch = max(1, _MOST_PATCHES // patch)
        # [groups, inputs of a group, outputs of a group]
        matrix = self.weights.reshape(self.groups, channels // self.groups, -1)
        matrix = matrix.transpose(0, 2, 1).astype(x.dtype)
        result = np.empty((len(x), height, width, channels), x.dtype)
        for start in range(0, len(x), batch):
            seen = self.patches(x[start : start + batch])
            rows = seen.reshape(-1, self.groups, matrix.shape[1]).transpose(1, 0, 2)
            sums = (rows @ matrix).transpose(1, 0, 2)
            result[start : start + batch] = sums.reshape(*seen.shape[:3], channels)
        result += self.bias.astype(x.dtype)
        return result


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatPooling(FloatLayer):
    """Average or greatest element of each window; what lies outside the map does not count.

    Parameters
    ----------
    mode : "average" or "maximum"
    kernel, stride : (int, int)
        (y, x).
    padding : (int, int, int, int)
        Top, left, bottom, right, each less than the kernel.
    """

    mode: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]

    def _output_shape(self, *shapes: Shape) -> Shape:
        ((height, width, channels),) = shapes
        top, left, bottom, right = self.padding
        if max(top, bottom) >= self.kernel[0] or max(left, right) >= self.kernel[1]:
            raise ValueError(f"padding {self.padding} is not less than the kernel {self.kernel}")
        return *output_size((height, width), self.kernel, self.stride, self.padding), channels

    def _taps(self, x: Floats, outside: float) -> Iterator[Floats]:
        top, left, bottom, right = self.padding
        height, width, _ = self.output_shape((x.shape[1], x.shape[2], x.shape[3]))
        edges = ((0, 0), (top, bottom), (left, right), (0, 0))
        padded = np.pad(x, edges, constant_values=outside)
        for ky in range(self.kernel[0]):
            for kx in range(self.kernel[1]):
                yield padded[
                    :,
                    ky : ky + (height - 1) * self.stride[0] + 1 : self.stride[0],
                    kx : kx + (width - 1) * self.stride[1] + 1 : self.stride[1],
                ]

    def _sums(self, *maps: Floats) -> Floats:
        (x,) = maps
        if self.mode == "maximum":
            taps = self._taps(x, -math.inf)
            result = next(taps).copy()
            for tap in taps:
                np.maximum(result, tap, out=result)
            return result
        inside = self._taps(np.ones((1, *x.shape[1:3], 1), x.dtype), 0)
        return np.asarray(sum(self._taps(x, 0)) / sum(inside), x.dtype)


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatMean(FloatLayer):
    """Mean over all pixels."""

    def _output_shape(self, *shapes: Shape) -> Shape:
        return 1, 1, shapes[0][2]

    def _sums(self, *maps: Floats) -> Floats:
        return maps[0].mean(axis=(1, 2), keepdims=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatAdd(FloatLayer):
    """Sum of two maps."""

    def _output_shape(self, *shapes: Shape) -> Shape:
        if shapes[0] != shapes[1]:
            raise ValueError(f"it adds maps of shapes {shapes[0]} and {shapes[1]}")
        return shapes[0]

    def _sums(self, *maps: Floats) -> Floats:
        return maps[0] + maps[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatMultiply(FloatLayer):
    """Product of two maps, one of which may be a single pixel."""

    def _output_shape(self, *shapes: Shape) -> Shape:
        a, b = shapes
        if a[2] != b[2] or (a != b and (1, 1) not in (a[:2], b[:2])):
            raise ValueError(f"it multiplies maps of shapes {a} and {b}")
        return max(a, b)

    def _sums(self, *maps: Floats) -> Floats:
        return maps[0] * maps[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatConcatenation(FloatLayer):
    """Maps beside each other, channel after channel."""

    def _output_shape(self, *shapes: Shape) -> Shape:
        if len({shape[:2] for shape in shapes}) > 1:
            raise ValueError(f"it concatenates maps of shapes {' and '.join(map(str, shapes))}")
        return *shapes[0][:2], sum(shape[2] for shape in shapes)

    def _sums(self, *maps: Floats) -> Floats:
        return np.concatenate(maps, axis=3)


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatFunction(FloatLayer):
    """A function of one value.

    Parameters
    ----------
    function : callable
        Of an array of any shape.
    """

    function: Callable[[Floats], Floats]

    def _sums(self, *maps: Floats) -> Floats:
        return self.function(maps[0])


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatLimit(FloatLayer):
    """Nothing but the limits; or another scale."""

    def _sums(self, *maps: Floats) -> Floats:
        return maps[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatPad(FloatLayer):
    """Zeros around a map: `padding` pixels at top, left, bottom, right."""

    padding: tuple[int, int, int, int]

    def _output_shape(self, *shapes: Shape) -> Shape:
        ((height, width, channels),) = shapes
        top, left, bottom, right = self.padding
        return height + top + bottom, width + left + right, channels

    def _sums(self, *maps: Floats) -> Floats:
        top, left, bottom, right = self.padding
        return np.pad(maps[0], ((0, 0), (top, bottom), (left, right), (0, 0)))


@dataclass(frozen=True, eq=False)
class FloatNetwork:
    """A graph of layers in floating point.

    Parameters
    ----------
    name : str
    input_shape : (int, int, int)
        Height, width, channels.
    layers : tuple of FloatLayer
        In an order in which each comes after what it reads; the last one's output is the network's.
    quantisations : dict, optional
        For "input" and each layer's name the quantisation of its map, where the model has them.
    tensors : dict, optional
        For each layer's name the tensor of the model that its quantised output equals.
    notes : tuple of str, optional
        What became of operators that left no layer.
    """

    name: str
    input_shape: Shape
    layers: tuple[FloatLayer, ...]
    quantisations: Mapping[str, Quantisation] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, Shape]:
        """(H, W, C) of the input and of each layer's output, by name."""
        found = {INPUT: self.input_shape}
        for layer in self.layers:
            found[layer.name] = layer.output_shape(*(found[name] for name in layer.inputs))
        return found

    @property
    def output_shape(self) -> Shape:
        """Height, width and channels of the last layer's output."""
        return self.shapes[self.layers[-1].name]

    @property
    def weights(self) -> int:
        """How many weights its convolutions have."""
        return sum(one.weights.size for one in self.layers if isinstance(one, FloatConvolution))

    def run(self, x: Floats) -> Floats:
        """Output [N, H', W', Co] for x [N, H, W, C]."""
        ((_, y),) = deque(self.maps(x), maxlen=1)
        return y

    def maps(self, x: Floats) -> Iterator[tuple[FloatLayer, Floats]]:
        """Each layer and its output."""
        for layer, sums in self.sums(x):
            yield layer, layer.limited(sums)

    def sums(self, x: Floats) -> Iterator[tuple[FloatLayer, Floats]]:
        """Each layer and its output before the limits."""
        last_reader = {
            name: index for index, layer in enumerate(self.layers) for name in layer.inputs
        }
        found = {INPUT: x}
        for index, layer in enumerate(self.layers):
            sums = layer.sums(*(found[name] for name in layer.inputs))
            found[layer.name] = layer.limited(sums)
            yield layer, sums
            for name in {*layer.inputs}:
                if last_reader[name] == index:
                    del found[name]

    @property
    def chain(self) -> tuple[FloatConvolution, ...] | None:
        """The layers, if they are a chain of convolutions without groups; else None."""
        before = INPUT
        layers = []
        for layer in self.layers:
            if not isinstance(layer, FloatConvolution) or layer.groups > 1:
                return None
            if layer.inputs != (before,):
                return None
            layers.append(layer)
            before = layer.name
        return tuple(layers)
