"""Pruning: what is left computes the same, and what can go is gone."""

from dataclasses import replace

import numpy as np
import pytest

from golden.network import (
    Add,
    Concatenation,
    Convolution,
    Mean,
    Multiply,
    Network,
    Pad,
    Pooling,
    Requantise,
    Rounding,
    Stored,
    Table,
    run,
)
from insitu.errors import FitError
from insitu.prune import prune
from tests.golden.graphs import every_kind
from tests.insitu.networks import random_generated, random_network, random_stored

ZERO = 5
SAME = (ZERO, 1 << 30, -1)
"""A scaling that changes nothing."""


class Graph:
    """Random layers, all of zero point 5; convolutions have channels that do not matter."""

    def __init__(self, seed, channels=6):
        self.rng = np.random.default_rng(seed)
        self.layers = []
        self.channels = {"input": channels}

    def put(self, kind, inputs, channels, **fields):
        name = f"{kind.kind}{len(self.layers)}"
        self.layers.append(kind(name=name, inputs=inputs, **fields))
        self.channels[name] = channels
        return name

    def convolution(self, source, outputs, side=1, *, depthwise=False, padded=True, dead=0.5):
        rng, inputs = self.rng, self.channels[source]
        if depthwise:
            outputs = inputs * outputs
        W = rng.integers(-127, 128, (outputs, 1 if depthwise else inputs, side * side))
        bias = rng.integers(-4000, 4000, outputs)
        for channel in np.flatnonzero(rng.random(outputs) < dead):
            # Constant at the zero point, at another value, or by saturation; or hardly used.
            if rng.integers(3):
                W[channel] = 0
                bias[channel] = 0 if rng.integers(2) else 4000
            else:
                bias[channel] = -(1 << 24)
        if dead and not depthwise:
            W[:, rng.random(inputs) < 0.2] = 0
        bias = bias - ZERO * W.sum(axis=(1, 2))
        low = side // 2 if padded else 0
        return self.put(
            Convolution,
            (source,),
            outputs,
            kernel=(side, side),
            padding=(low, low, low, low),
            weights=Stored(W.astype(np.int8), 8),
            bias=bias.astype(np.int32),
            multiplier=rng.integers(1 << 30, (1 << 31) - 1, outputs).astype(np.int32),
            shift=np.full(outputs, 7 + side, np.int8),
            input_zero_point=ZERO,
            output_zero_point=ZERO,
            activation_min=ZERO if rng.integers(2) else -128,
            rounding=rng.choice(list(Rounding)),
            groups=inputs if depthwise else 1,
        )

    def add(self, a, b):
        half = (ZERO, 1 << 30, 0)
        output = (ZERO, 1 << 30, 18)
        scalings = (half, half)
        channels = self.channels[a]
        return self.put(Add, (a, b), channels, scalings=scalings, output_scaling=output)

    def network(self):
        return Network(
            layers=tuple(self.layers),
            input_shape=(11, 10, self.channels["input"]),
            input_scale=1.0,
            input_zero_point=ZERO,
            output_scale=1.0,
        )


def weights(network):
    return sum(layer.weights.W.size for layer in network.layers if isinstance(layer, Convolution))


def check(network, seed):
    """The pruned network; what is left of every map is as it was."""
    pruned = prune(network)
    x = np.random.default_rng(seed).integers(-128, 128, (8, *network.input_shape)).astype(np.int8)
    x[0], x[1], x[2] = -128, 127, ZERO
    before, after = run(network, x, keep=True), run(pruned.network, x, keep=True)
    for layer, a, b in zip(network.layers, before, after, strict=True):
        kept = pruned.kept[layer.name]
        np.testing.assert_array_equal(a[..., kept], b, f"seed {seed}, layer {layer.name}")
    np.testing.assert_array_equal(before[-1], after[-1])
    return pruned.network


def random_graph(seed):
    """A stem, some blocks of a random kind, and a classifier."""
    graph = Graph(seed)
    current = graph.convolution("input", 8, 3)
    for _ in range(4):
        kind = int(graph.rng.integers(8))
        channels = graph.channels[current]
        if kind == 0:
            side = 1 + int(graph.rng.integers(2)) * 2
            padded = bool(graph.rng.integers(2))
            current = graph.convolution(current, 9, side, padded=padded)
            current = graph.convolution(current, 8)
        elif kind == 1:
            current = graph.convolution(current, 1 + int(graph.rng.integers(2)), depthwise=True)
        elif kind == 2:
            current = graph.add(current, graph.convolution(current, channels, 3))
        elif kind == 3:
            other = graph.convolution(current, 3)
            current = graph.put(Concatenation, (other, current, other), channels + 6)
        elif kind == 4:
            options = {"mode": "average", "kernel": (2, 2), "padding": (1, 0, 0, 1)}
            current = graph.put(Pooling, (current,), channels, **options)
        elif kind == 5:
            table = graph.rng.integers(-128, 128, 256).astype(np.int8)
            table[ZERO + 128] = ZERO
            options = {"table": table, "output_zero_point": ZERO}
            current = graph.put(Table, (current,), channels, **options)
        elif kind == 6:
            pixel = graph.put(
                Mean,
                (current,),
                channels,
                input_zero_point=ZERO,
                output_scaling=(ZERO, 1 << 30, 3),
            )
            gate = graph.convolution(pixel, channels)
            current = graph.put(
                Multiply,
                (current, gate),
                channels,
                input_zero_points=(ZERO, ZERO),
                output_scaling=(ZERO, 1 << 30, 5),
            )
        else:
            options = {"padding": (0, 1, 1, 0), "input_zero_point": ZERO}
            current = graph.put(Pad, (current,), channels, **options)
            options = {"input_zero_point": ZERO, "output_scaling": SAME, "activation_max": 90}
            current = graph.put(Requantise, (current,), channels, **options)
    graph.convolution(current, 4, dead=0)
    return _used(graph)


def _used(graph):
    """Without layers that nothing reads."""
    needed = {graph.layers[-1].name}
    for layer in reversed(graph.layers):
        if layer.name in needed:
            needed |= set(layer.inputs)
    graph.layers = [layer for layer in graph.layers if layer.name in needed]
    return graph.network()


def test_random_graphs(seed):
    smaller = 0
    for number in range(150):
        network = random_graph([seed, number])
        smaller += weights(check(network, seed + number)) < weights(network)
    assert smaller > 100


def test_what_can_go_is_gone():
    """One channel each: at the zero point, at another value, unused, unused in the end, needed."""
    graph = Graph(0, channels=2)
    first = graph.convolution("input", 5, 3, dead=0)
    second = graph.convolution(first, 3, 3, dead=0)
    graph.convolution(second, 2, dead=0)
    network = graph.network()
    layers = list(network.layers)
    W, bias = layers[0].weights.W.copy(), layers[0].bias.copy()
    W[:2] = 0
    bias[0], bias[1] = 0, 1000
    layers[0] = replace(layers[0], weights=Stored(W, 8), bias=bias)
    W = layers[1].weights.W.copy()
    W[:] = np.where(W == 0, 1, W)
    W[:, 2] = 0
    W[[0, 2], 3] = 0
    layers[1] = replace(layers[1], weights=Stored(W, 8))
    W = layers[2].weights.W.copy()
    W[:] = np.where(W == 0, 1, W)
    W[:, 1] = 0
    layers[2] = replace(layers[2], weights=Stored(W, 8))
    network = replace(network, layers=tuple(layers))
    pruned = prune(network)
    kept = [pruned.kept[layer.name].tolist() for layer in network.layers]
    # A constant that is not the zero point shows at the padded edge: it has to stay.
    assert kept == [[1, 4], [0, 2], [0, 1]]
    check(network, 0)


def test_sums_that_wrap_around_are_not_taken_for_constants(seed):
    """Shifted to the left they leave int32, and what is left of them varies."""
    graph = Graph(seed)
    first = graph.convolution("input", 8, dead=0)
    graph.convolution(first, 3, dead=0)
    layer = graph.layers[0]
    graph.layers[0] = replace(
        layer,
        shift=np.full(8, -18, np.int8),
        bias=graph.rng.integers(-(1 << 28), 1 << 28, 8).astype(np.int32),
        rounding=Rounding.TWICE,
    )
    pruned = check(graph.network(), seed)
    assert pruned.layers[0].weights.shape[0] == 8


def test_a_chain_of_depthwise_layers_goes_with_its_channels(seed):
    graph = Graph(seed)
    current = graph.convolution("input", 8, dead=0)
    network = graph.layers[0]
    W, bias = network.weights.W.copy(), network.bias.copy()
    W[[1, 4]], bias[[1, 4]] = 0, 0
    graph.layers[0] = replace(network, weights=Stored(W, 8), bias=bias)
    for _ in range(3):
        current = graph.convolution(current, 1, 3, depthwise=True, dead=0)
        layer = graph.layers[-1]
        bias = layer.bias.copy()
        bias[[1, 4]] = -ZERO * layer.weights.W.astype(int).sum(axis=(1, 2))[[1, 4]]
        graph.layers[-1] = replace(layer, bias=bias)
    graph.convolution(current, 3, dead=0)
    network = graph.network()
    pruned = check(network, seed)
    assert [layer.weights.shape[0] for layer in pruned.layers] == [6, 6, 6, 6, 3]
    assert [layer.groups for layer in pruned.layers] == [1, 6, 6, 6, 1]


def test_a_network_of_dead_channels_alone_keeps_one(seed):
    graph = Graph(seed)
    current = graph.convolution("input", 8, 3, dead=0)
    layer = graph.layers[0]
    graph.layers[0] = replace(
        layer, weights=Stored(np.zeros_like(layer.weights.W), 8), bias=np.zeros(8, np.int32)
    )
    graph.convolution(current, 3, dead=0)
    pruned = check(graph.network(), seed)
    assert pruned.layers[0].weights.shape[0] == 1


def test_a_bias_that_leaves_int32_is_refused():
    graph = Graph(0, channels=1)
    first = graph.convolution("input", 2, dead=0)
    graph.convolution(first, 1, dead=0)
    a, b = graph.layers
    W = a.weights.W.copy()
    W[0] = 0
    bias = a.bias.copy()
    bias[0] = 1 << 20
    graph.layers[0] = replace(a, weights=Stored(W, 8), bias=bias)
    W = np.array([[[127], [1]]], np.int8)
    bias = np.array([(1 << 31) - 100], np.int32)
    graph.layers[1] = replace(b, weights=Stored(W, 8), bias=bias)
    with pytest.raises(FitError, match=r"'convolution1' cannot be pruned: .* a bias leaves int32"):
        prune(graph.network())


def test_generated_and_grouped_layers_stay_whole(seed):
    rng = np.random.default_rng(seed)
    layers = [
        {"weights": random_stored(rng, 8, 3, 1, 8), "kernel": (1, 1)},
        {"weights": random_generated(rng, 6, 8, 9, terms=2), "kernel": (3, 3)},
        {"weights": random_stored(rng, 4, 6, 1, 8), "kernel": (1, 1)},
    ]
    network = random_network(rng, layers, (6, 5, 3))
    first = network.layers[0]
    W = first.weights.W.copy()
    W[2] = 0
    network = replace(network, layers=(replace(first, weights=Stored(W, 8)), *network.layers[1:]))
    pruned = check(network, seed)
    assert weights(pruned) == weights(network)


def test_every_kind_comes_through(seed):
    check(every_kind(np.random.default_rng(seed)), seed)
