"""What the engine does for a layer: its operations.

Convolutions are what the engine is made for. Whatever works channel by channel runs on it as a
depthwise convolution: pooling and means with weights of 1, a change of scale with one weight, a
sum of two maps with two for each (`insitu.exact`), a table by looking up what comes out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.fixed import symmetric_range
from golden.network import (
    Add,
    Concatenation,
    Convolution,
    Generated,
    Layer,
    Mean,
    Multiply,
    Pad,
    Pooling,
    Requantise,
    Scaling,
    Stored,
    Table,
)
from golden.requantise import LARGEST_MULTIPLIER, Rounding, divided
from insitu.errors import FitError
from insitu.exact import Exact, addition, average, digits, rescaling
from insitu.maps import Map, Placed
from insitu.operation import Loop, Operation, Segment, Walk
from rtl.config import Configuration
from rtl.record import CROSS, FIELDS, INTRA, TILE

__all__ = ["array_cycles", "lower", "lower_rows", "move", "only_rows"]

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]

_COPY: dict[str, Any] = {"multiplier": LARGEST_MULTIPLIER, "shift": 0, "rounding": Rounding.UP}
"""A requantisation that leaves a byte as it is: x * (1 - 2**-31), rounded."""


def lower(
    layer: Layer,
    sources: Sequence[Map],
    target: Map,
    joined: Sequence[Map],
    config: Configuration,
) -> list[Operation]:
    """The operations of a layer, in order.

    Parameters
    ----------
    layer : Layer
    sources : sequence of Map
        Its inputs.
    target : Map
        Its output.
    joined : sequence of Map
        For a concatenation, where its inputs have to be.
    config : Configuration

    Raises
    ------
    FitError
        If the engine cannot run it.
    """
    try:
        operations = _lower(layer, _Site(tuple(sources), target, tuple(joined), config))
        return [part for one in operations for part in _multiplied(one, config)]
    except _Unable as error:
        cause, next_step = error.args
        raise FitError(f"layer {layer.name!r} {cause}", next_step) from None


def lower_rows(layer: Layer, step: Placed, config: Configuration) -> list[Operation]:
    """The operations of a step: rows that stay are moved, then those of the step are computed."""
    operations = lower(layer, step.sources, step.target, step.joined, config)
    if len(step.rows) < step.target.shape[0]:
        operations = only_rows(operations, step.target, step.rows)
    return [*([move(*step.moved, config)] if step.moved else []), *operations]


def only_rows(operations: Sequence[Operation], target: Map, rows: range) -> list[Operation]:
    """What computes some rows of a layer's output, of the operations that compute all of it.

    Of a layer that works on windows or pixels of its map.
    """
    parts = []
    for operation in operations:
        # Columns at the sides, and rows at the edges, may be operations of their own.
        before, within = divmod(operation.output - target.address, target.row)
        begin = max(rows.start - before, 0)
        end = min(rows.stop - before, operation.walk.y.count)
        if begin < end:
            walk = operation.walk.band(range(begin, end))
            output = target.address + (before + begin) * target.row + within
            parts.append(replace(operation, walk=walk, output=output))
    return parts


def move(source: Map, target: Map, config: Configuration) -> Operation:
    """The operation that copies a map, whose target may begin below it and overlap it."""
    return _copied(source, target, _plain(source, target, config), config)


class _Unable(Exception):
    """What is in the way, and what to do about it."""


@dataclass(frozen=True)
class _Site:
    """What a layer reads and writes, and on what: the arguments of `lower`."""

    sources: tuple[Map, ...]
    target: Map
    joined: tuple[Map, ...]
    config: Configuration

    @property
    def source(self) -> Map:
        """The one map that is read."""
        (source,) = self.sources
        return source


@singledispatch
def _lower(layer: Layer, site: _Site) -> list[Operation]:
    raise _Unable(
        f"is of kind {layer.kind!r}, which the engine cannot run", "build the network without it"
    )


def _limits(layer: Convolution | Requantise | Add | Multiply | Pooling) -> dict[str, int]:
    """The range of a layer's outputs, as an operation names it."""
    return {"activation_min": layer.activation_min, "activation_max": layer.activation_max}


def array_cycles(layer: Layer, target: Map, config: Configuration) -> int:
    """The MAC array's work on a layer, from shapes alone; what is no convolution has none."""
    if not isinstance(layer, Convolution):
        return 0
    co, ci, taps = layer.weights.shape
    if layer.depthwise:
        steps = -(-co // config.lanes) * taps
    else:
        each = -(-co // layer.groups // config.lanes)
        one = -(-ci // config.width) * taps
        if ci < config.width and layer.groups == 1:
            # The taps of a row may take the place of channels.
            one = min(one, layer.kernel[0] * -(-layer.kernel[1] * ci // config.width))
        steps = layer.groups * each * one
    cycles = target.shape[0] * target.shape[1] * steps
    if isinstance(layer.weights, Generated) and layer.weights.V is not None:
        vectors = -(-layer.weights.V.shape[1] // config.width)
        cycles += -(-co // config.lanes) * ci * taps * vectors
    return cycles


# Walks.


def _window(
    source: Map,
    target: Map,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int, int, int],
) -> Walk:
    """A kernel's walk over a map."""
    (kh, kw), (dy, dx), (top, left) = kernel, dilation, padding[:2]
    (oh, ow), (sy, sx) = target.shape[:2], stride
    walk = Walk(
        start=source.address - top * source.row - left * source.pitch,
        row=-top,
        column=-left,
        height=source.shape[0],
        width=source.shape[1],
        kx=Loop(kw, dx * source.pitch, 0, dx),
        ky=Loop(kh, dy * source.row, dy, 0),
        x=Loop(ow, sx * source.pitch, 0, sx),
        y=Loop(oh, sy * source.row, sy, 0),
    )
    return walk if any(padding) else _inside(walk)


def _inside(walk: Walk) -> Walk:
    """The same walk, known to stay inside the map: it needs no places there."""
    loops = {
        name: replace(getattr(walk, name), rows=0, columns=0)
        for name in ("kx", "ky", "channel", "x", "y", "group")
    }
    return replace(walk, row=0, column=0, **loops)


# Coefficients.


def _padded(values: Int8, *multiples: int) -> Int8:
    """`values` with zeros after each axis, up to a multiple of the number given for it."""
    pads = [(0, -n % m) for n, m in zip(values.shape, multiples, strict=True)]
    return np.pad(values, pads)


def _spread(values: NDArray[Any], source: Map, axis: int = 0) -> NDArray[Any]:
    """An axis of channels as one of bytes of a pixel: 0 where there is no channel."""
    if source.extent == source.shape[2]:
        return values
    shape = list(values.shape)
    shape[axis] = source.extent
    spread = np.zeros(shape, values.dtype)
    np.moveaxis(spread, axis, 0)[source.positions] = np.moveaxis(values, axis, 0)
    return spread


def _segment(kind: str, values: Int8, precision: int) -> Segment:
    """A segment of at least that precision: one bit cannot say 0, two can."""
    if precision == 1 and not values.all():
        precision = 2
    return Segment(kind, precision, np.ascontiguousarray(values))


def _filled(values: Int8, precision: int) -> Int8:
    """What does not matter: +1 in place of 0, where one bit cannot say 0."""
    return np.where(values == 0, np.int8(1), values) if precision == 1 else values


def _needed(values: Int8) -> int:
    """The least precision that can say these values."""
    if (np.abs(values) == 1).all():
        return 1
    return next(
        q for q in range(2, 9) if int(np.abs(values.astype(int)).max()) <= symmetric_range(q)[1]
    )


def _by_lane_and_channel(values: Int8, config: Configuration) -> Int8:
    """[Co, Ci, n] as [lane group, channel group, n, R, C]."""
    lanes, width = config.lanes, config.width
    values = _padded(values, lanes, width, 1)
    outputs, inputs, n = values.shape
    split = values.reshape(outputs // lanes, lanes, inputs // width, width, n)
    return split.transpose(0, 2, 4, 1, 3)


def _words(config: Configuration) -> int:
    """Activation words that R channels take."""
    return config.lanes // config.activation_word


def _by_lane(values: Int8, config: Configuration, precision: int | None = None) -> Segment:
    """Depthwise weights [outer, inner, byte of a pixel], in the order outer, word, inner."""
    lanes, words = config.lanes, _words(config)
    values = _padded(values, 1, 1, lanes)
    outer, inner, total = values.shape
    by_group = values.reshape(outer, inner, total // lanes, lanes).transpose(2, 0, 1, 3)
    vectors = np.zeros((total // lanes, outer, words, inner, lanes, config.width), np.int8)
    for word in range(words):
        part = slice(word * config.activation_word, (word + 1) * config.activation_word)
        vectors[:, :, word, :, part, 0] = by_group[..., part]
    flat = vectors.reshape(total // lanes, -1, lanes, config.width)
    return _segment("stream", flat, precision or _needed(flat))


# Convolutions.


@_lower.register
def _(layer: Convolution, site: _Site) -> list[Operation]:
    source, target, config = site.source, site.target, site.config
    if source.window:
        layer, source = _unrolled(layer, source)
    _check_sums(layer, config)
    walk = _window(source, target, layer.kernel, layer.stride, layer.dilation, layer.padding)
    settings: dict[str, Any] = {
        "bias": layer.bias,
        "multiplier": layer.multiplier,
        "shift": layer.shift.astype(np.int32),
        "rounding": layer.rounding,
        "input_zero_point": layer.input_zero_point,
        "output_zero_point": layer.output_zero_point,
        **_limits(layer),
        "output": target.address,
        "pitch": target.pitch,
    }
    weights = layer.weights
    if layer.groups > 1 and not isinstance(weights, Stored):
        raise _Unable(
            f"is a convolution in {layer.groups} groups with generated weights",
            "store the weights of grouped convolutions",
        )
    if isinstance(weights, Generated):
        return [_generated(weights, walk, source, settings, config)]
    if layer.depthwise and layer.groups > 1:
        return [_depthwise(weights, walk, source, target, settings, config)]
    if layer.groups > 1:
        return list(_grouped(layer, weights, walk, source, settings, config))
    values = _by_lane_and_channel(_spread(weights.W, source, 1), config)
    groups, channels = values.shape[:2]
    stream = values.reshape(groups, -1, config.lanes, config.width)
    walk = replace(walk, channel=Loop(channels, config.width), group=Loop(groups))
    return [
        Operation(walk=walk, segments=(_stored(stream, weights.q, source, config),), **settings)
    ]


def _unrolled(layer: Convolution, source: Map) -> tuple[Convolution, Map]:
    """The layer, of stored weights, and its map where the taps of a kernel's row are channels."""
    co, ci, _ = layer.weights.shape
    (kh, kw), (top, _, bottom, _) = layer.kernel, layer.padding
    W = layer.weights.W.reshape(co, ci, kh, kw).transpose(0, 3, 1, 2)
    changed = replace(
        layer,
        weights=Stored(np.ascontiguousarray(W.reshape(co, kw * ci, kh)), _precision(layer)),
        kernel=(kh, 1),
        stride=(layer.stride[0], 1),
        dilation=(layer.dilation[0], 1),
        padding=(top, 0, bottom, 0),
    )
    shape = source.shape[0], source.columns, kw * ci
    return changed, replace(source, shape=shape, pieces=(), window=None)


def _precision(layer: Convolution) -> int:
    return layer.weights.q if isinstance(layer.weights, Stored) else 8


def _stored(stream: Int8, precision: int, source: Map, config: Configuration) -> Segment:
    """A stream of W or U: channels that do not exist need a 0, lanes that do not exist nothing."""
    if precision == 1 and source.extent == source.shape[2] and not source.extent % config.width:
        stream = _filled(stream, 1)
    return _segment("stream", stream, precision)


def _depthwise(
    weights: Stored,
    walk: Walk,
    source: Map,
    target: Map,
    settings: dict[str, Any],
    config: Configuration,
) -> Operation:
    parameters = {name: settings[name] for name in ("bias", "multiplier", "shift")}
    if all((values == values[0]).all() for values in (weights.W, *parameters.values())):
        one = {name: int(values[0]) for name, values in parameters.items()}
        walk = _over_words(walk, source.extent, config)
        return _channelwise(walk, weights.W[0], source, target, config, **settings | one)
    values = _spread(weights.W[:, 0], source).T[np.newaxis]  # [1, T, byte]
    whole = config.width == _words(config) == 1
    if weights.q == 1 and whole:
        values = _filled(values, 1)
        values = np.pad(values, [(0, 0), (0, 0), (0, -values.shape[2] % config.lanes)], "edge")
    for name, values_of in parameters.items():
        settings[name] = _spread(values_of, source)
    return Operation(
        walk=_over_words(walk, source.extent, config),
        segments=(_by_lane(values, config, weights.q),),
        depthwise=True,
        **settings,
    )


def _over_words(walk: Walk, extent: int, config: Configuration) -> Walk:
    """A depthwise walk: its channel groups are the words of R channels."""
    return replace(
        walk,
        channel=Loop(_words(config), config.activation_word),
        group=Loop(-(-extent // config.lanes), config.lanes),
    )


def _grouped(
    layer: Convolution,
    weights: Stored,
    walk: Walk,
    source: Map,
    settings: dict[str, Any],
    config: Configuration,
) -> Iterator[Operation]:
    """Each lane group reads the channels that its outputs need; weights of 0 mask the others."""
    lanes, width = config.lanes, config.width
    co, each, taps = weights.shape
    per_group = co // layer.groups
    windows = []
    for first in range(0, co, lanes):
        outputs = range(first, min(first + lanes, co))
        low = outputs[0] // per_group * each
        high = (outputs[-1] // per_group + 1) * each
        begin = int(source.positions[low]) // width
        end = -(-(int(source.positions[high - 1]) + 1) // width)
        window = np.zeros((lanes, (end - begin) * width, taps), np.int8)
        for output in outputs:
            channels = np.arange(output // per_group * each, (output // per_group + 1) * each)
            window[output - first, source.positions[channels] - begin * width] = weights.W[output]
        windows.append((begin, window))
    steps = {after - before for (before, _), (after, _) in pairwise(windows)}
    sizes = {window.shape[1] for _, window in windows}
    together = len(steps) <= 1 and len(sizes) == 1
    for number, batch in enumerate([windows] if together else [[one] for one in windows]):
        begin = batch[0][0]
        stream = np.stack([_by_lane_and_channel(window, config)[0] for _, window in batch])
        groups, channels = stream.shape[:2]
        stream = stream.reshape(groups, -1, lanes, width)
        part = slice(0, co) if together else slice(number * lanes, (number + 1) * lanes)
        own = {name: settings[name][part] for name in ("bias", "multiplier", "shift")}
        step = steps.pop() if together and steps else 0
        yield Operation(
            walk=replace(
                walk,
                start=walk.start + begin * width,
                channel=Loop(channels, width),
                group=Loop(groups, step * width),
            ),
            segments=(_segment("stream", stream, weights.q),),
            **settings | own | {"output": settings["output"] + part.start},
        )


def _generated(
    weights: Generated, walk: Walk, source: Map, settings: dict[str, Any], config: Configuration
) -> Operation:
    """Weights recovered on chip: the intra level alone, or the cross level into a tile."""
    _check_generator(weights, source, config)
    lanes, width = config.lanes, config.width
    co, _, taps = weights.shape
    groups = -(-co // lanes)
    U = _spread(weights.U, source, 1)
    walk = replace(walk, channel=Loop(-(-source.extent // width), width), group=Loop(groups))
    terms = 1 if weights.B is None else weights.B.shape[1]
    common: dict[str, Any] = {"walk": walk, "terms": terms, "s1": weights.s1, **settings}
    if weights.V is None and weights.B is not None:
        bases = _by_lane_and_channel(weights.B, config).transpose(0, 2, 1, 3, 4)
        streams = _by_lane_and_channel(U, config)
        basis = _filled(bases.reshape(groups, -1, lanes, width), weights.qb)
        stream = streams.reshape(groups, -1, lanes, width)
        segments = (
            Segment("basis", weights.qb, basis),
            _stored(stream, weights.qu, source, config),
        )
        return Operation(dataflow=INTRA, segments=segments, **common)

    if weights.V is None:
        raise ValueError("generated weights must have B or V")
    kernels = weights.V.shape[1]
    # One bit has no 0. A term that does not exist needs one in U or B, a kernel that does not exist
    # in V or in each of its products U * B.
    qb, qu, qv = max(weights.qb, 1), weights.qu, weights.qv
    holes = source.extent != source.shape[2]
    if qu == 1 and (holes or (qb == 1 and terms % width)):
        qu = 2
    if qb == 1 and qu == 1 and qv == 1 and kernels % width:
        qv = 2
    cross = _by_lane_and_channel(weights.V[:, :, np.newaxis], config)
    if weights.B is None:
        blocks = -(-kernels // lanes)
        basis = np.ones((1, blocks, lanes, width), np.int8)
        whole = _padded(U, lanes, 1, 1)
        _, channels, _ = whole.shape
        streams = np.zeros((channels * taps, blocks, lanes, width), np.int8)
        streams[..., 0] = whole.reshape(blocks, lanes, -1).transpose(2, 0, 1)
    else:
        # [block, v, tap, R, C] as [tap, block, v, R, C]
        bases = _by_lane_and_channel(weights.B, config).transpose(2, 0, 1, 3, 4)
        basis = bases.reshape(1, -1, lanes, width)
        # [block, v, channel, R, C] as [channel, block, v, R, C]
        by_block = _by_lane_and_channel(U.transpose(0, 2, 1), config)
        streams = by_block.transpose(2, 0, 1, 3, 4)
        streams = streams.reshape(len(streams), -1, lanes, width)
    return Operation(
        dataflow=CROSS,
        segments=(
            Segment("basis", qb, _filled(basis, qb)),
            Segment("stream", qu, _filled(streams, qu)),
            Segment("cross", qv, _filled(cross.reshape(groups, -1, lanes, width), qv)),
        ),
        kernels=kernels,
        s2=weights.s2,
        flat=weights.B is None,
        **common,
    )


def _check_generator(weights: Generated, source: Map, config: Configuration) -> None:
    """Refuse what the blocks of the configuration cannot generate."""
    taps = weights.shape[2]
    limits = [("U", weights.qu, config.generator_u_bits)]
    if weights.B is not None:
        terms = weights.B.shape[1]
        limits.append(("B", weights.qb, config.generator_b_bits))
        if terms > config.generator_terms:
            raise _Unable(
                f"has {terms} basis terms (Bi), {config.name} sums at most "
                f"{config.generator_terms}",
                "compress it with a smaller Bi",
            )
        if weights.V is None and terms > taps:
            raise _Unable(
                f"has {terms} basis terms (Bi) and {taps} taps: the next channels' "
                "coefficients cannot load while the taps run",
                f"compress it with Bi at most {taps}",
            )
        if weights.s1 > config.generator_max_shift:
            raise _Unable(
                f"shifts its intra level by {weights.s1}, {config.name} by at most "
                f"{config.generator_max_shift}",
                "compress it for this configuration",
            )
    for what, bits, most in limits:
        if bits > most:
            raise _Unable(
                f"has a {what} of {bits} bits, the generator of {config.name} takes at most {most}",
                f"compress it with a {what} of at most {most} bits",
            )
    if weights.V is None:
        depth = 2 * taps
    else:
        if weights.s2 < 1:
            raise _Unable(
                f"shifts its cross level by {weights.s2}, the hardware by at least 1",
                "compress it again",
            )
        kernels = weights.V.shape[1]
        blocks = -(-kernels // config.lanes)
        tile = config.lanes * -(-source.extent // config.width) * config.width * taps
        if tile > config.tile_bytes:
            raise _Unable(
                f"needs a weight tile of {tile} bytes, {config.name} has "
                f"{config.tile_bytes}: {tile - config.tile_bytes} bytes are missing",
                "compress it without the cross level",
            )
        if blocks > config.basis_blocks:
            raise _Unable(
                f"has {kernels} basis kernels (Bo), {config.name} holds "
                f"{config.basis_blocks * config.lanes}",
                "compress it with a smaller Bo",
            )
        depth = blocks * (taps if weights.B is not None else 1)
        largest = kernels * 127 * 127
        if largest >= 1 << (config.accumulator_bits - 1):
            raise _Unable(
                f"sums up to {largest} in its cross level, the accumulators of "
                f"{config.name} have {config.accumulator_bits} bits",
                "compress it with a smaller Bo",
            )
    if depth > config.basis_depth:
        raise _Unable(
            f"needs {depth} words of basis buffer, {config.name} has {config.basis_depth}",
            "compress it with a smaller Bo, or store its weights",
        )


def _check_sums(layer: Convolution, config: Configuration) -> None:
    """Prove that no input overflows an accumulator, or its sum with the bias."""
    flat = layer.weights.W.astype(np.int64).reshape(len(layer.bias), -1)
    positive = np.maximum(flat, 0).sum(axis=1)
    negative = positive - flat.sum(axis=1)
    high = 127 * positive + 128 * negative
    low = -128 * positive - 127 * negative
    bias = layer.bias.astype(np.int64)
    left = np.zeros_like(bias)
    if layer.rounding is Rounding.TWICE:
        left[:] = np.where(layer.multiplier == 0, 0, np.maximum(-layer.shift.astype(np.int64), 0))
    for what, bits, lows, highs in (
        ("accumulator", config.accumulator_bits, low, high),
        ("accumulator with its bias", 32, low + bias, high + bias),
        ("sum, shifted to the left,", 32, low + bias << left, high + bias << left),
    ):
        limit = 1 << (bits - 1)
        wrong = np.flatnonzero((highs >= limit) | (lows < -limit))
        if len(wrong):
            channel = int(wrong[0])
            raise _Unable(
                f"can overflow: the {what} of output channel {channel} reaches "
                f"{lows[channel]}..{highs[channel]}, {bits} bits hold {-limit}..{limit - 1}",
                "give the layer fewer input channels or taps, or smaller weights",
            )


def _check_shifted(largest: int, scaling: Scaling, rounding: Rounding) -> None:
    """Prove that no sum, of at most that magnitude, wraps around as it is shifted to the left."""
    left = max(0, -scaling.shift) if rounding is Rounding.TWICE and scaling.multiplier else 0
    if largest << left >= 1 << 31:
        raise _Unable(
            f"shifts sums of up to {largest} to the left by {left} bits, out of 32 bits",
            "give its output a larger scale",
        )


# Multipliers of 1 or more.


def _multiplied(operation: Operation, config: Configuration) -> list[Operation]:
    """The operation, and a second one where channels are multiplied by 1 or more.

    The requantiser multiplies by less than 1. Where it should by more, few sums are neither too
    small nor too large for the output's range: a byte holds them. The operation leaves those there;
    the second one multiplies them with weights of 2**k, what is left is below 1 again:

        (2**k * sum) * (multiplier / 2**31)
    """
    zero_point, low, high = (
        operation.output_zero_point,
        operation.activation_min,
        operation.activation_max,
    )
    multiplier, left = _normalised(operation.multiplier, operation.shift)
    large = left > 0
    if not large.any():
        shift = np.maximum(operation.shift, 0)
        return [replace(operation, multiplier=multiplier.astype(np.int32), shift=shift)]
    # The least sum that a byte stands for; that, and any below, gives the least output.
    first = np.left_shift(np.int64(low - zero_point), 31 - left) // np.maximum(multiplier, 1)
    offset = first + 128
    bias = operation.bias - np.where(large, offset + zero_point, 0)
    if (np.abs(bias) >= 1 << 31).any():
        raise _Unable(
            f"has a bias of {np.abs(bias).max()} with a multiplier of 1 or more",
            "give its output a larger scale",
        )
    sums = replace(
        operation,
        bias=bias.astype(np.int32),
        multiplier=np.where(large, LARGEST_MULTIPLIER, multiplier).astype(np.int32),
        shift=np.maximum(operation.shift, 0),
        activation_min=-128,
        activation_max=127,
    )
    words = _words(config)
    weights = np.left_shift(1, left)
    two = int(weights.max()) > 127
    values = (
        np.array([digits(weight) for weight in weights.tolist()]).T if two else weights[np.newaxis]
    )
    x, y = operation.walk.x.count, operation.walk.y.count
    walk = Walk(
        start=operation.output,
        height=1,
        width=1,
        ky=Loop(words, config.activation_word),
        channel=Loop(len(values)),
        x=Loop(x, operation.pitch),
        y=Loop(y, x * operation.pitch),
        group=Loop(-(-operation.channels // config.lanes), config.lanes),
    )
    multiplied = Operation(
        walk=walk,
        segments=(_by_lane(values[:, np.newaxis].astype(np.int8), config),),
        bias=np.where(large, offset << left, -zero_point).astype(np.int32),
        multiplier=np.where(large, multiplier, LARGEST_MULTIPLIER).astype(np.int32),
        shift=np.zeros(operation.channels, np.int32),
        rounding=operation.rounding,
        input_zero_point=0,
        output_zero_point=zero_point,
        activation_min=low,
        activation_max=high,
        output=operation.output,
        pitch=operation.pitch,
        depthwise=True,
        shifted_sums=two,
    )
    return [sums, multiplied]


def _normalised(multiplier: Int32, shift: Int32) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Multipliers and how far each is shifted to the left, so that the latter are least.

    With one of at most 255: a sum of 1 then gives the greatest output, or a greater one.
    """
    multipliers, left = multiplier.astype(np.int64), np.maximum(-shift.astype(np.int64), 0)
    left[multipliers == 0] = 0
    while (again := (left > 0) & (multipliers < 1 << 30)).any():
        multipliers[again] *= 2
        left[again] -= 1
    multipliers[left > 8] = 255 << 23
    return multipliers, np.minimum(left, 8)


# Channel by channel.


def _channelwise(
    walk: Walk,
    values: Int8,
    source: Map,
    target: Map,
    config: Configuration,
    *,
    bias: int = 0,
    multiplier: int,
    shift: int,
    **settings: Any,
) -> Operation:
    """A depthwise walk whose weights [outer, inner] and parameters are those of every channel."""
    pitch = settings.pop("pitch", target.pitch)
    walk, extent, pitch = _merged(walk, source.extent, pitch, config)
    outer, inner = values.shape
    every = np.broadcast_to(values[..., np.newaxis], (outer, inner, extent)).astype(np.int8)
    if config.width == _words(config) == 1:
        every = np.pad(every, [(0, 0), (0, 0), (0, -extent % config.lanes)], "edge")
    usual: dict[str, Any] = {
        "input_zero_point": source.zero_point,
        "output_zero_point": target.zero_point,
        "output": target.address,
        "pitch": pitch,
    }
    return Operation(
        walk=walk,
        segments=(_by_lane(every, config),),
        bias=np.full(extent, bias, np.int32),
        multiplier=np.full(extent, multiplier, np.int32),
        shift=np.full(extent, shift, np.int32),
        depthwise=True,
        **usual | settings,
    )


def _merged(walk: Walk, extent: int, pitch: int, config: Configuration) -> tuple[Walk, int, int]:
    """Lane groups as pixels, where pixels follow each other without a gap.

    All lane groups then share the weights and parameters of one. Returns the walk, and the extent
    and the pitch of what is a pixel to it.
    """
    groups, lanes, x = walk.group.count, config.lanes, walk.x
    gapless = groups * lanes == extent == pitch and walk.group.bytes == lanes
    apart = walk.pixels > 1 and x.bytes != extent
    tracked = any((walk.row, walk.column, x.rows, x.columns, walk.y.rows, walk.y.columns))
    count = x.count * groups
    if groups == 1 or not gapless or apart or tracked or count > 1 << FIELDS["output_width"].width:
        return walk, extent, pitch
    return replace(walk, x=Loop(count, lanes), group=Loop()), lanes, lanes


def _exact(found: Exact | None) -> Exact:
    if found is None:
        raise _Unable(
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


def _plain(source: Map, target: Map, config: Configuration) -> Walk:
    """Pixel by pixel."""
    walk = _window(source, target, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0))
    return _over_words(walk, source.extent, config)


def _copied(
    source: Map, target: Map, walk: Walk, config: Configuration, **settings: Any
) -> Operation:
    one = np.ones((1, 1), np.int8)
    settings = _COPY | {"output_zero_point": 0} | settings
    return _channelwise(walk, one, source, target, config, **settings)


@_lower.register
def _(layer: Concatenation, site: _Site) -> list[Operation]:
    # What is there already is not copied.
    return [
        _copied(source, place, _plain(source, place, site.config), site.config)
        for source, place in zip(site.sources, site.joined, strict=True)
        if (source.address, source.pitch) != (place.address, place.pitch)
    ]


@_lower.register
def _(layer: Pad, site: _Site) -> list[Operation]:
    source, target, config = site.source, site.target, site.config
    walk = _window(source, target, (1, 1), (1, 1), (1, 1), layer.padding)
    return [_copied(source, target, _over_words(walk, source.extent, config), config)]


@_lower.register
def _(layer: Table, site: _Site) -> list[Operation]:
    source, target, config = site.source, site.target, site.config
    return [_copied(source, target, _plain(source, target, config), config, table=layer.table)]


@_lower.register
def _(layer: Requantise, site: _Site) -> list[Operation]:
    source, target, config = site.source, site.target, site.config
    walk = _plain(source, target, config)
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
        return [_copied(source, target, walk, config, table=layer.table())]
    weight = np.array([found.weights], np.int8)
    limits = _limits(layer)
    return [_channelwise(walk, weight, source, target, config, **_rounding(found), **limits)]


@_lower.register
def _(layer: Add, site: _Site) -> list[Operation]:
    (a, b), target, config = site.sources, site.target, site.config
    if a.pieces != b.pieces or a.pitch != b.pitch:
        raise _Unable(
            "adds maps of which one is a concatenation with gaps",
            f"give what is joined channels that are multiples of {config.activation_word}",
        )
    limits = _limits(layer)
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
        _plain(a, target, config),
        kx=Loop(2, b.address - a.address),
        ky=Loop(_words(config), config.activation_word),
        channel=Loop(2),
    )
    return [
        _channelwise(
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


@_lower.register
def _(layer: Mean, site: _Site) -> list[Operation]:
    source, target, config = site.source, site.target, site.config
    scaling = layer.output_scaling
    kernel = source.shape[:2]
    taps = kernel[0] * kernel[1]
    _check_terms(taps, config)
    _check_shifted(255 * taps, scaling, layer.rounding)
    walk = _window(source, target, kernel, (1, 1), (1, 1), (0, 0, 0, 0))
    return [
        _channelwise(
            _over_words(walk, source.extent, config),
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


@_lower.register
def _(layer: Multiply, site: _Site) -> list[Operation]:
    target, config, scaling = site.target, site.config, layer.output_scaling
    pairs = sorted(
        zip(site.sources, layer.input_zero_points, strict=True), key=lambda pair: pair[0].shape[:2]
    )
    (pixel, pixel_zero), (source, zero) = pairs
    if pixel.shape[:2] != (1, 1):
        raise _Unable(
            "multiplies two maps of several pixels each",
            "multiply by one pixel (squeeze-and-excitation), or by a table of the same map",
        )
    if pixel.pieces != source.pieces:
        raise _Unable(
            "multiplies maps of which one is a concatenation with gaps",
            f"give what is joined channels that are multiples of {config.activation_word}",
        )
    if 1 << config.accumulator_bits - 1 <= 255 * 255:
        raise _Unable(
            f"has products of up to {255 * 255}, which the accumulators of {config.name}, "
            f"{config.accumulator_bits} bits wide, do not hold",
            "use a configuration with wider accumulators",
        )
    _check_shifted(255 * 255, scaling, layer.rounding)
    limits = _limits(layer)
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
    point = Walk(start=pixel.address, height=1, width=1)
    fill = _copied(
        pixel,
        target,
        replace(
            point,
            channel=Loop(_words(config), config.activation_word),
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
    product = _channelwise(walk, np.ones((1, 1), np.int8), source, target, config, **settings)
    product = replace(product, segments=(), dataflow=TILE, input_zero_point=less_a[0])
    return fill, product


def _check_terms(count: int, config: Configuration) -> None:
    if 128 * count >= 1 << config.accumulator_bits - 1:
        raise _Unable(
            f"sums {count} values, which the accumulators of {config.name}, "
            f"{config.accumulator_bits} bits wide, do not hold",
            "use smaller feature maps",
        )


@_lower.register
def _(layer: Pooling, site: _Site) -> list[Operation]:
    source, target, config = site.source, site.target, site.config
    walk = _window(source, target, layer.kernel, layer.stride, (1, 1), layer.padding)
    limits = _limits(layer)
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
    word, words = config.activation_word, _words(config)
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
            multiplier=np.full(size, _COPY["multiplier"], np.int32),
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
    walk = _over_words(walk, source.extent, config)
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
        yield _channelwise(
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
