"""What all kinds of layer share as they are lowered: walks, coefficients, depthwise operations."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.fixed import symmetric_range
from golden.network import Add, Convolution, Multiply, Pooling, Requantise
from golden.requantise import LARGEST_MULTIPLIER, Rounding
from insitu.maps import Map
from insitu.operation import Loop, Operation, Segment, Walk
from rtl.config import Configuration
from rtl.record import FIELDS, PACKED_BIAS_BITS

__all__ = [
    "COPY",
    "MOST_LOWERED",
    "Site",
    "Unable",
    "bias_bits",
    "by_lane",
    "by_lane_and_channel",
    "channelwise",
    "check_tile",
    "copied",
    "filled",
    "lane_words",
    "output_limits",
    "over_words",
    "padded",
    "plain_walk",
    "segment",
    "spread",
    "window_walk",
]

Int8 = NDArray[np.int8]

COPY: dict[str, Any] = {"multiplier": LARGEST_MULTIPLIER, "shift": 0, "rounding": Rounding.UP}
"""A requantisation that leaves a byte as it is: x * (1 - 2**-31), rounded."""

MOST_LOWERED = 255
"""How far `insitu.lower` takes a bias down at most, where a channel is multiplied by 1 or more."""


class Unable(Exception):
    """What is in the way, and what to do about it."""


def bias_bits(config: Configuration) -> int:
    """Bits of a bias in coefficient memory."""
    return PACKED_BIAS_BITS if config.parameters_packed else 32


def check_tile(size: int, config: Configuration, advice: str) -> None:
    """Raise `Unable`, with `advice`, where the weight tile has less than `size` bytes."""
    if size > config.tile_bytes:
        raise Unable(
            f"needs a weight tile of {size} bytes, {config.name} has "
            f"{config.tile_bytes}: {size - config.tile_bytes} bytes are missing",
            advice,
        )


@dataclass(frozen=True)
class Site:
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


def output_limits(layer: Convolution | Requantise | Add | Multiply | Pooling) -> dict[str, int]:
    """The range of a layer's outputs, as an operation names it."""
    return {"activation_min": layer.activation_min, "activation_max": layer.activation_max}


# Walks.


def window_walk(
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


def over_words(walk: Walk, extent: int, config: Configuration) -> Walk:
    """A depthwise walk: its channel groups are the words of R channels."""
    return replace(
        walk,
        channel=Loop(lane_words(config), config.activation_word),
        group=Loop(-(-extent // config.lanes), config.lanes),
    )


# Coefficients.


def padded(values: Int8, *multiples: int) -> Int8:
    """`values` with zeros after each axis, up to a multiple of the number given for it."""
    pads = [(0, -n % m) for n, m in zip(values.shape, multiples, strict=True)]
    return np.pad(values, pads)


def spread(values: NDArray[Any], source: Map, axis: int = 0) -> NDArray[Any]:
    """An axis of channels as one of bytes of a pixel: 0 where there is no channel."""
    if source.extent == source.shape[2]:
        return values
    shape = list(values.shape)
    shape[axis] = source.extent
    spread = np.zeros(shape, values.dtype)
    np.moveaxis(spread, axis, 0)[source.positions] = np.moveaxis(values, axis, 0)
    return spread


def segment(kind: str, values: Int8, precision: int) -> Segment:
    """A segment of at least that precision: one bit cannot say 0, two can."""
    if precision == 1 and not values.all():
        precision = 2
    return Segment(kind, precision, np.ascontiguousarray(values))


def filled(values: Int8, precision: int) -> Int8:
    """What does not matter: +1 in place of 0, where one bit cannot say 0."""
    return np.where(values == 0, np.int8(1), values) if precision == 1 else values


def _needed(values: Int8) -> int:
    """The least precision that can say these values."""
    if (np.abs(values) == 1).all():
        return 1
    return next(
        q for q in range(2, 9) if int(np.abs(values.astype(int)).max()) <= symmetric_range(q)[1]
    )


def by_lane_and_channel(values: Int8, config: Configuration) -> Int8:
    """[Co, Ci, n] as [lane group, channel group, n, R, C]."""
    lanes, width = config.lanes, config.width
    values = padded(values, lanes, width, 1)
    outputs, inputs, n = values.shape
    split = values.reshape(outputs // lanes, lanes, inputs // width, width, n)
    return split.transpose(0, 2, 4, 1, 3)


def lane_words(config: Configuration) -> int:
    """Activation words that R channels take."""
    return config.lanes // config.activation_word


def by_lane(values: Int8, config: Configuration, precision: int | None = None) -> Segment:
    """Depthwise weights [outer, inner, byte of a pixel], in the order outer, word, inner."""
    lanes, words = config.lanes, lane_words(config)
    values = padded(values, 1, 1, lanes)
    outer, inner, total = values.shape
    by_group = values.reshape(outer, inner, total // lanes, lanes).transpose(2, 0, 1, 3)
    vectors = np.zeros((total // lanes, outer, words, inner, lanes, config.width), np.int8)
    for word in range(words):
        part = slice(word * config.activation_word, (word + 1) * config.activation_word)
        vectors[:, :, word, :, part, 0] = by_group[..., part]
    flat = vectors.reshape(total // lanes, -1, lanes, config.width)
    return segment("stream", flat, precision or _needed(flat))


# Channel by channel.


def channelwise(
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
    if config.width == lane_words(config) == 1:
        every = np.pad(every, [(0, 0), (0, 0), (0, -extent % config.lanes)], "edge")
    usual: dict[str, Any] = {
        "input_zero_point": source.zero_point,
        "output_zero_point": target.zero_point,
        "output": target.address,
        "pitch": pitch,
    }
    return Operation(
        walk=walk,
        segments=(by_lane(every, config),),
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


def plain_walk(source: Map, target: Map, config: Configuration) -> Walk:
    """Pixel by pixel."""
    walk = window_walk(source, target, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0))
    return over_words(walk, source.extent, config)


def copied(
    source: Map, target: Map, walk: Walk, config: Configuration, **settings: Any
) -> Operation:
    """Each byte as it is, or what a table makes of it."""
    one = np.ones((1, 1), np.int8)
    settings = COPY | {"output_zero_point": 0} | settings
    return channelwise(walk, one, source, target, config, **settings)
