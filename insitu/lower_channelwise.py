"""What the engine does for layers that work channel by channel: depthwise operations.

Pooling and means have weights of 1, a change of scale has one weight, a sum of two maps has two for
each (`insitu.exact`), a table looks up what comes out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import singledispatch
from typing import Any

import numpy as np

from golden.network import (
    Add,
    Concatenation,
    Layer,
    Mean,
    Multiply,
    Pad,
    Pooling,
    Requantise,
    Scaling,
    Table,
)
from golden.requantise import Rounding, divided
from insitu.exact import Exact, addition, average, digits, rescaling
from insitu.lowering import (
    COPY,
    Site,
    Unable,
    channelwise,
    check_tile,
    copied,
    lane_words,
    output_limits,
    over_words,
    plain_walk,
    window_walk,
)
from insitu.maps import Map
from insitu.operation import Loop, Operation, Segment, Walk
from rtl.config import Configuration
from rtl.record import TILE

__all__ = ["lower_channelwise"]


@singledispatch
def lower_channelwise(layer: Layer, site: Site) -> list[Operation]:
    """The operations of a layer that is no convolution."""
    raise Unable(
        f"is of kind {layer.kind!r}, which the engine cannot run", "build the network without it"
    )


@lower_channelwise.register
def _(layer: Concatenation, site: Site) -> list[Operation]:
    # What is there already is not copied.
    return [
        copied(source, place, plain_walk(source, place, site.config), site.config)
        for source, place in zip(site.sources, site.joined, strict=True)
        if (source.address, source.pitch) != (place.address, place.pitch)
    ]


@lower_channelwise.register
def _(layer: Pad, site: Site) -> list[Operation]:
    source, target, config = site.source, site.target, site.config
    walk = window_walk(source, target, (1, 1), (1, 1), (1, 1), layer.padding)
    return [copied(source, target, over_words(walk, source.extent, config), config)]


@lower_channelwise.register
def _(layer: Table, site: Site) -> list[Operation]:
    source, target, config = site.source, site.target, site.config
    return [copied(source, target, plain_walk(source, target, config), config, table=layer.table)]


@lower_channelwise.register
def _(layer: Requantise, site: Site) -> list[Operation]:
    source, target, config = site.source, site.target, site.config
    walk = plain_walk(source, target, config)
    found = rescaling(
        layer.input_zero_point,
        layer.output_scaling,
        layer.activation_min,
        layer.activation_max,
        layer.rounding,
        config.accumulator_bits,
    )
    if found is None:
        # Any function of a byte is a table.
        return [copied(source, target, walk, config, table=layer.table())]
    weight = np.array([found.weights], np.int8)
    limits = output_limits(layer)
    return [channelwise(walk, weight, source, target, config, **_rounding(found), **limits)]


@lower_channelwise.register
def _(layer: Add, site: Site) -> list[Operation]:
    (a, b), target, config = site.sources, site.target, site.config
    if a.pieces != b.pieces or a.pitch != b.pitch:
        raise Unable(
            "adds maps of which one is a concatenation with gaps",
            f"give what is joined channels that are multiples of {config.activation_word}",
        )
    limits = output_limits(layer)
    found = _exact(
        addition(
            *layer.scalings,
            layer.output_scaling,
            *limits.values(),
            layer.rounding,
            config.accumulator_bits,
        )
    )
    # [digit, map]
    weights = np.array([digits(weight) for weight in found.weights], np.int8).T
    walk = replace(
        plain_walk(a, target, config),
        kx=Loop(2, b.address - a.address),
        ky=Loop(lane_words(config), config.activation_word),
        channel=Loop(2),
    )
    return [
        channelwise(
            walk,
            weights,
            a,
            target,
            config,
            shifted_sums=True,
            **_rounding(found),
            **limits,
        )
    ]


@lower_channelwise.register
def _(layer: Mean, site: Site) -> list[Operation]:
    source, target, config = site.source, site.target, site.config
    scaling = layer.output_scaling
    kernel = source.shape[:2]
    taps = kernel[0] * kernel[1]
    _check_terms(taps, config)
    _check_shifted(255 * taps, scaling, layer.rounding)
    walk = window_walk(source, target, kernel, (1, 1), (1, 1), (0, 0, 0, 0))
    return [
        channelwise(
            over_words(walk, source.extent, config),
            np.ones((1, taps), np.int8),
            source,
            target,
            config,
            bias=-taps * layer.input_zero_point,
            multiplier=scaling.multiplier,
            shift=scaling.shift,
            rounding=layer.rounding,
        )
    ]


@lower_channelwise.register
def _(layer: Multiply, site: Site) -> list[Operation]:
    target, config, scaling = site.target, site.config, layer.output_scaling
    pairs = sorted(
        zip(site.sources, layer.input_zero_points, strict=True), key=lambda pair: pair[0].shape[:2]
    )
    (pixel, pixel_zero), (source, zero) = pairs
    if pixel.shape[:2] != (1, 1):
        raise Unable(
            "multiplies two maps of several pixels each",
            "multiply by one pixel (squeeze-and-excitation), or by a table of the same map",
        )
    if pixel.pieces != source.pieces:
        raise Unable(
            "multiplies maps of which one is a concatenation with gaps",
            f"give what is joined channels that are multiples of {config.activation_word}",
        )
    if 1 << config.accumulator_bits - 1 <= 255 * 255:
        raise Unable(
            f"has products of up to {255 * 255}, which the accumulators of {config.name}, "
            f"{config.accumulator_bits} bits wide, do not hold",
            "use a configuration with wider accumulators",
        )
    _check_shifted(255 * 255, scaling, layer.rounding)
    limits = output_limits(layer)
    operations: list[Operation] = []
    for first in range(0, source.extent, config.activation_word):
        count = min(config.activation_word, source.extent - first)
        operations += _product(
            replace(pixel, address=pixel.address + first, pieces=((0, count),)),
            replace(source, address=source.address + first, pieces=((0, count),)),
            replace(target, address=target.address + first),
            _less(pixel_zero),
            _less(zero),
            config,
            multiplier=scaling.multiplier,
            shift=scaling.shift,
            rounding=layer.rounding,
            **limits,
        )
    return operations


def _less(zero_point: int) -> tuple[int, int]:
    """A byte and how often it must be taken to make `-zero_point`."""
    if zero_point == -128:
        return 64, 2
    return -zero_point, int(zero_point != 0)


def _product(
    pixel: Map,
    source: Map,
    target: Map,
    less_b: tuple[int, int],
    less_a: tuple[int, int],
    config: Configuration,
    **settings: Any,
) -> tuple[Operation, Operation]:
    """(a - a0) * (b - b0) for a word of channels: b goes into the tile, and is the weights of a.

        a*b + a*(-b0) + (-a0)*b + (-a0)*(-b0)

    What is no element of a map is read in the padding: -b0 as the tile is filled, -a0 as the
    products are summed.
    """
    words, rows = 1 + less_b[1], 1 + less_a[1]
    check_tile(words * rows * config.stripes, config, "use a larger tile")
    point = Walk(start=pixel.address, height=1, width=1)
    fill = copied(
        pixel,
        target,
        replace(
            point,
            channel=Loop(lane_words(config), config.activation_word),
            x=Loop(words, columns=1),
            y=Loop(rows),
        ),
        config,
        input_zero_point=less_b[0],
        to_tile=True,
    )
    height, width = source.shape[:2]
    walk = replace(
        point,
        start=source.address,
        kx=Loop(words),
        ky=Loop(rows, rows=1),
        x=Loop(width, source.pitch),
        y=Loop(height, source.row),
    )
    product = channelwise(walk, np.ones((1, 1), np.int8), source, target, config, **settings)
    product = replace(product, segments=(), dataflow=TILE, input_zero_point=less_a[0])
    return fill, product


def _check_terms(count: int, config: Configuration) -> None:
    if 128 * count >= 1 << config.accumulator_bits - 1:
        raise Unable(
            f"sums {count} values, which the accumulators of {config.name}, "
            f"{config.accumulator_bits} bits wide, do not hold",
            "use smaller feature maps",
        )


@lower_channelwise.register
def _(layer: Pooling, site: Site) -> list[Operation]:
    source, target, config = site.source, site.target, site.config
    walk = window_walk(source, target, layer.kernel, layer.stride, (1, 1), layer.padding)
    limits = output_limits(layer)
    if layer.mode == "maximum":
        return list(_maximum(layer, walk, source, target, limits, config))
    return list(_average(layer, walk, source, target, limits, config))


def _maximum(
    layer: Pooling,
    walk: Walk,
    source: Map,
    target: Map,
    limits: dict[str, Any],
    config: Configuration,
) -> Iterator[Operation]:
    """The greatest of m and x is x, and what m - x is above 0: two steps a tap."""
    kh, kw = layer.kernel
    weights = np.tile(np.array([-1, 1], np.int8), kh * kw)
    weights[0] = 0
    walk = replace(walk, kx=Loop(2), ky=walk.kx, channel=walk.ky)
    # The loops are all in use: words of R channels take an operation each.
    word, words = config.activation_word, lane_words(config)
    count = 1 if words == 1 else -(-source.extent // word)
    for number in range(count):
        offset = number * word
        size = source.extent if words == 1 else min(word, source.extent - offset)
        channels = -(-size // config.lanes) * config.lanes
        values = np.zeros((channels // config.lanes, len(weights), config.lanes, config.width))
        values[..., 0] = weights[:, np.newaxis]
        yield Operation(
            walk=replace(
                walk,
                start=walk.start + offset,
                group=Loop(channels // config.lanes, config.lanes),
            ),
            segments=(Segment("stream", 2, values.astype(np.int8)),),
            bias=np.zeros(size, np.int32),
            multiplier=np.full(size, COPY["multiplier"], np.int32),
            shift=np.zeros(size, np.int32),
            rounding=Rounding.UP,
            input_zero_point=-128,
            output_zero_point=0,
            output=target.address + offset,
            pitch=target.pitch,
            depthwise=True,
            rectified_sums=True,
            **limits,
        )


def _average(
    layer: Pooling,
    walk: Walk,
    source: Map,
    target: Map,
    limits: dict[str, int],
    config: Configuration,
) -> Iterator[Operation]:
    """Windows of as many pixels each are an operation: padding adds 0 and does not count.

    Rows go over the whole width, as if no window met the padding at its sides; what is wrong at the
    sides is then written again, a column at a time.
    """
    _check_terms(layer.kernel[0] * layer.kernel[1], config)
    walk = over_words(walk, source.extent, config)
    taps = layer.kernel[0] * layer.kernel[1]
    for rows, columns, count in _even(layer, source, target):
        weight, settings = _mean_of(count, layer, limits, config)
        x = walk.x
        column = walk.column + columns.start * x.columns
        left = max(0, column)  # Columns count from the first that is read.
        part = walk.band(rows)
        part = replace(
            part,
            start=part.start + columns.start * x.bytes,
            column=column - left,
            width=walk.width - left,
            x=replace(x, count=len(columns)),
        )
        first = rows.start * target.shape[1] + columns.start
        yield channelwise(
            part,
            np.full((1, taps), weight, np.int8),
            source,
            target,
            config,
            output=target.address + first * target.pitch,
            pitch=target.pitch if len(columns) > 1 else target.row,
            input_zero_point=0,
            **settings | limits,
        )


def _mean_of(
    count: int, layer: Pooling, limits: dict[str, int], config: Configuration
) -> tuple[int, dict[str, Any]]:
    """The weight of each of so many pixels, and the requantisation, that give their mean."""
    if layer.output_scaling is None:
        found = _exact(average(count, *limits.values(), config.accumulator_bits))
        return found.weights[0], _rounding(found) | {"output_zero_point": 0}
    zero_point, multiplier, shift = divided(layer.output_scaling, count)
    return 1, {
        "bias": -count * layer.input_zero_point,
        "multiplier": multiplier,
        "shift": shift,
        "rounding": Rounding.EVEN,
        "output_zero_point": zero_point,
    }


def _even(layer: Pooling, source: Map, target: Map) -> Iterator[tuple[range, range, int]]:
    """Rows and columns of the output, and the pixels of the map that each of their windows holds.

    Later ones overwrite. Either the columns are all there are, or it is one: so can results be
    written.
    """
    counts = []
    for axis in range(2):
        begins = np.arange(target.shape[axis]) * layer.stride[axis] - layer.padding[axis]
        ends = np.minimum(begins + layer.kernel[axis], source.shape[axis])
        counts.append((ends - np.maximum(begins, 0)).tolist())
    down, across = counts
    most = max(across)
    for rows in _runs(down):
        height = down[rows.start]
        yield rows, range(len(across)), height * most
        for column, width in enumerate(across):
            if width != most:
                yield rows, range(column, column + 1), height * width


def _runs(values: Sequence[int]) -> Iterator[range]:
    """Ranges over which values stay the same."""
    start = 0
    for end in range(1, len(values) + 1):
        if end == len(values) or values[end] != values[start]:
            yield range(start, end)
            start = end


def _exact(found: Exact | None) -> Exact:
    if found is None:
        raise Unable(
            "has scales for which the engine's arithmetic cannot give the same values",
            "calibrate the network again",
        )
    return found


def _rounding(found: Exact) -> dict[str, Any]:
    return {
        "bias": found.bias,
        "multiplier": found.multiplier,
        "shift": found.shift,
        "rounding": found.rounding,
    }


def _check_shifted(largest: int, scaling: Scaling, rounding: Rounding) -> None:
    """Prove that no sum, of at most that magnitude, wraps around as it is shifted to the left."""
    left = max(0, -scaling.shift) if rounding is Rounding.TWICE and scaling.multiplier else 0
    if largest << left >= 1 << 31:
        raise Unable(
            f"shifts sums of up to {largest} to the left by {left} bits, out of 32 bits",
            "give its output a larger scale",
        )
