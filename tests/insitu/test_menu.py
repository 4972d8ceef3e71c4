"""Options of layers: prices against plans, losses against the network itself, and what is kept."""

from dataclasses import replace

import numpy as np
import pytest

import insitu.menu
from golden.code import Code
from golden.network import run
from insitu.choice import Choice
from insitu.compress import compress, compressible
from insitu.errors import FitError
from insitu.float_network import (
    FloatAdd,
    FloatConvolution,
    FloatMultiply,
    FloatNetwork,
    FloatPooling,
)
from insitu.menu import (
    Sensitivity,
    Store,
    choices_for,
    distance,
    menus_for,
    network_digest,
    place,
)
from insitu.plan import Price, plan
from insitu.quantise import calibrate
from rtl.config import CONFIGURATIONS, LARGEST_MEMORY

UP5K = CONFIGURATIONS["up5k"]


@pytest.fixture
def few(monkeypatch):
    """Menus of few options, which are fitted in no time."""
    monkeypatch.setattr(insitu.menu, "_SHARES", (1 / 2,))
    monkeypatch.setattr(insitu.menu, "_INTRA", ((4, 4), (3, 3)))
    monkeypatch.setattr(insitu.menu, "_BASES", ((3, 3),))
    monkeypatch.setattr(insitu.menu, "_FLAT", ((3, 4),))


def layer(rng, name, before, co, ci, kernel, **options):
    taps = kernel[0] * kernel[1]
    return FloatConvolution(
        name=name,
        inputs=(before,),
        kernel=kernel,
        weights=rng.standard_normal((co, ci, taps)) / np.sqrt(ci * taps),
        bias=0.1 * rng.standard_normal(co),
        **options,
    )


def small_network(rng):
    """A residual block with all kinds of layers that can be compressed."""
    same = {"padding": (1, 1, 1, 1), "low": 0.0}
    return FloatNetwork(
        "small",
        (8, 8, 3),
        (
            layer(rng, "first", "input", 16, 3, (3, 3), **same),
            layer(rng, "wide", "first", 24, 16, (3, 3), **same),
            layer(rng, "beside", "first", 24, 16, (1, 1)),
            FloatAdd(name="sum", inputs=("wide", "beside"), low=0.0),
            layer(rng, "narrow", "sum", 20, 24, (3, 3), stride=(2, 2), **same),
            layer(rng, "apart", "narrow", 20, 1, (3, 3), groups=20, **same),
            FloatPooling(
                name="pool",
                inputs=("apart",),
                mode="average",
                kernel=(4, 4),
                stride=(4, 4),
                padding=(0, 0, 0, 0),
            ),
            layer(rng, "last", "pool", 7, 20, (1, 1), dense=True),
        ),
    )


def calibrated(rng, network, count=40):
    return calibrate(network, rng.uniform(0, 1, (count, *network.input_shape)).astype(np.float32))


def options_of(network, sites, config):
    """For each layer the choices that can run, with their prices."""
    found = {}
    for one in compressible(network):
        found[one.name] = {}
        for choice in choices_for(one, config):
            try:
                found[one.name][choice] = sites[one.name].price(one, choice, config)
            except FitError:
                continue
    return found


def test_powers_of_two_are_looked_at(seed):
    wide = layer(np.random.default_rng(seed), "wide", "input", 16, 32, (3, 3))
    found = choices_for(wide, UP5K)
    powers = [one for one in found if one.code is Code.POWER_OF_TWO]
    recovered = [one for one in found if one.terms and one.qu == 3 and not one.fully]
    uniform = [one for one in recovered if one not in powers]
    assert powers
    assert {replace(one, code=Code.UNIFORM) for one in powers} == set(uniform)
    narrow = choices_for(wide, replace(UP5K, generator_u_bits=3))
    assert narrow
    assert not any(one.code is Code.POWER_OF_TWO for one in narrow)


@pytest.mark.parametrize("name", ["up5k", "sim-8x1", "sim-16x4", "ecp5-25f"])
def test_prices_are_those_of_the_plan(name, seed):
    rng = np.random.default_rng(seed)
    config = CONFIGURATIONS[name]
    network = small_network(rng)
    calibration = calibrated(rng, network)
    sites, fixed = place(network, calibration, config)
    options = options_of(network, sites, config)
    forms = {choice.dataflow for choices in options.values() for choice in choices}
    assert forms == {"stored", "intra", "cross", "factored", "fully factored"}
    roomy = replace(config, coefficient_bytes=LARGEST_MEMORY)
    for _ in range(6):
        choices = {
            name: list(prices)[rng.integers(len(prices))] for name, prices in options.items()
        }
        made, _ = compress(network, calibration, choices, config)
        planned = plan(made, roomy)
        prices = [options[name][choice] for name, choice in choices.items()]
        assert not planned.banded
        assert sum(prices, fixed) == Price(
            planned.weight_bits // 8,
            sum(one.parameter_bytes for one in planned.layers),
            planned.parameters_base,
            planned.cycles,
        ), choices


def test_layers_in_bands_of_rows_are_not_recovered_into_the_tile(seed):
    """A network that can run is offered no form in which it cannot."""
    rng = np.random.default_rng(seed)
    config = replace(UP5K, activation_bytes=3 << 10)
    network = small_network(rng)
    calibration = calibrated(rng, network)
    sites, _ = place(network, calibration, config)
    assert {name for name, site in sites.items() if site.banded} == {"wide", "beside"}
    options = options_of(network, sites, config)
    into_tile = {
        name
        for name, prices in options.items()
        if any(choice.dataflow == "cross" for choice in prices)
    }
    assert "narrow" in into_tile
    assert not into_tile & {"wide", "beside"}
    roomy = replace(config, coefficient_bytes=LARGEST_MEMORY)
    for _ in range(6):
        choices = {
            name: list(prices)[rng.integers(len(prices))] for name, prices in options.items()
        }
        made, _ = compress(network, calibration, choices, config)
        assert plan(made, roomy).banded


def test_networks_too_large_at_8_bits_have_a_place(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    network = small_network(rng)
    calibration = calibrated(rng, network)
    expected = place(network, calibration, UP5K)
    monkeypatch.setattr(insitu.menu, "LARGEST_MEMORY", 5 << 10)
    assert place(network, calibration, UP5K) == expected
    monkeypatch.setattr(insitu.menu, "LARGEST_MEMORY", 2 << 10)
    with pytest.raises(FitError, match="even with weights of 1 bit it takes more than 2,048 bytes"):
        place(network, calibration, UP5K)


def test_the_output_is_stored_or_factored(few, seed):
    """So that it can be retrained."""
    rng = np.random.default_rng(seed)
    found = small_network(rng)
    last = layer(rng, "last", "pool", 24, 20, (1, 1), dense=True)
    found = FloatNetwork("small", found.input_shape, (*found.layers[:-1], last))
    sites, _ = place(found, calibrated(rng, found), UP5K)
    menus = menus_for(found, calibrated(rng, found), UP5K, sites, store=Store(None))
    choices = [option.choice for option in menus[-1].options]
    assert menus[-1].name == "last"
    assert any(one.factored for one in choices)
    assert all(one.stored or one.factored for one in choices)
    assert not all(one.stored or one.factored for one in choices_for(last, UP5K))


def test_choices_are_within_the_configuration(seed):
    wide = layer(np.random.default_rng(seed), "wide", "input", 64, 32, (3, 3))
    for config in CONFIGURATIONS.values():
        for choice in choices_for(wide, config):
            assert choice.terms is None or choice.terms <= config.generator_terms
            assert choice.kernels is None or choice.kernels % config.lanes == 0
            if choice.terms is not None:
                assert choice.qb <= config.generator_b_bits
                assert choice.qu <= config.generator_u_bits
    assert {one.q for one in choices_for(wide, UP5K) if one.stored} == set(range(1, 9))
    for other in (replace(wide, weights=np.zeros((4, 5000, 1))), replace(wide, groups=2)):
        assert all(one.stored for one in choices_for(other, UP5K))


def test_menus_hold_what_pays_and_losses_fall_with_bits(few, tmp_path, seed):
    rng = np.random.default_rng(seed)
    network = small_network(rng)
    calibration = calibrated(rng, network)
    sites, _ = place(network, calibration, UP5K)
    menus = menus_for(network, calibration, UP5K, sites, store=Store(tmp_path / "kept"))
    assert [menu.name for menu in menus] == [one.name for one in compressible(network)]
    for menu in menus:
        assert len(menu.options) > 3
        plain = sorted(menu.stored.options, key=lambda one: one.choice.q)
        losses = [one.loss for one in plain]
        assert losses == sorted(losses, reverse=True)
        assert losses[0] > 20 * losses[-1] > 0
        assert {one.choice.q for one in plain} == set(range(1, 9))


def moves(rng, network, calibration, choices):
    """How far a network's outputs move on inputs that nothing was fitted to."""
    eight = {one.name: Choice(q=8) for one in compressible(network)}
    made, _ = compress(network, calibration, eight | choices, UP5K)
    fresh = replace(calibration, inputs=calibrated(rng, network, 500).inputs)
    outputs = made.output_scale * (
        run(made, fresh.integers()).astype(float) - made.output_zero_point
    )
    return distance(outputs, network.run(fresh.inputs))


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("q", [3, 1])
def test_a_loss_is_how_far_the_network_moves(few, seed, q, fixed):
    """Where it is measured, and only there; layers behind make good what they can.

    Not so layers of weights that are integers already.
    """
    rng = np.random.default_rng(seed)
    network = small_network(rng)
    if fixed:
        layers = (
            replace(
                one,
                weights=np.rint(one.weights * 100) / 100,
                weight_scale=np.full(len(one.weights), 0.01),
            )
            if isinstance(one, FloatConvolution) and one.name != "first"
            else one
            for one in network.layers
        )
        network = replace(network, layers=tuple(layers))
    calibration = calibrated(rng, network, 200)
    sites, _ = place(network, calibration, UP5K)
    menus = menus_for(network, calibration, UP5K, sites, store=Store(None))
    least = moves(rng, network, calibration, {})
    for name in ("first",) if fixed else ("first", "wide"):
        (menu,) = (menu for menu in menus if menu.name == name)
        (found,) = (one.loss for one in menu.options if one.choice == Choice(q=q))
        measured = moves(rng, network, calibration, {name: Choice(q=q)})
        assert found / 2 < measured < 2 * found + least


def test_few_samples_of_many_inputs_make_no_form_look_good(few, seed):
    """They can be fitted as well as one likes, and say nothing about others."""
    rng = np.random.default_rng(seed)
    network = FloatNetwork("n", (4, 4, 16), (layer(rng, "l", "input", 12, 16, (4, 4)),))
    calibration = calibrated(rng, network)
    sites, _ = place(network, calibration, UP5K)
    (menu,) = menus_for(network, calibration, UP5K, sites, store=Store(None))
    for choice in (Choice(q=2), Choice(kernels=8, qu=3, qv=4, factored=True)):
        (found,) = (one.loss for one in menu.options if one.choice == choice)
        assert found > moves(rng, network, calibration, {"l": choice}) / 2


def test_sensitivity_passes_through_its_points():
    found = Sensitivity.of([(0.1, 0.5), (0.001, 0.002), (0.01, 0.02)])
    for error, loss in ((0.001, 0.002), (0.01, 0.02), (0.1, 0.5)):
        assert found.loss(error) == pytest.approx(loss)
    assert found.loss(0.0005) == pytest.approx(0.001)
    assert found.loss(0) == 0
    between = found.loss(np.sqrt(0.01 * 0.1))
    assert between == pytest.approx(np.sqrt(0.02 * 0.5))
    assert found.loss(0.2) > 0.5


def test_sensitivity_never_falls():
    found = Sensitivity.of([(0.01, 0.3), (0.02, 0.2), (0.02, 0.1), (0.5, 0.4)])
    losses = [found.loss(error) for error in np.geomspace(1e-4, 2, 50)]
    assert losses == sorted(losses)
    assert Sensitivity.of([(0.1, 0.2)]).loss(0.3) == pytest.approx(0.6)


def test_distance_is_a_divergence():
    logits = np.log(np.array([[0.5, 0.25, 0.25]]))
    other = np.log(np.array([[0.25, 0.5, 0.25]]))
    assert distance(logits, logits) == 0
    assert distance(other + 3, logits) == pytest.approx(0.5 * np.log(2) - 0.25 * np.log(2))
    assert distance(1000 * other, 1000 * logits) > 100


def test_what_is_kept_is_not_fitted_again(few, tmp_path, seed, monkeypatch):
    rng = np.random.default_rng(seed)
    network = small_network(rng)
    calibration = calibrated(rng, network)
    sites, _ = place(network, calibration, UP5K)

    def menus(store, given=network, seed=0):
        return menus_for(given, calibration, UP5K, sites, store=store, seed=seed)

    store = Store(tmp_path / "kept")
    whole = menus(store)
    assert menus(Store(None)) == whole
    files = sorted((tmp_path / "kept").iterdir())
    for path in files[::2]:
        path.unlink()
    files[1].write_bytes(b"not JSON")
    fits = []
    fit = insitu.menu.effective_weights
    monkeypatch.setattr(
        insitu.menu, "effective_weights", lambda *given: fits.append(given[0]) or fit(*given)
    )
    assert menus(store) == whole
    assert len(files) / 2 <= len(fits) <= len(files) / 2 + 2
    fits.clear()
    assert menus(store) == whole
    assert fits == []
    menus(store, seed=1)
    assert fits != []


def test_digest_sees_all_of_a_network(seed):
    rng = np.random.default_rng(seed)
    network = small_network(rng)
    first = network.layers[0]
    others = [
        replace(first, bias=first.bias + 1e-6),
        replace(first, weights=first.weights * (1 + 1e-6)),
        replace(first, low=-1.0),
        replace(first, name="other"),
    ]
    keys = {network_digest(network)}
    keys |= {network_digest(replace(network, layers=(one, *network.layers[1:]))) for one in others}
    assert len(keys) == 5
    assert network_digest(replace(network)) in keys
    product = FloatMultiply(name="sum", inputs=("wide", "beside"), low=0.0)
    layers = tuple(product if one.name == "sum" else one for one in network.layers)
    assert network_digest(replace(network, layers=layers)) not in keys
