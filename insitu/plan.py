"""Plan a network for a configuration: placement, operations, records, and every check.

A plan that exists can be packed and run: whatever the hardware could not do is refused here, with
the layer, the figure and the next step.
"""

import hashlib
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np

from golden.code import Code
from golden.network import Convolution, Generated, Layer, Network, Pooling, Rounding
from insitu.bands import lay_out_in_bands
from insitu.control import Segments
from insitu.cost import Cost, Work, operation_cost, program_cycles, total_cost
from insitu.errors import FitError, SizeError
from insitu.lower import array_cycles, lower, lower_rows
from insitu.maps import Layout, Map, lay_out
from insitu.misfit import ways_to_fit
from insitu.operation import Operation, Segment
from insitu.prune import prune
from rtl.config import CONFIGURATIONS, LARGEST_MEMORY, Configuration
from rtl.record import (
    ADDRESS_STEPS,
    CROSS,
    FIELDS,
    INTRA,
    RECORD_WORDS,
    ROUND_EVEN,
    ROUND_TWICE,
    ROUND_UP,
    STORED,
    TABLE_WORDS,
    TILE,
    field_bits,
)

__all__ = [
    "DATAFLOWS",
    "LayerPlan",
    "Plan",
    "Planned",
    "Price",
    "StepPlan",
    "plan",
    "plan_roomy",
    "price",
]

_ROUNDINGS = {
    Rounding.UP: ROUND_UP,
    Rounding.TWICE: ROUND_TWICE,
    Rounding.EVEN: ROUND_EVEN,
}

DATAFLOWS = {STORED: "stored", INTRA: "intra", CROSS: "cross", TILE: "tile"}


_RECORD_CYCLES = 0, 2_000, 200_000
"""What an operation more counts as, in turn, where records leave too little coefficient memory."""


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class Planned:
    """An operation, planned.

    Parameters
    ----------
    operation : Operation
    record : dict
        Value of every field of its record.
    cost : Cost
    weight_bits : int
        Every bit of its segments, padding included; 0 where they are those of an operation before.
    parameter_bytes : int
        Biases, multipliers and shifts, and its table; 0 likewise.
    """

    operation: Operation
    record: dict[str, int]
    cost: Cost
    weight_bits: int
    parameter_bytes: int

    @property
    def shared(self) -> bool:
        """Whether its segments are those of an operation before."""
        return bool(self.operation.segments) and not self.weight_bits


@dataclass(frozen=True)
class StepPlan:
    """A layer, or rows of it where it runs in bands, planned.

    Parameters
    ----------
    layer : int
    rows : range
        Of its output.
    output : Map
        These rows: where they are when the step is done.
    operations : tuple of Planned
        None where there is nothing to do: a concatenation of maps that are in place.
    """

    layer: int
    rows: range
    output: Map
    operations: tuple[Planned, ...]

    def report(self) -> dict[str, Any]:
        """The step as plain data; its operations are the layer's next ones."""
        return {
            "layer": self.layer,
            "rows": [self.rows.start, self.rows.stop],
            "address": self.output.address,
            "operations": len(self.operations),
        }


@dataclass(frozen=True)
class LayerPlan:
    """A layer, planned.

    Parameters
    ----------
    index : int
    layer : Layer
    inputs : tuple of Map
    output : Map
    steps : tuple of StepPlan
        One, or a step a band of rows.
    cost : Cost
        Of all of them.
    buffer_rows : int or None
        Of an output that is never there as a whole: the rows that its buffer holds.
    """

    index: int
    layer: Layer
    inputs: tuple[Map, ...]
    output: Map
    steps: tuple[StepPlan, ...]
    cost: Cost
    buffer_rows: int | None = None

    @property
    def operations(self) -> tuple[Planned, ...]:
        """Those of all steps."""
        return tuple(one for step in self.steps for one in step.operations)

    @property
    def weight_bits(self) -> int:
        """Every stored bit of bases, coefficients and stored weights, padding included."""
        return sum(one.weight_bits for one in self.operations)

    @property
    def parameter_bytes(self) -> int:
        """Biases, multipliers, shifts and tables."""
        return sum(one.parameter_bytes for one in self.operations)

    @property
    def weights(self) -> int:
        """Weights of the layer, as if they were all stored."""
        return self.layer.weights.W.size if isinstance(self.layer, Convolution) else 0

    @property
    def dataflow(self) -> str:
        """How its weights come about; "" where it has none."""
        if not isinstance(self.layer, Convolution):
            return ""
        return DATAFLOWS[self.operations[0].operation.dataflow]

    @property
    def kind(self) -> str:
        """What the layer is called: for convolutions what they look like."""
        layer = self.layer
        if not isinstance(layer, Convolution):
            return layer.kind
        if self.output.shape[:2] == (1, 1) and layer.kernel == self.inputs[0].shape[:2]:
            return "fully connected"
        if layer.depthwise and layer.groups > 1:
            return "depthwise"
        return "convolution" if layer.groups == 1 else f"{layer.groups} groups"

    def report(self, config: Configuration) -> dict[str, Any]:
        """What a report shows and a checker needs, as plain data."""
        bands = {}
        if len(self.steps) > 1:
            rows = max(len(step.rows) for step in self.steps)
            bands = {"count": len(self.steps), "rows": rows, "buffer_rows": self.buffer_rows}
        return {
            "name": self.layer.name,
            "kind": self.kind,
            "dataflow": self.dataflow,
            **_form(self.layer),
            "inputs": [one.report() for one in self.inputs],
            "output": self.output.report(),
            "operations": [
                {
                    "segments": [one.report(config) for one in planned.operation.segments],
                    "record": dict(planned.record),
                    "parameter_bytes": planned.parameter_bytes,
                    "cost": planned.cost.report(),
                    **({"shared": True} if planned.shared else {}),
                }
                for planned in self.operations
            ],
            "weight_bits": self.weight_bits,
            "weight_bytes": self.weight_bits // 8,
            "dense_int8_bytes": self.weights,
            "parameter_bytes": self.parameter_bytes,
            "cost": self.cost.report(),
            **({"bands": bands} if bands else {}),
        }


def _form(layer: Layer) -> dict[str, Any]:
    """Geometry, ranks, precisions, code of U and shifts of a convolution."""
    values: dict[str, Any] = {"precisions": {}, "ranks": {}, "shifts": {}, "code": ""}
    if not isinstance(layer, Convolution):
        return values
    for name in ("kernel", "stride", "padding", "dilation"):
        values[name] = list(getattr(layer, name))
    weights = layer.weights
    if not isinstance(weights, Generated):
        values["precisions"] = {"w": weights.q}
        return values
    values["precisions"]["u"] = weights.qu
    if weights.B is not None:
        values["precisions"]["b"] = weights.qb
        values["ranks"]["terms"] = weights.B.shape[1]
        values["code"] = str(weights.code)
        values["shifts"]["s1"] = weights.s1
    if weights.V is not None:
        values["precisions"]["v"] = weights.qv
        values["ranks"]["kernels"] = weights.V.shape[1]
        values["shifts"]["s2"] = weights.s2
    return values


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
    steps : tuple of StepPlan
        The program: a step a layer, or a band of it.
    records_base, parameters_base, coefficients_base : int
        Byte addresses in the payload.
    payload_bytes : int
    activation_bytes : int
        Most bytes of activation memory in use at a time.
    """

    name: str
    network: Network
    configuration: Configuration
    input: Map
    output: Map
    layers: tuple[LayerPlan, ...]
    steps: tuple[StepPlan, ...]
    records_base: int
    parameters_base: int
    coefficients_base: int
    payload_bytes: int
    activation_bytes: int

    @property
    def operations(self) -> list[Planned]:
        """Those of all steps, in the order of the program."""
        return [one for step in self.steps for one in step.operations]

    @property
    def banded(self) -> bool:
        """Whether some layers run in bands of rows."""
        return len(self.steps) > len(self.layers)

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
        return program_cycles(self.configuration) + sum(layer.cost.cycles for layer in self.layers)

    @property
    def dense_int8_bytes(self) -> int:
        """Bytes the weights would take at 8 bits each."""
        return sum(layer.weights for layer in self.layers)

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
            "frames_per_second": round(self.configuration.clock_hz / self.cycles, 1),
            "clock_mhz": self.configuration.clock_hz / 1e6,
            "layers": [layer.report(self.configuration) for layer in self.layers],
            **({"steps": [step.report() for step in self.steps]} if self.banded else {}),
        }


@dataclass(frozen=True)
class Price:
    """What a layer takes on a configuration, where it runs as a whole.

    Parameters
    ----------
    weight_bytes : int
        Bases, coefficients and stored weights as packed, padding included.
    parameter_bytes : int
        Biases, multipliers, shifts and tables.
    program_bytes : int
    cycles : int
    """

    weight_bytes: int
    parameter_bytes: int
    program_bytes: int
    cycles: int

    def __add__(self, other: "Price") -> "Price":
        return Price(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: "Price") -> "Price":
        return Price(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


def price(layer: Layer, source: Map, target: Map, config: Configuration) -> Price:
    """What a layer of one input takes, as `plan` would count it where the layer runs as a whole.

    Parameters
    ----------
    layer : Layer
    source, target : Map
        Its input and its output.
    config : Configuration

    Raises
    ------
    FitError
        If the configuration cannot run it.
    """
    total = Price(0, 0, 0, 0)
    for operation in lower(layer, (source,), target, (), config):
        _check_record(layer, _record(operation, 0, 0, config), config)
        total += Price(
            _segment_words(operation, config) * config.coefficient_port // 8,
            4 * _parameter_words(operation, config),
            4 * (1 + RECORD_WORDS),
            operation_cost(_work(operation, config), config).cycles,
        )
    return total


def plan(
    network: Network,
    configuration: Configuration,
    *,
    name: str = "network",
    keep_maps: bool = False,
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

    Returns
    -------
    Plan

    Raises
    ------
    FitError
        If the configuration cannot run the network; names the layer, what is missing, the
        configurations that could, and whether it fits without the channels that do not matter.
        A SizeError if all that is known to be missing is coefficient memory.
    """
    try:
        return _plan(name, network, configuration, keep_maps)
    except FitError as error:
        advice = [error.next_step]
        with suppress(FitError):
            pruned = _plan(name, prune(network).network, configuration, keep_maps, explain=False)
            advice.append(
                "drop the channels that no output depends on (--prune), which leaves "
                f"{pruned.payload_bytes} bytes of coefficient memory"
            )
        fitting = []
        for other in CONFIGURATIONS.values():
            if other.digest != configuration.digest:
                try:
                    _plan(name, network, other, keep_maps, explain=False)
                except FitError:
                    continue
                fitting.append(other.name)
        if fitting:
            advice.append(f"use configuration {' or '.join(fitting)}")
        raise type(error)(error.cause, ", or ".join(advice)) from None


def plan_roomy(network: Network, configuration: Configuration, *, name: str = "network") -> Plan:
    """Plan a network as `plan` does, or as if there were more coefficient memory.

    Parameters
    ----------
    network : Network
    configuration : Configuration
    name : str, optional
        What reports call the network.

    Returns
    -------
    Plan
        For the configuration, if the network fits. If coefficient memory alone is missing, for as
        much as there can be: then `payload_bytes` are more than the configuration has.

    Raises
    ------
    FitError
        If anything else is missing, or there cannot be enough memory.
    """
    roomy = replace(configuration, coefficient_bytes=LARGEST_MEMORY)
    try:
        return _plan(name, network, configuration, explain=False, roomy=roomy)
    except SizeError:
        explained = configuration
    except FitError:
        explained = roomy
    return plan(network, explained, name=name)


def _plan(
    name: str,
    network: Network,
    config: Configuration,
    keep_maps: bool = False,
    *,
    explain: bool = True,
    roomy: Configuration | None = None,
) -> Plan:
    """`roomy` is what the network is planned for where `config` lacks coefficient memory alone."""
    try:
        layout = lay_out(network, config, keep_maps)
    except FitError:
        if keep_maps:
            raise
        return _plan_in_bands(name, network, config, explain, roomy)
    contents = _Contents(network, layout, config)
    if roomy is not None and contents.size > config.coefficient_bytes:
        config = roomy
    return _planned(name, network, config, layout, contents, explain)


def _plan_in_bands(
    name: str,
    network: Network,
    config: Configuration,
    explain: bool,
    roomy: Configuration | None,
) -> Plan:
    def cycles(operation: Operation) -> int:
        return operation_cost(_work(operation, config), config).cycles

    refused: list[FitError] = []
    laid_out: list[tuple[Layout, _Contents]] = []
    for each in _RECORD_CYCLES:
        first = explain and not refused
        try:
            layout = lay_out_in_bands(network, config, cycles, each, explain=first)
            contents = _Contents(network, layout, config)
            laid_out.append((layout, contents))
            return _planned(name, network, config, layout, contents, first)
        except SizeError as error:
            refused.append(error)
            if contents.size - 2 * contents.parameters_base > config.coefficient_bytes:
                break  # Fewer operations save their part of the program, and little more.
        except FitError as error:
            refused.append(error)
    if roomy is not None and isinstance(refused[0], SizeError):
        return _planned(name, network, roomy, *laid_out[0], explain)
    raise refused[0]


class _Contents:
    """What a network puts into the coefficient memory, and where.

    Members
    -------
    lowered : list of list of Operation
        Of each step of the layout.
    operations : list of Operation
        All of them.
    parameters, coefficients : _Stored
        In 32-bit words, and in words of the memory.
    size : int
        Bytes of all.
    """

    def __init__(self, network: Network, layout: Layout, config: Configuration):
        self.lowered = [
            lower_rows(network.layers[step.layer], step, config) for step in layout.steps
        ]
        self.operations = [operation for several in self.lowered for operation in several]
        self.records_base = 4 * (len(self.operations) + 1)
        self.parameters_base = self.records_base + 4 * RECORD_WORDS * len(self.operations)
        self.parameters = _Stored(
            [_parameter_key(operation) for operation in self.operations],
            [_parameter_words(operation, config) for operation in self.operations],
            self.parameters_base // 4,
            shared=layout.banded,
        )
        word_bytes = config.coefficient_port // 8
        self.coefficients_base = _ceil(4 * self.parameters.end, word_bytes) * word_bytes
        self.coefficients = _Stored(
            [_segment_key(operation) for operation in self.operations],
            [_segment_words(operation, config) for operation in self.operations],
            self.coefficients_base // word_bytes,
            shared=layout.banded,
        )
        self.size = self.coefficients.end * word_bytes


def _planned(
    name: str,
    network: Network,
    config: Configuration,
    layout: Layout,
    contents: _Contents,
    explain: bool,
) -> Plan:
    if contents.size > config.coefficient_bytes:
        ways = None
        if explain:
            ways = ways_to_fit(network, config, lambda one: _Contents(one, layout, config).size)
        raise _misfit(network, layout, contents, config, ways)
    maps = layout.maps
    parameters, coefficients = contents.parameters, contents.coefficients
    planned = iter(
        [
            Planned(
                operation=operation,
                record=_record(operation, parameters.bases[n], coefficients.bases[n], config),
                cost=operation_cost(_work(operation, config), config),
                weight_bits=coefficients.sizes[n] * config.coefficient_port,
                parameter_bytes=4 * parameters.sizes[n],
            )
            for n, operation in enumerate(contents.operations)
        ]
    )
    steps = [
        StepPlan(
            layer=step.layer,
            rows=step.rows,
            output=step.target.only(step.rows),
            operations=tuple(next(planned) for _ in several),
        )
        for step, several in zip(layout.steps, contents.lowered, strict=True)
    ]
    layers = []
    for index, layer in enumerate(network.layers):
        own = tuple(step for step in steps if step.layer == index)
        ideal = array_cycles(layer, maps[layer.name], config)
        costs = [one.cost for step in own for one in step.operations]
        layers.append(
            LayerPlan(
                index=index,
                layer=layer,
                inputs=tuple(maps[source] for source in layer.inputs),
                output=maps[layer.name],
                steps=own,
                cost=total_cost(costs, ideal),
                buffer_rows=layout.buffers.get(layer.name),
            )
        )
    for one in layers:
        for operation in one.operations:
            _check_record(one.layer, operation.record, config)
    return Plan(
        name=name,
        network=network,
        configuration=config,
        input=maps["input"],
        output=layers[-1].output,
        layers=tuple(layers),
        steps=tuple(steps),
        records_base=contents.records_base,
        parameters_base=contents.parameters_base,
        coefficients_base=contents.coefficients_base,
        payload_bytes=contents.size,
        activation_bytes=layout.peak,
    )


class _Stored:
    """Where what operations need lies in memory, one behind the other; equal ones once if `shared`.

    Members
    -------
    bases : list of int
        Of each.
    sizes : list of int
        What each takes; 0 where one before it has the same.
    end : int
    """

    def __init__(self, keys: list[bytes], sizes: list[int], base: int, *, shared: bool):
        self.bases: list[int] = []
        self.sizes: list[int] = []
        self.end = base
        known: dict[bytes, int] = {}
        for key, size in zip(keys, sizes, strict=True):
            there = shared and key in known
            if not there:
                known[key] = self.end
            self.bases.append(known[key])
            self.sizes.append(0 if there else size)
            self.end += self.sizes[-1]


def _digest(*parts: Any) -> bytes:
    """A key that is equal where the parts, arrays or plain values, are."""
    found = hashlib.sha256()
    for part in parts:
        form = (part.shape, part.dtype) if isinstance(part, np.ndarray) else part
        found.update(repr(form).encode())
        if isinstance(part, np.ndarray):
            found.update(part.tobytes())
    return found.digest()


def _parameter_key(operation: Operation) -> bytes:
    one = operation
    tile = one.s2 if one.dataflow == CROSS else None
    return _digest(one.bias, one.multiplier, one.shift, one.table, tile)


def _segment_key(operation: Operation) -> bytes:
    parts = [(one.kind, one.precision, one.code, one.values) for one in operation.segments]
    return _digest(operation.dataflow, *(value for part in parts for value in part))


def _segment_words(operation: Operation, config: Configuration) -> int:
    return sum(segment.words(config) * segment.count for segment in operation.segments)


def _misfit(
    network: Network,
    layout: Layout,
    contents: _Contents,
    config: Configuration,
    ways: list[str] | None,
) -> SizeError:
    sizes = iter(contents.coefficients.sizes)
    words = dict.fromkeys((layer.name for layer in network.layers), 0)
    for step, several in zip(layout.steps, contents.lowered, strict=True):
        words[network.layers[step.layer].name] += sum(next(sizes) for _ in several)
    word_bytes = config.coefficient_port // 8
    largest = max(words, key=lambda name: words[name])
    left = config.coefficient_bytes - (contents.size - sum(words.values()) * word_bytes)
    weights = sum(
        layer.weights.W.size for layer in network.layers if isinstance(layer, Convolution)
    )
    advice = "use fewer channels: without any weights it does not fit either"
    if left > 0 and weights:
        advice = f"compress it to {8 * left / weights:.1f} bits a weight"
        if ways == []:
            advice += ": lower precisions alone, or with kernels of rank Bi 1, do not fit"
        elif ways:
            advice += f": {', '.join(ways)}"
    return SizeError(
        f"the network needs {contents.size} bytes of coefficient memory, {config.name} has "
        f"{config.coefficient_bytes}: {contents.size - config.coefficient_bytes} bytes are "
        f"missing; the largest layer, {largest!r}, takes {words[largest] * word_bytes}",
        advice,
    )


def _parameter_words(operation: Operation, config: Configuration) -> int:
    """32-bit words: whole lane groups, in front the table and the channel that is for all."""
    channels = _ceil(operation.channels, config.lanes) * config.lanes
    words = channels * (1 if operation.uniform else config.parameter_words)
    if operation.dataflow == CROSS or operation.uniform:
        words += config.parameter_words
    return words + (TABLE_WORDS if operation.table is not None else 0)


def _by_kind(operation: Operation) -> dict[str, Segment]:
    return {segment.kind: segment for segment in operation.segments}


def _last_group_words(operation: Operation, config: Configuration) -> int:
    """Activation words that the last lane group writes."""
    groups = operation.walk.group.count
    return _ceil(operation.channels - (groups - 1) * config.lanes, config.activation_word)


def _record(
    operation: Operation, parameter_base: int, coefficient_base: int, config: Configuration
) -> dict[str, int]:
    walk, segments = operation.walk, _by_kind(operation)
    cross = operation.dataflow == CROSS
    blocks = _ceil(operation.kernels, config.lanes) if cross else 1
    record = {
        **walk.fields(config.width),
        "dataflow": operation.dataflow,
        "rounding": _ROUNDINGS[operation.rounding],
        "flat": int(operation.flat),
        "depthwise": int(operation.depthwise),
        "shifted_sums": int(operation.shifted_sums),
        "rectified_sums": int(operation.rectified_sums),
        "to_tile": int(operation.to_tile),
        "table": int(operation.table is not None),
        "uniform": int(operation.uniform),
        "intra_shift": operation.s1,
        "terms": operation.terms - 1,
        "input_zero_point": operation.input_zero_point,
        "output_base": operation.output // config.activation_word,
        "output_pitch": operation.pitch // config.activation_word,
        "last_group_words": _last_group_words(operation, config) - 1,
        "output_zero_point": operation.output_zero_point,
        "activation_min": operation.activation_min,
        "activation_max": operation.activation_max,
        "coefficient_base": coefficient_base,
        "cross_base": 0,
        "stream_repeats": (segments["stream"].count if cross else walk.pixels) - 1,
        "taps": _counted_taps(operation) - 1,
        "blocks": blocks - 1,
        "last_block_steps": 0,
        "powers": int(any(one.code is Code.POWER_OF_TWO for one in operation.segments)),
        "parameter_base": parameter_base,
    }
    for kind in ("basis", "stream", "cross"):
        segment = segments.get(kind)
        record[f"{kind}_precision"] = segment.precision - 1 if segment else 0
        record[f"{kind}_vectors"] = segment.vectors if segment else 0
        record[f"{kind}_words"] = segment.words(config) if segment else 0
    if cross:
        before = sum(segments[k].words(config) * segments[k].count for k in ("basis", "stream"))
        record["cross_base"] = coefficient_base + before
        last = operation.kernels - (blocks - 1) * config.lanes
        record["last_block_steps"] = _ceil(last, config.width) - 1
    return record


def _counted_taps(operation: Operation) -> int:
    """Taps as the generator and the tile count them; nothing else does."""
    if operation.to_tile:
        return operation.walk.pixels
    return operation.walk.taps if operation.dataflow in (INTRA, CROSS) else 1


def _work(operation: Operation, config: Configuration) -> Work:
    walk, segments = operation.walk, _by_kind(operation)
    written = not operation.to_tile
    return Work(
        dataflow=operation.dataflow,
        groups=walk.group.count,
        steps=walk.steps,
        taps=walk.taps,
        pixels=walk.pixels,
        words=written * config.lanes // config.activation_word,
        last_group_words=written * _last_group_words(operation, config),
        repeats=segments["stream"].count if operation.dataflow == CROSS else 0,
        terms=operation.terms,
        kernels=operation.kernels,
        flat=operation.flat,
        table=operation.table is not None,
        uniform=operation.uniform,
        **{
            kind: Segments(segment.precision, segment.vectors, segment.words(config))
            for kind, segment in segments.items()
        },
    )


_SMALLER = {
    "kernel_height": "use a smaller kernel",
    "kernel_width": "use a smaller kernel",
    "taps": "use a smaller kernel",
    "row_ky_step": "use a smaller dilation",
    "row_channel_step": "use a smaller kernel or dilation",
    "row_x_step": "use a smaller kernel or dilation",
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


def _check_record(layer: Layer, record: dict[str, int], config: Configuration) -> None:
    """Refuse a layer whose record cannot hold its figures, or whose figures the hardware cannot."""
    bits = field_bits(config)
    smaller = "use smaller feature maps"
    sized = isinstance(layer, Convolution | Pooling)
    for name, value in record.items():
        field = FIELDS[name]
        width = field.width if name in ADDRESS_STEPS else bits[name]
        low = -(1 << (width - 1)) if field.signed else 0
        high = low + (1 << width) - 1
        if not low <= value <= high:
            raise FitError(
                f"layer {layer.name!r} needs {name} = {value}, {config.name} holds {low}..{high}",
                _SMALLER.get(name, smaller) if sized else smaller,
            )
