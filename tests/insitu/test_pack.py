"""Plan, packing and format: payloads run by an independent interpreter equal the golden model."""

from dataclasses import replace

import numpy as np
import pytest

from golden.network import run
from insitu.errors import FitError
from insitu.image import Image
from insitu.network import from_bytes
from insitu.pack import _channel_words, make_image, pack
from insitu.plan import plan
from rtl.config import CONFIGURATIONS
from rtl.record import CROSS, INTRA, STORED
from tests.insitu.interpreter import Interpreter
from tests.insitu.networks import random_generated, random_network, random_stored
from tests.insitu.random_networks import random_layers, random_plan
from tests.insitu.test_plan import multiplied

CONFIGS = [
    replace(config, tile_bytes=max(config.tile_bytes, 256 * config.lanes))
    for config in CONFIGURATIONS.values()
]
"""Those that there are, with room for the weights of the networks below."""


def stored(rng, co, ci, taps, q):
    return random_stored(rng, co, ci, taps, q)


def cases(rng, config):
    """Name, input shape and layers of networks that exercise every dataflow."""

    def intra(co, ci, taps, terms, s1=2, qu=4, qb=4, **options):
        options |= {
            "terms": min(terms, config.generator_terms),
            "s1": min(s1, config.generator_max_shift),
            "qu": min(qu, config.generator_u_bits),
            "qb": min(qb, config.generator_b_bits),
        }
        return random_generated(rng, co, ci, taps, **options)

    def cross(co, ci, taps, terms, kernels, **options):
        if terms is None:
            options["qu"] = min(options["qu"], config.generator_u_bits)
            return random_generated(rng, co, ci, taps, kernels=kernels, **options)
        return intra(co, ci, taps, terms, kernels=kernels, **options)

    k3, k1 = {"kernel": (3, 3)}, {"kernel": (1, 1)}
    same = {"padding": (1, 1, 1, 1)}
    uneven = {"padding": (0, 1, 2, 1), "stride": (2, 1)}
    return {
        "one": ((1, 1, 1), [{"weights": stored(rng, 1, 1, 1, 8), **k1}]),
        "stored": (
            (7, 6, 3),
            [
                {"weights": stored(rng, 13, 3, 9, 8), **k3, **same},
                {"weights": stored(rng, 5, 13, 6, 3), "kernel": (2, 3), **uneven},
                {"weights": stored(rng, 17, 5, 1, 5), **k1, "stride": (2, 2)},
                {"weights": stored(rng, 10, 17, 6, 1), "kernel": (2, 3)},
            ],
        ),
        "dilated": (
            (9, 8, 5),
            [
                {
                    "weights": stored(rng, 9, 5, 6, 2),
                    "kernel": (3, 2),
                    "dilation": (2, 3),
                    "padding": (3, 0, 1, 2),
                    "stride": (1, 2),
                }
            ],
        ),
        "intra": (
            (5, 7, 6),
            [
                {"weights": intra(18, 6, 9, 2), **k3, **same},
                {"weights": intra(9, 18, 9, 3, qu=6, qb=3, s1=4), **k3, **uneven},
                {"weights": intra(33, 9, 4, 4, qu=1, qb=2, s1=0), "kernel": (2, 2), **same},
                {"weights": intra(8, 33, 2, 1, qu=2, qb=1, s1=0), "kernel": (1, 2)},
            ],
        ),
        "cross": (
            (6, 5, 5),
            [
                {"weights": cross(21, 5, 9, 2, 19), **k3, **same},
                {"weights": cross(40, 21, 9, 1, 5, qv=8, s2=7), **k3, **uneven},
                {
                    "weights": cross(7, 40, 6, 3, 33, s1=0, s2=1, qb=1, qu=1, qv=1),
                    "kernel": (2, 3),
                    **same,
                },
                {"weights": cross(16, 7, 9, 3, 16, qu=6, s1=4, s2=1), **k3, **same},
            ],
        ),
        "powers": (
            (6, 5, 5),
            [
                {"weights": intra(18, 5, 9, 3, powers=True), **k3, **same},
                {"weights": cross(21, 18, 6, 2, 19, powers=True), "kernel": (2, 3), **same},
                {"weights": intra(9, 21, 9, 1, qu=3), **k3, **uneven},
            ],
        ),
        "flat": (
            (4, 4, 9),
            [
                {"weights": cross(19, 9, 4, None, 11, qu=3), "kernel": (2, 2), **same},
                {"weights": cross(32, 19, 1, None, 16, qu=6, qv=8), **k1},
                {"weights": cross(10, 32, 8, None, 9, qu=1, qv=1, s2=1), "kernel": (2, 4)},
            ],
        ),
    }


NAMES = ["one", "stored", "dilated", "intra", "cross", "powers", "flat"]


def inputs(rng, shape):
    return rng.integers(-128, 128, shape).astype(np.int8)


def run_payload(planned, x):
    """Every layer's output, by the interpreter, from a memory of noise that holds input `x`."""
    config = planned.configuration
    rng = np.random.default_rng(1)
    memory = bytearray(rng.bytes(config.activation_bytes))
    source = planned.input
    memory[source.address : source.address + source.span] = source.place(x)
    interpreter = Interpreter(pack(planned), config)
    interpreter.run(memory)
    results = []
    for layer, written in zip(planned.layers, interpreter.maps, strict=True):
        target = layer.output
        assert min(written) >= target.address
        assert max(written) < target.address + target.size
        data = bytes(written.get(target.address + i, 0) for i in range(target.size))
        results.append(target.take(data))
    return results, interpreter


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("name", NAMES)
def test_payload_computes_what_golden_computes(name, config, seed):
    rng = np.random.default_rng(seed)
    shape, layers = cases(rng, config)[name]
    network = random_network(rng, layers, shape)
    x = inputs(rng, shape)
    planned = plan(network, config)
    got, interpreter = run_payload(planned, x)
    for layer, result, expected in zip(
        planned.layers, got, run(network, x[np.newaxis], keep=True), strict=True
    ):
        assert len(np.unique(expected)) > 1 or expected.size < 10, "the test network is degenerate"
        wrong = np.argwhere(result != expected[0])
        assert not len(wrong), (
            f"seed {seed}: {layer.layer.name} at {wrong[0]}: got {result[tuple(wrong[0])]}, "
            f"expected {expected[0][tuple(wrong[0])]}"
        )
    assert len(interpreter.weights) == len(layers)


def test_network_comes_back_from_its_image(seed):
    rng = np.random.default_rng(seed)
    network = random_layers(rng, CONFIGURATIONS["sim-8x1"], 6)
    image = Image.from_bytes(make_image(plan(network, CONFIGURATIONS["sim-8x1"])).to_bytes())
    again = from_bytes(image.network, "image")
    x = inputs(rng, (3, *network.input_shape))
    np.testing.assert_array_equal(run(again, x), run(network, x))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("number", range(4))
def test_payloads_of_every_kind_of_layer(number, config, seed):
    rng = np.random.default_rng([seed, number])
    planned = random_plan(rng, config, 10, keep_maps=bool(number % 2))
    network = planned.network
    x = inputs(rng, network.input_shape)
    rng_memory = np.random.default_rng(1)
    memory = bytearray(rng_memory.bytes(config.activation_bytes))
    source = planned.input
    memory[source.address : source.address + source.span] = source.place(x)
    interpreter = Interpreter(pack(planned), config)
    ends = np.cumsum([len(layer.operations) for layer in planned.layers]).tolist()
    expected = dict(zip(ends, range(len(ends)), strict=True))
    results = run(network, x[np.newaxis], keep=True)
    for done, _ in enumerate(interpreter.step(memory), 1):
        if done in expected:
            index = expected[done]
            target = planned.layers[index].output
            got = target.take(bytes(memory[target.address : target.address + target.span]))
            wrong = np.argwhere(got != results[index][0])
            name = planned.layers[index].layer.name
            assert not len(wrong), f"seed {seed}, network {number}, {name}: {len(wrong)} differ"
    assert done == ends[-1]


@pytest.mark.parametrize(
    ("name", "weight", "bias"),
    [("up5k", 0, -(1 << 26) + 128), ("sim-8x1", 127, -(1 << 31) + 127 * 128 + 255)],
)
def test_the_least_biases_of_multipliers_of_1_or_more(name, weight, bias):
    """As low as the first of their two passes lets them be."""
    network = multiplied(weight, bias)
    planned = plan(network, CONFIGURATIONS[name])
    assert len(planned.operations) == 2
    for value in (-128, 0, 127):
        x = np.full((1, 1, 1), value, np.int8)
        memory = bytearray(planned.configuration.activation_bytes)
        memory[planned.input.address] = value & 0xFF
        Interpreter(pack(planned), planned.configuration).run(memory)
        got = planned.output.take(bytes(memory[planned.output.address :]))
        assert got == run(network, x[np.newaxis])[0], f"for the input {value}"


def test_parameters_that_do_not_fit_are_not_packed():
    config = CONFIGURATIONS["up5k"]
    good = {"bias": -(1 << 26), "multiplier": 1, "shift": 31}
    for name, value in (("bias", 1 << 26), ("bias", -(1 << 26) - 1), ("shift", 32), ("shift", -1)):
        words = {key: np.array([one], np.int32) for key, one in (good | {name: value}).items()}
        with pytest.raises(RuntimeError, match="are not proved to fit 27 and 5 bits"):
            _channel_words(**words, config=config)
    words = {key: np.array([one], np.int32) for key, one in good.items()}
    assert _channel_words(**words, config=config).tolist() == [[31 << 27 | 1 << 26, 1]]


def test_dataflow_follows_the_weights(seed):
    rng = np.random.default_rng(seed)
    config = CONFIGURATIONS["sim-8x1"]
    all_cases = cases(rng, config)
    for name, dataflow in (("stored", STORED), ("intra", INTRA), ("cross", CROSS), ("flat", CROSS)):
        shape, layers = all_cases[name]
        for planned in plan(random_network(rng, layers, shape), config).layers:
            (one,) = planned.operations
            assert one.operation.dataflow == dataflow
            assert one.operation.flat == (name == "flat")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_weight_bits_count_every_stored_bit(config, seed):
    rng = np.random.default_rng(seed)
    for shape, layers in cases(rng, config).values():
        planned = plan(random_network(rng, layers, shape), config)
        coefficients = len(pack(planned)) - planned.coefficients_base
        assert planned.weight_bits == 8 * coefficients
        assert planned.weight_bits == sum(p["weight_bits"] for p in planned.report()["layers"])
        for layer in planned.layers:
            assert layer.weight_bits >= sum(layer.layer.weights.bits.values())


def test_random_networks_are_of_every_kind_and_mostly_fit(seed):
    kinds, refused = set(), 0
    for number in range(60):
        rng = np.random.default_rng([seed, number])
        config = CONFIGS[number % len(CONFIGS)]
        network = random_layers(rng, config, 10)
        try:
            kinds |= {layer.kind for layer in plan(network, config).layers}
        except FitError:
            refused += 1
    assert refused <= 6
    assert kinds >= {
        *("convolution", "depthwise", "pooling", "mean", "add", "multiply", "concatenation"),
        *("requantise", "table", "pad"),
    }
