"""What the engine does for a layer: its operations.

Convolutions are what the engine is made for (`insitu.lower_convolution`). Whatever works channel by
channel runs on it as a depthwise convolution (`insitu.lower_channelwise`).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from golden.network import Convolution, Generated, Layer
from golden.requantise import LARGEST_MULTIPLIER
from insitu.errors import FitError
from insitu.exact import digits
from insitu.lower_channelwise import lower_channelwise
from insitu.lower_convolution import lower_convolution
from insitu.lowering import Site, Unable, bias_bits, by_lane, copied, lane_words, plain_walk
from insitu.maps import Map, Placed
from insitu.operation import Loop, Operation, Walk
from rtl.config import Configuration

__all__ = ["array_cycles", "lower", "lower_rows", "move", "only_rows"]

Int32 = NDArray[np.int32]


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
        site = Site(tuple(sources), target, tuple(joined), config)
        if isinstance(layer, Convolution):
            operations = lower_convolution(layer, site)
        else:
            operations = lower_channelwise(layer, site)
        return [part for one in operations for part in _multiplied(one, config)]
    except Unable as error:
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
    return copied(source, target, plain_walk(source, target, config), config)


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
    # The least sum that a byte stands for; that, and any below, gives the least output. A bias
    # goes down by 0 to `MOST_LOWERED`, whatever the limits and the zero point.
    first = np.left_shift(np.int64(low - zero_point), 31 - left) // np.maximum(multiplier, 1)
    offset = first + 128
    bias = operation.bias - np.where(large, offset + zero_point, 0)
    bits = bias_bits(config)
    wide = np.flatnonzero((bias < -1 << bits - 1) | (bias >= 1 << bits - 1))
    if len(wide):
        raise Unable(
            f"needs a bias of {bias[wide[0]]} in output channel {wide[0]}, whose multiplier is 1 "
            f"or more, {config.name} holds {bits} bits",
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
    words = lane_words(config)
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
        segments=(by_lane(values[:, np.newaxis].astype(np.int8), config),),
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
