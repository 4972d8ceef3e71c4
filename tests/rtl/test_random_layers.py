"""Random networks of every kind of layer: the RTL against golden, value for value.

`--layers N` runs N layers a configuration, with networks of their own for every seed. A failure
names the network; `make sim TB=random_layers SEED=... K=...` runs it again.
"""

from __future__ import annotations

import numpy as np
import pytest

from insitu.errors import FitError
from insitu.plan import Plan, plan
from rtl.config import configuration
from tests.insitu.random_networks import random_layers
from tests.rtl.test_accelerator import compare_layers

EACH = 10
"""Layers of a network, at least."""


def planned_network(seed: int, number: int, config: str) -> tuple[Plan, np.random.Generator]:
    """A random network that fits; one in thirty does not."""
    rng = np.random.default_rng([seed, number])
    while True:
        network = random_layers(rng, configuration(config), EACH)
        try:
            return plan(network, configuration(config), keep_maps=bool(number % 2)), rng
        except FitError:
            continue


def run_networks(seed: int, config: str, layers: int) -> None:
    done = number = 0
    while done < layers:
        planned, rng = planned_network(seed, number, config)
        x = rng.integers(-128, 128, (1, *planned.input.shape)).astype(np.int8)
        again = f"make sim TB=random_layers K={config} SEED={seed}"
        compare_layers(planned, x, f"network {number} ({again})", timed=False)
        done += len(planned.layers)
        number += 1


@pytest.mark.parametrize("config", ["sim-8x1", "up5k"])
def test_some_random_layers(config: str, seed: int) -> None:
    run_networks(seed, config, 2 * EACH)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["sim-8x1", "up5k", "ecp5-45f"])
def test_many_random_layers(config: str, seed: int, pytestconfig: pytest.Config) -> None:
    run_networks(seed, config, pytestconfig.getoption("--layers"))
