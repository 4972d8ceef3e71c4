"""Pack a plan into the bytes of the coefficient memory.

The layout is docs/image-format.md, section 'Payload'.
"""

from collections.abc import Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from golden.decode import encode_segment
from golden.requantise import SHIFTS
from insitu.image import Image
from insitu.network import to_bytes
from insitu.operation import Int32, Operation, Segment
from insitu.plan import Plan
from rtl.config import Configuration
from rtl.record import (
    CROSS,
    INTRA,
    OP_END,
    OP_LAYER,
    PACKED_BIAS_BITS,
    RECORD_WORDS,
    pack_record,
    pack_step,
)

__all__ = ["make_image", "pack"]

_TILE_MULTIPLIER = 1 << 30


def pack(plan: Plan) -> bytes:
    """The payload: program, records, parameters and coefficients, from address 0.

    Parameters
    ----------
    plan : Plan

    Returns
    -------
    bytes
        `plan.payload_bytes` of them.
    """
    config, operations = plan.configuration, plan.operations
    words = [
        pack_step(OP_LAYER, plan.records_base // 4 + RECORD_WORDS * index)
        for index in range(len(operations))
    ]
    words.append(pack_step(OP_END))
    for planned in operations:
        words += pack_record(**planned.record)
    parts = [np.array(words, "<u4").tobytes()]
    # What an operation before has too is there already.
    parts += [_parameters(one.operation, config) for one in operations if one.parameter_bytes]
    size = sum(len(part) for part in parts)
    parts.append(bytes(plan.coefficients_base - size))
    for planned in (one for one in operations if one.weight_bits):
        for vectors, segment in _in_order(planned.operation):
            flat = vectors.reshape(-1, config.stripes)
            coded = encode_segment(flat, segment.precision, config.stripe_bits, segment.code)
            parts.append(coded.tobytes())
    payload = b"".join(parts)
    if len(payload) != plan.payload_bytes:
        raise RuntimeError(f"packed {len(payload)} bytes where {plan.payload_bytes} were planned")
    return payload


def make_image(plan: Plan, held_out: float | None = None) -> Image:
    """The image of a plan: its payload, with its report as metadata, and its network.

    Parameters
    ----------
    plan : Plan
    held_out : float, optional
        Percent of the samples held out from training that the network is right on.
    """
    metadata = plan.report()
    if held_out is not None:
        metadata["held_out"] = held_out
    return Image(plan.configuration.digest, metadata, pack(plan), to_bytes(plan.network))


def _in_order(operation: Operation) -> Iterator[tuple[NDArray[np.int8], Segment]]:
    """Vectors of each segment, and its kind, as they follow each other in memory."""
    kinds = [[(vectors, segment) for vectors in segment.values] for segment in operation.segments]
    if operation.dataflow == INTRA:
        kinds = [[*pair] for pair in zip(*kinds, strict=True)]
    return chain.from_iterable(kinds)


def _parameters(operation: Operation, config: Configuration) -> bytes:
    channels = operation.channels
    rows = np.zeros((-(-channels // config.lanes) * config.lanes, config.parameter_words), "<u4")
    rows[:channels] = _channel_words(operation.bias, operation.multiplier, operation.shift, config)
    before = b""
    if operation.table is not None:
        # The hardware looks results up as unsigned bytes: 0 comes first, -128 in the middle.
        before = np.roll(operation.table, 128).tobytes()
    if operation.dataflow == CROSS:
        tile = np.array([[0], [_TILE_MULTIPLIER], [operation.s2 - 1]], np.int32)
        before += _channel_words(tile[0], tile[1], tile[2], config).tobytes()
    elif operation.uniform:
        before += rows[:1].tobytes()
        rows = rows[:, :1]
    return before + rows.tobytes()


def _channel_words(
    bias: Int32, multiplier: Int32, shift: Int32, config: Configuration
) -> NDArray[np.uint32]:
    """32-bit words [channels, words] of each channel's parameters."""
    if not config.parameters_packed:
        return np.stack([bias, multiplier, shift], axis=1).astype("<u4")
    most = 1 << PACKED_BIAS_BITS - 1
    if ((bias < -most) | (bias >= most) | (shift < 0) | (shift > SHIFTS[1])).any():
        raise RuntimeError(
            f"biases of {bias.min()}..{bias.max()} and shifts of {shift.min()}..{shift.max()} "
            f"are not proved to fit {PACKED_BIAS_BITS} and 5 bits"
        )
    first = (bias & (1 << PACKED_BIAS_BITS) - 1) | shift.astype(np.int64) << PACKED_BIAS_BITS
    return np.stack([first, multiplier], axis=1).astype("<u4")
