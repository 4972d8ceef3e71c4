"""What would fit: precisions and ranks with which a network's weights take few enough bytes.

Nothing is estimated: networks of those precisions and ranks are laid out, and their bytes counted.
Their values are of no use but for that.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.code import Code
from golden.fixed import symmetric_range
from golden.network import INPUT, Convolution, Generated, Layer, Network, Stored
from insitu.errors import FitError
from rtl.config import Configuration

__all__ = ["narrowed", "ways_to_fit"]

_SHARES = 16
"""Ranks are tried in parts of so many of those that there are."""


def ways_to_fit(
    network: Network, config: Configuration, size: Callable[[Network], int]
) -> list[str]:
    """Ways in which a network's weights would fit, each with the bytes that it takes in all.

    Parameters
    ----------
    network : Network
        One that does not fit.
    config : Configuration
    size : callable
        Bytes of coefficient memory of a network; its FitError means that it does not fit either.
    """

    def most(choices: range, make: Callable[[int], Network]) -> tuple[int, int] | None:
        """The largest choice that fits, and its bytes; a larger choice takes no fewer."""
        best, low, high = None, choices.start, choices.stop - 1
        while low <= high:
            middle = (low + high) // 2
            try:
                needed = size(make(middle))
            except FitError:
                needed = config.coefficient_bytes + 1
            if needed <= config.coefficient_bytes:
                best, low = (middle, needed), middle + 1
            else:
                high = middle - 1
        return best

    ways = []
    if bits := most(range(1, 8), lambda n: _each(network, lambda one: narrowed(one, n))):
        unit = "bit" if bits[0] == 1 else "bits"
        ways.append(f"{bits[0]} {unit} for each of its coefficients ({bits[1]} bytes) fit")
    weights = [one.weights for one in network.layers if isinstance(one, Convolution)]
    if any(isinstance(one, Generated) for one in weights):
        ranks = most(range(1, _SHARES), lambda n: _each(network, lambda one: _ranked(one, n)))
        if ranks:
            share = ranks[0] / _SHARES
            ways.append(f"{share:.0%} of its ranks (Bo, or Bi alone; {ranks[1]} bytes) fit")
    q = min(config.generator_u_bits, config.generator_b_bits)
    terms = most(
        range(1, config.generator_terms + 1),
        lambda n: _each(network, lambda one: _generated(one, n, q)),
    )
    if terms and any(map(_can_generate, network.layers)):
        ways.append(f"kernels of rank Bi {terms[0]} and {q} bits for all ({terms[1]} bytes) fit")
    return ways


def _each(network: Network, change: Callable[[Layer], Layer]) -> Network:
    return replace(network, layers=tuple(change(layer) for layer in network.layers))


def _limited(values: NDArray[np.int8], bits: int) -> NDArray[np.int8]:
    low, high = symmetric_range(bits)
    return np.where(values < 0, -1, 1).astype(np.int8) if bits == 1 else values.clip(low, high)


def narrowed(layer: Layer, bits: int) -> Layer:
    """The layer with no precision above `bits`."""
    if not isinstance(layer, Convolution):
        return layer
    weights = layer.weights
    names = {"W": "q"} if isinstance(weights, Stored) else {"U": "qu", "B": "qb", "V": "qv"}
    changes: dict[str, Any] = {}
    for name, precision in names.items():
        if getattr(weights, precision) > bits:
            changes |= {name: _limited(getattr(weights, name), bits), precision: bits}
    if "U" in changes:
        changes["code"] = Code.UNIFORM
    return replace(layer, weights=replace(weights, **changes))


def _ranked(layer: Layer, share: int) -> Layer:
    """The layer with a share of its basis kernels or, without a cross level, of its terms."""
    if not isinstance(layer, Convolution) or not isinstance(layer.weights, Generated):
        return layer
    one = layer.weights

    def part(rank: int) -> int:
        return max(1, rank * share // _SHARES)

    if one.V is not None:
        kernels = part(one.V.shape[1])
        basis = None if one.B is None else one.B[:kernels]
        one = replace(one, U=one.U[:kernels], B=basis, V=one.V[:, :kernels])
    elif one.B is not None:
        terms = part(one.B.shape[1])
        one = replace(one, U=one.U[:, :, :terms], B=one.B[:, :terms])
    return replace(layer, weights=one)


def _can_generate(layer: Layer) -> bool:
    """Whether the intra level may take the place of stored weights."""
    return (
        isinstance(layer, Convolution)
        and isinstance(layer.weights, Stored)
        and layer.groups == 1
        and layer.weights.shape[2] > 1
        and INPUT not in layer.inputs
    )


def _generated(layer: Layer, terms: int, bits: int) -> Layer:
    """The layer with its kernels generated, if it can be; all in at most so many bits."""
    if not isinstance(layer, Convolution) or not _can_generate(layer):
        return narrowed(layer, bits)
    outputs, inputs, taps = layer.weights.shape
    terms = min(terms, inputs, taps)
    made = Generated(
        U=np.zeros((outputs, inputs, terms), np.int8),
        B=np.zeros((outputs, terms, taps), np.int8),
        qu=bits,
        qb=bits,
    )
    return replace(layer, weights=made)
