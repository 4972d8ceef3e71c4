"""Random networks with every kind of layer the engine runs, in every form."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from golden.network import (
    INPUT,
    Add,
    Concatenation,
    Convolution,
    Layer,
    Mean,
    Multiply,
    Network,
    Pad,
    Pooling,
    Requantise,
    Rounding,
    Scaling,
    Shape,
    Table,
)
from insitu.errors import FitError
from insitu.plan import Plan, plan
from rtl.config import Configuration
from tests.insitu.networks import random_generated, random_stored

__all__ = [
    "random_bands",
    "random_layers",
    "random_plan",
    "random_residual_bands",
    "residual_network",
]

LARGEST = 900
"""Values of a map, so that simulations stay short."""


def random_layers(rng: np.random.Generator, config: Configuration, count: int) -> Network:
    """A network of at least `count` layers, whose values keep spread over the int8 range."""
    return _Growth(rng, config).grow(count)


def random_plan(
    rng: np.random.Generator, config: Configuration, count: int, *, keep_maps: bool = False
) -> Plan:
    """The plan of a random network; of ten in a row, one at least must fit."""
    for _ in range(10):
        try:
            return plan(random_layers(rng, config, count), config, keep_maps=keep_maps)
        except FitError as error:
            refused = error
    raise refused


def _too_small(network: Network, config: Configuration) -> Configuration:
    """Activation memory that is some bytes too small for the network, layer by layer."""
    needed = plan(network, config).activation_bytes
    if needed <= 1024:
        raise FitError("the network's maps fit the smallest memory", "draw another")
    return replace(config, activation_bytes=(needed - 1) // 1024 * 1024)


def random_bands(rng: np.random.Generator, config: Configuration, count: int) -> Plan:
    """The plan of a random network of tall maps, with too little memory to run layer by layer.

    Of `config` with less activation memory, as much as is just too little; of twenty networks in a
    row, one at least must fit in bands.
    """
    refused = FitError("every network fits without bands", "draw others")
    for _ in range(20):
        shape = tuple(int(n) for n in rng.integers([12, 5, 8], [25, 12, 24]))
        growth = _Growth(rng, config, (shape[0], shape[1], shape[2]))
        growth.dataflows = ("stored", "intra")
        network = growth.grow(count, whole=bool(rng.integers(2)))
        try:
            planned = plan(network, _too_small(network, config))
        except FitError as error:
            refused = error
            continue
        if planned.banded:
            return planned
    raise refused


def random_residual_bands(rng: np.random.Generator, config: Configuration) -> Plan:
    """The plan of a random residual network with so little memory that it needs buffers.

    Of `config` with less activation memory; of fifty networks in a row, one at least must fit.
    """
    refused = FitError("no network needs buffers", "draw others")
    for _ in range(50):
        height, width, inputs = rng.integers([3, 2, 1], [9, 5, 5]).tolist()
        channels, strides = rng.integers(4, 20, 2).tolist(), rng.integers(1, 3, 2).tolist()
        kernels = rng.integers(2, 9, 4).tolist() if rng.integers(2) else ()
        network = residual_network(
            rng,
            config,
            (4 * height, 4 * width, inputs),
            [*zip(channels, strides, strict=True)],
            kernels,
            bits=int(rng.integers(2, 9)),
        )
        try:
            planned = plan(network, _too_small(network, config))
        except FitError as error:
            refused = error
            continue
        if any(layer.buffer_rows for layer in planned.layers):
            return planned
    raise refused


def residual_network(
    rng: np.random.Generator,
    config: Configuration,
    shape: Shape,
    blocks: Sequence[tuple[int, int]],
    kernels: Sequence[int] = (),
    bits: int = 2,
) -> Network:
    """A ResNet of stored weights: a convolution, blocks of two and their sum, mean, classes.

    Parameters
    ----------
    shape : of the input
    blocks : sequence of (int, int)
        Channels and stride of each block.
    kernels : sequence of int
        For each convolution of a block the kernels Bo of its factored form, a pointwise layer
        behind a convolution with as many outputs; without them it is whole.
    bits : int
        Of the weights.
    """
    growth = _Growth(rng, config, shape)
    same = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
    halved = {"kernel": (3, 3), "stride": (2, 2), "padding": (0, 0, 1, 1)}
    each = iter(kernels)

    def convolve(kind: str, channels: int, **window: Any) -> None:
        taps = window["kernel"][0] * window["kernel"][1]
        weights = random_stored(rng, channels, growth.shape[2], taps, bits)
        growth._convolve(kind, weights, uniform=True, **window)

    def main(channels: int, **window: Any) -> None:
        outputs = next(each, None)
        convolve("conv", outputs or channels, **window)
        if outputs:
            convolve("point", channels, kernel=(1, 1))

    convolve("first", blocks[0][0], **same)
    for channels, stride in blocks:
        before, zero_point, source = growth.head, growth.zero_point, growth.shape
        main(channels, **(same if stride == 1 else halved))
        main(channels, **same)
        if stride != 1 or source[2] != channels:
            head, point, after = growth.head, growth.zero_point, growth.shape
            growth.head, growth.zero_point, growth.shape = before, zero_point, source
            convolve("shortcut", channels, kernel=(1, 1), stride=(stride, stride))
            before, zero_point = growth.head, growth.zero_point
            growth.head, growth.zero_point, growth.shape = head, point, after
        growth._add(before, zero_point)
    growth._mean()
    convolve("classes", 10, kernel=(1, 1))
    return growth.network()


class _Growth:
    """A network that grows layer by layer, computed as it grows."""

    def __init__(self, rng: np.random.Generator, config: Configuration, shape: Shape | None = None):
        self.rng, self.config = rng, config
        self.dataflows: tuple[str, ...] = ("stored", "intra", "cross", "flat")
        self.layers: list[Layer] = []
        if shape is None:
            height, width, channels = (int(n) for n in rng.integers(1, [9, 9, 12]))
            shape = height, width, channels
        self.shape = shape
        self.input_shape = self.shape
        self.zero_point = self.input_zero_point = int(rng.integers(-128, 128))
        self.head = INPUT
        self.maps = {INPUT: rng.integers(-128, 128, (3, *self.shape)).astype(np.int8)}

    def grow(self, count: int, *, whole: bool = True) -> Network:
        """Of at least so many layers; `whole`: some take their map as a whole."""
        kinds: list[Callable[[], None]] = [
            *[self._convolution] * 4,
            *[self._depthwise] * 2,
            *[self._grouped] * 2,
            *[self._residual] * 2,
            *[self._concatenation] * 2,
            self._average,
            self._maximum,
            self._requantise,
            self._table,
            self._pad,
            *[self._product] * whole,
        ]
        while len(self.layers) < count:
            kinds[int(self.rng.integers(len(kinds)))]()
            if np.prod(self.shape) > LARGEST:
                self._shrink()
        if whole and self.rng.random() < 0.3:
            self._mean()
        return self.network()

    def network(self) -> Network:
        return Network(
            layers=tuple(self.layers),
            input_shape=self.input_shape,
            input_scale=0.1,
            input_zero_point=self.input_zero_point,
            output_scale=0.1,
        )

    # Helpers.

    def _int(self, low: int, high: int) -> int:
        """Between these, both included."""
        return int(self.rng.integers(low, high + 1))

    def _append(self, layer: Layer) -> None:
        shape = layer.output_shape(*(self.maps[name].shape[1:] for name in layer.inputs))
        self.maps[layer.name] = layer.compute(*(self.maps[name] for name in layer.inputs))
        self.layers.append(layer)
        self.head, self.shape = layer.name, shape

    def _name(self, kind: str) -> str:
        return f"{kind}{len(self.layers)}"

    def _limits(self) -> dict[str, int]:
        if self.rng.random() < 0.5:
            return {}
        low, high = sorted(self.rng.integers(-128, 128, 2).tolist())
        return {"activation_min": min(low, 0), "activation_max": max(high, 20)}

    def _fit(self, layer: Convolution, uniform: bool | None = None) -> Convolution:
        """Requantised so that the outputs spread, and within what accumulators hold.

        `uniform`: all channels have one multiplier; by default at random.
        """
        sums = layer.sums(self.maps[layer.inputs[0]])
        flat = sums.reshape(-1, sums.shape[-1]).astype(float)
        spread = np.maximum(flat.std(axis=0), 1)
        if uniform or (uniform is None and self.rng.random() < 0.3):
            spread[:] = spread.max()
        co = len(spread)
        same = np.ptp(spread) == 0
        real = np.minimum(self.rng.uniform(30, 90, 1 if same else co) / spread, 0.999)
        if uniform is None and self.rng.random() < 0.2:
            # Multipliers of 1 or more: for all where they are the same, else for some.
            chosen = same | (self.rng.random(co) < 0.4)
            real = np.where(chosen, 2.0 ** self.rng.uniform(0, 9, real.shape), real)
        shift = np.clip(np.floor(-np.log2(real)), -30, 31).astype(np.int8)
        multiplier = np.minimum(np.round(real * 2.0 ** (31 + shift.astype(float))), 2**31 - 1)
        bias = -flat.mean(axis=0) + self.rng.uniform(-1, 1, co) * spread
        return replace(
            layer,
            bias=bias.astype(np.int32),
            multiplier=multiplier.astype(np.int32),
            shift=shift,
        )

    def _gain(self, usual: float) -> float:
        """A multiplier: the usual one, or one of 1 or more."""
        return usual if self.rng.random() < 0.8 else float(2.0 ** self.rng.uniform(0, 9))

    def _windowed(self, small: bool = False) -> dict[str, Any]:
        """A kernel that fits the map with its padding."""
        sides = []
        for size in self.shape[:2]:
            kernel = self._int(1, 3 if small else 4)
            dilation = 1 if small else self._int(1, 2)
            before, after = (self._int(0, kernel - 1) for _ in range(2))
            reach = (kernel - 1) * dilation + 1
            if size + before + after < reach:
                kernel, dilation = 1, 1
                before = after = 0
            sides.append((kernel, self._int(1, 2), dilation, before, after))
        (kh, sy, dy, top, bottom), (kw, sx, dx, left, right) = sides
        return {
            "kernel": (kh, kw),
            "stride": (sy, sx),
            "dilation": (dy, dx),
            "padding": (top, left, bottom, right),
        }

    def _convolve(
        self,
        kind: str,
        weights: Any,
        groups: int = 1,
        *,
        uniform: bool | None = None,
        **window: Any,
    ) -> None:
        co = weights.shape[0]
        after = self._int(-100, 100)
        layer = Convolution(
            name=self._name(kind),
            inputs=(self.head,),
            weights=weights,
            bias=np.zeros(co, np.int32),
            multiplier=np.full(co, 1 << 30, np.int32),
            shift=np.zeros(co, np.int8),
            input_zero_point=self.zero_point,
            output_zero_point=after,
            rounding=self.rng.choice(list(Rounding)),
            groups=groups,
            **window,
            **self._limits(),
        )
        self._append(self._fit(layer, uniform))
        self.zero_point = after

    # Kinds of layer.

    def _convolution(self, outputs: int | None = None, window: Any = None) -> None:
        window = window or self._windowed()
        taps = window["kernel"][0] * window["kernel"][1]
        co, ci = outputs or self._int(1, 40), self.shape[2]
        bounds, rng = self.config, self.rng
        dataflow = self.dataflows[self._int(0, len(self.dataflows) - 1)]
        terms = self._int(1, min(bounds.generator_terms, taps))
        bits = {
            "qb": self._int(1, bounds.generator_b_bits),
            "qu": self._int(1, bounds.generator_u_bits),
            "qv": self._int(1, 8),
        }
        levels = {
            "terms": None if dataflow == "flat" else terms,
            "kernels": None if dataflow == "intra" else self._int(1, 24),
            "s1": self._int(0, bounds.generator_max_shift),
            "s2": self._int(1, 6),
            "powers": dataflow != "flat" and self._int(0, 2) == 0,
        }
        if dataflow == "stored":
            weights: Any = random_stored(rng, co, ci, taps, self._int(1, 8))
        else:
            weights = random_generated(rng, co, ci, taps, **bits, **levels)
        self._convolve(dataflow, weights, **window)

    def _shrink(self) -> None:
        """Back to a small map."""
        weights = random_stored(self.rng, self._int(1, 12), self.shape[2], 1, 8)
        self._convolve("shrink", weights, kernel=(1, 1), stride=(2, 2))

    def _depthwise(self) -> None:
        window, channels = self._windowed(), self.shape[2]
        taps = window["kernel"][0] * window["kernel"][1]
        weights = random_stored(self.rng, channels, 1, taps, self._int(1, 8))
        self._convolve("depthwise", weights, channels, **window)

    def _grouped(self) -> None:
        window, channels = self._windowed(), self.shape[2]
        taps = window["kernel"][0] * window["kernel"][1]
        groups = [n for n in range(1, channels + 1) if channels % n == 0][-self._int(1, 3) :][0]
        outputs = groups * self._int(1, max(1, 40 // groups))
        weights = random_stored(self.rng, outputs, channels // groups, taps, self._int(1, 8))
        self._convolve("grouped", weights, groups, **window)

    def _residual(self) -> None:
        before, zero_point, channels = self.head, self.zero_point, self.shape[2]
        if self.rng.random() < 0.5:
            self._convolution(channels, {"kernel": (3, 3), "padding": (1, 1, 1, 1)})
        else:
            self._requantise()
        self._add(before, zero_point)

    def _add(self, before: str, zero_point: int) -> None:
        """The sum of a map before and the head."""
        scalings = []
        most = 0.0
        for point in (zero_point, self.zero_point):
            real = float(self.rng.uniform(0.05, 0.5))
            most = max(most, real)
            scalings.append((point, real))
        # As TFLite makes them: the larger scale is a half.
        inputs = [_scaling(point, real / most / 2) for point, real in scalings]
        after = self._int(-40, 40)
        output = _scaling(after, float(self.rng.uniform(0.5, 1.5)) * 2.0**-19)
        self._append(
            Add(
                name=self._name("add"),
                inputs=(before, self.head),
                scalings=(inputs[0], inputs[1]),
                output_scaling=output,
                rounding=self.rng.choice([Rounding.TWICE, Rounding.EVEN]),
                **self._limits(),
            )
        )
        self.zero_point = after

    def _concatenation(self) -> None:
        before = [self.head]
        for _ in range(self._int(1, 2)):
            # Each a table of one map or the other, with the zero point of the first.
            table = self.rng.integers(-128, 128, 256).astype(np.int8)
            self._append(
                Table(
                    name=self._name("branch"),
                    inputs=(before[self._int(0, len(before) - 1)],),
                    table=table,
                    output_zero_point=self.zero_point,
                )
            )
            before.append(self.head)
        if self.rng.random() < 0.2:
            before.append(before[0])
        self._append(Concatenation(name=self._name("concatenation"), inputs=tuple(before)))

    def _product(self) -> None:
        """Squeeze and excitation: a map times a function of its mean."""
        before, zero_point, shape = self.head, self.zero_point, self.shape
        self._mean()
        if self.rng.random() < 0.5:
            self._table()
        if self.rng.random() < 0.3:
            self.zero_point = -128
            table = self.rng.integers(-128, 128, 256).astype(np.int8)
            self._append(
                Table(
                    name=self._name("gate"),
                    inputs=(self.head,),
                    table=table,
                    output_zero_point=-128,
                )
            )
        inputs, points = [before, self.head], [zero_point, self.zero_point]
        if self.rng.random() < 0.5:
            inputs, points = inputs[::-1], points[::-1]
        after = self._int(-100, 100)
        self._append(
            Multiply(
                name=self._name("product"),
                inputs=tuple(inputs),
                input_zero_points=(points[0], points[1]),
                output_scaling=_scaling(after, self._gain(float(self.rng.uniform(0.005, 0.05)))),
                rounding=self.rng.choice(list(Rounding)),
                **self._limits(),
            )
        )
        self.zero_point = after
        assert self.shape == shape

    def _average(self) -> None:
        window = self._windowed(small=True)
        del window["dilation"]
        scaling = {}
        if self.rng.random() < 0.5:
            after, real = self._int(-100, 100), float(2.0 ** self.rng.uniform(-1, 2))
            scaling = {
                "input_zero_point": self.zero_point,
                "output_scaling": _scaling(after, real),
            }
            self.zero_point = after
        self._append(
            Pooling(
                name=self._name("average"),
                inputs=(self.head,),
                mode="average",
                **window,
                **scaling,
                **self._limits(),
            )
        )

    def _maximum(self) -> None:
        window = self._windowed(small=True)
        del window["dilation"]
        self._append(
            Pooling(
                name=self._name("maximum"),
                inputs=(self.head,),
                mode="maximum",
                **window,
                **self._limits(),
            )
        )

    def _requantise(self) -> None:
        after = self._int(-100, 100)
        self._append(
            Requantise(
                name=self._name("requantise"),
                inputs=(self.head,),
                input_zero_point=self.zero_point,
                output_scaling=_scaling(after, float(self.rng.uniform(0.3, 0.99))),
                rounding=self.rng.choice(list(Rounding)),
                **self._limits(),
            )
        )
        self.zero_point = after

    def _table(self) -> None:
        self.zero_point = self._int(-128, 127)
        self._append(
            Table(
                name=self._name("table"),
                inputs=(self.head,),
                table=self.rng.integers(-128, 128, 256).astype(np.int8),
                output_zero_point=self.zero_point,
            )
        )

    def _pad(self) -> None:
        self._append(
            Pad(
                name=self._name("pad"),
                inputs=(self.head,),
                padding=tuple(self._int(0, 2) for _ in range(4)),
                input_zero_point=self.zero_point,
            )
        )

    def _mean(self) -> None:
        pixels = self.shape[0] * self.shape[1]
        after = self._int(-100, 100)
        self._append(
            Mean(
                name=self._name("mean"),
                inputs=(self.head,),
                input_zero_point=self.zero_point,
                output_scaling=_scaling(
                    after, self._gain(float(self.rng.uniform(0.5, 0.99)) / pixels)
                ),
                rounding=self.rng.choice(list(Rounding)),
            )
        )
        self.zero_point = after


def _scaling(zero_point: int, real: float) -> Scaling:
    shift = int(np.floor(-np.log2(real)))
    return Scaling(zero_point, min(round(real * 2.0 ** (31 + shift)), 2**31 - 1), shift)
