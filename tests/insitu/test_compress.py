"""Compression: what it recovers, that it is deterministic, and its messages."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import insitu.compress
from golden.code import Code
from golden.network import Generated, Stored, run
from insitu.choice import Choice
from insitu.compress import (
    compress,
    compress_weights,
    compressible,
    default_choices,
    fit_basis,
    moments_of,
)
from insitu.errors import FitError
from insitu.float_network import FloatAdd, FloatConvolution, FloatNetwork, FloatPooling
from insitu.import_onnx import import_onnx
from insitu.plan import plan
from insitu.quantise import calibrate, load_inputs, quantise, quantise_inputs
from rtl.config import CONFIGURATIONS
from tests.insitu.networks import random_generated

SIM, UP5K = CONFIGURATIONS["sim-8x1"], CONFIGURATIONS["up5k"]
FASHION = Path(__file__).parents[2] / "examples" / "fashion"


def moments(rng, n):
    """A metric in which some directions count for more than others."""
    mix = rng.standard_normal((n, n)) * np.geomspace(1, 0.1, n)
    return mix @ mix.T / n + 0.01 * np.eye(n)


def error(weights, found, scale, metric=None):
    flat = weights.reshape(len(weights), -1)
    rest = flat - scale[:, None] * found.W.reshape(flat.shape)
    if metric is None:
        metric = np.eye(flat.shape[1])
    return np.sqrt(np.sum(rest @ metric * rest) / np.sum(flat @ metric * flat))


@pytest.mark.parametrize("level", ["intra", "cross", "flat"])
def test_weights_of_that_form_are_recovered(level, seed):
    rng = np.random.default_rng(seed)
    ranks = {
        "intra": {"terms": 2},
        "cross": {"terms": 2, "kernels": 4},
        "flat": {"kernels": 4},
    }[level]
    true = random_generated(rng, 12, 8, 9, **ranks, s1=0, s2=3)
    weights = true.W * rng.uniform(0.5, 2, (12, 1, 1))
    choice = Choice(**ranks, qb=6, qu=6, qv=6)
    metric = moments(rng, 72)
    found, scale = compress_weights("a", weights, choice, SIM, metric)
    assert isinstance(found, Generated)
    assert error(weights, found, scale, metric) < 0.25


def test_powers_of_two_are_fitted(seed):
    rng = np.random.default_rng(seed)
    metric = moments(rng, 72)
    powers = {"terms": 2, "qb": 4, "qu": 3, "code": "power-of-two"}
    for kernels in (None, 6):
        choice = Choice(kernels=kernels, **powers)
        true = random_generated(rng, 12, 8, 9, terms=2, kernels=kernels, s1=0, s2=3, powers=True)
        weights = true.W * rng.uniform(0.5, 2, (12, 1, 1))
        found, scale = compress_weights("a", weights, choice, SIM, metric)
        assert found.code is Code.POWER_OF_TWO
        assert set(np.unique(found.U)) == {-4, -2, -1, 0, 1, 2, 4}
        uniform = replace(choice, code=Code.UNIFORM)
        other = error(weights, *compress_weights("a", weights, uniform, SIM, metric), metric)
        assert error(weights, found, scale, metric) < min(0.3, 1.1 * other)
    basis, V = fit_basis("a", weights, replace(choice, factored=True), SIM, metric)
    assert (basis.code, basis.V) == (Code.POWER_OF_TWO, None)
    assert V.shape == (12, 6)


def test_numbers_are_the_nearest():
    x = np.linspace(-9, 9, 1001)
    for q, code, values in (
        (3, Code.POWER_OF_TWO, [-4, -2, -1, 0, 1, 2, 4]),
        (3, Code.UNIFORM, [-3, -2, -1, 0, 1, 2, 3]),
        (1, Code.UNIFORM, [-1, 1]),
    ):
        numbers = insitu.compress._Numbers(q, code)
        apart = np.abs(x[:, np.newaxis] - values)
        np.testing.assert_array_equal(np.abs(x - numbers.nearest(x)), apart.min(axis=1))
        assert set(numbers.nearest(x)) == set(values)
        assert numbers.largest == max(values)


def test_full_rank_at_eight_bits_is_nearly_exact(seed):
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((8, 6, 9))
    for choice, most in (
        (Choice(terms=6, qb=8, qu=8), 0.02),
        (Choice(kernels=8, qu=8, qv=8), 0.03),
        (Choice(q=8), 0.01),
    ):
        found, scale = compress_weights("a", weights, choice, SIM)
        assert error(weights, found, scale) < most


def test_more_rank_and_more_bits_lower_the_error(seed):
    rng = np.random.default_rng(seed)
    weights, metric = rng.standard_normal((16, 8, 9)), moments(rng, 72)

    def found(**options):
        return error(
            weights, *compress_weights("a", weights, Choice(**options), SIM, metric), metric
        )

    by_terms = [found(terms=n, qb=6, qu=6) for n in (1, 2, 4)]
    by_kernels = [found(terms=3, kernels=n, qb=6, qu=6, qv=6) for n in (4, 8, 12)]
    by_bits = [found(terms=3, kernels=8, qb=q, qu=q, qv=q) for q in (2, 3, 5)]
    for errors in (by_terms, by_kernels, by_bits):
        assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("q", range(1, 9))
def test_every_precision(q, seed):
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((9, 4, 4))
    weights[3] = 0
    for choice in (
        Choice(terms=2, qb=q, qu=q),
        Choice(terms=2, kernels=5, qb=q, qu=q, qv=q),
        Choice(kernels=5, qu=q, qv=q),
        Choice(q=q),
    ):
        found, scale = compress_weights("a", weights, choice, SIM, moments(rng, 16))
        assert np.isfinite(scale).all()
        assert (scale >= 0).all()
        assert error(weights, found, scale) < 1
        if isinstance(found, Generated):
            assert (found.qu, found.qb) == (q, q if choice.terms else 0)
            assert found.s1 <= SIM.generator_max_shift
            assert found.V is None or 1 <= found.s2 <= 15
        else:
            assert found.q == q


def test_error_feedback_beats_rounding(seed):
    rng = np.random.default_rng(seed)
    weights, metric = rng.standard_normal((6, 8, 9)), moments(rng, 72)
    plain = compress_weights("a", weights, Choice(q=3), SIM)
    fed = compress_weights("a", weights, Choice(q=3), SIM, metric)
    assert error(weights, *fed, metric) < 0.9 * error(weights, *plain, metric)


def small_network(rng):
    def layer(name, before, co, ci, taps, kernel, **options):
        weights = rng.standard_normal((co, ci, taps)) / np.sqrt(ci * taps)
        return FloatConvolution(
            name=name,
            inputs=(before,),
            kernel=kernel,
            weights=weights,
            bias=0.1 * rng.standard_normal(co),
            **options,
        )

    return FloatNetwork(
        "small",
        (8, 8, 3),
        (
            layer("first", "input", 8, 3, 9, (3, 3), padding=(1, 1, 1, 1), low=0.0),
            layer(
                "second", "first", 16, 8, 9, (3, 3), stride=(2, 2), padding=(1, 1, 1, 1), low=0.0
            ),
            layer("third", "second", 16, 16, 9, (3, 3), padding=(1, 1, 1, 1), low=0.0),
            layer("last", "third", 5, 16, 16, (4, 4), dense=True),
        ),
    )


def test_network_is_compressed_the_same_twice_and_fits(seed):
    rng = np.random.default_rng(seed)
    network = small_network(rng)
    x = rng.uniform(0, 1, (40, 8, 8, 3)).astype(np.float32)
    calibration = calibrate(network, x)
    choices = default_choices(network, UP5K)
    assert {name: (c.terms, c.kernels, c.q) for name, c in choices.items()} == {
        "first": (None, None, 8),
        "second": (2, None, 8),
        "third": (2, None, 8),
        "last": (None, None, 4),
    }
    choices["third"] = replace(choices["third"], kernels=8)
    steps = []
    compressed, results = compress(
        network, calibration, choices, UP5K, progress=lambda *step: steps.append(step)
    )
    again, _ = compress(network, calibration, choices, UP5K)
    for a, b in zip(compressed.layers, again.layers, strict=True):
        np.testing.assert_array_equal(a.weights.W, b.weights.W)
        np.testing.assert_array_equal(a.bias, b.bias)
    done = [step[0] for step in steps]
    assert done == sorted(done)
    assert done[-1] == steps[-1][1]
    assert [result.name for result in results] == ["first", "second", "third", "last"]
    assert all(0 < result.output_error < 1 for result in results)
    planned = plan(compressed, UP5K)
    assert planned.weight_bits >= sum(result.bits for result in results)
    integers = quantise_inputs(x, compressed.input_scale, compressed.input_zero_point)
    y = run(compressed, integers).astype(float) - compressed.output_zero_point
    expected = network.run(x)
    spread = np.linalg.norm(expected - expected.mean(axis=0))
    assert np.linalg.norm(y * compressed.output_scale - expected) < 0.8 * spread


def test_layers_left_out_are_stored(seed):
    rng = np.random.default_rng(seed)
    network = small_network(rng)
    calibration = calibrate(network, rng.uniform(0, 1, (8, 8, 8, 3)).astype(np.float32))
    compressed, _ = compress(network, calibration, {"third": Choice(terms=2)}, SIM)
    kinds = [type(layer.weights) for layer in compressed.layers]
    assert kinds == [Stored, Stored, Generated, Stored]
    assert compressed.layers[0].weights.q == 8


def test_bad_choices_are_named(seed):
    rng = np.random.default_rng(seed)
    network = small_network(rng)
    calibration = calibrate(network, rng.uniform(0, 1, (8, 8, 8, 3)).astype(np.float32))
    with pytest.raises(FitError, match="no layer 'forth' to compress") as error:
        compress(network, calibration, {"forth": Choice()}, SIM)
    assert "first, second, third, last" in error.value.next_step
    with pytest.raises(FitError, match="layer 'first' cannot have 4 terms"):
        compress(network, calibration, {"first": Choice(terms=4)}, SIM)
    with pytest.raises(FitError, match="layer 'last' cannot have 0 kernels"):
        compress(network, calibration, {"last": Choice(kernels=0)}, SIM)


def test_very_wide_layers_are_stored_only():
    weights = np.random.default_rng(0).standard_normal((2, 4609, 1))
    stored, _ = compress_weights("wide", weights, Choice(q=4), SIM)
    assert isinstance(stored, Stored)
    with pytest.raises(FitError, match="layer 'wide' has 4609 inputs for each output"):
        compress_weights("wide", weights, Choice(kernels=2), SIM)


def test_inputs_that_hardly_vary_about_a_large_mean(seed):
    """What single precision leaves of their covariance need not be one."""
    rng = np.random.default_rng(seed)
    layer = FloatConvolution(
        name="a", kernel=(3, 3), weights=rng.standard_normal((4, 40, 9)), bias=np.zeros(4)
    )
    x = np.full((16, 12, 12, 40), 1000.0, np.float32) * rng.uniform(0.5, 1, 40)
    x = (x + rng.uniform(0, 1e-3, x.shape)).astype(np.float32)
    moments, target = moments_of(layer, x, x)
    assert (np.linalg.eigvalsh(moments) > 0).all()
    np.testing.assert_allclose(target, layer.weights, rtol=1e-2, atol=1e-2)


def test_layer_of_zeros_is_stored():
    found, _ = compress_weights("zero", np.zeros((4, 4, 9)), Choice(terms=2), SIM)
    assert isinstance(found, Stored)


def graph(rng):
    """A residual sum, pooling and a depthwise layer."""
    first, second, third, last = small_network(rng).layers
    depthwise = FloatConvolution(
        name="depthwise",
        inputs=("pool",),
        kernel=(3, 3),
        padding=(1, 1, 1, 1),
        weights=rng.standard_normal((16, 1, 9)) / 3,
        bias=np.zeros(16),
        groups=16,
    )
    layers = (
        first,
        second,
        third,
        FloatAdd(name="sum", inputs=("third", "second"), low=0.0),
        FloatPooling(
            name="pool",
            inputs=("sum",),
            mode="average",
            kernel=(1, 1),
            stride=(1, 1),
            padding=(0, 0, 0, 0),
        ),
        depthwise,
        replace(last, inputs=("depthwise",)),
    )
    return FloatNetwork("graph", (8, 8, 3), layers)


def relative_error(network, compressed, x):
    integers = quantise_inputs(x, compressed.input_scale, compressed.input_zero_point)
    y = run(compressed, integers).astype(float) - compressed.output_zero_point
    expected = network.run(x)
    wrong = y * compressed.output_scale - expected
    return np.linalg.norm(wrong) / np.linalg.norm(expected - expected.mean(axis=0))


def test_graphs(seed):
    rng = np.random.default_rng(seed)
    network = graph(rng)
    x = rng.uniform(0, 1, (60, 8, 8, 3)).astype(np.float32)
    calibration = calibrate(network, x)
    names = [layer.name for layer in compressible(network)]
    assert names == ["first", "second", "third", "depthwise", "last"]
    compressed, results = compress(network, calibration, {}, UP5K)
    assert relative_error(network, compressed, x) < 0.1
    choices = {
        "second": Choice(terms=3, qb=6, qu=6),
        "third": Choice(kernels=12, qu=6, qv=6, factored=True),
        "depthwise": Choice(q=5),
    }
    compressed, results = compress(network, calibration, choices, SIM)
    assert [layer.name for layer in compressed.layers] == [
        *("first", "second", "third.basis", "third", "sum", "pool", "depthwise", "last")
    ]
    assert [result.name for result in results] == names
    assert compressed.layers[-2].weights.q == 5
    assert results[3].bits == 5 * 16 * 9
    assert relative_error(network, compressed, x) < 0.5
    plan(compressed, SIM)
    with pytest.raises(FitError, match="layer 'depthwise' has groups, and is stored"):
        compress(network, calibration, {"depthwise": Choice(terms=1)}, SIM)


@pytest.mark.parametrize("terms", [None, 2])
def test_factored_layers(terms, seed):
    """Twice the kernels that the weights need: what is left are roundings."""
    rng = np.random.default_rng(seed)
    network = small_network(rng)
    third = network.layers[2]
    basis = rng.standard_normal((4, 16, 9))
    if terms is not None:
        basis = rng.standard_normal((4, 16, terms)) @ rng.standard_normal((4, terms, 9))
    weights = (rng.standard_normal((16, 4)) @ basis.reshape(4, -1)).reshape(16, 16, 9) / 20
    layers = (*network.layers[:2], replace(third, weights=weights), network.layers[3])
    network = FloatNetwork("small", network.input_shape, layers)
    x = rng.uniform(0, 1, (60, 8, 8, 3)).astype(np.float32)
    calibration = calibrate(network, x)
    choice = Choice(terms=terms, kernels=4, qb=8, qu=8, qv=8, factored=True)
    compressed, results = compress(network, calibration, {"third": choice}, SIM)
    assert relative_error(network, compressed, x) < 0.1
    assert results[2].output_error < 0.05
    first, last = compressed.layers[2:4]
    assert (first.name, last.name) == ("third.basis", "third")
    assert type(first.weights) is (Stored if terms is None else Generated)
    assert first.weights.shape == (4, 16, 9)
    assert (first.kernel, first.padding, first.output_zero_point) == ((3, 3), (1, 1, 1, 1), 0)
    assert (first.activation_min, first.activation_max) == (-128, 127)
    assert (last.kernel, last.inputs) == ((1, 1), ("third.basis",))
    assert (last.weights.shape, last.weights.q) == ((16, 4, 1), 8)
    # Each channel of the map between them has mean 0 and uses its range.
    seen = run(compressed, calibration.integers(), keep=True)[2].reshape(-1, 4).astype(float)
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1)
    assert (np.abs(seen).max(axis=0) > 90).all()
    assert (
        results[2].bits
        == first.weights.shape[0]
        * (16 * 9 * 8 if terms is None else 16 * terms * 8 + terms * 9 * 8)
        + 16 * 4 * 8
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_fully_factored_layers(stride, seed):
    """Weights that have the form: what is left are roundings."""
    rng = np.random.default_rng(seed)
    network = small_network(rng)
    first, second, third, last = network.layers
    basis = rng.standard_normal((4, 16, 2)) @ rng.standard_normal((4, 2, 9))
    weights = (rng.standard_normal((16, 4)) @ basis.reshape(4, -1)).reshape(16, 16, 9) / 20
    third = replace(third, weights=weights, stride=(stride, stride))
    layers = first, second, third
    network = FloatNetwork("small", network.input_shape, layers)
    x = rng.uniform(0, 1, (60, 8, 8, 3)).astype(np.float32)
    calibration = calibrate(network, x)
    choice = Choice(terms=2, kernels=4, qb=8, qu=8, qv=8, factored=True)
    once, _ = compress(network, calibration, {"third": choice}, SIM)
    choice = replace(choice, fully=True)
    compressed, results = compress(network, calibration, {"third": choice}, SIM)
    # One more map is rounded, but U B is not.
    error = relative_error(network, once, x)
    assert relative_error(network, compressed, x) < 1.3 * error + 0.01
    assert results[2].output_error < 1.3 * error
    coefficients, basis, last = compressed.layers[2:]
    assert [layer.name for layer in compressed.layers[2:]] == [
        *("third.coefficients", "third.basis", "third")
    ]
    assert [layer.kernel for layer in compressed.layers[2:]] == [(1, 1), (3, 3), (1, 1)]
    assert (basis.stride, basis.padding, basis.groups) == (third.stride, third.padding, 8)
    assert coefficients.weights.shape == (8, 16, 1)
    assert basis.weights.shape == (8, 1, 9)
    assert last.weights.shape == (16, 8, 1)
    assert results[2].bits == 8 * (8 * 16 + 8 * 9 + 16 * 8)
    # Where the real input is 0 the first map is 0, as the padding that B reads beyond it.
    zero = np.full((1, 1, 1, 16), coefficients.input_zero_point, np.int8)
    assert not coefficients.compute(zero).any()
    assert coefficients.output_zero_point == basis.input_zero_point == 0
    plan(compressed, SIM)


def test_factored_layer_of_zeros(seed):
    network = small_network(np.random.default_rng(seed))
    first, second, third, last = network.layers
    third = replace(third, weights=np.zeros_like(third.weights), bias=np.ones(16))
    network = FloatNetwork("zero", network.input_shape, (first, second, third, last))
    x = np.random.default_rng(seed).uniform(0, 1, (8, 8, 8, 3)).astype(np.float32)
    for choice in (
        Choice(kernels=8, factored=True),
        Choice(terms=2, kernels=8, factored=True, fully=True),
    ):
        compressed, _ = compress(network, calibrate(network, x), {"third": choice}, SIM)
        assert not compressed.layers[2].weights.W.any()


def test_each_form_has_its_function():
    weights = np.ones((4, 4, 9))
    with pytest.raises(ValueError, match="layer 'a' is factored"):
        compress_weights("a", weights, Choice(kernels=2, factored=True), SIM)
    with pytest.raises(ValueError, match="layer 'a' has no basis kernels"):
        fit_basis("a", weights, Choice(terms=2), SIM)


@pytest.mark.slow
def test_example_network_keeps_its_accuracy():
    network = import_onnx(FASHION / "fashion.onnx")
    samples, _ = load_inputs(FASHION / "calibration.npz", network.input_shape)
    x, labels = load_inputs(FASHION / "fashion500.npz", network.input_shape, labels=True)
    calibration = calibrate(network, samples)

    def accuracy(quantised):
        integers = quantise_inputs(x, quantised.input_scale, quantised.input_zero_point)
        return float((run(quantised, integers).reshape(len(x), -1).argmax(1) == labels).mean())

    real = float((network.run(x).reshape(len(x), -1).argmax(1) == labels).mean())
    assert accuracy(quantise(network, calibration)) > real - 0.01
    choices = default_choices(network, UP5K)
    compressed, results = compress(network, calibration, choices, UP5K)
    assert sum(result.bits for result in results) / 8 < network.weights / 3
    assert accuracy(compressed) > real - 0.03
    plan(compressed, UP5K)
