"""The figures of a model, against what can be counted by hand."""

from pathlib import Path

import numpy as np

from insitu.inspect import inspect
from insitu.models import Model
from rtl.config import CONFIGURATIONS
from tests.golden.graphs import every_kind
from tests.insitu.networks import random_network, random_stored

UP5K = CONFIGURATIONS["up5k"]


def test_a_graph(seed):
    network = every_kind(np.random.default_rng(seed))
    report = inspect(Model(Path("net.npz"), network, ("a note",)))
    layers = {layer["name"]: layer for layer in report["layers"]}
    assert [layers[name]["kind"] for name in ("first", "depthwise", "second", "mean")] == [
        "convolution",
        "depthwise",
        "pointwise",
        "mean",
    ]
    assert layers["first"]["output"] == [6, 5, 4]
    assert layers["first"]["macs"] == 6 * 5 * 4 * 3 * 9
    assert layers["depthwise"]["macs"] == 6 * 5 * 4 * 4
    assert layers["add"]["inputs"] == ["depthwise", "second"]
    assert layers["add"]["weights"] == layers["add"]["macs"] == 0
    assert report["weights"] == report["weight_bytes"] == 4 * 27 + 16 + 12
    assert report["notes"] == ["a note"]
    # The product reads the concatenation (6 * 5 * 12) and the table's one pixel.
    assert report["activation_bytes"] == 360 + 12 + 360
    assert "plan" not in report


def test_a_chain_on_a_configuration(seed):
    rng = np.random.default_rng(seed)
    layers = [
        {"weights": random_stored(rng, 8, 3, 9, 4), "kernel": (3, 3)},
        {"weights": random_stored(rng, 5, 8, 12, 8), "kernel": (4, 3)},
    ]
    network = random_network(rng, layers, (6, 5, 3))
    report = inspect(Model(Path("net.npz"), network), UP5K)
    assert report["plan"]["configuration"] == "up5k"
    assert report["weight_bytes"] == 8 * 27 // 2 + 5 * 96
    assert report["layers"][0]["bits"] == 4
    assert report["layers"][1]["kind"] == "fully connected"


def test_what_does_not_fit_is_said(seed):
    rng = np.random.default_rng(seed)
    layers = [{"weights": random_stored(rng, 200, 64, 9, 8), "kernel": (3, 3)}]
    network = random_network(rng, layers, (3, 3, 64))
    report = inspect(Model(Path("net.npz"), network), UP5K)
    assert report["configuration"] == "up5k"
    assert "bytes of coefficient memory, up5k has 65536" in report["misfit"]["cause"]
    assert "bits a weight" in report["misfit"]["next"]
