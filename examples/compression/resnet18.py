"""ResNet-18 (CIFAR form, 11 M weights) in the paper's form, on an ECP5-85F: memory, cycles, map.

    python examples/onnx/networks.py resnet18 -o build/onnx
    python examples/compression/resnet18.py build/onnx/resnet18.onnx
    python examples/compression/resnet18.py build/onnx/resnet18.onnx --qu 4
    python examples/compression/resnet18.py build/onnx/resnet18.onnx --choices resnet18.json

The paper's (Bi, Bo, qb, qu, qv) is (2, 44, 3, 6, 3). Each level is on where it saves something;
where the intra level is off, basis kernels have qb bits. The last, fully connected layer is stored
at 8 bits, and in the fully factored form the first one too, which has no cross level. Weights are
random integers: memory and cycles depend on shapes and precisions alone. Layers are priced one by
one (`insitu.plan.price`), on the configuration where it can run them, else on one with a wider
generator and tile; sums of maps and the mean, the same in all forms, are left out. Plans are of
everything. `--choices` only writes the choices of the factored form, which `rows.py` trains.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from golden.fixed import symmetric_range
from golden.network import INPUT, Convolution, Generated, Layer, Network, Stored
from insitu.choice import Choice, write_choices
from insitu.errors import FitError, InsituError
from insitu.files import write_file
from insitu.float_network import FloatConvolution, FloatNetwork
from insitu.maps import Map
from insitu.memory_map import memory
from insitu.menu import Site
from insitu.models import load_float
from insitu.plan import Price, plan
from insitu.quantise import calibrate, quantise
from rtl.config import LARGEST_MEMORY, Configuration, configuration

WORK = Path("build/compression")
TERMS = 2
FORMS = ("stored", "generated", "factored", "fully factored")
FLOAT_BITS = 32
console = Console(highlight=False)


@dataclass(frozen=True)
class Bits:
    """Bo, precisions of B, U and V, and of stored weights."""

    kernels: int
    qb: int
    qu: int
    qv: int
    q: int = 8


def choice_for(layer: FloatConvolution, bits: Bits, form: str) -> Choice:
    """How a form keeps a layer."""
    co, ci, taps = layer.weights.shape
    if form == "stored" or layer.dense:
        return Choice(q=bits.q)
    terms = TERMS if min(ci, taps) > TERMS else None
    kernels = bits.kernels if min(co, ci * taps) > bits.kernels else None
    if form == FORMS[3] and kernels is None:
        return Choice(q=bits.q)
    return Choice(
        terms=terms,
        kernels=kernels,
        qb=bits.qb,
        qu=bits.qb if terms is None else bits.qu,
        qv=bits.qv,
        factored=form in FORMS[2:] and kernels is not None,
        fully=form == FORMS[3] and None not in (terms, kernels),
    )


def paper_choices(network: FloatNetwork, bits: Bits, form: str) -> dict[str, Choice]:
    """How a form keeps every layer with weights."""
    return {layer.name: choice_for(layer, bits, form) for layer in convolutions(network)}


def convolutions(network: FloatNetwork) -> list[FloatConvolution]:
    """The layers with weights."""
    return [layer for layer in network.layers if isinstance(layer, FloatConvolution)]


def paper_bits(network: FloatNetwork, bits: Bits) -> dict[str, int]:
    """Bits of bases and coefficients as the paper counts them, and of what stays in floats.

    Batch normalisation has a gain and an offset a channel, the last layer a bias an output.
    """
    found = {"convolutions": 0, "last layer": 0, "normalisation": 0, "bias": 0}
    for layer in convolutions(network):
        co, ci, taps = layer.weights.shape
        choice = choice_for(layer, bits, "generated")
        if choice.stored:
            found["last layer"] += layer.weights.size * bits.q
            found["bias"] += co * FLOAT_BITS
            continue
        rows = choice.kernels or co
        if choice.terms is None:
            found["convolutions"] += rows * ci * taps * choice.qu
        else:
            found["convolutions"] += rows * choice.terms * (ci * bits.qu + taps * bits.qb)
        if choice.kernels is not None:
            found["convolutions"] += co * rows * bits.qv
        found["normalisation"] += 2 * co * FLOAT_BITS
    return found


def float_bits(network: FloatNetwork) -> int:
    """The same of the network in floating point."""
    return FLOAT_BITS * sum(
        layer.weights.size + len(layer.weights) * (1 if layer.dense else 2)
        for layer in convolutions(network)
    )


def macs(layer: FloatConvolution, choice: Choice, inputs: int, pixels: int) -> int:
    """Multiplications of an inference: `inputs` pixels are read, `pixels` are made."""
    co, ci, taps = layer.weights.shape
    dense = co * ci * taps * pixels
    if choice.kernels is None:
        return dense
    bo, bi = choice.kernels, choice.terms or 0
    if choice.fully:
        return bo * bi * (ci * inputs + taps * pixels) + co * bo * bi * pixels
    if choice.factored:
        return (bo * ci * taps + co * bo) * pixels
    return dense + co * ci * taps * bo


def tile_bytes(layer: FloatConvolution, config: Configuration) -> int:
    """Of the tile that a layer's weights are recovered into."""
    _, ci, taps = layer.weights.shape
    return config.lanes * -(-ci // config.width) * config.width * taps


def wide_generator(config: Configuration, bits: Bits) -> Configuration:
    """The configuration with a generator for U of so many bits."""
    return replace(config, generator_u_bits=max(config.generator_u_bits, bits.qu))


def priced(
    network: FloatNetwork, sites: dict[str, Site], bits: Bits, form: str, config: Configuration
) -> dict[str, Any]:
    """Cycles, bytes and multiplications of a form, and what the configuration cannot run of it."""
    total = Price(0, 0, 0, 0)
    narrow: list[str] = []
    tiles: dict[str, int] = {}
    work = 0
    for layer in convolutions(network):
        choice, site = choice_for(layer, bits, form), sites[layer.name]
        read, made = (shape[0] * shape[1] for shape in (site.source.shape, site.target.shape))
        work += macs(layer, choice, read, made)
        room = config
        if choice.kernels is not None and not choice.factored:
            tiles[layer.name] = tile_bytes(layer, config)
            room = replace(config, tile_bytes=max(config.tile_bytes, tiles[layer.name]))
        try:
            total += site.price(layer, choice, room)
        except FitError:
            narrow.append(layer.name)
            total += site.price(layer, choice, wide_generator(room, bits))
    return {
        "macs": work,
        "cycles": total.cycles,
        "weight_bytes": total.weight_bytes,
        "parameter_bytes": total.parameter_bytes,
        "program_bytes": total.program_bytes,
        "layers_that_need_a_wider_generator": len(narrow),
        "layers_that_need_a_larger_tile": sum(size > config.tile_bytes for size in tiles.values()),
        "largest_tile": max(tiles.values(), default=0),
    }


class Random:
    """Makes the integer network of a form."""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)

    def values(self, q: int, *shape: int) -> NDArray[np.int8]:
        """Integers of q bits."""
        high = symmetric_range(q)[1]
        return self._rng.integers(-high, high + 1, shape).astype(np.int8)

    def network(self, network: Network, choices: dict[str, Choice]) -> Network:
        """A network with random weights of those forms in place of its own."""
        layers: list[Layer] = []
        for layer in network.layers:
            if isinstance(layer, Convolution):
                layers += self.layers(layer, choices[layer.name])
            else:
                layers.append(layer)
        return replace(network, layers=tuple(layers))

    def layers(self, layer: Convolution, choice: Choice) -> Iterable[Layer]:
        """A layer's own layers in a form."""
        co, ci, taps = layer.weights.shape
        if choice.stored:
            return [replace(layer, weights=Stored(self.values(choice.q, co, ci, taps), choice.q))]
        rows = choice.kernels or co
        terms = choice.terms or taps
        U = self.values(choice.qu, rows, ci, terms)
        B = self.values(choice.qb, rows, terms, taps) if choice.terms else None
        qb = choice.qb if choice.terms else 0
        if not choice.factored:
            V = None if choice.kernels is None else self.values(choice.qv, co, rows)
            extra: dict[str, Any] = {} if V is None else {"V": V, "qv": choice.qv, "s2": 5}
            return [replace(layer, weights=Generated(U=U, B=B, qu=choice.qu, qb=qb, **extra))]
        made: list[Convolution] = []
        before = layer
        if choice.fully and B is not None:
            rows *= terms
            U = U.transpose(0, 2, 1).reshape(rows, ci, 1)
            first = Stored(U.copy(), choice.qu)
            made.append(_between(pointwise(before), first, f"{layer.name}.coefficients"))
            before = replace(layer, inputs=(made[-1].name,), input_zero_point=0)
            basis: Stored | Generated = Stored(B.reshape(rows, 1, taps), choice.qb)
            before = replace(before, groups=rows, weights=basis, **_parameters(rows))
        elif B is not None:
            basis = Generated(U=U, B=B, qu=choice.qu, qb=choice.qb)
        else:
            basis = Stored(U, choice.qu)
        made.append(_between(before, basis, f"{layer.name}.basis"))
        last = replace(pointwise(layer), inputs=(made[-1].name,), input_zero_point=0)
        return [
            *made,
            replace(last, weights=Stored(self.values(choice.qv, co, rows, 1), choice.qv)),
        ]


def _parameters(count: int) -> dict[str, Any]:
    """Of so many channels, each its own: equal ones would be stored once."""
    return {
        "bias": np.zeros(count, np.int32),
        "multiplier": ((1 << 30) + np.arange(count)).astype(np.int32),
        "shift": np.full(count, 8, np.int8),
    }


def pointwise(layer: Convolution) -> Convolution:
    """The layer with the window of one pixel, and weights of its shape."""
    weights = Stored(np.ones((*layer.weights.shape[:2], 1), np.int8), 8)
    return replace(
        layer,
        kernel=(1, 1),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        weights=weights,
        groups=1,
    )


def _between(layer: Convolution, weights: Stored | Generated, name: str) -> Convolution:
    """A layer into a map of zero point 0."""
    count = weights.shape[0]
    return replace(
        layer,
        name=name,
        weights=weights,
        output_zero_point=0,
        activation_min=-128,
        activation_max=127,
        **_parameters(count),
    )


def sites_for(network: FloatNetwork, config: Configuration) -> dict[str, Site]:
    """Maps of every layer with weights, of nobody's address."""
    word = config.activation_word

    def a_map(name: str) -> Map:
        shape = network.shapes[name]
        pitch = -(-shape[2] // word) * word if name != INPUT else -(-shape[2] // 4) * 4
        return Map(name=name, shape=shape, pitch=pitch, address=0, zero_point=-128)

    return {
        layer.name: Site(a_map(layer.inputs[0]), a_map(layer.name))
        for layer in convolutions(network)
    }


def planned(network: Network, config: Configuration) -> dict[str, Any]:
    """The memory map on the configuration, or what is missing."""
    try:
        made = plan(network, config, name="resnet18")
    except FitError as error:
        return {"misfit": f"{error.cause}. Next: {error.next_step}"}
    report = made.report()
    return {
        "cycles": made.cycles,
        "banded": made.banded,
        "memory": memory(report),
        "weight_bytes": report["weight_bytes"],
        "parameter_bytes": report["parameter_bytes"],
        "program_bytes": report["program_bytes"],
        "payload_bytes": made.payload_bytes,
        "activation_bytes": made.activation_bytes,
    }


def figures(
    network: FloatNetwork, samples: NDArray[np.float32], bits: Bits, config: Configuration
) -> dict[str, Any]:
    """All of it."""
    counted = paper_bits(network, bits)
    whole = float_bits(network)
    sites = sites_for(network, config)
    integer = quantise(network, calibrate(network, samples), 8)
    wide = wide_generator(config, bits)
    roomy = replace(wide, coefficient_bytes=LARGEST_MEMORY)
    largest = replace(roomy, activation_bytes=LARGEST_MEMORY)
    found: dict[str, Any] = {
        "bits": vars(bits),
        "paper": counted | {"ratio": sum(counted.values()) / whole, "float": whole},
        "forms": {form: priced(network, sites, bits, form, config) for form in FORMS},
    }
    for form in FORMS[2:]:
        made = Random(0).network(integer, paper_choices(network, bits, form))
        found["forms"][form] |= {
            "plan": planned(made, config),
            "with_a_wider_generator": planned(made, wide),
            "and_1_MB_of_coefficients": planned(made, roomy),
            "and_1_MB_of_maps": planned(made, largest),
        }
    return found


def main() -> None:
    """Print the figures and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--config", default="ecp5-85f", help="default: %(default)s")
    parser.add_argument("--kernels", type=int, default=44, help="Bo, default: %(default)s")
    parser.add_argument("--qb", type=int, default=3)
    parser.add_argument("--qu", type=int, default=6)
    parser.add_argument("--qv", type=int, default=3)
    parser.add_argument("--choices", type=Path, metavar="FILE", help="write the choices instead")
    arguments = parser.parse_args()
    bits = Bits(arguments.kernels, arguments.qb, arguments.qu, arguments.qv)
    try:
        network = load_float(arguments.model)
        if arguments.choices:
            write_choices(paper_choices(network, bits, "factored"), arguments.choices)
            return
        rng = np.random.default_rng(0)
        samples = rng.uniform(-1, 1, (2, *network.input_shape)).astype(np.float32)
        found = figures(network, samples, bits, configuration(arguments.config))
        WORK.mkdir(parents=True, exist_ok=True)
        path = WORK / f"resnet18_{bits.kernels}_{bits.qu}.figures"
        write_file(path, (json.dumps(found, indent=1) + "\n").encode(), "figures")
    except InsituError as error:
        sys.exit(f"error: {error}")
    for one in found["forms"].values():
        for values in one.values():
            if isinstance(values, dict):
                values.pop("memory", None)
    console.print_json(json.dumps(found))
    console.print(f"with the memory maps: {path}")


if __name__ == "__main__":
    main()
