"""Random networks of every kind of layer: the RTL against golden, value for value, and its cycles.

`--layers N` runs N layers a configuration, with networks of their own for every seed. A failure
names the network; `make sim TB=random_layers SEED=... K=...` runs it again.
"""

from __future__ import annotations

import numpy as np
import pytest

from rtl.config import configuration
from tests.insitu.random_networks import random_plan
from tests.rtl.test_accelerator import compare_layers, compare_output

EACH = 10
"""Layers of a network, at least."""


def run_networks(seed: int, config: str, layers: int) -> None:
    done = number = 0
    while done < layers:
        rng = np.random.default_rng([seed, number])
        planned = random_plan(rng, configuration(config), EACH, keep_maps=bool(number % 2))
        x = rng.integers(-128, 128, (1, *planned.input.shape)).astype(np.int8)
        what = f"network {number} (make sim TB=random_layers K={config} SEED={seed})"
        compare_layers(planned, x, what)
        if number % 4 == 0:
            compare_output(planned, x, what)
        done += len(planned.layers)
        number += 1


@pytest.mark.parametrize("config", ["sim-8x1", "up5k"])
def test_some_random_layers(config: str, seed: int) -> None:
    run_networks(seed, config, 2 * EACH)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ecp5-25f", "ecp5-85f", "sim-16x4"])
def test_random_layers_on_other_configurations(config: str, seed: int) -> None:
    run_networks(seed, config, 4 * EACH)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["sim-8x1", "up5k", "ecp5-45f"])
def test_many_random_layers(config: str, seed: int, pytestconfig: pytest.Config) -> None:
    run_networks(seed, config, pytestconfig.getoption("--layers"))
