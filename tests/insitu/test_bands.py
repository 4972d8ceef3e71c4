"""Networks in bands of rows: their payloads, interpreted, against golden, and what they take."""

import json
from collections import Counter
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest

import insitu.plan
from golden.network import (
    INPUT,
    Add,
    Convolution,
    Mean,
    Network,
    Pad,
    Pooling,
    Rounding,
    Scaling,
    run,
)
from insitu.bands import _reads, lay_out_in_bands
from insitu.errors import FitError, SizeError
from insitu.memory_map import coefficients, spans
from insitu.pack import pack
from insitu.plan import plan, plan_roomy
from rtl.config import CONFIGURATIONS, LARGEST_MEMORY
from tests.insitu.interpreter import Interpreter
from tests.insitu.networks import random_generated, random_network, random_stored
from tests.insitu.random_networks import (
    random_bands,
    random_layers,
    random_residual_bands,
    residual_network,
)

UP5K = CONFIGURATIONS["up5k"]
CONFIGS = ["up5k", "sim-8x1", "ecp5-45f"]

IC2 = (32, 32, 3), ((40, 1), (80, 2), (160, 2))
"""Input and blocks of MLPerf Tiny's larger network for image classification."""
FACTORED = 16, 16, 32, 32, 40, 48
RESNET_20 = (32, 32, 3), (*((16, 1),) * 3, (32, 2), *((32, 1),) * 2, (64, 2), *((64, 1),) * 2)


def interpret(planned, x, what):
    """Run the payload: after each step the rows that it has made equal golden's."""
    config = planned.configuration
    memory = bytearray(np.random.default_rng(1).bytes(config.activation_bytes))
    source = planned.input.place(x)
    memory[planned.input.address : planned.input.address + len(source)] = source
    program = Interpreter(pack(planned), config).step(memory)
    expected = run(planned.network, x[np.newaxis], keep=True)
    for step in planned.steps:
        for _ in step.operations:
            next(program)
        end = step.output.address + step.output.span
        got = step.output.take(bytes(memory[step.output.address : end]))
        wanted = expected[step.layer][0][step.rows.start : step.rows.stop]
        wrong = np.argwhere(got != wanted)
        name = planned.network.layers[step.layer].name
        assert not len(wrong), (
            f"{what}, layer {name!r}, rows {step.rows.start}..{step.rows.stop - 1}: {len(wrong)} "
            f"differ, first at {tuple(wrong[0])}: expected {wanted[tuple(wrong[0])]}, "
            f"got {got[tuple(wrong[0])]}"
        )
    assert next(program, "done") == "done"
    output = planned.output
    got = output.take(bytes(memory[output.address : output.address + output.span]))
    np.testing.assert_array_equal(got, expected[-1][0], what)


def check_rows(planned):
    """Every layer makes each of its rows once, in order, and from rows that are there."""
    done = Counter({INPUT: planned.network.input_shape[0]})
    for step in planned.steps:
        layer = planned.network.layers[step.layer]
        assert step.rows.start == done[layer.name]
        for name, source in zip(layer.inputs, planned.layers[step.layer].inputs, strict=True):
            assert _reads(layer, step.rows, source.shape[0]).stop <= done[name]
        done[layer.name] = step.rows.stop
    for layer in planned.layers:
        assert done[layer.layer.name] == layer.output.shape[0]


@pytest.fixture
def short(monkeypatch):
    """A configuration and a network in bands: the first program tried takes 11 KB, the next 5."""
    monkeypatch.setattr(insitu.plan, "_RECORD_CYCLES", (-300, 0))
    config = replace(UP5K, activation_bytes=8 << 10)
    made = residual_network(np.random.default_rng(0), config, (24, 24, 3), [(8, 1), (16, 2)])
    return config, made


@pytest.mark.parametrize("number", range(100))
def test_random_networks_in_bands(number, seed):
    config = CONFIGURATIONS[CONFIGS[number % len(CONFIGS)]]
    rng = np.random.default_rng([seed, number])
    planned = random_bands(rng, config, 6)
    assert planned.activation_bytes <= planned.configuration.activation_bytes
    check_rows(planned)
    x = rng.integers(-128, 128, planned.network.input_shape).astype(np.int8)
    interpret(planned, x, f"{config.name}, seed {seed}, number {number}")


@pytest.mark.parametrize("number", range(30))
def test_random_residual_networks_in_bands(number, seed):
    rng = np.random.default_rng([seed, number])
    planned = random_residual_bands(rng, CONFIGURATIONS[CONFIGS[number % len(CONFIGS)]])
    check_rows(planned)
    x = rng.integers(-128, 128, planned.network.input_shape).astype(np.int8)
    interpret(planned, x, f"seed {seed}, number {number}")


def test_a_residual_network_in_bands(seed):
    rng = np.random.default_rng(seed)
    config = replace(UP5K, activation_bytes=1 << 12)
    network = residual_network(rng, config, (16, 12, 3), [(16, 1), (24, 2)], (6, 8, 10, 12))
    planned = plan(network, config)
    bands = {layer.layer.name: layer for layer in planned.layers if len(layer.steps) > 1}
    assert {"conv1", "point2", "conv3", "point4", "add5"} <= bands.keys()
    # The halo of a kernel of three rows is kept, that of a pointwise layer is none.
    height = max(len(step.rows) for step in bands["point2"].steps[1:])
    assert bands["point2"].buffer_rows == height + 2
    assert bands["conv1"].buffer_rows == max(len(step.rows) for step in bands["conv1"].steps)
    x = rng.integers(-128, 128, network.input_shape).astype(np.int8)
    interpret(planned, x, f"seed {seed}")


def test_weights_and_parameters_are_stored_once(seed):
    rng = np.random.default_rng(seed)
    network = residual_network(rng, UP5K, *IC2, FACTORED)
    planned = plan(network, UP5K)
    whole = plan(network, replace(UP5K, activation_bytes=1 << 20))
    assert planned.banded
    assert not whole.banded
    for one, other in zip(planned.layers, whole.layers, strict=True):
        several = len(one.operations) - len(one.steps)  # rows that are moved
        assert one.weight_bits <= other.weight_bits + 32 * bool(several) * -(-one.output.pitch // 8)
    more = len(planned.operations) - len(whole.operations)
    moved = planned.payload_bytes - whole.payload_bytes - 80 * more
    assert 0 <= moved <= 1000


@pytest.mark.parametrize("factored", [True, False])
def test_bands_cost_little(factored, seed):
    config = UP5K if factored else replace(UP5K, coefficient_bytes=1 << 20)
    network = residual_network(
        np.random.default_rng(seed), config, *IC2, FACTORED if factored else ()
    )
    planned = plan(network, config)
    whole = plan(network, replace(config, activation_bytes=1 << 20))
    assert planned.cycles <= 1.005 * whole.cycles
    check_rows(planned)


def test_a_shorter_program_where_memory_is_short(short, monkeypatch):
    """In 4 KB neither of two programs fits, in 8 KB the second alone, in 12 KB the first."""
    config, network = short
    few, some, more = (replace(config, coefficient_bytes=kb << 10) for kb in (4, 8, 12))
    assert 8 << 10 < plan(network, more).payload_bytes < 12 << 10
    assert 4 << 10 < plan(network, some).payload_bytes < 8 << 10
    with pytest.raises(SizeError, match="are missing"):
        plan(network, few)
    for wanted in (some, more):
        assert plan_roomy(network, wanted).report() == plan(network, wanted).report()
    laid_out = Mock(wraps=lay_out_in_bands)
    monkeypatch.setattr(insitu.plan, "lay_out_in_bands", laid_out)
    roomy = plan_roomy(network, few)
    assert laid_out.call_count == 2
    assert roomy.configuration.coefficient_bytes == LARGEST_MEMORY
    assert roomy.payload_bytes == plan(network, more).payload_bytes


def test_no_shorter_program_is_looked_for_where_weights_alone_do_not_fit(short, monkeypatch):
    config, _ = short
    laid_out = Mock(wraps=lay_out_in_bands)
    monkeypatch.setattr(insitu.plan, "lay_out_in_bands", laid_out)
    monkeypatch.setattr(insitu.plan, "_RECORD_CYCLES", (0, 0))
    rng = np.random.default_rng(0)
    large = residual_network(rng, config, (24, 24, 3), [(8, 1), (16, 2)], bits=8)
    plan_roomy(large, replace(config, coefficient_bytes=4 << 10))
    assert laid_out.call_count == 1


def test_resnet_20_in_half_the_memory(seed):
    config = replace(UP5K, activation_bytes=1 << 15, coefficient_bytes=1 << 17)
    network = residual_network(np.random.default_rng(seed), config, *RESNET_20)
    planned = plan(network, config)
    whole = plan(network, replace(config, activation_bytes=1 << 16))
    assert planned.banded
    assert not whole.banded
    assert planned.cycles <= 1.005 * whole.cycles
    check_rows(planned)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["IC2", "IC2 factored", "ResNet-20"])
def test_large_networks_in_bands(case, seed):
    rng = np.random.default_rng(seed)
    config, (shape, blocks), kernels = UP5K, IC2, FACTORED
    if case == "IC2":
        config, kernels = replace(UP5K, coefficient_bytes=1 << 20), ()
    if case == "ResNet-20":
        config = replace(UP5K, activation_bytes=1 << 15, coefficient_bytes=1 << 17)
        (shape, blocks), kernels = RESNET_20, ()
    network = residual_network(rng, config, shape, blocks, kernels)
    planned = plan(network, config)
    assert planned.banded
    for number in range(2):
        x = rng.integers(-128, 128, shape).astype(np.int8)
        interpret(planned, x, f"{case}, seed {seed}, input {number}")


def test_what_fits_runs_layer_by_layer(seed):
    for number in range(5):
        rng = np.random.default_rng([seed, number])
        try:
            planned = plan(random_layers(rng, UP5K, 8), UP5K)
        except FitError:
            continue
        assert not planned.banded
        assert [step.layer for step in planned.steps] == list(range(len(planned.layers)))
        assert "steps" not in planned.report()
        assert not any("bands" in layer for layer in planned.report()["layers"])


def plain(kind, **options):
    """A layer alone, for what it reads."""
    if kind is Convolution:
        taps = options["kernel"][0] * options["kernel"][1]
        options |= {
            "weights": random_stored(np.random.default_rng(1), 1, 1, taps, 1),
            "bias": np.zeros(1, np.int32),
            "multiplier": np.full(1, 1 << 30, np.int32),
            "shift": np.zeros(1, np.int8),
            "input_zero_point": 0,
            "output_zero_point": 0,
            "rounding": Rounding.UP,
        }
    return kind(name="layer", inputs=(INPUT,), **options)


@pytest.mark.parametrize(
    "layer",
    [
        plain(Convolution, kernel=(3, 1), padding=(1, 0, 1, 0)),
        plain(Convolution, kernel=(2, 1), stride=(3, 1)),
        plain(Convolution, kernel=(3, 1), stride=(2, 1), padding=(0, 0, 1, 0)),
        plain(Convolution, kernel=(3, 1), dilation=(2, 1), padding=(3, 0, 2, 0)),
        plain(Pooling, mode="maximum", kernel=(3, 1), stride=(2, 1), padding=(2, 0, 1, 0)),
        plain(Pad, padding=(2, 0, 1, 0), input_zero_point=0),
    ],
    ids=lambda layer: layer.kind,
)
def test_rows_that_are_read(layer):
    height = 9
    (rows, _, _) = layer.output_shape((height, 1, 1))
    base = layer.compute(np.zeros((1, height, 1, 1), np.int8))[0, :, 0, 0]
    reads = np.zeros((rows, height), bool)
    for row in range(height):
        x = np.zeros((1, height, 1, 1), np.int8)
        x[0, row] = 100
        reads[:, row] = layer.compute(x)[0, :, 0, 0] != base
    for first in range(rows):
        for end in range(first + 1, rows + 1):
            found = np.flatnonzero(reads[first:end].any(axis=0))
            expected = _reads(layer, range(first, end), height)
            assert set(found.tolist()) <= set(expected)
            # Between the taps of a dilated kernel are rows that it leaves out.
            if getattr(layer, "dilation", (1, 1))[0] == 1:
                assert [*found[:1], *found[-1:]] == [*expected[:1], *expected[-1:]]


def test_a_layer_with_a_weight_tile_runs_as_a_whole(seed):
    rng = np.random.default_rng(seed)
    point = {"kernel": (1, 1)}
    same = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
    layers = [
        {"weights": random_stored(rng, 8, 4, 1, 4)} | point,
        {"weights": random_generated(rng, 8, 8, 9, kernels=4)} | same,
        {"weights": random_stored(rng, 24, 8, 9, 4)} | same,
        {"weights": random_stored(rng, 4, 24, 9, 4)} | same,
    ]
    network = random_network(rng, layers, (16, 8, 4))
    planned = plan(network, replace(UP5K, activation_bytes=1 << 11))
    assert len(planned.layers[1].steps) == 1
    assert len(planned.layers[2].steps) > 1
    x = rng.integers(-128, 128, network.input_shape).astype(np.int8)
    interpret(planned, x, f"seed {seed}")


def test_what_bands_cannot_do_is_said(seed):
    rng = np.random.default_rng(seed)
    same = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
    layer = {"weights": random_stored(rng, 8, 8, 9, 4)} | same
    network = random_network(rng, [layer], (24, 8, 8))
    config = replace(UP5K, name="small", activation_bytes=1 << 10)
    with pytest.raises(FitError) as error:
        plan(network, config)
    # The input, and two rows of the output before the first of the input has been read.
    assert error.value.cause == (
        "layer 'layer0' needs at least 1664 bytes of activation memory in bands of rows, 3072 as "
        "a whole, for the maps 'input' (24, 8, 8) and 'layer0' (24, 8, 8), small has 1024: "
        "640 bytes are missing"
    )
    tile = random_generated(rng, 8, 8, 9, kernels=4)
    network = random_network(rng, [layer | {"weights": tile}], (24, 8, 8))
    with pytest.raises(FitError) as error:
        plan(network, config)
    assert "needs 3072 bytes of activation memory for the maps" in error.value.cause


def test_maps_that_are_kept_are_whole(seed):
    rng = np.random.default_rng(seed)
    config = replace(UP5K, activation_bytes=1 << 12)
    network = residual_network(rng, config, (16, 12, 3), [(16, 1)])
    assert plan(network, config).banded
    with pytest.raises(FitError, match="do not keep them"):
        plan(network, config, keep_maps=True)


def test_where_buffers_are(seed):
    rng = np.random.default_rng(seed)
    config = replace(UP5K, activation_bytes=1 << 12)
    planned = plan(residual_network(rng, config, (16, 12, 3), [(16, 1), (24, 2)]), config)
    report = json.loads(json.dumps(planned.report()))
    found = {span.name: span for span in spans(report)}
    banded = [layer for layer in planned.layers if layer.buffer_rows]
    assert banded
    for layer in banded:
        span = found[layer.layer.name]
        assert span.rows == layer.buffer_rows
        assert (span.address, span.size) == (
            layer.output.address,
            layer.buffer_rows * layer.output.row,
        )
        for step in layer.steps:
            end = step.output.address + len(step.rows) * step.output.row
            assert span.address <= step.output.address <= end <= span.address + span.size
        # It is there while its group runs.
        names = [layer.layer.name for layer in planned.layers]
        assert span.first <= names.index(span.name) < span.last
    assert all(span.rows is None for name, span in found.items() if name == INPUT)
    assert sum(part.size for part in coefficients(report)) == config.coefficient_bytes


def test_buffers_of_a_group_do_not_lie_in_one_another(seed):
    """While a band is at work: rows of other maps are where they were left."""
    rng = np.random.default_rng(seed)
    zero = {"input_zero_point": 0, "output_zero_point": 0}
    layers = [
        Convolution(
            name=name,
            inputs=(source,),
            kernel=(3, 3),
            padding=(1, 1, 1, 1),
            weights=random_stored(rng, 8, 8, 9, 2),
            bias=np.zeros(8, np.int32),
            multiplier=np.full(8, 1 << 28, np.int32),
            shift=np.zeros(8, np.int8),
            rounding=Rounding.UP,
            **zero,
        )
        for name, source in (("a", INPUT), ("b", "a"), ("c", "b"))
    ]
    half = Scaling(0, 1 << 30, 0)
    layers.append(
        Add(
            name="sum",
            inputs=("a", "c"),
            scalings=(half, half),
            output_scaling=Scaling(0, 1 << 30, 19),
        )
    )
    layers.append(
        Mean(
            name="mean",
            inputs=("sum",),
            input_zero_point=0,
            output_scaling=Scaling(0, 1 << 30, 6),
        )
    )
    network = Network(
        layers=tuple(layers),
        input_shape=(12, 8, 8),
        input_scale=1.0,
        input_zero_point=0,
        output_scale=1.0,
    )
    planned = plan(network, replace(UP5K, activation_bytes=1 << 11))
    assert planned.banded
    x = rng.integers(-128, 128, network.input_shape).astype(np.int8)
    interpret(planned, x, f"seed {seed}")
