"""Planning: placement, and a message for everything that does not fit."""

import json
from dataclasses import replace

import numpy as np
import pytest

from golden.network import (
    Add,
    Concatenation,
    Convolution,
    Generated,
    Mean,
    Multiply,
    Network,
    Pooling,
    Rounding,
    Scaling,
    Stored,
)
from insitu.errors import FitError, SizeError
from insitu.lowering import MOST_LOWERED
from insitu.maps import Map, lay_out
from insitu.plan import plan, plan_roomy
from insitu.prune import prune
from rtl.config import CONFIGURATIONS, LARGEST_MEMORY
from tests.insitu.networks import random_generated, random_network, random_stored

SIM, UP5K, ECP5 = (CONFIGURATIONS[name] for name in ("sim-8x1", "up5k", "ecp5-45f"))
SMALL = replace(
    UP5K,
    name="small",
    activation_bytes=1 << 16,
    coefficient_bytes=1 << 16,
    coefficient_port=32,
    tile_bytes=6144,
    generator_terms=2,
    generator_u_bits=6,
    generator_b_bits=4,
    basis_depth=256,
    basis_blocks=16,
    accumulator_bits=32,
)
RNG = np.random.default_rng(5)


def network(shape, *layers):
    return random_network(np.random.default_rng(3), [dict(layer) for layer in layers], shape)


def conv(weights, kernel=(3, 3), **options):
    return {"weights": weights, "kernel": kernel, **options}


def stored(co, ci, taps, q=4):
    return random_stored(RNG, co, ci, taps, q)


def generated(co, ci, taps, **options):
    return random_generated(RNG, co, ci, taps, **options)


@pytest.mark.parametrize("config", [SIM, UP5K, ECP5], ids=lambda c: c.name)
@pytest.mark.parametrize("keep", [False, True])
def test_maps_that_live_at_the_same_time_do_not_overlap(config, keep):
    shapes = [(3, 20), (20, 7), (7, 30), (30, 2)]
    layers = [conv(stored(co, ci, 1), (1, 1)) for ci, co in shapes]
    planned = plan(network((9, 7, 3), *layers), config, keep_maps=keep)
    maps = [planned.input] + [layer.output for layer in planned.layers]
    used = max(m.address + m.size for m in maps)
    assert used <= config.activation_bytes
    pairs = [(i, j) for i in range(5) for j in range(i)] if keep else [(i + 1, i) for i in range(4)]
    for i, j in pairs:
        a, b = maps[i], maps[j]
        assert a.address + a.size <= b.address or b.address + b.size <= a.address
    for number, m in enumerate(maps):
        # The host writes the input, which need not fill words.
        word = config.activation_word if number else config.width
        assert m.pitch % word == m.address % config.activation_word == 0
        assert m.pitch >= m.shape[2] > m.pitch - word
    sizes = [-(-m.size // config.activation_word) * config.activation_word for m in maps]
    assert planned.activation_bytes == (
        sum(sizes) if keep else max(sizes[i] + sizes[i + 1] for i in range(4))
    )


def test_a_row_of_taps_takes_the_place_of_channels(seed):
    """One channel on an array that is four wide: a quarter of the steps, and of the memory."""
    rng = np.random.default_rng(seed)
    kernel = conv(stored(5, 1, 20), (5, 4), stride=(2, 2), padding=(4, 1, 5, 1), dilation=(1, 2))
    made = network((11, 9, 1), kernel)
    planned = plan(made, ECP5)
    (one,) = planned.layers[0].operations
    assert one.operation.walk.steps == 5
    assert planned.input.pitch == 4
    assert planned.layers[0].cost.ideal == 5 * 3 * 8
    assert plan(made, SIM).input.window is None
    values = rng.integers(-128, 128, (11, 9, 1)).astype(np.int8)
    memory = np.frombuffer(planned.input.place(values), np.int8).reshape(11, 3, 4)
    padded = np.pad(values[..., 0], [(0, 0), (1, 3)], constant_values=planned.input.zero_point)
    for column in range(3):
        expected = padded[:, 2 * column : 2 * column + 7 : 2]
        np.testing.assert_array_equal(memory[:, column], expected)
    with pytest.raises(ValueError, match="'input' is not there as such"):
        planned.input.take(memory.tobytes())


def test_map_places_and_takes(seed):
    rng = np.random.default_rng(seed)
    m = Map("m", (3, 2, 5), 8, 0, 1)
    values = rng.integers(-128, 128, m.shape).astype(np.int8)
    data = m.place(values)
    assert len(data) == m.size == 48
    np.testing.assert_array_equal(m.take(data), values)
    assert Map.from_report(json.loads(json.dumps(m.report()))) == m
    with pytest.raises(ValueError, match=r"values must have shape \(3, 2, 5\), not \(3, 2, 4\)"):
        m.place(values[..., :4])


def test_report_is_plain_data():
    layers = [conv(generated(16, 4, 9, terms=2, kernels=8)), conv(generated(8, 16, 9, terms=2))]
    planned = plan(network((8, 7, 4), *layers, conv(stored(3, 8, 9))), SMALL, name="mine")
    report = json.loads(json.dumps(planned.report()))
    assert report["network"] == "mine"
    assert [layer["dataflow"] for layer in report["layers"]] == ["cross", "intra", "stored"]
    assert [layer["kind"] for layer in report["layers"]][-1] == "convolution"
    assert report["layers"][0]["ranks"] == {"terms": 2, "kernels": 8}
    assert report["weight_bytes"] * 8 == report["weight_bits"]
    assert report["dense_int8_bytes"] == 16 * 4 * 9 + 8 * 16 * 9 + 3 * 8 * 9
    assert report["cycles"] >= report["ideal_cycles"]


def test_says_how_much_smaller_maps_must_be():
    with pytest.raises(FitError) as error:
        lay_out(network((120, 120, 4), conv(stored(4, 4, 1), (1, 1))), SMALL, keep=False)
    assert "these maps must be 43% smaller, whatever the rank and precision" in str(
        error.value.next_step
    )


def test_says_where_no_precision_fits():
    wide = network((1, 1, 1), conv(stored(1024, 1, 1), (1, 1)))
    tiny = replace(SMALL, coefficient_bytes=4096)
    with pytest.raises(FitError) as error:
        plan(wide, tiny)
    assert "without any weights it does not fit either" in error.value.next_step


def test_says_that_pruning_would_do():
    """Weights of 0 make half of the channels constant, and what reads them so does without."""
    made = network((1, 1, 64), conv(stored(64, 64, 1, q=8), (1, 1)), conv(stored(8, 64, 1), (1, 1)))
    first, last = made.layers
    half = first.weights.W.copy()
    half[:32] = 0
    made = replace(made, layers=(replace(first, weights=replace(first.weights, W=half)), last))
    config = replace(UP5K, coefficient_bytes=4 << 10)
    with pytest.raises(FitError, match=r"\(--prune\), which leaves (\d+) bytes") as error:
        plan(made, config)
    pruned = plan(prune(made).network, config)
    assert f"leaves {pruned.payload_bytes} bytes" in error.value.next_step
    plan(made, replace(config, coefficient_bytes=8 << 10))


def test_as_if_there_were_more_coefficient_memory():
    made = network((3, 3, 128), conv(stored(200, 128, 9)))
    small = replace(SMALL, coefficient_bytes=1 << 10)
    planned = plan_roomy(made, small, name="mine")
    assert planned.configuration == replace(small, coefficient_bytes=LARGEST_MEMORY)
    assert planned.payload_bytes > 200 * 128 * 9 // 2
    # Whatever else is missing.
    with pytest.raises(FitError, match="'layer0' needs at least 116144 bytes"):
        plan_roomy(network((120, 120, 8), conv(stored(8, 8, 9), (3, 3))), small)
    padded = conv(stored(64, 32, 1), (1, 1), padding=(64, 0, 0, 0))
    with pytest.raises(FitError, match="'layer0' needs row_start = -64"):
        plan_roomy(network((2, 2, 32), padded), small)


def test_more_than_any_memory_is_told_of_the_configuration_named():
    huge = network((3, 3, 1024), conv(stored(1024, 1024, 9)))
    with pytest.raises(SizeError, match=r"coefficient memory, small has 65536: ") as error:
        plan_roomy(huge, SMALL)
    assert "compress it to 0.0 bits a weight" in error.value.next_step


def test_fully_connected_is_named():
    planned = plan(network((4, 3, 2), conv(stored(5, 2, 12), (4, 3))), SIM)
    assert planned.layers[0].kind == "fully connected"


REFUSED = {
    "coefficient memory": (
        lambda: network((3, 3, 128), conv(stored(200, 128, 9))),
        (
            r"needs \d+ bytes of coefficient memory, small has 65536: \d+ bytes are missing; "
            "the largest layer, 'layer0', takes 115200"
        ),
        "sim-8x1",
    ),
    "activation memory": (
        lambda: network((120, 120, 8), conv(stored(8, 8, 9), (3, 3))),
        (
            "layer 'layer0' needs at least 116144 bytes of activation memory in bands of rows, "
            r"226592 as a whole, for the maps .* 50608 bytes are missing"
        ),
        "sim-8x1",
    ),
    "tile": (
        lambda: network((3, 3, 100), conv(generated(8, 100, 9, terms=2, kernels=4, qu=4, s1=0))),
        "weight tile of 7200 bytes, small has 6144: 1056 bytes are missing",
        "sim-8x1 or sim-16x4 or ecp5-45f",
    ),
    "kernels": (
        lambda: network((3, 3, 2), conv(generated(200, 2, 9, terms=2, kernels=130))),
        r"130 basis kernels \(Bo\), small holds 128",
        "sim-8x1",
    ),
    "basis": (
        lambda: network((3, 6, 2), conv(generated(200, 2, 18, terms=2, kernels=120), (3, 6))),
        "270 words of basis buffer, small has 256",
        "sim-8x1",
    ),
    "terms": (
        lambda: network((3, 3, 8), conv(generated(8, 8, 9, terms=3))),
        r"3 basis terms \(Bi\), small sums at most 2",
        "sim-8x1",
    ),
    "taps": (
        lambda: network((3, 3, 8), conv(generated(8, 8, 1, terms=2), (1, 1))),
        r"2 basis terms \(Bi\) and 1 taps",
        "at most 1",
    ),
    "u": (
        lambda: network((3, 3, 8), conv(generated(8, 8, 9, terms=2, qu=8))),
        "a U of 8 bits, the generator of small takes at most 6",
        "sim-8x1",
    ),
    "b": (
        lambda: network((3, 3, 8), conv(generated(8, 8, 9, terms=2, qb=5))),
        "a B of 5 bits, the generator of small takes at most 4",
        "sim-8x1",
    ),
    "flat u": (
        lambda: network((3, 3, 8), conv(generated(8, 8, 9, kernels=4, qu=7))),
        "a U of 7 bits",
        "sim-8x1",
    ),
    "s1": (
        lambda: network((3, 3, 8), conv(generated(8, 8, 9, terms=2, s1=3))),
        "shifts its intra level by 3, small by at most 2",
        "sim-8x1",
    ),
    "s2": (
        lambda: network((3, 3, 8), conv(generated(8, 8, 9, terms=2, kernels=4, s2=0))),
        "shifts its cross level by 0",
        "compress it again",
    ),
    "kernel": (
        lambda: network((40, 2, 1), conv(stored(1, 1, 40), (40, 1), padding=(1, 0, 0, 0))),
        r"needs row_channel_step = -39, [a-z0-9-]+ holds -32\.\.31",
        "use a smaller kernel",
    ),
    "width": (
        lambda: network((1, 1030, 1), conv(stored(1, 1, 1), (1, 1))),
        r"needs output_width = 1029, [a-z0-9-]+ holds 0\.\.1023",
        "use smaller feature maps",
    ),
    "padding": (
        lambda: network((2, 2, 1), conv(stored(1, 1, 1), (1, 1), padding=(64, 0, 0, 0))),
        r"needs row_start = -64, [a-z0-9-]+ holds -32\.\.31",
        "use less padding",
    ),
    "dilation": (
        lambda: network(
            (2, 2, 1), conv(stored(1, 1, 4), (2, 2), dilation=(33, 1), padding=(20, 0, 20, 0))
        ),
        r"needs row_ky_step = 33",
        "use a smaller dilation",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_named(case):
    build, cause, next_step = REFUSED[case]
    with pytest.raises(FitError, match=cause) as error:
        plan(build(), SMALL)
    assert next_step in error.value.next_step


def test_powers_of_two_need_a_wider_generator():
    one = network((3, 3, 8), conv(generated(8, 8, 9, terms=2, s1=0, powers=True)))
    message = "U in powers of two, up to 4, the generator of small takes numbers of 3 bits"
    with pytest.raises(FitError, match=message) as error:
        plan(one, replace(SMALL, generator_u_bits=3))
    assert "compress it with a uniform U, or use configuration sim" in error.value.next_step
    (layer,) = plan(one, replace(SMALL, generator_u_bits=4)).layers
    assert layer.operations[0].record["powers"] == 1
    assert layer.report(SMALL)["code"] == "power-of-two"


def test_a_tile_may_have_more_segments_than_there_are_activation_words():
    """One for each input channel and tap of stored basis kernels."""
    config = replace(SMALL, family="sim", activation_bytes=1 << 10)
    made = network((3, 3, 32), conv(generated(8, 32, 9, kernels=4)))
    (layer,) = plan(made, config).layers
    assert layer.operations[0].record["stream_repeats"] == 32 * 9 - 1 > config.activation_words


def test_kept_maps_that_do_not_fit_are_named():
    small = network((60, 60, 4), *(conv(stored(4, 4, 1), (1, 1)) for _ in range(5)))
    plan(small, SMALL)
    with pytest.raises(FitError, match="together take 86400 bytes"):
        plan(small, SMALL, keep_maps=True)


def test_a_kernel_without_padding_may_be_larger():
    one = plan(network((60, 2, 1), conv(stored(1, 1, 60), (60, 1))), SMALL)
    assert one.layers[0].output.shape == (1, 2, 1)


def test_generated_weights_in_groups_are_refused():
    one = network((3, 3, 2), conv(generated(4, 2, 9, terms=2)))
    layer = replace(one.layers[0], groups=2)
    grouped = Network(
        layers=(layer,),
        input_shape=(3, 3, 4),
        input_scale=1.0,
        input_zero_point=layer.input_zero_point,
        output_scale=1.0,
    )
    with pytest.raises(FitError, match="convolution in 2 groups with generated weights"):
        plan(grouped, SIM)


def convolution(name, source, co, ci, **options):
    """A pointwise convolution of a graph, zero points 0."""
    return Convolution(
        name=name,
        inputs=(source,),
        kernel=(1, 1),
        weights=stored(co, ci, 1),
        bias=np.zeros(co, np.int32),
        multiplier=np.full(co, 1 << 30, np.int32),
        shift=np.full(co, 3, np.int8),
        input_zero_point=0,
        output_zero_point=0,
        rounding=Rounding.TWICE,
        **options,
    )


def graph(shape, *layers, input_zero_point=0):
    return Network(
        layers=layers,
        input_shape=shape,
        input_scale=1.0,
        input_zero_point=input_zero_point,
        output_scale=1.0,
    )


def add(name, *inputs):
    half = Scaling(0, 1 << 30, 0)
    return Add(
        name=name, inputs=inputs, scalings=(half, half), output_scaling=half._replace(shift=18)
    )


def test_a_row_of_taps_does_not_cost_memory_that_is_missing():
    """Unrolled, this input takes 62,208 bytes; as it is, 20,736."""
    kernel = conv(stored(16, 3, 49), (7, 7), stride=(2, 2), padding=(2, 2, 3, 3))
    planned = plan(network((72, 72, 3), kernel), ECP5)
    assert planned.input.window is None
    assert planned.activation_bytes == 20_736 + 36 * 36 * 16
    narrow = plan(network((36, 36, 3), kernel), ECP5)
    assert narrow.input.window.kernel == 7


def test_average_pooling_with_padding_of_a_large_map():
    """Three kinds of rows by three kinds of columns, wherever they are."""
    pooling = Pooling(
        name="pool", mode="average", kernel=(3, 3), padding=(1, 1, 1, 1), inputs=("input",)
    )
    planned = plan(graph((90, 70, 8), pooling), SIM)
    records = [one.record for one in planned.operations]
    assert len(records) == 9
    assert {(r["output_height"] + 1, r["output_width"] + 1) for r in records} == {
        *((1, 70), (88, 70), (1, 1), (88, 1)),
    }


def test_one_channel_to_one_is_dense():
    planned = plan(network((5, 5, 1), conv(stored(1, 1, 9))), UP5K)
    assert not planned.operations[0].operation.depthwise


def test_products_need_seventeen_bits():
    product = Multiply(
        name="square",
        inputs=("input", "input"),
        input_zero_points=(0, 0),
        output_scaling=Scaling(0, 1 << 30, 3),
    )
    made = graph((1, 1, 3), product)
    plan(made, replace(SIM, accumulator_bits=17))
    with pytest.raises(FitError, match="products of up to 65025"):
        plan(made, replace(SIM, accumulator_bits=16))


def test_products_need_a_tile():
    """128, less the zero points, is no int8: it is added in two parts, with each of three words."""
    product = Multiply(
        name="square",
        inputs=("input", "input"),
        input_zero_points=(-128, -128),
        output_scaling=Scaling(0, 1 << 30, 3),
    )
    made = graph((1, 1, 3), product, input_zero_point=-128)
    plan(made, replace(SIM, tile_bytes=9 * 8))
    with pytest.raises(FitError, match="a weight tile of 72 bytes, sim-8x1 has 64"):
        plan(made, replace(SIM, tile_bytes=8 * 8))


def test_concatenation_costs_nothing():
    """Nested as in a dense block: all in one region, each where it must be."""
    made = graph(
        (4, 4, 16),
        convolution("a", "input", 8, 16),
        Concatenation(name="ab", inputs=("input", "a")),
        convolution("b", "ab", 8, 24),
        Concatenation(name="abc", inputs=("ab", "b")),
        convolution("c", "abc", 8, 32),
    )
    planned = plan(made, SIM)
    maps = {layer.layer.name: layer for layer in planned.layers}
    assert not maps["ab"].operations
    assert not maps["abc"].operations
    base = planned.input.address
    offsets = {name: maps[name].output.address - base for name in ("a", "ab", "b", "abc")}
    assert offsets == {"a": 16, "ab": 0, "b": 24, "abc": 0}
    assert {maps[name].output.pitch for name in offsets} == {32}
    assert planned.activation_bytes == 16 * 32 + 16 * 8


def test_maps_that_do_not_fill_words_leave_holes():
    made = graph(
        (2, 2, 3),
        convolution("a", "input", 5, 3),
        Concatenation(name="both", inputs=("input", "a")),
        convolution("b", "both", 4, 8),
    )
    both = plan(made, SIM).layers[1].output
    assert both.pieces == ((0, 3), (8, 5))
    assert both.positions.tolist() == [0, 1, 2, 8, 9, 10, 11, 12]
    assert both.pitch == 16


def test_what_is_joined_twice_is_copied():
    made = graph(
        (2, 2, 8),
        convolution("a", "input", 8, 8),
        Concatenation(name="first", inputs=("a", "input")),
        Concatenation(name="second", inputs=("first", "a", "a")),
    )
    planned = plan(made, SIM)
    assert [len(layer.operations) for layer in planned.layers] == [1, 0, 2]


def test_sums_are_in_place():
    made = graph(
        (4, 4, 8),
        convolution("a", "input", 8, 8),
        add("sum", "input", "a"),
        convolution("b", "sum", 8, 8),
    )
    planned = plan(made, SIM)
    maps = [planned.input, *(layer.output for layer in planned.layers)]
    assert maps[2].address in (maps[0].address, maps[1].address)
    assert planned.activation_bytes == 2 * 128
    kept = plan(made, SIM, keep_maps=True)
    assert kept.activation_bytes == 4 * 128


def test_what_is_summed_and_joined_is_copied():
    made = graph(
        (4, 4, 8),
        convolution("a", "input", 8, 8),
        convolution("b", "a", 8, 8),
        add("sum", "a", "b"),
        Concatenation(name="both", inputs=("a", "sum")),
    )
    planned = plan(made, SIM)
    a, b, _, both = (layer.output for layer in planned.layers)
    assert a.pitch == b.pitch == 8
    assert both.pitch == 16
    assert [len(layer.operations) for layer in planned.layers] == [1, 1, 1, 1]


def test_sums_with_gaps_are_refused():
    made = graph(
        (4, 4, 3),
        convolution("a", "input", 5, 3),
        Concatenation(name="both", inputs=("input", "a")),
        convolution("b", "both", 8, 8),
        add("sum", "both", "b"),
    )
    with pytest.raises(FitError, match="'sum' adds maps of which one is a concatenation with gaps"):
        plan(made, SIM)


def test_accumulators_are_proved():
    ones = Stored(np.full((1, 4, 9), 127, np.int8), 8)
    one = network((3, 3, 4), conv(ones))
    narrow = replace(SIM, accumulator_bits=20)
    # 36 * 127 * 128 = 585,216 needs 21 bits.
    with pytest.raises(
        FitError, match=r"accumulator of output channel 0 reaches -585216\.\.580644"
    ):
        plan(one, narrow)
    plan(one, replace(SIM, accumulator_bits=21))
    layer = replace(one.layers[0], bias=np.array([2**31 - 580645], np.int32))
    plan(replace(one, layers=(layer,)), SIM)
    layer = replace(layer, bias=np.array([2**31 - 580644], np.int32))
    with pytest.raises(FitError, match="accumulator with its bias of output channel 0"):
        plan(replace(one, layers=(layer,)), SIM)


def test_cross_level_sum_is_proved():
    weights = Generated(
        U=np.ones((40, 4, 1), np.int8), V=np.ones((8, 40), np.int8), qu=2, qv=2, s2=1
    )
    one = network((1, 1, 4), conv(weights, (1, 1)))
    with pytest.raises(FitError, match="sums up to 645160 in its cross level"):
        plan(one, replace(SIM, accumulator_bits=20))


def test_what_the_engine_cannot_run_is_named():
    square = Multiply(
        name="square",
        inputs=("input", "input"),
        input_zero_points=(0, 0),
        output_scaling=Scaling(0, 1 << 30, 3),
    )
    with pytest.raises(FitError, match="'square' multiplies two maps of several pixels each"):
        plan(graph((2, 2, 3), square), UP5K)


@pytest.mark.parametrize("rounding", Rounding)
def test_multipliers_of_1_or_more_take_a_second_pass(rounding, seed):
    rng = np.random.default_rng(seed)
    layers = [{"weights": random_stored(rng, 20, 3, 1, 8), "kernel": (1, 1), "rounding": rounding}]
    network = random_network(rng, layers, (4, 4, 3))
    (layer,) = network.layers
    shift = np.where(np.arange(20) == 13, -2, layer.shift).astype(np.int8)
    sharp = replace(network, layers=(replace(layer, shift=shift),))
    usual, planned = plan(network, SIM), plan(sharp, SIM)
    assert len(planned.operations) == len(usual.operations) + 1
    assert planned.cycles - usual.cycles >= 4 * 4 * 3  # Each lane group of each pixel.


def test_biases_wider_than_their_word_are_refused(seed):
    """Where a channel's parameters take two words, its bias has 27 bits."""
    rng = np.random.default_rng(seed)
    layers = [{"weights": random_stored(rng, 3, 3, 1, 8), "kernel": (1, 1)}]
    network = random_network(rng, layers, (4, 4, 3))
    (layer,) = network.layers
    for bias, fits in (((1 << 26) - 1, True), (1 << 26, False), (-(1 << 26) - 1, False)):
        wide = replace(layer, bias=np.array([0, bias, 0], np.int32))
        wide = replace(network, layers=(wide,))
        plan(wide, SIM)
        if fits:
            plan(wide, UP5K)
        else:
            with pytest.raises(FitError, match=f"has a bias of {bias} in output channel 1"):
                plan(wide, UP5K)


def multiplied(weight, bias, *, multiplier=1 << 30, shift=-1, zero_point=0, low=0):
    """A network of one channel, multiplied by 1 or more: by 1, where nothing else is said."""
    layer = Convolution(
        name="sharp",
        inputs=("input",),
        kernel=(1, 1),
        weights=Stored(np.full((1, 1, 1), weight, np.int8), 8),
        bias=np.array([bias], np.int32),
        multiplier=np.array([multiplier], np.int32),
        shift=np.array([shift], np.int8),
        input_zero_point=0,
        output_zero_point=zero_point,
        activation_min=low,
        rounding=Rounding.UP,
    )
    return graph((1, 1, 1), layer)


def test_biases_are_proved_as_they_are_packed():
    """Of a multiplier of 1 or more: the first pass has a lower bias, by 128 with these limits."""
    least = -(1 << 26)
    first, _ = plan(multiplied(0, least + 128), UP5K).operations
    assert first.operation.bias[0] == least
    for bias in (least + 127, least):
        message = rf"'sharp' needs a bias of {bias - 128} in output channel 0, .* holds 27 bits"
        with pytest.raises(FitError, match=message):
            plan(multiplied(0, bias), UP5K)
    plan(multiplied(0, least, shift=0), UP5K)


def test_sums_are_proved_as_they_are_packed():
    far = -(1 << 31) + 127 * 128
    plan(multiplied(127, far + 255), SIM)
    for bias in (far + 254, far + 200, far, -(1 << 31) + 200):
        with pytest.raises(FitError, match="accumulator with its bias of output channel 0"):
            plan(multiplied(127, bias), SIM)
    # Nothing is taken from the bias of a multiplier below 1, or of 0.
    plan(multiplied(127, far, shift=0), SIM)
    plan(multiplied(127, far, multiplier=0), SIM)


def test_no_bias_is_lowered_by_more_than_is_proved(seed):
    rng = np.random.default_rng(seed)
    seen = set()
    for _ in range(300):
        zero_point, low = (int(n) for n in rng.choice([-128, -127, -1, 0, 126, 127], 2))
        multiplier = int(rng.choice([1 << 30, (1 << 31) - 1, rng.integers(1 << 30, 1 << 31)]))
        shift = -int(rng.integers(1, 12))
        made = multiplied(
            1, 1000, multiplier=multiplier, shift=shift, zero_point=zero_point, low=low
        )
        lowered = 1000 - int(plan(made, UP5K).operations[0].operation.bias[0])
        assert 0 <= lowered <= MOST_LOWERED, f"seed {seed}: {made.layers[0]}"
        seen.add(lowered)
    assert {0, MOST_LOWERED} <= seen


def test_sums_that_can_wrap_around_are_refused(seed):
    """Rounded twice, a multiplier of 1 or more shifts the sum to the left, within 32 bits."""
    rng = np.random.default_rng(seed)
    weights = random_stored(rng, 3, 3, 1, 8)
    layers = [{"weights": weights, "kernel": (1, 1), "rounding": Rounding.TWICE}]
    network = random_network(rng, layers, (4, 4, 3))
    (layer,) = network.layers
    bias = np.array([0, 1 << 20, 0], np.int32)
    for places, fits in ((9, True), (12, False)):
        shift = np.array([3, -places, 3], np.int8)
        sharp = replace(network, layers=(replace(layer, bias=bias, shift=shift),))
        if fits:
            plan(sharp, SIM)
        else:
            with pytest.raises(FitError, match="shifted to the left, of output channel 1 reaches"):
                plan(sharp, SIM)
            once = replace(sharp.layers[0], rounding=Rounding.UP)
            plan(replace(sharp, layers=(once,)), SIM)
    mean = Mean(name="mean", input_zero_point=0, output_scaling=Scaling(0, 1 << 30, -25))
    with pytest.raises(FitError, match="'mean' shifts sums of up to 4080 to the left by 25 bits"):
        plan(graph((4, 4, 3), mean), SIM)
