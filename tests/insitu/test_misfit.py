"""What would fit: the precisions and ranks that are named fit, and the next ones do not."""

import re
from dataclasses import replace

import numpy as np
import pytest

from golden.network import Generated, Stored
from insitu.errors import FitError
from insitu.plan import plan
from rtl.config import CONFIGURATIONS
from tests.insitu.networks import random_generated, random_network, random_stored

UP5K = CONFIGURATIONS["up5k"]
SAME = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
FIRST = {"kernel": (1, 1)}


def network(rng, *weights):
    """A pointwise layer of 16 channels, and others of 3 x 3 kernels."""
    layers = [{"weights": random_stored(rng, 16, 2, 1, 2)} | FIRST]
    return random_network(rng, layers + [{"weights": one} | SAME for one in weights], (4, 4, 2))


def refused(made, kilobytes):
    """What a configuration of so much coefficient memory says."""
    config = replace(UP5K, name="small", coefficient_bytes=kilobytes << 10)
    with pytest.raises(FitError, match="bytes of coefficient memory") as error:
        plan(made, config)
    return config, error.value.next_step


def test_precision(seed):
    def made(bits):
        rng = np.random.default_rng(seed)
        return network(rng, random_stored(rng, 64, 16, 9, bits))

    config, advice = refused(made(8), 7)
    bits, needed = re.search(
        r"(\d) bits for each of its coefficients \((\d+) bytes\)", advice
    ).groups()
    assert plan(made(int(bits)), config).payload_bytes == int(needed)
    with pytest.raises(FitError):
        plan(made(int(bits) + 1), config)


def test_rank_of_what_is_stored(seed):
    rng = np.random.default_rng(seed)
    config, advice = refused(network(rng, random_stored(rng, 64, 16, 9, 8)), 4)
    terms, needed = re.search(r"rank Bi (\d) and 4 bits for all \((\d+) bytes\)", advice).groups()
    rng = np.random.default_rng(seed)
    made = network(rng, random_generated(rng, 64, 16, 9, terms=int(terms), qu=4, qb=4, s1=0))
    assert plan(made, config).payload_bytes == int(needed)


@pytest.mark.parametrize(("kernels", "kilobytes"), [(24, 2), (None, 2)])
def test_share_of_the_ranks(kernels, kilobytes, seed):
    """Of basis kernels, or without a cross level of terms."""
    rng = np.random.default_rng(seed)
    options = {"qu": 4, "qb": 4, "s1": 0} | ({"kernels": kernels, "qv": 4} if kernels else {})
    weights = random_generated(rng, 64, 16, 9, terms=2, **options)
    config, advice = refused(network(rng, weights), kilobytes)
    share, needed = re.search(r"(\d+)% of its ranks .*?(\d+) bytes\)", advice).groups()
    rank = max(1, round(int(share) / 100 * 16) * (kernels or 2) // 16)
    if kernels:
        less = replace(weights, U=weights.U[:rank], B=weights.B[:rank], V=weights.V[:, :rank])
    else:
        less = replace(weights, U=weights.U[:, :, :rank], B=weights.B[:, :rank])
    assert isinstance(less, Generated)
    rng = np.random.default_rng(seed)
    assert plan(network(rng, less), config).payload_bytes == int(needed)


def test_says_that_nothing_fits(seed):
    rng = np.random.default_rng(seed)
    _, advice = refused(network(rng, *[random_stored(rng, 64, n, 9, 8) for n in (16, 64)]), 4)
    assert "lower precisions alone, or with kernels of rank Bi 1, do not fit" in advice


def test_layers_are_not_named_that_could_do_with_less(seed):
    """In bands only the last layer needs both of its maps; the largest map is never whole."""
    rng = np.random.default_rng(seed)
    shapes = [(40, 4, (1, 1)), (4, 40, (1, 1)), (24, 4, (3, 3))]
    layers = [
        {"weights": random_stored(rng, outputs, inputs, kernel[0] * kernel[1], 4), "kernel": kernel}
        for outputs, inputs, kernel in shapes
    ]
    made = random_network(rng, layers, (24, 8, 4))
    config = replace(UP5K, name="small", activation_bytes=1 << 10)
    with pytest.raises(FitError) as error:
        plan(made, config)
    found = re.search(
        r"needs at least (\d+) bytes of activation memory in bands", error.value.cause
    )
    needed = int(found[1])
    assert "% smaller, whatever the rank and precision" in error.value.next_step
    enough = replace(UP5K, name="more", activation_bytes=-(-needed // 1024) * 1024)
    assert plan(made, enough).activation_bytes >= needed
    assert isinstance(made.layers[0].weights, Stored)
