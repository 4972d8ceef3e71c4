"""Networks in bands of rows: the RTL against golden, row for row, and as quick as predicted."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest

from golden.network import Add, Convolution, Network, Pooling, Scaling
from insitu.pack import make_image
from insitu.plan import plan
from insitu.simulate import simulate_image
from rtl.config import configuration
from tests.insitu.networks import random_layer, random_stored
from tests.insitu.random_networks import random_bands, random_residual_bands, residual_network
from tests.insitu.test_bands import FACTORED, IC2
from tests.rtl.test_accelerator import compare_layers, compare_output

UP5K = configuration("up5k")


def shallow(rng: np.random.Generator) -> Network:
    """Large maps and little work: pointwise, depthwise, sum, pooling."""
    x = rng.integers(-128, 128, (2, 36, 32, 2)).astype(np.int8)
    zero = 3
    same: dict[str, Any] = {"kernel": (3, 3), "padding": (1, 1, 1, 1), "groups": 40}
    layers: list[Convolution] = []
    for name, weights, options in (
        ("point", random_stored(rng, 40, 2, 1, 4), {"kernel": (1, 1)}),
        ("depthwise", random_stored(rng, 40, 1, 9, 4), {**same}),
        ("again", random_stored(rng, 40, 1, 9, 4), {**same}),
    ):
        source = layers[-1].name if layers else "input"
        kernel = options.pop("kernel")
        layer, x = random_layer(rng, name, weights, x, kernel, zero, zero, **options)
        layer = replace(layer, inputs=(source,))
        layers.append(layer)
    half = Scaling(zero, 1 << 30, 0)
    total = Add(
        name="sum",
        inputs=("point", "again"),
        scalings=(half, half),
        output_scaling=Scaling(0, 1 << 30, 19),
    )
    pool = {"kernel": (2, 2), "stride": (2, 2)}
    return Network(
        layers=(*layers, total, Pooling(name="pool", inputs=("sum",), mode="maximum", **pool)),
        input_shape=(36, 32, 2),
        input_scale=1.0,
        input_zero_point=zero,
        output_scale=1.0,
    )


def test_a_network_in_bands(seed: int) -> None:
    rng = np.random.default_rng(seed)
    planned = plan(shallow(rng), UP5K)
    assert any(layer.buffer_rows for layer in planned.layers)
    x = rng.integers(-128, 128, (1, *planned.input.shape)).astype(np.int8)
    compare_layers(planned, x, f"seed {seed}")
    compare_output(planned, x, f"seed {seed}")


def test_every_row_is_compared(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = shallow(rng)
    planned = plan(network, UP5K)
    x = rng.integers(-128, 128, (1, *planned.input.shape)).astype(np.int8)
    found = simulate_image(make_image(planned), x, layers=True, workers=1)
    assert found.mismatches == 0
    assert [one.name for one in found.layers] == [layer.name for layer in network.layers]
    sizes = [int(np.prod(layer.output.shape)) for layer in planned.layers]
    assert [one.values for one in found.layers] == sizes
    assert found.values == sum(sizes) + sizes[-1]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["up5k", "ecp5-45f"])
def test_random_networks_in_bands(config: str, seed: int) -> None:
    done = 0
    for number in count():
        rng = np.random.default_rng([seed, number])
        build = random_residual_bands if number % 2 else random_bands
        options = {} if number % 2 else {"count": 6}
        planned = build(rng, configuration(config), **options)
        if planned.configuration.activation_bytes != 1 << 11:
            continue  # A simulator each.
        x = rng.integers(-128, 128, (1, *planned.input.shape)).astype(np.int8)
        compare_layers(planned, x, f"{config}, seed {seed}, number {number}")
        compare_output(planned, x, f"{config}, seed {seed}, number {number}")
        done += 1
        if done == 20:
            break


@pytest.mark.slow
def test_ic2_in_bands(seed: int) -> None:
    """MLPerf Tiny's larger network, factored, in the 64 KB of the UP5K."""
    rng = np.random.default_rng(seed)
    planned = plan(residual_network(rng, UP5K, *IC2, FACTORED), UP5K)
    x = rng.integers(-128, 128, (2, *planned.input.shape)).astype(np.int8)
    compare_layers(planned, x, f"seed {seed}")
    compare_output(planned, x[:1], f"seed {seed}")
