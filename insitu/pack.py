"""Pack a plan into the bytes of the coefficient memory, and read a network back from them.

The layout is docs/image-format.md, section 'Payload'.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.decode import decode_segment, encode_segment
from golden.network import Convolution, Generated, Network, Stored, chain
from insitu.errors import ImageError
from insitu.image import Image
from insitu.plan import LayerPlan, Map, Plan
from rtl.config import Configuration
from rtl.record import (
    CROSS,
    FIELDS,
    INTRA,
    OP_END,
    OP_LAYER,
    PARAMETER_WORDS,
    RECORD_WORDS,
    STORED,
    pack_record,
    pack_step,
)

__all__ = ["make_image", "pack", "unpack"]

Int8 = NDArray[np.int8]
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
    config = plan.configuration
    words = [
        pack_step(OP_LAYER, plan.records_base // 4 + RECORD_WORDS * planned.index)
        for planned in plan.layers
    ]
    words.append(pack_step(OP_END))
    for planned in plan.layers:
        words += pack_record(**planned.record)
    parts = [np.array(words, "<u4").tobytes()]
    parts += [_parameters(planned, config) for planned in plan.layers]
    size = sum(len(part) for part in parts)
    parts.append(bytes(plan.coefficients_base - size))
    for planned in plan.layers:
        for vectors, precision in _segments(planned, config):
            flat = vectors.reshape(-1, config.stripes)
            parts.append(encode_segment(flat, precision, config.stripe_bits).tobytes())
    payload = b"".join(parts)
    if len(payload) != plan.payload_bytes:
        raise RuntimeError(f"packed {len(payload)} bytes where {plan.payload_bytes} were planned")
    return payload


def make_image(plan: Plan) -> Image:
    """The image of a plan: its payload, with its report as metadata."""
    return Image(plan.configuration.digest, plan.report(), pack(plan))


def _parameters(planned: LayerPlan, config: Configuration) -> bytes:
    layer = planned.layer
    channels = layer.output_channels
    table = np.zeros((planned.parameter_bytes // (4 * PARAMETER_WORDS), PARAMETER_WORDS), "<u4")
    first = 0
    if isinstance(layer.weights, Generated) and layer.weights.V is not None:
        table[0] = 0, _TILE_MULTIPLIER, layer.weights.s2 - 1
        first = 1
    rows = table[first : first + channels]
    rows[:, 0] = layer.bias.view(np.uint32)
    rows[:, 1] = layer.multiplier
    rows[:, 2] = layer.shift
    return table.tobytes()


def _padded(values: Int8, *multiples: int) -> Int8:
    """`values` with zeros after each axis, up to a multiple of the number given for it."""
    pads = [(0, -n % m) for n, m in zip(values.shape, multiples, strict=True)]
    return np.pad(values, pads)


def _fill(values: Int8, precision: int) -> Int8:
    """What does not exist is 0; at one bit there is no 0, and +1 is as good."""
    return np.where(values == 0, np.int8(1), values) if precision == 1 else values


def _segments(planned: LayerPlan, config: Configuration) -> list[tuple[Int8, int]]:
    """Segments in the order of memory: each an array [vectors..., R, C] and its precision."""
    lanes, width = config.lanes, config.width
    weights = planned.layer.weights
    precision = {segment.kind: segment.precision for segment in planned.segments}

    def segment(kind: str, values: Int8) -> tuple[Int8, int]:
        return _fill(values, precision[kind]), precision[kind]

    def lanes_by_channels(values: Int8) -> Int8:
        """[Co, Ci, n] as [group, channel group, n, R, C]."""
        values = _padded(values, lanes, width, 1)
        outputs, inputs, n = values.shape
        split = values.reshape(outputs // lanes, lanes, inputs // width, width, n)
        return split.transpose(0, 2, 4, 1, 3)

    if isinstance(weights, Stored):
        return [segment("stream", group) for group in lanes_by_channels(weights.W)]
    if weights.V is None and weights.B is not None:
        bases = lanes_by_channels(weights.B).transpose(0, 2, 1, 3, 4)
        streams = lanes_by_channels(weights.U)
        return [
            pair
            for basis, stream in zip(bases, streams, strict=True)
            for pair in (segment("basis", basis), segment("stream", stream))
        ]

    if weights.V is None:
        raise ValueError("generated weights must have B or V")
    cross = lanes_by_channels(weights.V[:, :, np.newaxis])
    if weights.B is None:
        blocks = -(-len(weights.U) // lanes)
        basis = np.ones((1, blocks, 1, lanes, width), np.int8)
        kernels = _padded(weights.U, lanes, 1, 1)
        _, channels, taps = kernels.shape
        streams = np.zeros((channels * taps, blocks, 1, lanes, width), np.int8)
        streams[..., 0, :, 0] = kernels.reshape(blocks, lanes, -1).transpose(2, 0, 1)
    else:
        # [block, v, tap, R, C] as [tap, block, v, R, C]
        basis = lanes_by_channels(weights.B).transpose(2, 0, 1, 3, 4)
        # [block, v, channel, R, C] as [channel, block, v, R, C]
        streams = lanes_by_channels(weights.U.transpose(0, 2, 1)).transpose(2, 0, 1, 3, 4)
    return [
        segment("basis", basis),
        *(segment("stream", stream) for stream in streams),
        *(segment("cross", group) for group in cross),
    ]


def unpack(image: Image, configuration: Configuration) -> Network:
    """The network that an image holds, read back from its payload.

    Lets whoever has only an image check a device against the golden model.

    Parameters
    ----------
    image : Image
    configuration : Configuration
        That of the image.

    Returns
    -------
    Network
        Weights have the precision they are packed with.

    Raises
    ------
    ImageError
        If the image is for another configuration, or its contents contradict each other.
    """
    image.check(configuration)
    try:
        return _unpack(image, configuration)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ImageError(
            f"image is inconsistent: {error}", "compile the model again with insitu compile"
        ) from None


def _unpack(image: Image, config: Configuration) -> Network:
    words = np.frombuffer(image.payload, "<u4")
    layers = []
    for index, report in enumerate(image.metadata["layers"]):
        step = int(words[index])
        if step >> 28 != OP_LAYER:
            raise ValueError(f"the program ends at step {index}")
        base = step & 0xFFFFF
        record = _record(words[base : base + RECORD_WORDS])
        layers.append(_unpack_layer(image.payload, record, report, config))
    if words[len(layers)] >> 28 != OP_END:
        raise ValueError(f"the program has more than {len(layers)} steps")
    metadata = image.metadata
    return Network(
        layers=chain(layers),
        input_shape=Map.from_report(metadata["input"]).shape,
        input_scale=metadata["input"]["scale"],
        input_zero_point=metadata["input"]["zero_point"],
        output_scale=metadata["output"]["scale"],
    )


def _record(words: NDArray[np.uint32]) -> dict[str, int]:
    if len(words) != RECORD_WORDS:
        raise ValueError("a record lies outside the payload")
    values = {}
    for name, field in FIELDS.items():
        value = int(words[field.word]) >> field.lsb & (1 << field.width) - 1
        if field.signed and value >> (field.width - 1):
            value -= 1 << field.width
        values[name] = value
    return values


class _Reader:
    """Decodes segments of a payload, one after the other."""

    def __init__(self, payload: bytes, address: int, config: Configuration):
        word = config.coefficient_port // 8
        self._words = np.frombuffer(payload, np.uint8).reshape(-1, word)
        self._address = address
        self._config = config

    def segment(self, vectors: int, words: int, precision: int) -> Int8:
        """The next segment: [vectors, R, C]."""
        part = self._words[self._address : self._address + words]
        self._address += words
        config = self._config
        values = decode_segment(part, vectors, precision, config.stripe_bits)
        return values.reshape(vectors, config.lanes, config.width)


def _unpack_layer(
    payload: bytes, record: dict[str, int], report: dict[str, Any], config: Configuration
) -> Convolution:
    lanes, width = config.lanes, config.width
    source, target = Map.from_report(report["input"]), Map.from_report(report["output"])
    co, ci = target.shape[2], source.shape[2]
    groups, channel_groups = record["groups"] + 1, record["channel_groups"] + 1
    taps, terms, blocks = record["taps"] + 1, record["terms"] + 1, record["blocks"] + 1
    vectors = -(-terms // width)
    reader = _Reader(payload, record["coefficient_base"], config)

    def read(kind: str) -> Int8:
        return reader.segment(
            record[f"{kind}_vectors"], record[f"{kind}_words"], record[f"{kind}_precision"] + 1
        )

    def joined(parts: Int8, outputs: int, inputs: int) -> Int8:
        """[group, channel group, n, R, C] as [outputs, inputs, n]."""
        whole = parts.transpose(0, 3, 1, 4, 2)
        n = whole.shape[-1]
        whole = whole.reshape(len(parts) * lanes, -1, n)[:outputs, :inputs]
        return np.ascontiguousarray(whole)

    weights: Stored | Generated
    qb, qu, qv = (record[f"{kind}_precision"] + 1 for kind in ("basis", "stream", "cross"))
    if record["dataflow"] == STORED:
        parts = np.stack([read("stream") for _ in range(groups)])
        shape = (groups, channel_groups, taps, lanes, width)
        weights = Stored(joined(parts.reshape(shape), co, ci), qu)
    elif record["dataflow"] == INTRA:
        bases, streams = zip(*((read("basis"), read("stream")) for _ in range(groups)), strict=True)
        basis = np.stack(bases).reshape(groups, taps, vectors, lanes, width)
        stream = np.stack(streams).reshape(groups, channel_groups, terms, lanes, width)
        weights = Generated(
            U=joined(stream, co, ci),
            B=joined(basis.transpose(0, 2, 1, 3, 4), co, terms),
            qu=qu,
            qb=qb,
            s1=record["intra_shift"],
        )
    else:
        basis = read("basis")
        stream = np.stack([read("stream") for _ in range(record["stream_repeats"] + 1)])
        reader = _Reader(payload, record["cross_base"], config)
        cross = np.stack([read("cross") for _ in range(groups)])
        kernels = (blocks - 1) * lanes + (record["last_block_steps"] + 1) * width
        kernels = min(kernels, int(report["ranks"]["kernels"]))
        common: dict[str, Any] = {
            "V": joined(cross[:, :, np.newaxis], co, kernels)[:, :, 0].copy(),
            "qu": qu,
            "qv": qv,
            "s2": _parameter_rows(payload, record, 1)[0, 2] + 1,
        }
        if record["flat"]:
            whole = stream.reshape(ci, taps, blocks * lanes, width)[..., :kernels, 0]
            weights = Generated(U=np.ascontiguousarray(whole.transpose(2, 0, 1)), **common)
        else:
            basis = basis.reshape(taps, blocks, vectors, lanes, width)
            stream = stream.reshape(ci, blocks, vectors, lanes, width)
            by_term = joined(stream.transpose(1, 2, 0, 3, 4), kernels, terms)
            weights = Generated(
                U=np.ascontiguousarray(by_term.transpose(0, 2, 1)),
                B=joined(basis.transpose(1, 2, 0, 3, 4), kernels, terms),
                qb=qb,
                s1=record["intra_shift"],
                **common,
            )

    first = 1 if record["dataflow"] == CROSS else 0
    table = _parameter_rows(payload, record, first + co)[first:]
    padding, stride, dilation = (report[k] for k in ("padding", "stride", "dilation"))
    return Convolution(
        name=report["name"],
        kernel=(record["kernel_height"] + 1, record["kernel_width"] + 1),
        stride=(stride[0], stride[1]),
        padding=(padding[0], padding[1], padding[2], padding[3]),
        dilation=(dilation[0], dilation[1]),
        weights=weights,
        bias=table[:, 0].astype(np.int32),
        multiplier=table[:, 1].astype(np.int32),
        shift=table[:, 2].astype(np.int8),
        input_zero_point=record["input_zero_point"],
        output_zero_point=record["output_zero_point"],
        activation_min=record["activation_min"],
        activation_max=record["activation_max"],
        double_rounding=bool(record["double_rounding"]),
    )


def _parameter_rows(payload: bytes, record: dict[str, int], rows: int) -> NDArray[np.int32]:
    start = record["parameter_base"]
    table = np.frombuffer(payload, "<i4")[start : start + rows * PARAMETER_WORDS]
    return table.reshape(rows, PARAMETER_WORDS)
