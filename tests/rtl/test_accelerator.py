"""The whole accelerator, loaded through Wishbone, against golden and the cost model."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from golden.code import Code
from golden.network import Network, Stored, run
from insitu.choice import Choice
from insitu.compress import compress
from insitu.cost import program_cycles
from insitu.float_network import FloatConvolution, FloatNetwork
from insitu.network import load
from insitu.pack import pack
from insitu.plan import Plan, plan
from insitu.quantise import calibrate
from rtl.accelerator import Accelerator
from rtl.config import configuration
from rtl.record import OP_END, OP_LAYER, RECORD_WORDS, pack_step
from rtl.registers import CONTROL_BITS, REGISTERS
from sim import Bench, SimulationError, testbench
from sim.accelerator import Job, Result, Step, simulate, work
from sim.accelerator import load as load_payload
from sim.build import ROOT
from tests.insitu.networks import random_generated, random_network, random_stored
from tests.rtl.weights import refuses_other_configurations

EXAMPLE = ROOT / "examples" / "fashion"
START = 1 << CONTROL_BITS["start"].number


def layer_steps(planned: Plan) -> list[Step]:
    """Each layer, or band of one, as a program of its own, with its output read behind it."""
    steps = []
    first = 0
    for part in planned.steps:
        records = range(first, first + len(part.operations))
        program = [
            pack_step(OP_LAYER, planned.records_base // 4 + RECORD_WORDS * index)
            for index in records
        ]
        steps.append(Step([*program, OP_END], part.output.address, part.output.span))
        first = records.stop
    return steps


def compare_layers(planned: Plan, x: np.ndarray, what: str) -> list[list[Result]]:
    """Run every layer on every input: equal to golden and as quick as predicted.

    Cycles are to be within 16 or 1 %, whichever is more.
    """
    job = Job(
        pack(planned),
        planned.input.address,
        [planned.input.place(values) for values in x],
        layer_steps(planned),
    )
    results = simulate(planned.configuration, job)
    expected = run(planned.network, x, keep=True)
    for index, part in enumerate(planned.steps):
        layer = planned.layers[part.layer].layer
        name = f"{what}, layer {layer.name!r}, rows {part.rows.start}..{part.rows.stop - 1}"
        for sample, result in enumerate(results):
            got = part.output.take(result[index].data)
            wanted = expected[part.layer][sample][part.rows.start : part.rows.stop]
            wrong = np.argwhere(got != wanted)
            assert not len(wrong), (
                f"{name}, sample {sample}: {len(wrong)} of {got.size} differ, first at "
                f"{tuple(wrong[0])}: expected {wanted[tuple(wrong[0])]}, "
                f"got {got[tuple(wrong[0])]}"
            )
            predicted = sum(one.cost.cycles for one in part.operations)
            cycles = result[index].cycles - program_cycles(planned.configuration)
            assert abs(predicted - cycles) <= max(16, 0.01 * cycles), (
                f"{name}: {cycles} cycles, {predicted} predicted"
            )
    return results


def compare_output(planned: Plan, x: np.ndarray, what: str) -> None:
    """Run the whole program on every input: the output equals golden's."""
    job = Job(
        pack(planned),
        planned.input.address,
        [planned.input.place(values) for values in x],
        [Step([], planned.output.address, planned.output.span)],
    )
    expected = run(planned.network, x)
    for sample, (result,) in enumerate(simulate(planned.configuration, job)):
        got = planned.output.take(result.data)
        np.testing.assert_array_equal(got, expected[sample], what)
        slack = max(16, 0.01 * result.cycles)
        assert abs(result.cycles - planned.cycles) <= slack, what


def random_case(rng: np.random.Generator, config: str, dataflow: str) -> Network:
    """One layer of a random shape."""
    bounds = configuration(config)
    kernel = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    taps = kernel[0] * kernel[1]
    inputs, outputs = (int(n) for n in rng.integers(1, 40, 2))
    terms = int(rng.integers(1, 1 + min(bounds.generator_terms, taps, inputs)))
    precisions = {
        "qb": int(rng.integers(1, bounds.generator_b_bits + 1)),
        "qu": int(rng.integers(2, bounds.generator_u_bits + 1)),
        "qv": int(rng.integers(1, 9)),
    }
    s1 = int(rng.integers(0, bounds.generator_max_shift + 1))
    kernels = int(rng.integers(1, 33))
    if dataflow == "stored":
        weights = random_stored(rng, outputs, inputs, taps, int(rng.integers(1, 9)))
    elif dataflow == "intra":
        weights = random_generated(rng, outputs, inputs, taps, terms=terms, s1=s1, **precisions)
    elif dataflow == "cross":
        weights = random_generated(
            rng, outputs, inputs, taps, terms=terms, kernels=kernels, s1=s1, **precisions
        )
    elif dataflow == "powers":
        level = None if rng.integers(2) else kernels
        weights = random_generated(
            rng, outputs, inputs, taps, terms=terms, kernels=level, s1=s1, powers=True, **precisions
        )
    else:
        weights = random_generated(rng, outputs, inputs, taps, kernels=kernels, **precisions)
    stride = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    padding = tuple(int(rng.integers(0, 3)) for _ in range(4))
    height, width = (int(rng.integers(side, 10)) for side in kernel)
    layer = {"weights": weights, "kernel": kernel, "stride": stride, "padding": padding}
    return random_network(rng, [layer], (height, width, inputs))


@pytest.mark.parametrize("dataflow", ["stored", "intra", "cross", "powers", "flat"])
@pytest.mark.parametrize(
    "config",
    ["up5k", "sim-8x1", pytest.param("ecp5-45f", marks=pytest.mark.slow)],
)
def test_random_layers(config: str, dataflow: str, seed: int) -> None:
    for number in range(6):
        rng = np.random.default_rng([seed, number])
        network = random_case(rng, config, dataflow)
        x = rng.integers(-128, 128, (1, *network.input_shape)).astype(np.int8)
        what = f"{config}, {dataflow}, seed {seed}, case {number}"
        compare_layers(plan(network, configuration(config)), x, what)


def random_factored(rng: np.random.Generator, config: str, form: str) -> Plan:
    """A compressed layer of a random shape, in as many layers as the form has."""
    bounds = configuration(config)
    kernel = int(rng.integers(1, 4)), int(rng.integers(2, 4))
    taps = kernel[0] * kernel[1]
    inputs, outputs = (int(n) for n in rng.integers(4, 40, 2))
    bits = {
        "qb": int(rng.integers(1, bounds.generator_b_bits + 1)),
        "qu": int(rng.integers(2, bounds.generator_u_bits + 1)),
        "qv": int(rng.integers(2, 9)),
        "terms": int(rng.integers(1, 1 + min(bounds.generator_terms, taps, inputs))),
        "kernels": int(rng.integers(1, 1 + min(outputs, inputs * taps, 24))),
    }
    if form == "stored":
        bits |= {"terms": None, "qu": int(rng.integers(1, 9))}
    if form == "powers":
        bits |= {"qu": 3, "code": Code.POWER_OF_TWO}
    choice = Choice(**bits, factored=True, fully=form == "fully")
    size = *(int(rng.integers(side, 10)) for side in kernel), inputs
    layer = FloatConvolution(
        name="conv",
        kernel=kernel,
        stride=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
        padding=tuple(int(rng.integers(0, 3)) for _ in range(4)),
        weights=rng.standard_normal((outputs, inputs, taps)) / 10,
        bias=rng.standard_normal(outputs),
        low=0.0 if rng.integers(2) else -math.inf,
    )
    floating = FloatNetwork("one", size, (layer,))
    samples = rng.uniform(-1, 2, (20, *size)).astype(np.float32)
    network, _ = compress(floating, calibrate(floating, samples), {"conv": choice}, bounds)
    return plan(network, bounds)


STAGES = {"fully": ["conv.coefficients", "conv.basis", "conv"]}


@pytest.mark.parametrize("form", ["stored", "intra", "powers", "fully"])
@pytest.mark.parametrize(
    "config",
    ["up5k", "sim-8x1", pytest.param("ecp5-45f", marks=pytest.mark.slow)],
)
def test_random_factored_layers(config: str, form: str, seed: int) -> None:
    """W1, stored or generated, and V, each a layer of its own; or U, B and V."""
    for number in range(2):
        rng = np.random.default_rng([seed, number])
        planned = random_factored(rng, config, form)
        names = [one.layer.name for one in planned.layers]
        assert names == STAGES.get(form, ["conv.basis", "conv"])
        x = rng.integers(-128, 128, (1, *planned.input.shape)).astype(np.int8)
        compare_layers(planned, x, f"{config}, {form}, seed {seed}, case {number}")


@pytest.mark.parametrize("dataflow", ["stored", "intra", "cross"])
@pytest.mark.parametrize("config", ["up5k", "sim-8x1"])
def test_multipliers_of_1_or_more(config: str, dataflow: str, seed: int) -> None:
    """Up to 2**9 for half of the channels, which then take a second pass."""
    for number in range(3):
        rng = np.random.default_rng([seed, number])
        network = random_case(rng, config, dataflow)
        (layer,) = network.layers
        count = layer.output_channels
        sharp = rng.random(count) < 0.5
        sharp[0] = True
        places = rng.integers(1, 2 + 4 * number, count)
        layer = dataclasses.replace(
            layer,
            multiplier=np.where(
                sharp, rng.integers(1 << 30, 1 << 31, count), layer.multiplier
            ).astype(np.int32),
            shift=np.where(sharp, -places, layer.shift).astype(np.int8),
        )
        network = dataclasses.replace(network, layers=(layer,))
        x = rng.integers(-128, 128, (2, *network.input_shape)).astype(np.int8)
        planned = plan(network, configuration(config))
        assert len(planned.operations) == 2
        what = f"{config}, {dataflow}, seed {seed}, case {number}"
        compare_layers(planned, x, what)


def example() -> tuple[Network, np.ndarray]:
    """The example network and its 500 test images, as the input map has them."""
    network = load(EXAMPLE / "fashion_compressed.npz")
    images = np.load(EXAMPLE / "fashion500.npz")["inputs"].transpose(0, 2, 3, 1)
    return network, (images.astype(np.int16) - 128).astype(np.int8)


def stored(network: Network) -> Network:
    """The same network with its weights stored."""
    return dataclasses.replace(
        network,
        layers=tuple(
            dataclasses.replace(layer, weights=Stored(W=layer.weights.W, q=8))
            for layer in network.layers
        ),
    )


@pytest.mark.slow
def test_example_on_up5k() -> None:
    network, images = example()
    compare_layers(plan(network, configuration("up5k")), images[:16], "example")


@pytest.mark.slow
def test_program_runs_through() -> None:
    network, images = example()
    planned = plan(network, configuration("up5k"))
    job = Job(
        pack(planned),
        planned.input.address,
        [planned.input.place(values) for values in images[:2]],
        [Step([], planned.output.address, planned.output.span)],
    )
    expected = run(network, images[:2])
    for sample, (result,) in enumerate(simulate(planned.configuration, job)):
        np.testing.assert_array_equal(planned.output.take(result.data), expected[sample])
        assert result.cycles == pytest.approx(planned.cycles, rel=0.01)


@pytest.mark.slow
def test_stored_dataflow_keeps_the_array_busy() -> None:
    network, images = example()
    planned = plan(stored(network), configuration("sim-8x1"))
    (results,) = compare_layers(planned, images[:1], "example, stored")
    assert sum(result.cycles for result in results) <= 1.10 * planned.ideal_cycles


def test_four_bits_run_pointwise_layers_at_full_rate_on_up5k() -> None:
    """Its coefficient memory gives 32 bits a cycle: eight weights of 4 bits, or four of 8."""
    config = configuration("up5k")
    cycles = {}
    for bits in (4, 8):
        rng = np.random.default_rng(bits)
        layer = {"weights": random_stored(rng, 32, 64, 1, bits), "kernel": (1, 1)}
        network = random_network(rng, [layer], (5, 5, 64))
        x = rng.integers(-128, 128, (1, 5, 5, 64)).astype(np.int8)
        planned = plan(network, config)
        ((result,),) = compare_layers(planned, x, f"{bits} bits")
        cycles[bits] = result.cycles / planned.ideal_cycles
    # What is above 1 is mostly the port of the activations, where two words a pixel are written.
    assert cycles[4] <= 1.08
    assert cycles[8] >= 1.95


@pytest.mark.slow
@pytest.mark.parametrize("terms", [1, 2, 3, 4])
def test_intra_level_adds_no_stall(terms: int) -> None:
    """Same layer stored and generated: but for loading the bases the same cycles."""
    config = configuration("sim-8x1")
    rng = np.random.default_rng(terms)
    generated = random_generated(rng, 32, 16, 9, terms=terms, qb=4, qu=4, s1=0)
    cycles = {}
    for name, weights in (("intra", generated), ("stored", Stored(W=generated.W, q=8))):
        layer = {"weights": weights, "kernel": (3, 3), "padding": (1, 1, 1, 1)}
        network = random_network(np.random.default_rng(0), [layer], (14, 14, 16))
        x = np.random.default_rng(1).integers(-128, 128, (1, 14, 14, 16)).astype(np.int8)
        ((result,),) = compare_layers(plan(network, config), x, name)
        cycles[name] = result.cycles
    groups = 4
    assert cycles["intra"] - cycles["stored"] <= groups * 9 * terms + 16


@testbench
async def loses_the_second_start(bench: Bench) -> None:
    """As `sim.accelerator.drive` does it, on a bus that loses a word: after the first run."""
    bus = bench.wishbone("bus")
    write, control = bus.write, REGISTERS["CONTROL"].offset // 4

    async def lossy(address: int, word: int) -> None:
        lost = address == control and (bench.directory / "output0_0").exists()
        await write(address, word & ~START if lost else word)

    bus.write = lossy  # type: ignore[method-assign]
    await load_payload(bench, bus)
    await work(bench, bus)


def test_a_run_that_was_not_is_seen(seed: int) -> None:
    """Two programs of no layer: what is there is of the first run."""
    job = Job(bytes(4), 0, [bytes(4)], [Step([OP_END], 0, 4)] * 2)
    driver = __name__, "loses_the_second_start"
    with pytest.raises(SimulationError, match="expected done locked, got locked"):
        simulate(configuration("up5k"), job, driver=driver, seed=seed, cycles=100_000)
    assert len(simulate(configuration("up5k"), job, seed=seed, cycles=100_000)[0]) == 2


def test_refuses() -> None:
    refuses_other_configurations(Accelerator)


@pytest.mark.parametrize(
    ("base", "changes", "technology", "says"),
    [
        ("up5k", {}, "ICE40", "technology must be one of sim, ice40, ecp5, not 'ICE40'"),
        ("sim-8x1", {}, "ice40", "activation_ports must be 1 where technology is 'ice40', not 2"),
        (
            "up5k",
            {"activation_bytes": 32 << 10},
            "ice40",
            "activation_bytes must be a multiple of 65536 .* a word 32 bits, not 32768",
        ),
        (
            "up5k",
            {"coefficient_port": 64, "coefficient_bytes": 64 << 10},
            "ice40",
            "coefficient_bytes must be a multiple of 131072 .* a word 64 bits, not 65536",
        ),
    ],
)
def test_refuses_what_a_technology_cannot_make(
    base: str, changes: dict[str, int], technology: str, says: str
) -> None:
    config = dataclasses.replace(configuration(base), **changes)
    with pytest.raises(ValueError, match=f"^{says}"):
        Accelerator(config, technology)
