"""What wider maps between the layers of a factored one would be worth.

    python examples/mlperf_tiny/inputs.py cifar10 -o ~/.cache/insitu/cifar10.npz
    python examples/compression/intermediates.py examples/mlperf_tiny/ic2_up5k.npz

A network runs three times on the first images of a file: in integers; with the maps between the
parts of factored layers rounded but not clamped; and with these maps as they are before rounding
and clamping, in double precision. Everything else is equal, and stays int8; sums are rounded once,
halves up.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.network import INPUT, Convolution, Network, Rounding, run
from golden.windows import output_size, tap_slices
from insitu.errors import InsituError
from insitu.evaluate import read_inputs
from insitu.network import load

CACHE = Path.home() / ".cache" / "insitu"
BATCH = 50
Floats = NDArray[np.floating[Any]]
Change = Callable[[Convolution, Floats], Floats]


def between(name: str) -> bool:
    """Whether a map lies between the parts of a factored layer."""
    return name.endswith((".coefficients", ".basis"))


def real_sums(layer: Convolution, x: Floats) -> Floats:
    """Sums of a pointwise or depthwise layer over a real map [N, H, W, C], bias included."""
    window = layer.kernel, layer.stride
    size = output_size((x.shape[1], x.shape[2]), *window, layer.padding, layer.dilation)
    top, left, bottom, right = layer.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))  # Their zero point is 0.
    weights, sums = layer.weights.W.astype(np.float64), layer.bias.astype(np.float64)
    for tap, (rows, columns) in enumerate(tap_slices(size, *window, layer.dilation)):
        part = padded[:, rows, columns]
        one = weights[:, :, tap]
        sums = sums + (part @ one.T if layer.groups == 1 else part * one[:, 0])
    return sums


def rescaled(layer: Convolution, sums: Floats) -> Floats:
    """What the requantiser multiplies sums to, before it rounds."""
    return sums * (layer.multiplier * 2.0 ** (-31.0 - layer.shift))


def half_up(x: Floats) -> Floats:
    """Rounded to integers."""
    return np.floor(x + 0.5)


def with_intermediates(network: Network, x: NDArray[np.int8], change: Change) -> NDArray[np.int8]:
    """Outputs where maps between the parts of factored layers are `change` of the real ones."""
    maps: dict[str, Any] = {INPUT: x}
    layer: Any
    for layer in network.layers:
        sources = [maps[name] for name in layer.inputs]
        reads = between(layer.inputs[0])
        if not reads and not between(layer.name):
            maps[layer.name] = layer.compute(*sources)
            continue
        sums = real_sums(layer, *sources) if reads else layer.sums(*sources).astype(np.float64)
        y = rescaled(layer, sums)
        maps[layer.name] = (
            change(layer, y) if between(layer.name) else int8(layer, y).astype(np.int8)
        )
    return np.asarray(maps[network.layers[-1].name], np.int8)


def int8(layer: Convolution, x: Floats) -> Floats:
    """Rounded and clamped, as in the hardware."""
    y = half_up(x) + layer.output_zero_point
    return np.clip(y, layer.activation_min, layer.activation_max)


FORMS: dict[str, Change] = {
    "int8": int8,
    "not clamped": lambda layer, x: half_up(x),
    "not rounded": lambda layer, x: x,
}


def rounded_once(network: Network) -> Network:
    """The same with sums that are rounded once, halves up, as of networks that were retrained."""
    layers = (
        replace(one, rounding=Rounding.UP) if isinstance(one, Convolution) else one
        for one in network.layers
    )
    return replace(network, layers=tuple(layers))


def main() -> None:
    """Print the accuracies."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", type=Path, metavar="NETWORK")
    parser.add_argument("--inputs", type=Path, default=CACHE / "cifar10.npz")
    parser.add_argument("--samples", type=int, default=2000, help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        network = rounded_once(load(arguments.network))
        found = read_inputs(arguments.inputs, network)
        if found.labels is None:
            parser.error(f"{arguments.inputs} has no labels")
        x, labels = (a[: arguments.samples] for a in (found.integers, found.labels))
        right = dict.fromkeys(FORMS, 0)
        differ = 0
        for start in range(0, len(x), BATCH):
            part = slice(start, start + BATCH)
            for name, change in FORMS.items():
                y = with_intermediates(network, x[part], change)
                right[name] += int((y.reshape(len(y), -1).argmax(axis=1) == labels[part]).sum())
                if name == "int8" and start == 0:
                    differ = int((y != run(network, x[part])).sum())
    except InsituError as error:
        sys.exit(f"error: {error}")
    print(f"int8 here against golden, {min(BATCH, len(x))} images: {differ} outputs differ")
    for name, count in right.items():
        share = count / len(x)
        deviation = math.sqrt(share * (1 - share) / len(x))
        print(f"{name}: {100 * share:.2f} % of {len(x)} right (+- {100 * deviation:.2f})")


if __name__ == "__main__":
    main()
