"""Plan a network for a configuration: dataflows, placement, records, and every check.

A plan that exists can be packed and run: whatever the hardware could not do is refused here, with
the layer, the figure and the next step.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.decode import segment_words
from golden.network import INPUT, Convolution, Generated, Network, Stored, shapes
from insitu.cost import CONSTANTS, Constants, Cost, Work, layer_cost
from insitu.errors import FitError
from rtl.config import CONFIGURATIONS, Configuration
from rtl.record import (
    ADDRESS_STEPS,
    CROSS,
    FIELDS,
    INTRA,
    PARAMETER_WORDS,
    RECORD_WORDS,
    STORED,
    field_bits,
)

__all__ = ["DATAFLOWS", "LayerPlan", "Map", "Plan", "Segment", "plan"]

DATAFLOWS = {STORED: "stored", INTRA: "intra", CROSS: "cross"}
_BEAT_ADDRESSES = 1 << FIELDS["input_start"].width
_BEAT_STEPS = [name for name in FIELDS if name.startswith("input_") and name.endswith("_step")]


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _round_up(a: int, b: int) -> int:
    return _ceil(a, b) * b


@dataclass(frozen=True)
class Map:
    """A feature map in the activation memory, channels last.

    Parameters
    ----------
    name : str
    shape : (int, int, int)
        Height, width, channels.
    pitch : int
        Bytes from pixel to pixel.
    address : int
        Byte address of the first pixel.
    zero_point : int
    """

    name: str
    shape: tuple[int, int, int]
    pitch: int
    address: int
    zero_point: int

    @property
    def size(self) -> int:
        """Bytes it takes."""
        return self.shape[0] * self.shape[1] * self.pitch

    def place(self, values: NDArray[np.int8]) -> bytes:
        """The bytes from `address` on that hold `values` (int8, of `shape`)."""
        values = np.asarray(values, np.int8)
        if values.shape != self.shape:
            raise ValueError(f"values must have shape {self.shape}, not {values.shape}")
        height, width, channels = self.shape
        memory = np.zeros((height, width, self.pitch), np.int8)
        memory[..., :channels] = values
        return memory.tobytes()

    def take(self, data: bytes) -> NDArray[np.int8]:
        """The values in `data`, the bytes of memory from `address` on: int8, of `shape`."""
        height, width, channels = self.shape
        memory = np.frombuffer(data, np.int8, self.size)
        return memory.reshape(height, width, self.pitch)[..., :channels].copy()

    def report(self) -> dict[str, Any]:
        """The map as plain data."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_report(cls, values: dict[str, Any]) -> "Map":
        """The map that `report` described, say in an image's metadata."""
        shape = values["shape"]
        return cls(
            name=values["name"],
            shape=(int(shape[0]), int(shape[1]), int(shape[2])),
            pitch=int(values["pitch"]),
            address=int(values["address"]),
            zero_point=int(values["zero_point"]),
        )


@dataclass(frozen=True)
class Segment:
    """The segments of one kind that a layer has (docs/image-format.md).

    Parameters
    ----------
    kind : "basis", "stream" or "cross"
    precision : int
        Bits a coefficient, as packed.
    vectors : int
        Vectors of one segment.
    words : int
        Coefficient words of one segment.
    count : int
        Segments of this kind.
    """

    kind: str
    precision: int
    vectors: int
    words: int
    count: int


@dataclass(frozen=True)
class LayerPlan:
    """A layer, planned.

    Parameters
    ----------
    index : int
    layer : Convolution
    dataflow : STORED, INTRA or CROSS
    flat : bool
        Cross level without an intra level.
    input, output : Map
    segments : tuple of Segment
        In the order basis, stream, cross, as far as the dataflow has them.
    record : dict
        Value of every field of the layer's record.
    weight_bits : int
        Every stored bit of bases, coefficients and stored weights, padding included.
    parameter_bytes : int
        Biases, multipliers and shifts.
    cost : Cost
    """

    index: int
    layer: Convolution
    dataflow: int
    flat: bool
    input: Map
    output: Map
    segments: tuple[Segment, ...]
    record: dict[str, int]
    weight_bits: int
    parameter_bytes: int
    cost: Cost

    def report(self) -> dict[str, Any]:
        """What a report shows and a checker needs, as plain data."""
        layer, weights = self.layer, self.layer.weights
        values: dict[str, Any] = {
            "name": layer.name,
            "kind": self.kind,
            "kernel": list(layer.kernel),
            "stride": list(layer.stride),
            "padding": list(layer.padding),
            "dilation": list(layer.dilation),
            "dataflow": DATAFLOWS[self.dataflow],
            "flat": self.flat,
        }
        if isinstance(weights, Generated):
            values["precisions"] = {"u": weights.qu}
            values["ranks"] = {}
            values["shifts"] = {}
            if weights.B is not None:
                values["precisions"]["b"] = weights.qb
                values["ranks"]["terms"] = weights.B.shape[1]
                values["shifts"]["s1"] = weights.s1
            if weights.V is not None:
                values["precisions"]["v"] = weights.qv
                values["ranks"]["kernels"] = weights.V.shape[1]
                values["shifts"]["s2"] = weights.s2
        else:
            values["precisions"] = {"w": weights.q}
        return values | {
            "input": self.input.report(),
            "output": self.output.report(),
            "segments": [asdict(segment) for segment in self.segments],
            "record": dict(self.record),
            "weight_bits": self.weight_bits,
            "weight_bytes": self.weight_bits // 8,
            "dense_int8_bytes": weights.W.size,
            "parameter_bytes": self.parameter_bytes,
            "cost": self.cost.report(),
        }

    @property
    def kind(self) -> str:
        """What the layer is called: "fully connected" where the kernel is the whole map."""
        whole = self.output.shape[:2] == (1, 1) and self.layer.kernel == self.input.shape[:2]
        return "fully connected" if whole else "convolution"


@dataclass(frozen=True)
class Plan:
    """A network, planned for a configuration: everything `insitu.pack` needs.

    Parameters
    ----------
    name : str
    network : Network
    configuration : Configuration
    input, output : Map
    layers : tuple of LayerPlan
    records_base, parameters_base, coefficients_base : int
        Byte addresses in the payload.
    payload_bytes : int
    activation_bytes : int
        Most bytes of activation memory in use at a time.
    constants : Constants
        Those that the predicted cycles were made with.
    """

    name: str
    network: Network
    configuration: Configuration
    input: Map
    output: Map
    layers: tuple[LayerPlan, ...]
    records_base: int
    parameters_base: int
    coefficients_base: int
    payload_bytes: int
    activation_bytes: int
    constants: Constants

    @property
    def weight_bits(self) -> int:
        """Every stored bit of bases, coefficients and stored weights, padding included."""
        return sum(layer.weight_bits for layer in self.layers)

    @property
    def ideal_cycles(self) -> int:
        """The array's work alone, from shapes only."""
        return sum(layer.cost.ideal for layer in self.layers)

    @property
    def cycles(self) -> int:
        """Predicted cycles of one inference."""
        return self.constants.program + sum(layer.cost.cycles for layer in self.layers)

    @property
    def dense_int8_bytes(self) -> int:
        """Bytes the weights would take at 8 bits each."""
        return sum(planned.layer.weights.W.size for planned in self.layers)

    def report(self) -> dict[str, Any]:
        """The plan as plain data; it is also an image's metadata."""
        return {
            "network": self.name,
            "configuration": self.configuration.name,
            "input": {**self.input.report(), "scale": self.network.input_scale},
            "output": {**self.output.report(), "scale": self.network.output_scale},
            "weight_bits": self.weight_bits,
            "weight_bytes": self.weight_bits // 8,
            "dense_int8_bytes": self.dense_int8_bytes,
            "parameter_bytes": sum(layer.parameter_bytes for layer in self.layers),
            "program_bytes": self.parameters_base,
            "payload_bytes": self.payload_bytes,
            "coefficient_bytes": self.configuration.coefficient_bytes,
            "activation_bytes_used": self.activation_bytes,
            "activation_bytes": self.configuration.activation_bytes,
            "cycles": self.cycles,
            "ideal_cycles": self.ideal_cycles,
            "layers": [layer.report() for layer in self.layers],
        }


def plan(
    network: Network,
    configuration: Configuration,
    *,
    name: str = "network",
    keep_maps: bool = False,
    constants: Constants = CONSTANTS,
) -> Plan:
    """Plan a network for a configuration.

    Parameters
    ----------
    network : Network
    configuration : Configuration
    name : str, optional
        What reports call the network.
    keep_maps : bool, optional
        Give every feature map memory of its own, so that all can be read after a run. By default
        a map is overwritten once its last reader is done.
    constants : Constants, optional
        Of the cost model.

    Returns
    -------
    Plan

    Raises
    ------
    FitError
        If the configuration cannot run the network; names the layer, what is missing, and the
        configurations that could.
    """
    try:
        return _plan(name, network, configuration, keep_maps, constants)
    except FitError as error:
        fitting = []
        for other in CONFIGURATIONS.values():
            if other.digest != configuration.digest:
                try:
                    _plan(name, network, other, keep_maps, constants)
                except FitError:
                    continue
                fitting.append(other.name)
        if not fitting:
            raise
        raise FitError(
            error.cause, f"{error.next_step}, or use configuration {' or '.join(fitting)}"
        ) from None


def _plan(
    name: str, network: Network, config: Configuration, keep_maps: bool, constants: Constants
) -> Plan:
    convolutions = _convolutions(network)
    maps, peak = _place_maps(network, convolutions, config, keep_maps)
    n_layers = len(convolutions)
    records_base = 4 * (n_layers + 1)
    parameters_base = records_base + 4 * RECORD_WORDS * n_layers
    entries = [_parameter_entries(layer, config) for layer in convolutions]
    word_bytes = config.coefficient_port // 8
    coefficients_base = _round_up(parameters_base + 4 * PARAMETER_WORDS * sum(entries), word_bytes)

    layers = []
    parameters = parameters_base // 4
    coefficients = coefficients_base // word_bytes
    for index, layer in enumerate(convolutions):
        planned = _plan_layer(
            index, layer, maps[index], maps[index + 1], parameters, coefficients, config, constants
        )
        layers.append(planned)
        parameters += PARAMETER_WORDS * entries[index]
        coefficients += sum(s.words * s.count for s in planned.segments)

    size = coefficients * word_bytes
    if size > config.coefficient_bytes:
        largest = max(layers, key=lambda planned: planned.weight_bits)
        raise FitError(
            f"the network needs {size} bytes of coefficient memory, {config.name} has "
            f"{config.coefficient_bytes}: {size - config.coefficient_bytes} bytes are missing; "
            f"the largest layer, {largest.layer.name!r}, takes {largest.weight_bits // 8}",
            "compress it further (lower ranks or precisions)",
        )
    for planned in layers:
        _check_record(planned, config)
    return Plan(
        name=name,
        network=network,
        configuration=config,
        input=maps[0],
        output=maps[-1],
        layers=tuple(layers),
        records_base=records_base,
        parameters_base=parameters_base,
        coefficients_base=coefficients_base,
        payload_bytes=size,
        activation_bytes=peak,
        constants=constants,
    )


def _convolutions(network: Network) -> tuple[Convolution, ...]:
    """The layers of a network that the engine can run: a chain of convolutions."""
    layers = []
    before = INPUT
    for layer in network.layers:
        name = f"layer {layer.name!r}"
        if not isinstance(layer, Convolution):
            raise FitError(
                f"{name} is of kind {layer.kind!r}, which the engine cannot run",
                "build the network from convolutions and fully connected layers",
            )
        if layer.inputs != (before,):
            raise FitError(
                f"{name} reads {layer.inputs[0]!r}, not the layer before it, "
                "and the engine runs chains",
                "use a network without branches",
            )
        left = np.flatnonzero(layer.shift < 0)
        if len(left):
            raise FitError(
                f"{name} multiplies the sums of output channel {left[0]} by 1 or more "
                f"(shift {layer.shift[left[0]]}), the requantiser by less than 1",
                "give its output a larger scale",
            )
        layers.append(layer)
        before = layer.name
    return tuple(layers)


def _place_maps(
    network: Network, layers: tuple[Convolution, ...], config: Configuration, keep: bool
) -> tuple[list[Map], int]:
    """Input and every layer's output in the activation memory, and the bytes in use at most.

    In a chain a map lives from the layer that writes it to the next: maps alternate between the
    two ends of the memory, which no other placement can beat.
    """
    maps = []
    for index, shape in enumerate(shapes(network)):
        if index == 0:
            name, zero = "input", network.input_zero_point
        else:
            layer = layers[index - 1]
            name, zero = layer.name, layer.output_zero_point
        maps.append(Map(name, shape, _round_up(shape[2], config.activation_word), 0, zero))

    total = config.activation_bytes
    if keep:
        peak = sum(m.size for m in maps)
        if peak > total:
            raise FitError(
                f"the feature maps together take {peak} bytes, {config.name} has {total} bytes "
                f"of activation memory: {peak - total} bytes are missing",
                "let maps overwrite each other (do not keep them)",
            )
        address = 0
        for index, m in enumerate(maps):
            maps[index] = replace(m, address=address)
            address += m.size
        return maps, peak

    peak = 0
    for layer, before, after in zip(layers, maps, maps[1:], strict=False):
        needed = before.size + after.size
        peak = max(peak, needed)
        if needed > total:
            raise FitError(
                f"layer {layer.name!r} needs {needed} bytes of activation memory for its input "
                f"{before.shape} and output {after.shape}, {config.name} has {total}: "
                f"{needed - total} bytes are missing",
                "use smaller inputs or fewer channels",
            )
    for index, m in enumerate(maps):
        maps[index] = replace(m, address=total - m.size if index % 2 else 0)
    return maps, peak


def _parameter_entries(layer: Convolution, config: Configuration) -> int:
    """Channels of parameters: whole lane groups, and one in front where a tile is rounded."""
    tile = isinstance(layer.weights, Generated) and layer.weights.V is not None
    return _round_up(layer.output_channels, config.lanes) + tile


def _plan_layer(
    index: int,
    layer: Convolution,
    source: Map,
    target: Map,
    parameter_base: int,
    coefficient_base: int,
    config: Configuration,
    constants: Constants,
) -> LayerPlan:
    lanes, width = config.lanes, config.width
    weights = layer.weights
    co, ci, taps = weights.shape
    groups = _ceil(co, lanes)
    channel_groups = _ceil(ci, width)
    pixels = target.shape[0] * target.shape[1]
    _check_layer(layer, config)

    def segment(kind: str, precision: int, vectors: int, count: int) -> Segment:
        words = segment_words(vectors, precision, config.stripe_bits)
        return Segment(kind, precision, vectors, words, count)

    blocks, terms, kernels, s1 = 1, 1, 0, 0
    if isinstance(weights, Stored):
        dataflow, flat, repeats = STORED, False, pixels
        q = _dense_precision(weights.q, ci, width)
        segments = [segment("stream", q, channel_groups * taps, groups)]
    else:
        flat = weights.B is None
        if weights.B is not None:
            terms, s1 = weights.B.shape[1], weights.s1
        vectors = _ceil(terms, width)
        if weights.V is None:
            dataflow, repeats = INTRA, pixels
            qu = _dense_precision(weights.qu, ci, width)
            segments = [
                segment("basis", weights.qb, taps * vectors, groups),
                segment("stream", qu, channel_groups * terms, groups),
            ]
        else:
            kernels = weights.V.shape[1]
            blocks = _ceil(kernels, lanes)
            dataflow, repeats = CROSS, ci * (taps if flat else 1)
            qb, qu, qv = _cross_precisions(weights, terms, kernels, width)
            segments = [
                segment("basis", qb, (1 if flat else taps) * blocks * vectors, 1),
                segment("stream", qu, blocks * vectors, repeats),
                segment("cross", qv, _ceil(kernels, width), groups),
            ]
    by_kind = {s.kind: s for s in segments}
    none = Segment("", 1, 0, 0, 0)
    basis, stream, cross = (by_kind.get(k, none) for k in ("basis", "stream", "cross"))

    pixel = source.pitch // width
    row = source.shape[1] * pixel
    (kh, kw), (sy, sx), (dy, dx) = layer.kernel, layer.stride, layer.dilation
    top, left = layer.padding[:2]
    channels_back = channel_groups - 1
    rows_back, columns_back = (kh - 1) * dy, (kw - 1) * dx
    taps_back = rows_back * row + columns_back * pixel
    word = config.activation_word
    last_words = _ceil(co - (groups - 1) * lanes, word)
    record = {
        "dataflow": dataflow,
        "double_rounding": int(layer.double_rounding),
        "flat": int(flat),
        "basis_precision": basis.precision - 1,
        "stream_precision": stream.precision - 1,
        "cross_precision": cross.precision - 1,
        "intra_shift": s1,
        "terms": terms - 1,
        "groups": groups - 1,
        "input_start": source.address // width - top * row - left * pixel,
        "kernel_height": kh - 1,
        "kernel_width": kw - 1,
        "input_kx_step": dx * pixel,
        "input_ky_step": dy * row - columns_back * pixel,
        "input_channel_step": 1 - taps_back,
        "input_x_step": sx * pixel - channels_back - taps_back,
        "input_y_step": (sy * row - (target.shape[1] - 1) * sx * pixel - channels_back - taps_back),
        "input_group_step": -(
            (target.shape[0] - 1) * sy * row
            + (target.shape[1] - 1) * sx * pixel
            + channels_back
            + taps_back
        ),
        "row_start": -top,
        "row_group_start": -top,
        "column_start": -left,
        "column_group_start": -left,
        "row_kx_step": 0,
        "column_kx_step": dx,
        "row_ky_step": dy,
        "column_ky_step": -columns_back,
        "row_channel_step": -rows_back,
        "column_channel_step": -columns_back,
        "row_x_step": -rows_back,
        "column_x_step": sx - columns_back,
        "row_y_step": sy - rows_back,
        "column_y_start": -left,
        "channel_groups": channel_groups - 1,
        "output_width": target.shape[1] - 1,
        "output_height": target.shape[0] - 1,
        "input_width": source.shape[1],
        "input_height": source.shape[0],
        "input_zero_point": source.zero_point,
        "output_base": target.address // word,
        "output_pitch": target.pitch // word,
        "last_group_words": last_words - 1,
        "output_zero_point": target.zero_point,
        "activation_min": layer.activation_min,
        "activation_max": layer.activation_max,
        "coefficient_base": coefficient_base,
        "basis_vectors": basis.vectors,
        "basis_words": basis.words,
        "stream_words": stream.words,
        "stream_vectors": stream.vectors,
        "cross_words": cross.words,
        "cross_vectors": cross.vectors,
        "cross_base": 0,
        "stream_repeats": repeats - 1,
        "taps": taps - 1,
        "blocks": blocks - 1,
        "last_block_steps": 0,
        "parameter_base": parameter_base,
    }
    if dataflow == CROSS:
        before = basis.words * basis.count + stream.words * stream.count
        record["cross_base"] = coefficient_base + before
        record["last_block_steps"] = _ceil(kernels - (blocks - 1) * lanes, width) - 1
    for name in ("input_start", *_BEAT_STEPS):
        record[name] %= 1 << FIELDS[name].width
    work = Work(
        dataflow=dataflow,
        flat=flat,
        outputs=co,
        inputs=ci,
        taps=taps,
        pixels=pixels,
        kernels=kernels,
        basis_vectors=basis.vectors,
        basis_words=basis.words,
        stream_vectors=stream.vectors,
        stream_words=stream.words,
        cross_words=cross.words,
        last_group_words=last_words,
    )
    return LayerPlan(
        index=index,
        layer=layer,
        dataflow=dataflow,
        flat=flat,
        input=source,
        output=target,
        segments=tuple(segments),
        record=record,
        weight_bits=sum(s.words * s.count for s in segments) * config.coefficient_port,
        parameter_bytes=4 * PARAMETER_WORDS * _parameter_entries(layer, config),
        cost=layer_cost(work, config, constants),
    )


def _dense_precision(q: int, inputs: int, width: int) -> int:
    """Precision at which W, or U of the intra level, is packed.

    One bit cannot say that a channel does not exist; two can.
    """
    return 2 if q == 1 and inputs % width else q


def _cross_precisions(
    weights: Generated, terms: int, kernels: int, width: int
) -> tuple[int, int, int]:
    """Precisions of B, U and V as packed: 2 for 1 where a zero must stand for what is missing.

    A term that does not exist needs a zero in U or B, a kernel that does not exist one in V or
    in each of its products U * B. The basis of a layer without B is one bit wide.
    """
    qb, qu, qv = max(weights.qb, 1), weights.qu, weights.qv
    if qb == 1 and qu == 1 and terms % width:
        qu = 2
    if qb == 1 and qu == 1 and qv == 1 and kernels % width:
        qv = 2
    return qb, qu, qv


def _check_layer(layer: Convolution, config: Configuration) -> None:
    """Refuse what the blocks of the configuration cannot do for this layer."""
    name, weights = f"layer {layer.name!r}", layer.weights
    _, ci, taps = weights.shape
    if layer.groups != 1:
        raise FitError(
            f"{name} is a convolution in {layer.groups} groups, which the engine cannot run",
            "use an ordinary convolution there",
        )
    if isinstance(weights, Generated):
        _check_generator(name, weights, config)
    if isinstance(weights, Generated) and weights.V is not None:
        blocks = _ceil(weights.V.shape[1], config.lanes)
        tile = config.lanes * _round_up(ci, config.width) * taps
        if tile > config.tile_bytes:
            raise FitError(
                f"{name} needs a weight tile of {tile} bytes, {config.name} has "
                f"{config.tile_bytes}: {tile - config.tile_bytes} bytes are missing",
                "compress it without the cross level",
            )
        if blocks > config.basis_blocks:
            raise FitError(
                f"{name} has {weights.V.shape[1]} basis kernels (Bo), {config.name} holds "
                f"{config.basis_blocks * config.lanes}",
                "compress it with a smaller Bo",
            )
        depth = blocks * (taps if weights.B is not None else 1)
        largest = weights.V.shape[1] * 127 * 127
        if largest >= 1 << (config.accumulator_bits - 1):
            raise FitError(
                f"{name} sums up to {largest} in its cross level, the accumulators of "
                f"{config.name} have {config.accumulator_bits} bits",
                "compress it with a smaller Bo",
            )
    else:
        depth = 2 * taps if isinstance(weights, Generated) else 0
    if depth > config.basis_depth:
        raise FitError(
            f"{name} needs {depth} words of basis buffer, {config.name} has {config.basis_depth}",
            "compress it with a smaller Bo, or store its weights",
        )
    _check_accumulator(name, layer, config)


def _check_generator(name: str, weights: Generated, config: Configuration) -> None:
    limits = [("U", weights.qu, config.generator_u_bits)]
    if weights.B is not None:
        terms, taps = weights.B.shape[1:]
        limits.append(("B", weights.qb, config.generator_b_bits))
        if terms > config.generator_terms:
            raise FitError(
                f"{name} has {terms} basis terms (Bi), {config.name} sums at most "
                f"{config.generator_terms}",
                "compress it with a smaller Bi",
            )
        if weights.V is None and terms > taps:
            raise FitError(
                f"{name} has {terms} basis terms (Bi) and {taps} taps: the next channels' "
                "coefficients cannot load while the taps run",
                f"compress it with Bi at most {taps}",
            )
        if weights.s1 > config.generator_max_shift:
            raise FitError(
                f"{name} shifts its intra level by {weights.s1}, {config.name} by at most "
                f"{config.generator_max_shift}",
                "compress it for this configuration",
            )
    for what, bits, most in limits:
        if bits > most:
            raise FitError(
                f"{name} has a {what} of {bits} bits, the generator of {config.name} takes "
                f"at most {most}",
                f"compress it with a {what} of at most {most} bits",
            )
    if weights.V is not None and weights.s2 < 1:
        raise FitError(
            f"{name} shifts its cross level by {weights.s2}, the hardware by at least 1",
            "compress it again",
        )


def _check_accumulator(name: str, layer: Convolution, config: Configuration) -> None:
    """Prove that no input overflows an accumulator, or its sum with the bias."""
    flat = layer.weights.W.astype(np.int64).reshape(len(layer.bias), -1)
    positive = np.maximum(flat, 0).sum(axis=1)
    negative = positive - flat.sum(axis=1)
    high = 127 * positive + 128 * negative
    low = -128 * positive - 127 * negative
    bias = layer.bias.astype(np.int64)
    for what, bits, lows, highs in (
        ("accumulator", config.accumulator_bits, low, high),
        ("accumulator with its bias", 32, low + bias, high + bias),
    ):
        limit = 1 << (bits - 1)
        wrong = np.flatnonzero((highs >= limit) | (lows < -limit))
        if len(wrong):
            channel = int(wrong[0])
            raise FitError(
                f"{name} can overflow: the {what} of output channel {channel} reaches "
                f"{lows[channel]}..{highs[channel]}, {bits} bits hold {-limit}..{limit - 1}",
                "give the layer fewer input channels or taps, or smaller weights",
            )


_SMALLER = {
    "kernel_height": "use a smaller kernel",
    "kernel_width": "use a smaller kernel",
    "taps": "use a smaller kernel",
    "row_ky_step": "use a smaller dilation",
    "row_channel_step": "use a smaller kernel or dilation",
    "row_y_step": "use a smaller stride",
    "column_kx_step": "use a smaller dilation",
    "column_ky_step": "use a smaller kernel or dilation",
    "column_x_step": "use a smaller stride",
    "row_start": "use less padding",
    "column_start": "use less padding",
    "groups": "use fewer output channels",
    "output_pitch": "use fewer output channels",
    "channel_groups": "use fewer input channels",
    "basis_vectors": "compress it with a smaller Bo",
    "basis_words": "compress it with a smaller Bo or fewer bits",
    "stream_vectors": "use fewer input channels or taps",
    "stream_words": "use fewer input channels or taps",
}


def _check_record(planned: LayerPlan, config: Configuration) -> None:
    """Refuse a layer whose record cannot hold its figures, or whose figures the hardware cannot."""
    bits = field_bits(config)
    for name, value in planned.record.items():
        field = FIELDS[name]
        width = field.width if name in ADDRESS_STEPS else bits[name]
        low = -(1 << (width - 1)) if field.signed else 0
        high = low + (1 << width) - 1
        if not low <= value <= high:
            raise FitError(
                f"layer {planned.layer.name!r} needs {name} = {value}, "
                f"{config.name} holds {low}..{high}",
                _SMALLER.get(name, "use smaller feature maps"),
            )
