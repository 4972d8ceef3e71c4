"""golden.network: what it stores and refuses, and whole runs against loops."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import golden.network
from golden.generate import cross, intra
from golden.network import Generated, Layer, Network, Stored, run, shapes
from tests.golden import brute

Int8 = NDArray[np.int8]


def random(rng: np.random.Generator, *shape: int, q: int = 8) -> Int8:
    largest = max(1, (1 << (q - 1)) - 1)
    values = rng.integers(-largest, largest + 1, shape, dtype=np.int8)
    return np.where(values == 0, np.int8(1), values) if q == 1 else values


def ones(*shape: int) -> Int8:
    return np.ones(shape, np.int8)


STORED = Stored(ones(4, 2, 9), 3)


def layer(**changes: Any) -> Layer:
    """A layer [4, 2, 9] of 3x3 taps, with `changes`."""
    co = changes.get("weights", STORED).shape[0]
    arguments: dict[str, Any] = {
        "name": "conv",
        "kernel": (3, 3),
        "weights": STORED,
        "bias": np.zeros(co, np.int32),
        "multiplier": np.full(co, 1 << 30, np.int32),
        "shift": np.full(co, 3, np.int8),
        "input_zero_point": -128,
        "output_zero_point": 5,
        "double_rounding": True,
    }
    return Layer(**(arguments | changes))


def network(*layers: Layer, **changes: Any) -> Network:
    arguments: dict[str, Any] = {
        "layers": layers or (layer(),),
        "input_shape": (6, 5, 2),
        "input_scale": 0.5,
        "input_zero_point": -128,
        "output_scale": 2,
    }
    return Network(**(arguments | changes))


# Weights


def test_stored(seed: int) -> None:
    W = random(np.random.default_rng(seed), 4, 3, 9, q=5)
    stored = Stored(W, 5)
    np.testing.assert_array_equal(stored.W, W)
    assert stored.shape == (4, 3, 9)
    assert stored.bits == {"basis": 0, "coefficients": 0, "stored": 4 * 3 * 9 * 5}


def test_generated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    B, U, V = random(rng, 5, 2, 9, q=4), random(rng, 5, 6, 2, q=6), random(rng, 7, 5, q=3)
    both = Generated(B=B, U=U, V=V, qb=4, qu=6, qv=3, s1=2, s2=3)
    W1 = intra(U, B, 2)
    np.testing.assert_array_equal(both.W1, W1)
    np.testing.assert_array_equal(both.W, cross(V, W1, 3))
    assert both.W is both.W
    assert both.shape == both.W.shape == (7, 6, 9)
    assert both.bits == {"basis": 90 * 4, "coefficients": 60 * 6 + 35 * 3, "stored": 0}

    alone = Generated(B=B, U=U, qb=4, qu=6, s1=2)
    np.testing.assert_array_equal(alone.W, W1)
    assert alone.shape == alone.W.shape == (5, 6, 9)
    assert alone.bits == {"basis": 90 * 4, "coefficients": 60 * 6, "stored": 0}

    flat = Generated(U=U, V=V, qu=6, qv=3, s2=1)
    np.testing.assert_array_equal(flat.W1, U)
    np.testing.assert_array_equal(flat.W, cross(V, U, 1))
    assert flat.shape == flat.W.shape == (7, 6, 2)
    assert flat.bits == {"basis": 60 * 6, "coefficients": 35 * 3, "stored": 0}


def test_memory_of_resnet18() -> None:
    """docs: ResNet-18/CIFAR-10 at (Bi, Bo, qb, qu, qv) = (2, 44, 3, 6, 3) takes 307.5 KiB."""
    convolutions = [(3, 64, 9)] + [(64, 64, 9)] * 4
    for co in (128, 256, 512):
        convolutions += [(co // 2, co, 9), (co // 2, co, 1)] + [(co, co, 9)] * 3
    bits = 0
    for ci, co, taps in convolutions:
        bo, V, qv = (44, ones(co, 44), 3) if min(co, ci * taps) > 44 else (co, None, 0)
        weights = (
            Generated(U=ones(bo, ci, 2), B=ones(bo, 2, taps), V=V, qu=6, qb=3, qv=qv)
            if taps > 1
            else Generated(U=ones(bo, ci, 1), V=V, qu=3, qv=qv)
        )
        assert weights.shape == (co, ci, taps)
        bits += sum(weights.bits.values())
    assert bits == 307.5 * 1024 * 8


def test_arrays_are_read_only_copies() -> None:
    W = np.ones((4, 2, 9), np.int8)
    bias = np.zeros(4, np.int32)
    made = layer(weights=Stored(W, 2), bias=bias)
    W[:], bias[:] = 0, 9
    assert made.weights.W.min() == 1
    assert made.bias.max() == 0
    for array in (made.weights.W, made.bias, made.multiplier, made.shift):
        with pytest.raises(ValueError, match=r"read-only"):
            array[0] = 0
    with pytest.raises(FrozenInstanceError):
        made.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("W", "q", "error", "message"),
    [
        ([1], 3, TypeError, "W must be an array of int8, not list"),
        (np.ones((1, 1, 1)), 3, TypeError, "W must be an array of int8, not float64"),
        (np.ones((1, 1), np.int8), 3, ValueError, r"W must be \[Co, Ci, T\], not of shape \(1, 1"),
        (np.ones((1, 0, 1), np.int8), 3, ValueError, r"W must be \[Co, Ci, T\], not of shape"),
        (np.ones((1, 1, 1), np.int8), 0, ValueError, "q must be in 1..8, not 0"),
        (np.ones((1, 1, 1), np.int8), 9, ValueError, "q must be in 1..8, not 9"),
        (np.ones((1, 1, 1), np.int8), 3.0, TypeError, "q must be an integer, not 3.0"),
        (
            np.full((1, 1, 1), 4, np.int8),
            3,
            ValueError,
            r"W of 3 bits must be in -3..3, not 4 at \[0, 0, 0\]",
        ),
    ],
)
def test_stored_refuses(W: Any, q: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        Stored(W, q)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"B": None, "V": None}, ValueError, "Generated must have B or V; weights without either"),
        ({"U": ones(5, 6, 2).astype(int)}, TypeError, "U must be an array of int8, not int64"),
        ({"U": ones(5, 6)}, ValueError, r"U must be \[Bo, Ci, Bi\], not of shape \(5, 6\)"),
        (
            {"U": ones(5, 6), "B": None, "qb": 0, "s1": 0},
            ValueError,
            r"U must be \[Bo, Ci, T\], not of shape \(5, 6\)",
        ),
        ({"B": ones(5, 2)}, ValueError, r"B must be \[Bo, Bi, T\], not of shape \(5, 2\)"),
        ({"B": ones(4, 2, 9)}, ValueError, r"B must be .*, not \(4, 2, 9\) with \(5, 6, 2\)"),
        ({"B": ones(5, 3, 9)}, ValueError, r"B must be .*, not \(5, 3, 9\) with \(5, 6, 2\)"),
        ({"V": ones(7)}, ValueError, r"V must be \[Co, Bo\], not of shape \(7,\)"),
        ({"V": ones(7, 6)}, ValueError, r"V must be .*, not \(7, 6\) with \(5, 6, 2\)"),
        ({"qu": 0}, ValueError, "qu must be in 1..8, not 0"),
        ({"qb": 9}, ValueError, "qb must be in 1..8, not 9"),
        ({"qv": True}, TypeError, "qv must be an integer, not True"),
        ({"s1": -1}, ValueError, "s1 must be in 0..31, not -1"),
        ({"s2": 32}, ValueError, "s2 must be in 0..31, not 32"),
        ({"B": None, "qb": 3, "s1": 0}, ValueError, "qb must be 0 where B is None, not 3"),
        ({"B": None, "qb": 0, "s1": 1}, ValueError, "s1 must be 0 where B is None, not 1"),
        ({"V": None, "qv": 2}, ValueError, "qv must be 0 where V is None, not 2"),
        ({"V": None, "qv": 0, "s2": 1}, ValueError, "s2 must be 0 where V is None, not 1"),
        ({"U": 4 * ones(5, 6, 2)}, ValueError, r"U of 3 bits must be in -3..3, not 4 at \[0, 0"),
        ({"B": 0 * ones(5, 2, 9), "qb": 1}, ValueError, r"B of 1 bits must be -1 or \+1, not 0"),
        ({"V": -2 * ones(7, 5)}, ValueError, r"V of 2 bits must be in -1..1, not -2 at \[0, 0\]"),
    ],
)
def test_generated_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "B": ones(5, 2, 9),
        "U": ones(5, 6, 2),
        "V": ones(7, 5),
        "qb": 3,
        "qu": 3,
        "qv": 2,
        "s1": 1,
        "s2": 1,
    }
    Generated(**arguments)
    with pytest.raises(error, match=f"^{message}"):
        Generated(**(arguments | changes))


# Layers and networks


def test_layer_takes_lists_and_numpy_integers() -> None:
    made = layer(kernel=[3, 3], padding=[1, 1, 1, 1], stride=(np.int64(2), 1))
    assert (made.kernel, made.padding, made.stride) == ((3, 3), (1, 1, 1, 1), (2, 1))
    assert (made.input_channels, made.output_channels) == (2, 4)
    assert made.output_shape((7, 7, 2)) == (4, 7, 4)
    assert type(layer(output_zero_point=np.int8(3)).output_zero_point) is int


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"name": ""}, ValueError, "layer '': name must not be empty"),
        ({"name": 3}, TypeError, "name of a layer must be a string, not 3"),
        ({"kernel": (3, 2)}, ValueError, r"kernel \(3, 2\) must have the 9 taps of the weights"),
        ({"kernel": 3}, TypeError, "kernel must be 2 integers, not 3"),
        ({"stride": (1, 0)}, ValueError, r"stride must be 2 integers of at least 1, not \(1, 0\)"),
        ({"padding": (1, 1)}, ValueError, r"padding must be 4 integers of at least 0, not \(1, 1"),
        ({"dilation": (0, 1)}, ValueError, "dilation must be 2 integers of at least 1, not"),
        ({"weights": ones(4, 2, 9)}, TypeError, "weights must be Stored or Generated, not ndarray"),
        ({"bias": np.zeros(4)}, TypeError, "bias must be an array of int32, not float64"),
        ({"bias": np.zeros(5, np.int32)}, ValueError, "bias must have one .* 4 .*, not 5"),
        ({"multiplier": [1]}, TypeError, "multiplier must be an array of int32, not list"),
        (
            {"multiplier": np.zeros(3, np.int32)},
            ValueError,
            "multiplier must have one element for each of 4 output channels, not 3",
        ),
        (
            {"multiplier": np.full(4, -7, np.int32)},
            ValueError,
            "multiplier must be in 0..2147483647, not -7",
        ),
        ({"shift": np.zeros(4, int)}, TypeError, "shift must be an array of int8, not int64"),
        ({"shift": ones(3)}, ValueError, "shift must have one element for each of 4 .*, not 3"),
        ({"shift": 32 * ones(4)}, ValueError, "shift must be in 0..31, not 32"),
        ({"shift": -ones(4)}, ValueError, "shift must be in 0..31, not -1"),
        ({"input_zero_point": 128}, ValueError, "input_zero_point must be in -128..127, not 128"),
        ({"output_zero_point": 0.5}, TypeError, "output_zero_point must be an integer, not 0.5"),
        ({"activation_min": -129}, ValueError, "activation_min must be in -128..127, not -129"),
        ({"activation_max": 128}, ValueError, "activation_max must be in -128..127, not 128"),
        (
            {"activation_min": 6, "activation_max": 5},
            ValueError,
            "activation_min must be at most activation_max 5, not 6",
        ),
        ({"double_rounding": 1}, TypeError, "double_rounding must be a bool, not 1"),
        ({"groups": 3}, ValueError, "groups must divide 4 output channels, not 3"),
        ({"groups": 0}, ValueError, "groups must be in 1..65536, not 0"),
    ],
)
def test_layer_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    start = "" if "name" in changes else "layer 'conv': "
    with pytest.raises(error, match=f"^{start}{message}"):
        layer(**changes)


def test_shapes() -> None:
    first = layer(stride=(2, 1), padding=(1, 1, 1, 1))
    second = layer(
        weights=Stored(ones(10, 4, 15), 2), name="dense", kernel=(3, 5), input_zero_point=5
    )
    assert shapes(network(first, second)) == [(6, 5, 2), (3, 5, 4), (1, 1, 10)]
    assert network(first, second).output_zero_point == 5


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"layers": []}, ValueError, "layers must not be empty"),
        ({"layers": layer}, TypeError, "layers must be a sequence of Layer, not <function"),
        ({"layers": [layer(), 3]}, TypeError, "layers must be a sequence of Layer, not "),
        (
            {"layers": [layer(), layer(input_zero_point=5)]},
            ValueError,
            "layer 'conv': the name occurs twice",
        ),
        (
            {"layers": [layer(), layer(name="b")]},
            ValueError,
            "layer 'b': input_zero_point must be 5, that of what feeds it, not -128",
        ),
        (
            {"layers": [layer(), layer(name="b", input_zero_point=5)]},
            ValueError,
            "layer 'b': takes 2 channels, not 4",
        ),
        ({"input_shape": (6, 5)}, ValueError, "input_shape must be 3 integers of at least 1, not"),
        ({"input_shape": (2, 5, 2)}, ValueError, r"layer 'conv': kernel \(3, 3\) .* must fit into"),
        ({"input_shape": (6, 5, 3)}, ValueError, "layer 'conv': takes 2 channels, not 3"),
        ({"input_scale": 0}, ValueError, "input_scale must be positive and finite, not 0.0"),
        ({"input_scale": "1"}, TypeError, "input_scale must be a number, not '1'"),
        ({"output_scale": float("nan")}, ValueError, "output_scale must be positive and finite"),
        ({"output_scale": float("inf")}, ValueError, "output_scale must be .*, not inf"),
        ({"input_zero_point": -129}, ValueError, "input_zero_point must be in -128..127, not -129"),
        (
            {"input_zero_point": 0},
            ValueError,
            "layer 'conv': input_zero_point must be 0, that of what feeds it, not -128",
        ),
    ],
)
def test_network_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        network(**changes)


# Runs


def every_kind(rng: np.random.Generator) -> Network:
    """A network with each kind of weights: intra, both levels, flat, depthwise, dense."""
    weights: list[Stored | Generated] = [
        Generated(U=random(rng, 6, 2, 2), B=random(rng, 6, 2, 9, q=4), qu=8, qb=4, s1=4),
        Generated(
            U=random(rng, 3, 6, 2, q=4),
            B=random(rng, 3, 2, 9, q=4),
            V=random(rng, 8, 3, q=3),
            qu=4,
            qb=4,
            qv=3,
            s2=2,
        ),
        Generated(U=random(rng, 4, 8, 1), V=random(rng, 9, 4, q=1), qu=8, qv=1, s2=1),
        Stored(random(rng, 9, 1, 4, q=6), 6),
        Stored(random(rng, 5, 9, 6), 8),
    ]
    geometry: list[dict[str, Any]] = [
        {"kernel": (3, 3), "padding": (1, 1, 1, 1)},
        {"kernel": (3, 3), "padding": (0, 0, 1, 1), "stride": (2, 2)},
        {"kernel": (1, 1)},
        {"kernel": (2, 2), "groups": 9, "dilation": (1, 2), "padding": (0, 1, 0, 1)},
        {"kernel": (2, 3)},
    ]
    zero_points = [-128, -3, 7, -20, 40, 20]
    layers = []
    for index, (stored, place) in enumerate(zip(weights, geometry, strict=True)):
        co = stored.shape[0]
        W = stored.W.astype(np.int64)
        # Outputs spread over most of the int8 range.
        spread = int(np.log2(2 * np.sqrt((W**2).sum(axis=(1, 2)).mean())))
        offset = -zero_points[index] * W.sum(axis=(1, 2))
        layers.append(
            Layer(
                name=f"layer{index}",
                weights=stored,
                bias=(offset + rng.integers(-3000, 3000, co)).astype(np.int32),
                multiplier=rng.integers(1 << 30, 1 << 31, co).astype(np.int32),
                shift=(spread - 1 + rng.integers(0, 2, co)).astype(np.int8),
                input_zero_point=zero_points[index],
                output_zero_point=zero_points[index + 1],
                activation_min=-128 + 10 * index,
                activation_max=127 - 5 * index,
                double_rounding=index % 2 == 0,
                **place,
            )
        )
    return network(*layers, input_shape=(7, 6, 2))


def brute_layer(layer: Layer, x: Int8) -> Int8:
    """One layer in Python integers, [Ho, Wo, Co] for x [H, W, Ci]."""
    acc = brute.convolve(
        x,
        layer.weights.W,
        layer.bias,
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.input_zero_point,
        layer.groups,
    )
    return np.array(
        [
            [
                [
                    brute.clamp(
                        brute.rescale(
                            value,
                            int(layer.multiplier[o]),
                            int(layer.shift[o]),
                            layer.double_rounding,
                        )
                        + layer.output_zero_point,
                        layer.activation_min,
                        layer.activation_max,
                    )
                    for o, value in enumerate(pixel)
                ]
                for pixel in row
            ]
            for row in acc
        ],
        np.int8,
    )


@pytest.mark.parametrize("batch", [1, 200, 1 << 20])
def test_run_against_loops(batch: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    made = every_kind(rng)
    x = rng.integers(-128, 128, (3, *made.input_shape), dtype=np.int8)
    x[1], x[2] = -128, 127
    monkeypatch.setattr(golden.network, "BATCH_ACTIVATIONS", batch)
    outputs = run(made, x, keep=True)
    expected = list(x)
    for index, made_layer in enumerate(made.layers):
        expected = [brute_layer(made_layer, image) for image in expected]
        np.testing.assert_array_equal(outputs[index], np.array(expected), made_layer.name)
        assert outputs[index].dtype == np.int8
        assert outputs[index].shape[1:] == shapes(made)[index + 1]
        assert len(np.unique(outputs[index])) > 5, "the comparison would show little"
    np.testing.assert_array_equal(run(made, x), outputs[-1])


def test_overflow_names_the_layer() -> None:
    made = network(layer(bias=np.full(4, (1 << 31) - 1, np.int32)))
    with pytest.raises(OverflowError, match=r"^layer 'conv': accumulator must fit int32, not be"):
        run(made, np.ones((1, 6, 5, 2), np.int8))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((1, 6, 5, 2)), TypeError, "x must be an array of int8, not float64"),
        (np.zeros((6, 5, 2), np.int8), ValueError, r"x must be \[N, H, W, C\], not of shape"),
        (np.zeros((0, 6, 5, 2), np.int8), ValueError, r"x must be \[N, H, W, C\], not of shape"),
        (
            np.zeros((1, 5, 6, 2), np.int8),
            ValueError,
            r"x must be .* with H, W, C \(6, 5, 2\), not of shape \(1, 5, 6, 2\)",
        ),
    ],
)
def test_run_refuses(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        run(network(), x)


def test_replace_checks_again() -> None:
    with pytest.raises(ValueError, match=r"^layer 'conv': shift must be in 0..31, not 77$"):
        replace(layer(), shift=77 * ones(4))
