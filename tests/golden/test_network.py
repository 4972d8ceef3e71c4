"""golden.network: what it stores and refuses, and whole runs against loops."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import golden.network
from golden.network import (
    Add,
    Concatenation,
    Convolution,
    Generated,
    Layer,
    Mean,
    Multiply,
    Network,
    Pad,
    Pooling,
    Requantise,
    Rounding,
    Scaling,
    Stored,
    Table,
    chain,
    run,
    shapes,
    zero_points,
)
from golden.requantise import divided
from tests.golden import brute, graphs

Int8 = NDArray[np.int8]


def random(rng: np.random.Generator, *shape: int, q: int = 8) -> Int8:
    largest = max(1, (1 << (q - 1)) - 1)
    values = rng.integers(-largest, largest + 1, shape, dtype=np.int8)
    return np.where(values == 0, np.int8(1), values) if q == 1 else values


def ones(*shape: int) -> Int8:
    return np.ones(shape, np.int8)


STORED = Stored(ones(4, 2, 9), 3)


def layer(**changes: Any) -> Convolution:
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
        "rounding": Rounding.TWICE,
    }
    return Convolution(**(arguments | changes))


def network(*layers: Layer, **changes: Any) -> Network:
    arguments: dict[str, Any] = {
        "layers": chain(layers or (layer(),)),
        "input_shape": (6, 5, 2),
        "input_scale": 0.5,
        "input_zero_point": -128,
        "output_scale": 2,
    }
    return Network(**(arguments | changes))


# Layers and networks


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
        ({"shift": 32 * ones(4)}, ValueError, "shift must be in -30..31, not 32"),
        ({"shift": -31 * ones(4)}, ValueError, "shift must be in -30..31, not -31"),
        ({"input_zero_point": 128}, ValueError, "input_zero_point must be in -128..127, not 128"),
        ({"output_zero_point": 0.5}, TypeError, "output_zero_point must be an integer, not 0.5"),
        ({"activation_min": -129}, ValueError, "activation_min must be in -128..127, not -129"),
        ({"activation_max": 128}, ValueError, "activation_max must be in -128..127, not 128"),
        (
            {"activation_min": 6, "activation_max": 5},
            ValueError,
            "activation_min must be at most activation_max 5, not 6",
        ),
        ({"rounding": 1}, ValueError, "rounding must be one of up, twice, even, not 1"),
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
            {"layers": chain([layer(), layer(name="b")])},
            ValueError,
            "layer 'b': input_zero_point must be 5, that of what feeds it, not -128",
        ),
        (
            {"layers": chain([layer(), layer(name="b", input_zero_point=5)])},
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
            Convolution(
                name=f"layer{index}",
                weights=stored,
                bias=(offset + rng.integers(-3000, 3000, co)).astype(np.int32),
                multiplier=rng.integers(1 << 30, 1 << 31, co).astype(np.int32),
                shift=(spread - 1 + rng.integers(0, 2, co)).astype(np.int8),
                input_zero_point=zero_points[index],
                output_zero_point=zero_points[index + 1],
                activation_min=-128 + 10 * index,
                activation_max=127 - 5 * index,
                rounding=list(Rounding)[index % 3],
                **place,
            )
        )
    return network(*layers, input_shape=(7, 6, 2))


def brute_layer(layer: Convolution, x: Int8) -> Int8:
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
                            layer.rounding,
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
    with pytest.raises(ValueError, match=r"^layer 'conv': shift must be in -30..31, not 77$"):
        replace(layer(), shift=77 * ones(4))


# Graphs


def brute_graph(made: Network, x: Int8) -> dict[str, Int8]:
    """Every map of one image in Python integers."""
    maps: dict[str, Int8] = {"input": x}
    for one in made.layers:
        sources = [maps[name] for name in one.inputs]
        shape = one.output_shape(*(source.shape for source in sources))  # type: ignore[arg-type]
        if isinstance(one, Convolution):
            maps[one.name] = brute_layer(one, sources[0])
            continue
        y = np.zeros(shape, np.int64)
        for row, column, channel in np.ndindex(shape):
            y[row, column, channel] = brute_value(one, sources, row, column, channel)
        maps[one.name] = y.astype(np.int8)
        assert (maps[one.name] == y).all()
    return maps


def brute_value(one: Layer, sources: list[Int8], row: int, column: int, channel: int) -> int:
    def at(index: int, y: int = row, x: int = column) -> int:
        return int(sources[index][y, x, channel])

    if isinstance(one, Pad):
        y, x = row - one.padding[0], column - one.padding[1]
        height, width, _ = sources[0].shape
        return at(0, y, x) if 0 <= y < height and 0 <= x < width else one.input_zero_point
    if isinstance(one, Pooling):
        windows = brute.windows(sources[0], one.kernel, one.stride, one.padding)
        values = windows[row][column][channel]
        if one.output_scaling is not None:
            after, factor, places = divided(one.output_scaling, len(values))
            value = sum(values) - len(values) * one.input_zero_point
            value = brute.rescale(value, factor, places, Rounding.EVEN) + after
            return brute.clamp(value, one.activation_min, one.activation_max)
        value = max(values) if one.mode == "maximum" else brute.mean(values)
        return brute.clamp(value, one.activation_min, one.activation_max)
    if isinstance(one, Table):
        return int(one.table[at(0) + 128])
    if isinstance(one, Concatenation):
        for source in sources:
            if channel < source.shape[2]:
                return int(source[row, column, channel])
            channel -= source.shape[2]
    assert isinstance(one, Add | Mean | Multiply | Requantise)
    zero_point, multiplier, shift = one.output_scaling
    rounding = one.rounding
    if isinstance(one, Add):
        value = sum(
            brute.rescale((at(index) - zero) << 20, factor, places, Rounding.TWICE)
            for index, (zero, factor, places) in enumerate(one.scalings)
        )
    elif isinstance(one, Mean):
        value = sum(int(v) - one.input_zero_point for v in sources[0][..., channel].flat)
    elif isinstance(one, Multiply):
        pixel = at(1, 0, 0) if sources[1].shape[:2] == (1, 1) else at(1)
        value = (at(0) - one.input_zero_points[0]) * (pixel - one.input_zero_points[1])
    else:
        value = at(0) - one.input_zero_point
    low, high = getattr(one, "activation_min", -128), getattr(one, "activation_max", 127)
    return brute.clamp(brute.rescale(value, multiplier, shift, rounding) + zero_point, low, high)


@pytest.mark.parametrize("batch", [1, 1 << 20])
def test_graph_against_loops(batch: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    made = graphs.every_kind(rng)
    x = rng.integers(-128, 128, (3, *made.input_shape), dtype=np.int8)
    x[1], x[2] = -128, 127
    monkeypatch.setattr(golden.network, "BATCH_ACTIVATIONS", batch)
    outputs = run(made, x, keep=True)
    for sample, image in enumerate(x):
        expected = brute_graph(made, image)
        for index, one in enumerate(made.layers):
            np.testing.assert_array_equal(outputs[index][sample], expected[one.name], one.name)
    for one, output, shape in zip(made.layers, outputs, shapes(made)[1:], strict=True):
        assert output.shape[1:] == shape
        assert len(np.unique(output)) > 5, f"{one.name}: the comparison would show little"
    np.testing.assert_array_equal(run(made, x), outputs[-1])
    assert zero_points(made) == [7, -4, -4, 7, 7, -4, 3, 3, 3, -9, -128, 0, 0, -6]


def test_chain() -> None:
    linked = chain([layer(), layer(name="b"), layer(name="c")])
    assert [one.inputs for one in linked] == [("input",), ("conv",), ("b",)]


def test_a_scale_a_channel_is_a_depthwise_convolution_of_one_tap(seed: int) -> None:
    """Batch normalisation before its activation: within a unit of the output."""
    rng = np.random.default_rng(seed)
    gain, offset = rng.uniform(-2, 2, 6), rng.uniform(-3, 3, 6)
    gain[0] = 0.01
    scale, zero_point, output_scale, output_zero_point = 0.05, -20, 0.06, -128
    unit = scale * np.abs(gain) / 127
    real = unit / output_scale
    shift = np.floor(-np.log2(real)).astype(np.int8)
    W = (127 * np.sign(gain)).astype(np.int8).reshape(6, 1, 1)
    bias = np.rint(offset / unit) - zero_point * W[:, 0, 0].astype(np.int64)
    made = network(
        layer(
            kernel=(1, 1),
            groups=6,
            weights=Stored(W, 8),
            bias=bias.astype(np.int32),
            multiplier=np.rint(real * 2.0 ** (31 + shift.astype(int))).astype(np.int32),
            shift=shift,
            input_zero_point=zero_point,
            output_zero_point=output_zero_point,
            activation_min=output_zero_point,
        ),
        input_shape=(6, 5, 6),
        input_zero_point=zero_point,
    )
    x = rng.integers(-128, 128, (4, 6, 5, 6)).astype(np.int8)
    wanted = np.maximum(0, gain * (scale * (x.astype(float) - zero_point)) + offset)
    integers = np.clip(wanted / output_scale + output_zero_point, -128, 127)
    assert np.abs(run(made, x) - integers).max() < 0.51


def pooling(**changes: Any) -> Pooling:
    arguments: dict[str, Any] = {"name": "a", "mode": "average", "kernel": (2, 2)}
    return Pooling(**(arguments | changes))


def scaling(zero_point: int = 0) -> Scaling:
    return Scaling(zero_point, 1 << 30, 0)


@pytest.mark.parametrize(
    ("make", "changes", "error", "message"),
    [
        (layer, {"inputs": "conv"}, TypeError, "inputs must be a tuple of names, not 'conv'"),
        (layer, {"inputs": ()}, ValueError, "inputs must be 1 of them, not 0"),
        (layer, {"inputs": ("a", "b")}, ValueError, "inputs must be 1 of them, not 2"),
        (Concatenation, {"inputs": ()}, ValueError, "inputs must be at least 1 of them, not 0"),
        (
            pooling,
            {"mode": "maximum", "output_scaling": (0, 1 << 30, 0)},
            ValueError,
            "output_scaling must be None for a maximum",
        ),
        (
            pooling,
            {"output_scaling": (0, 1 << 30, 32)},
            ValueError,
            r"shift of output_scaling must be in -30..31, not 32",
        ),
        (pooling, {"mode": "median"}, ValueError, "mode must be .*, not 'median'"),
        (pooling, {"kernel": (0, 1)}, ValueError, r"kernel must be .*, not \(0, 1\)"),
        (
            pooling,
            {"padding": (0, 0, 0, 2)},
            ValueError,
            r"padding must be less than the kernel \(2, 2\), not \(0, 0, 0, 2\)",
        ),
        (pooling, {"activation_max": 128}, ValueError, "activation_max must be in .*, not 128"),
        (
            Mean,
            {"input_zero_point": 0, "output_scaling": (0, 1)},
            ValueError,
            r"output_scaling must be 3 integers of at least -128, not \(0, 1\)",
        ),
        (
            Mean,
            {"input_zero_point": 0, "output_scaling": (0, 1 << 31, 0)},
            ValueError,
            "multiplier of output_scaling must be in 0..2147483647, not 2147483648",
        ),
        (
            Mean,
            {"input_zero_point": 0, "output_scaling": scaling(), "rounding": "down"},
            ValueError,
            "rounding must be one of up, twice, even, not 'down'",
        ),
        (
            Requantise,
            {"input_zero_point": 0, "output_scaling": (0, 1, -31)},
            ValueError,
            "shift of output_scaling must be in -30..31, not -31",
        ),
        (
            Add,
            {"inputs": ("a", "b"), "scalings": (scaling(),), "output_scaling": scaling()},
            ValueError,
            "scalings must be 2 of them, not 1",
        ),
        (
            Add,
            {"inputs": ("a", "b"), "scalings": ((0, 1, -1),) * 2, "output_scaling": scaling()},
            ValueError,
            "shift of scalings must be in 0..31, not -1",
        ),
        (
            Multiply,
            {"inputs": "ab", "input_zero_points": (0, 200), "output_scaling": scaling()},
            TypeError,
            "inputs must be a tuple of names, not 'ab'",
        ),
        (
            Multiply,
            {"inputs": ("a", "b"), "input_zero_points": (0, 200), "output_scaling": scaling()},
            ValueError,
            "input_zero_points must be in -128..127, not 200",
        ),
        (
            Table,
            {"table": np.zeros(255, np.int8), "output_zero_point": 0},
            ValueError,
            "table must have 256 entries, not 255",
        ),
        (
            Pad,
            {"padding": (1, 1, 1, -1), "input_zero_point": 0},
            ValueError,
            "padding must be 4 integers of at least 0, not",
        ),
    ],
)
def test_kinds_refuse(
    make: Any, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=rf"^layer '\w+': {message}"):
        make(**({"name": "a"} | changes))


def pair(kind: Any, **fields: Any) -> tuple[Layer, ...]:
    """The input and a map of 3 channels, two rows higher, read by a layer of two inputs."""
    other = Pad(name="other", padding=(1, 0, 1, 0), input_zero_point=-128)
    return other, kind(name="both", inputs=("input", "other"), **fields)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([layer(name="input")], "layer 'input': the name is that of the input"),
        ([layer(inputs=("none",))], "layer 'conv': reads 'none', which is not before it"),
        ([layer(inputs=("conv",))], "layer 'conv': reads 'conv', which is not before it"),
        ([layer(), layer(name="b")], "layer 'conv' is read by no other, and is not the last"),
        (
            pair(Add, scalings=(scaling(-128),) * 2, output_scaling=scaling()),
            r"layer 'both': takes maps of the same shape, not \(6, 5, 2\) and \(8, 5, 2\)",
        ),
        (
            pair(Multiply, input_zero_points=(-128, -128), output_scaling=scaling()),
            r"layer 'both': takes maps of the same shape, or one of a single pixel, not \(6, 5, 2",
        ),
        (
            pair(Concatenation),
            r"layer 'both': takes maps of one size, not \(6, 5, 2\) and \(8, 5, 2\)",
        ),
        (
            pair(Add, scalings=(scaling(-128), scaling(3)), output_scaling=scaling()),
            "layer 'both': zero point of scalings must be -128, that of what feeds it, not 3",
        ),
        (
            pair(Multiply, input_zero_points=(5, -128), output_scaling=scaling()),
            "layer 'both': input_zero_points must be -128, that of what feeds it, not 5",
        ),
        (
            [
                Requantise(name="a", input_zero_point=-128, output_scaling=scaling(5)),
                Concatenation(name="both", inputs=("input", "a")),
            ],
            r"layer 'both': takes maps of one zero point, not \(-128, 5\)",
        ),
        ([pooling(kernel=(7, 1))], r"layer 'a': kernel \(7, 1\) .* must fit into"),
        (
            [Mean(name="a", input_zero_point=0, output_scaling=scaling())],
            "layer 'a': input_zero_point must be -128, that of what feeds it, not 0",
        ),
    ],
)
def test_graph_refuses(layers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        network(layers=layers)
