"""The kinds of layer that a network is made of: what each stores, takes, gives and computes.

A layer reads the maps that its `inputs` name and makes one map, int8, channels last. Its arithmetic
is that of the module of the same name. What looks like a kind of its own and is none:

- a fully connected layer is a convolution whose kernel is the whole map;
- a depthwise convolution has as many groups as input channels;
- a scale a channel (batch normalisation before its activation) is a depthwise convolution of one
  tap: weights of +-127, multiplier, shift and bias a channel.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from golden import checks, pool
from golden.add import add
from golden.checks import keep
from golden.convolve import convolve
from golden.mean import mean
from golden.multiply import multiply
from golden.requantise import LARGEST_MULTIPLIER, SHIFTS, Rounding, Scaling, requantise
from golden.table import look_up
from golden.weights import Generated, Stored
from golden.windows import output_size, pad

__all__ = [
    "INPUT",
    "Add",
    "Concatenation",
    "Convolution",
    "Layer",
    "Mean",
    "Multiply",
    "Pad",
    "Pooling",
    "Requantise",
    "Shape",
    "Table",
]

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Shape = tuple[int, int, int]
"""(H, W, C) of a map."""

INPUT = "input"
"""What layers call the network's input."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """What all kinds have in common.

    Parameters
    ----------
    name : str
        Name, unique in its network and not "input".
    inputs : tuple of str
        Names of the layers whose outputs it reads, in order; "input" is the network's.

    Raises
    ------
    TypeError, ValueError
        For anything outside a kind's parameters; the message names the layer and quotes the value.
    """

    kind: ClassVar[str]
    """What messages and reports call this kind."""
    operands: ClassVar[int] = 1
    """Maps it reads; 0 for any number from one."""

    name: str
    inputs: tuple[str, ...] = (INPUT,)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name of a layer must be a string, not {self.name!r}")
        with self._named():
            if not self.name:
                raise ValueError("name must not be empty")
            if isinstance(self.inputs, str) or not all(isinstance(x, str) for x in self.inputs):
                raise TypeError(f"inputs must be a tuple of names, not {self.inputs!r}")
            keep(self, "inputs", tuple(self.inputs))
            if not self.inputs or self.operands not in (0, len(self.inputs)):
                count = self.operands or "at least 1"
                raise ValueError(f"inputs must be {count} of them, not {len(self.inputs)}")
            self._check()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (TypeError, ValueError, OverflowError) as error:
            raise type(error)(f"layer {self.name!r}: {error}") from None

    def output_shape(self, *shapes: Shape) -> Shape:
        """(H, W, C) of the output map for input maps of (H, W, C).

        Raises
        ------
        ValueError
            If the layer cannot take those maps; the message names the layer.
        """
        with self._named():
            return self._output_shape(*shapes)

    def zero_point(self, *zero_points: int) -> int:
        """Zero point of the output map for input maps with these.

        Raises
        ------
        ValueError
            If the layer is made for others; the message names the layer.
        """
        with self._named():
            return self._zero_point(*zero_points)

    def compute(self, *maps: Int8) -> Int8:
        """Output [N, Ho, Wo, Co] for maps [N, H, W, C].

        Raises
        ------
        OverflowError
            If a sum leaves int32; the message names the layer.
        """
        with self._named():
            return self._compute(*maps)

    def _check(self) -> None:
        raise NotImplementedError

    def _output_shape(self, *shapes: Shape) -> Shape:
        raise NotImplementedError

    def _zero_point(self, *zero_points: int) -> int:
        raise NotImplementedError

    def _compute(self, *maps: Int8) -> Int8:
        raise NotImplementedError

    def _same_shapes(self, shapes: tuple[Shape, ...]) -> Shape:
        if len(set(shapes)) > 1:
            raise ValueError(f"takes maps of the same shape, not {' and '.join(map(str, shapes))}")
        return shapes[0]

    def _expect(self, field: str, expected: int, found: int) -> None:
        if expected != found:
            raise ValueError(
                f"{field} must be {found}, that of what feeds it, not {expected}",
            )

    def _zero_points(self, *fields: str) -> None:
        for field in fields:
            keep(self, field, checks.integer(field, getattr(self, field), -128, 127))

    def _limits(self, low: int, high: int) -> None:
        for field, value in (("activation_min", low), ("activation_max", high)):
            keep(self, field, checks.integer(field, value, -128, 127))
        if low > high:
            raise ValueError(f"activation_min must be at most activation_max {high}, not {low}")


def _scaling(name: str, value: object, shifts: tuple[int, int]) -> Scaling:
    """`value` as a Scaling, checked."""
    zero_point, multiplier, shift = checks.integers(name, value, 3, -128)
    return Scaling(
        checks.integer(f"zero point of {name}", zero_point, -128, 127),
        checks.integer(f"multiplier of {name}", multiplier, 0, LARGEST_MULTIPLIER),
        checks.integer(f"shift of {name}", shift, *shifts),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(Layer):
    """A convolution with its requantisation.

        acc = sum over taps and channels of x * W + bias              int32
        y   = clamp(rescale(acc) + output_zero_point, activation_min, activation_max)

    with the raw x, so that `bias` already holds `-input_zero_point * sum W`; taps outside the map
    read `input_zero_point`. `golden.requantise` defines `rescale`.

    Parameters
    ----------
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
        Right shift -30..31 after the multiplication; a negative one is to the left.
    input_zero_point, output_zero_point : int
        -128..127.
    activation_min, activation_max : int
        Range that outputs saturate to, within -128..127.
    rounding : Rounding
    groups : int
        Divides Ci and Co; groups = Ci is a depthwise convolution.
    """

    kind: ClassVar[str] = "convolution"

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
    rounding: Rounding
    groups: int = 1

    def _check(self) -> None:
        for field, count, low in (
            ("kernel", 2, 1),
            ("stride", 2, 1),
            ("padding", 4, 0),
            ("dilation", 2, 1),
        ):
            keep(self, field, checks.integers(field, getattr(self, field), count, low))
        if not isinstance(self.weights, Stored | Generated):
            raise TypeError(
                f"weights must be Stored or Generated, not {type(self.weights).__name__}"
            )
        co, _, taps = self.weights.shape
        if self.kernel[0] * self.kernel[1] != taps:
            raise ValueError(f"kernel {self.kernel} must have the {taps} taps of the weights")
        keep(self, "groups", checks.integer("groups", self.groups, 1, 1 << 16))
        if co % self.groups:
            raise ValueError(f"groups must divide {co} output channels, not {self.groups}")
        checks.bias(self.bias, co)
        checks.array("multiplier", self.multiplier, np.int32, "Co")
        checks.array("shift", self.shift, np.int8, "Co")
        for field, (low, high) in (("multiplier", (0, LARGEST_MULTIPLIER)), ("shift", SHIFTS)):
            values = getattr(self, field)
            if len(values) != co:
                raise ValueError(
                    f"{field} must have one element for each of {co} output channels, "
                    f"not {len(values)}"
                )
            for value in values[(values < low) | (values > high)]:
                raise ValueError(f"{field} must be in {low}..{high}, not {value}")
        for field in ("bias", "multiplier", "shift"):
            keep(self, field, getattr(self, field))
        self._zero_points("input_zero_point", "output_zero_point")
        self._limits(self.activation_min, self.activation_max)
        keep(self, "rounding", Rounding(self.rounding))

    @property
    def input_channels(self) -> int:
        """Channels of the input map, over all groups."""
        return self.weights.shape[1] * self.groups

    @property
    def output_channels(self) -> int:
        """Channels of the output map."""
        return self.weights.shape[0]

    @property
    def depthwise(self) -> bool:
        """Whether each output channel has an input channel of its own."""
        return self.groups == self.input_channels == self.output_channels

    def _output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if shape[2] != self.input_channels:
            raise ValueError(f"takes {self.input_channels} channels, not {shape[2]}")
        size = output_size(shape[:2], self.kernel, self.stride, self.padding, self.dilation)
        return *size, self.output_channels

    def _zero_point(self, *zero_points: int) -> int:
        self._expect("input_zero_point", self.input_zero_point, *zero_points)
        return self.output_zero_point

    def sums(self, x: Int8) -> Int32:
        """Accumulators, int32 [N, Ho, Wo, Co]: what `compute` requantises."""
        return convolve(
            x,
            self.weights.W,
            self.bias,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.input_zero_point,
            self.groups,
        )

    def requantised(self, sums: Int32) -> Int8:
        """Outputs for accumulators, channels last."""
        return requantise(
            sums,
            self.multiplier,
            self.shift,
            self.output_zero_point,
            self.activation_min,
            self.activation_max,
            rounding=self.rounding,
        )

    def _compute(self, *maps: Int8) -> Int8:
        return self.requantised(self.sums(maps[0]))


@dataclass(frozen=True, eq=False, kw_only=True)
class Pooling(Layer):
    """Average or greatest element of each window (`golden.pool`).

    Scale and zero point stay, unless there is an `output_scaling`.

    Parameters
    ----------
    mode : "average" or "maximum"
    kernel, stride : (int, int)
        Size and steps of the window (y, x), at least 1.
    padding : (int, int, int, int)
        Pixels at top, left, bottom, right, which do not count.
    activation_min, activation_max : int
        Range that outputs saturate to, within -128..127.
    input_zero_point : int
        -128..127; what counts where there is an `output_scaling`.
    output_scaling : Scaling, optional
        Of an average in another scale, with input scale / output scale; it is rounded once with
        halves to even, seen from the zero point, where one without takes halves away from 0.
    """

    kind: ClassVar[str] = "pooling"

    mode: str
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    activation_min: int = -128
    activation_max: int = 127
    input_zero_point: int = 0
    output_scaling: Scaling | None = None

    def _check(self) -> None:
        if self.mode not in ("average", "maximum"):
            raise ValueError(f"mode must be 'average' or 'maximum', not {self.mode!r}")
        for field, count, low in (("kernel", 2, 1), ("stride", 2, 1), ("padding", 4, 0)):
            keep(self, field, checks.integers(field, getattr(self, field), count, low))
        top, left, bottom, right = self.padding
        if max(top, bottom) >= self.kernel[0] or max(left, right) >= self.kernel[1]:
            raise ValueError(
                f"padding must be less than the kernel {self.kernel}, not {self.padding}"
            )
        self._limits(self.activation_min, self.activation_max)
        self._zero_points("input_zero_point")
        if self.output_scaling is not None:
            if self.mode != "average":
                raise ValueError("output_scaling must be None for a maximum, which keeps its scale")
            keep(self, "output_scaling", _scaling("output_scaling", self.output_scaling, SHIFTS))

    def _output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        return *output_size(shape[:2], self.kernel, self.stride, self.padding), shape[2]

    def _zero_point(self, *zero_points: int) -> int:
        if self.output_scaling is None:
            return zero_points[0]
        self._expect("input_zero_point", self.input_zero_point, *zero_points)
        return self.output_scaling.zero_point

    def _compute(self, *maps: Int8) -> Int8:
        if self.output_scaling is not None:
            return pool.rescaled_average(
                maps[0],
                self.kernel,
                self.stride,
                self.padding,
                self.input_zero_point,
                self.output_scaling,
                self.activation_min,
                self.activation_max,
            )
        function = pool.average if self.mode == "average" else pool.maximum
        return function(
            maps[0],
            self.kernel,
            self.stride,
            self.padding,
            self.activation_min,
            self.activation_max,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Mean(Layer):
    """Mean over all pixels, requantised (`golden.mean`).

    Parameters
    ----------
    input_zero_point : int
        -128..127.
    output_scaling : Scaling
        With input scale / (output scale * H * W).
    rounding : Rounding
    """

    kind: ClassVar[str] = "mean"

    input_zero_point: int
    output_scaling: Scaling
    rounding: Rounding = Rounding.TWICE

    def _check(self) -> None:
        self._zero_points("input_zero_point")
        keep(self, "output_scaling", _scaling("output_scaling", self.output_scaling, SHIFTS))
        keep(self, "rounding", Rounding(self.rounding))

    def _output_shape(self, *shapes: Shape) -> Shape:
        return 1, 1, shapes[0][2]

    def _zero_point(self, *zero_points: int) -> int:
        self._expect("input_zero_point", self.input_zero_point, *zero_points)
        return self.output_scaling.zero_point

    def _compute(self, *maps: Int8) -> Int8:
        return mean(
            maps[0],
            self.input_zero_point,
            self.output_scaling,
            rounding=self.rounding,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Layer):
    """Sum of two maps of different scales (`golden.add`).

    Parameters
    ----------
    scalings : (Scaling, Scaling)
        Of the two inputs, shifts 0..31.
    output_scaling : Scaling
        Of the output, shift 0..31.
    activation_min, activation_max : int
        Range that outputs saturate to, within -128..127.
    rounding : Rounding
        Of the sum.
    """

    kind: ClassVar[str] = "add"
    operands: ClassVar[int] = 2

    scalings: tuple[Scaling, Scaling]
    output_scaling: Scaling
    activation_min: int = -128
    activation_max: int = 127
    rounding: Rounding = Rounding.TWICE

    def _check(self) -> None:
        if len(self.scalings) != 2:
            raise ValueError(f"scalings must be 2 of them, not {len(self.scalings)}")
        scalings = tuple(_scaling("scalings", value, (0, 31)) for value in self.scalings)
        keep(self, "scalings", scalings)
        keep(self, "output_scaling", _scaling("output_scaling", self.output_scaling, (0, 31)))
        self._limits(self.activation_min, self.activation_max)
        keep(self, "rounding", Rounding(self.rounding))

    def _output_shape(self, *shapes: Shape) -> Shape:
        return self._same_shapes(shapes)

    def _zero_point(self, *zero_points: int) -> int:
        for scaling, zero_point in zip(self.scalings, zero_points, strict=True):
            self._expect("zero point of scalings", scaling.zero_point, zero_point)
        return self.output_scaling.zero_point

    def _compute(self, *maps: Int8) -> Int8:
        a, b = maps
        a_scaling, b_scaling = self.scalings
        return add(
            a,
            b,
            a_scaling,
            b_scaling,
            self.output_scaling,
            self.activation_min,
            self.activation_max,
            rounding=self.rounding,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Multiply(Layer):
    """Elementwise product of two maps, one of which may be a single pixel (`golden.multiply`).

    Parameters
    ----------
    input_zero_points : (int, int)
        -128..127.
    output_scaling : Scaling
    activation_min, activation_max : int
        Range that outputs saturate to, within -128..127.
    rounding : Rounding
    """

    kind: ClassVar[str] = "multiply"
    operands: ClassVar[int] = 2

    input_zero_points: tuple[int, int]
    output_scaling: Scaling
    activation_min: int = -128
    activation_max: int = 127
    rounding: Rounding = Rounding.TWICE

    def _check(self) -> None:
        points = checks.integers("input_zero_points", self.input_zero_points, 2, -128)
        for point in points:
            checks.integer("input_zero_points", point, -128, 127)
        keep(self, "input_zero_points", points)
        keep(self, "output_scaling", _scaling("output_scaling", self.output_scaling, SHIFTS))
        self._limits(self.activation_min, self.activation_max)
        keep(self, "rounding", Rounding(self.rounding))

    def _output_shape(self, *shapes: Shape) -> Shape:
        a, b = shapes
        if a[2] != b[2] or (a != b and (1, 1) not in (a[:2], b[:2])):
            raise ValueError(
                f"takes maps of the same shape, or one of a single pixel, not {a} and {b}"
            )
        return max(a, b)

    def _zero_point(self, *zero_points: int) -> int:
        for expected, found in zip(self.input_zero_points, zero_points, strict=True):
            self._expect("input_zero_points", expected, found)
        return self.output_scaling.zero_point

    def _compute(self, *maps: Int8) -> Int8:
        a, b = maps
        a_zero_point, b_zero_point = self.input_zero_points
        return multiply(
            a,
            b,
            a_zero_point,
            b_zero_point,
            self.output_scaling,
            self.activation_min,
            self.activation_max,
            rounding=self.rounding,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Concatenation(Layer):
    """Maps beside each other, channel after channel: a copy.

    All have one scale and zero point; a map of another goes through a Requantise layer first.
    """

    kind: ClassVar[str] = "concatenation"
    operands: ClassVar[int] = 0

    def _check(self) -> None:
        pass

    def _output_shape(self, *shapes: Shape) -> Shape:
        if len({shape[:2] for shape in shapes}) > 1:
            raise ValueError(f"takes maps of one size, not {' and '.join(map(str, shapes))}")
        return *shapes[0][:2], sum(shape[2] for shape in shapes)

    def _zero_point(self, *zero_points: int) -> int:
        if len(set(zero_points)) > 1:
            raise ValueError(f"takes maps of one zero point, not {zero_points}")
        return zero_points[0]

    def _compute(self, *maps: Int8) -> Int8:
        return np.concatenate(maps, axis=3)


@dataclass(frozen=True, eq=False, kw_only=True)
class Requantise(Layer):
    """Another scale, zero point or range: clamp(rescale(x - input_zero_point) + zero point).

    Parameters
    ----------
    input_zero_point : int
        -128..127.
    output_scaling : Scaling
        With input scale / output scale.
    activation_min, activation_max : int
        Range that outputs saturate to, within -128..127.
    rounding : Rounding
    """

    kind: ClassVar[str] = "requantise"

    input_zero_point: int
    output_scaling: Scaling
    activation_min: int = -128
    activation_max: int = 127
    rounding: Rounding = Rounding.TWICE

    def _check(self) -> None:
        self._zero_points("input_zero_point")
        keep(self, "output_scaling", _scaling("output_scaling", self.output_scaling, SHIFTS))
        self._limits(self.activation_min, self.activation_max)
        keep(self, "rounding", Rounding(self.rounding))

    def _output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def _zero_point(self, *zero_points: int) -> int:
        self._expect("input_zero_point", self.input_zero_point, *zero_points)
        return self.output_scaling.zero_point

    def table(self) -> Int8:
        """The output for each input from -128 to 127, int8 [256]."""
        zero_point, multiplier, shift = self.output_scaling
        return requantise(
            np.arange(-128, 128, dtype=np.int32) - np.int32(self.input_zero_point),
            multiplier,
            shift,
            zero_point,
            self.activation_min,
            self.activation_max,
            rounding=self.rounding,
        )

    def _compute(self, *maps: Int8) -> Int8:
        return look_up(maps[0], self.table())


@dataclass(frozen=True, eq=False, kw_only=True)
class Table(Layer):
    """Any function of one value (`golden.table`).

    Parameters
    ----------
    table : int8 [256]
        Outputs for -128 to 127.
    output_zero_point : int
        -128..127.
    """

    kind: ClassVar[str] = "table"

    table: Int8
    output_zero_point: int

    def _check(self) -> None:
        checks.array("table", self.table, np.int8, "256")
        if len(self.table) != 256:
            raise ValueError(f"table must have 256 entries, not {len(self.table)}")
        keep(self, "table", self.table)
        self._zero_points("output_zero_point")

    def _output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def _zero_point(self, *zero_points: int) -> int:
        return self.output_zero_point

    def _compute(self, *maps: Int8) -> Int8:
        return look_up(maps[0], self.table)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pad(Layer):
    """Pixels of `input_zero_point`, which is real zero, around a map.

    Parameters
    ----------
    padding : (int, int, int, int)
        Pixels at top, left, bottom, right.
    input_zero_point : int
        -128..127.
    """

    kind: ClassVar[str] = "pad"

    padding: tuple[int, int, int, int]
    input_zero_point: int

    def _check(self) -> None:
        keep(self, "padding", checks.integers("padding", self.padding, 4, 0))
        self._zero_points("input_zero_point")

    def _output_shape(self, *shapes: Shape) -> Shape:
        height, width, channels = shapes[0]
        top, left, bottom, right = self.padding
        return height + top + bottom, width + left + right, channels

    def _zero_point(self, *zero_points: int) -> int:
        self._expect("input_zero_point", self.input_zero_point, *zero_points)
        return self.input_zero_point

    def _compute(self, *maps: Int8) -> Int8:
        return pad(maps[0], self.padding, self.input_zero_point)
