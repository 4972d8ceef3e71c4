"""What the engine does for a convolution: its operations, and what it cannot generate or sum."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.code import POWER_BITS, Code
from golden.network import Convolution, Generated, Stored
from golden.requantise import Rounding
from insitu.lowering import (
    MOST_LOWERED,
    Site,
    Unable,
    bias_bits,
    by_lane,
    by_lane_and_channel,
    channelwise,
    check_tile,
    filled,
    lane_words,
    output_limits,
    over_words,
    padded,
    segment,
    spread,
    window_walk,
)
from insitu.maps import Map
from insitu.operation import Loop, Operation, Segment, Walk
from rtl.config import Configuration
from rtl.record import CROSS, INTRA

__all__ = ["lower_convolution"]

Int8 = NDArray[np.int8]


def lower_convolution(layer: Convolution, site: Site) -> list[Operation]:
    """The operations of a convolution."""
    source, target, config = site.source, site.target, site.config
    if source.window:
        layer, source = _unrolled(layer, source)
    _check_sums(layer, config)
    walk = window_walk(source, target, layer.kernel, layer.stride, layer.dilation, layer.padding)
    settings: dict[str, Any] = {
        "bias": layer.bias,
        "multiplier": layer.multiplier,
        "shift": layer.shift.astype(np.int32),
        "rounding": layer.rounding,
        "input_zero_point": layer.input_zero_point,
        "output_zero_point": layer.output_zero_point,
        **output_limits(layer),
        "output": target.address,
        "pitch": target.pitch,
    }
    weights = layer.weights
    if layer.groups > 1 and not isinstance(weights, Stored):
        raise Unable(
            f"is a convolution in {layer.groups} groups with generated weights",
            "store the weights of grouped convolutions",
        )
    if isinstance(weights, Generated):
        return [_generated(weights, walk, source, settings, config)]
    if layer.depthwise and layer.groups > 1:
        return [_depthwise(weights, walk, source, target, settings, config)]
    if layer.groups > 1:
        return list(_grouped(layer, weights, walk, source, settings, config))
    values = by_lane_and_channel(spread(weights.W, source, 1), config)
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
        stream = filled(stream, 1)
    return segment("stream", stream, precision)


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
        walk = over_words(walk, source.extent, config)
        return channelwise(walk, weights.W[0], source, target, config, **settings | one)
    values = spread(weights.W[:, 0], source).T[np.newaxis]  # [1, T, byte]
    whole = config.width == lane_words(config) == 1
    if weights.q == 1 and whole:
        values = filled(values, 1)
        values = np.pad(values, [(0, 0), (0, 0), (0, -values.shape[2] % config.lanes)], "edge")
    for name, values_of in parameters.items():
        settings[name] = spread(values_of, source)
    return Operation(
        walk=over_words(walk, source.extent, config),
        segments=(by_lane(values, config, weights.q),),
        depthwise=True,
        **settings,
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
        stream = np.stack([by_lane_and_channel(window, config)[0] for _, window in batch])
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
            segments=(segment("stream", stream, weights.q),),
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
    U = spread(weights.U, source, 1)
    walk = replace(walk, channel=Loop(-(-source.extent // width), width), group=Loop(groups))
    terms = 1 if weights.B is None else weights.B.shape[1]
    common: dict[str, Any] = {"walk": walk, "terms": terms, "s1": weights.s1, **settings}
    if weights.V is None and weights.B is not None:
        bases = by_lane_and_channel(weights.B, config).transpose(0, 2, 1, 3, 4)
        streams = by_lane_and_channel(U, config)
        basis = filled(bases.reshape(groups, -1, lanes, width), weights.qb)
        stream = streams.reshape(groups, -1, lanes, width)
        segments = (
            Segment("basis", weights.qb, basis),
            replace(_stored(stream, weights.qu, source, config), code=weights.code),
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
    cross = by_lane_and_channel(weights.V[:, :, np.newaxis], config)
    if weights.B is None:
        blocks = -(-kernels // lanes)
        basis = np.ones((1, blocks, lanes, width), np.int8)
        whole = padded(U, lanes, 1, 1)
        _, channels, _ = whole.shape
        streams = np.zeros((channels * taps, blocks, lanes, width), np.int8)
        streams[..., 0] = whole.reshape(blocks, lanes, -1).transpose(2, 0, 1)
    else:
        # [block, v, tap, R, C] as [tap, block, v, R, C]
        bases = by_lane_and_channel(weights.B, config).transpose(2, 0, 1, 3, 4)
        basis = bases.reshape(1, -1, lanes, width)
        # [block, v, channel, R, C] as [channel, block, v, R, C]
        by_block = by_lane_and_channel(U.transpose(0, 2, 1), config)
        streams = by_block.transpose(2, 0, 1, 3, 4)
        streams = streams.reshape(len(streams), -1, lanes, width)
    return Operation(
        dataflow=CROSS,
        segments=(
            Segment("basis", qb, filled(basis, qb)),
            Segment("stream", qu, filled(streams, qu), weights.code),
            Segment("cross", qv, filled(cross.reshape(groups, -1, lanes, width), qv)),
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
    if weights.code is Code.POWER_OF_TWO and config.generator_u_bits <= POWER_BITS:
        raise Unable(
            f"has a U in powers of two, up to 4, the generator of {config.name} takes numbers of "
            f"{config.generator_u_bits} bits",
            "compress it with a uniform U",
        )
    if weights.B is not None:
        terms = weights.B.shape[1]
        limits.append(("B", weights.qb, config.generator_b_bits))
        if terms > config.generator_terms:
            raise Unable(
                f"has {terms} basis terms (Bi), {config.name} sums at most "
                f"{config.generator_terms}",
                "compress it with a smaller Bi",
            )
        if weights.V is None and terms > taps:
            raise Unable(
                f"has {terms} basis terms (Bi) and {taps} taps: the next channels' "
                "coefficients cannot load while the taps run",
                f"compress it with Bi at most {taps}",
            )
        if weights.s1 > config.generator_max_shift:
            raise Unable(
                f"shifts its intra level by {weights.s1}, {config.name} by at most "
                f"{config.generator_max_shift}",
                "compress it for this configuration",
            )
    for what, bits, most in limits:
        if bits > most:
            raise Unable(
                f"has a {what} of {bits} bits, the generator of {config.name} takes at most {most}",
                f"compress it with a {what} of at most {most} bits",
            )
    if weights.V is None:
        depth = 2 * taps
    else:
        if weights.s2 < 1:
            raise Unable(
                f"shifts its cross level by {weights.s2}, the hardware by at least 1",
                "compress it again",
            )
        kernels = weights.V.shape[1]
        blocks = -(-kernels // config.lanes)
        tile = config.lanes * -(-source.extent // config.width) * config.width * taps
        check_tile(tile, config, "compress it without the cross level")
        if blocks > config.basis_blocks:
            raise Unable(
                f"has {kernels} basis kernels (Bo), {config.name} holds "
                f"{config.basis_blocks * config.lanes}",
                "compress it with a smaller Bo",
            )
        depth = blocks * (taps if weights.B is not None else 1)
        largest = kernels * 127 * 127
        if largest >= 1 << (config.accumulator_bits - 1):
            raise Unable(
                f"sums up to {largest} in its cross level, the accumulators of "
                f"{config.name} have {config.accumulator_bits} bits",
                "compress it with a smaller Bo",
            )
    if depth > config.basis_depth:
        raise Unable(
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
    most = 1 << bias_bits(config) - 1
    wide = np.flatnonzero((bias >= most) | (bias < -most))
    if len(wide):
        raise Unable(
            f"has a bias of {bias[wide[0]]} in output channel {wide[0]}, "
            f"{config.name} holds {bias_bits(config)} bits",
            "give the channel larger weights, or none",
        )
    places = np.where(layer.multiplier == 0, 0, np.maximum(-layer.shift.astype(np.int64), 0))
    left = places if layer.rounding is Rounding.TWICE else np.zeros_like(bias)
    lowered = bias - np.where(places > 0, MOST_LOWERED, 0)
    for what, bits, lows, highs in (
        ("accumulator", config.accumulator_bits, low, high),
        ("accumulator with its bias", 32, low + lowered, high + bias),
        ("sum, shifted to the left,", 32, low + bias << left, high + bias << left),
    ):
        limit = 1 << (bits - 1)
        wrong = np.flatnonzero((highs >= limit) | (lows < -limit))
        if len(wrong):
            channel = int(wrong[0])
            raise Unable(
                f"can overflow: the {what} of output channel {channel} reaches "
                f"{lows[channel]}..{highs[channel]}, {bits} bits hold {-limit}..{limit - 1}",
                "give the layer fewer input channels or taps, or smaller weights",
            )
