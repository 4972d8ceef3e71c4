"""What fitting integers jointly is worth: IC without training, in four ways.

    python examples/mlperf_tiny/inputs.py cifar10 -o ~/.cache/insitu/cifar10.npz
    python examples/mlperf_tiny/inputs.py cifar10-training -o ~/.cache/insitu/cifar10_training.npz
    python examples/compression/ablation.py FOLDER
    python examples/compression/ablation.py FOLDER --choices ic_15kb_uniform

FOLDER holds MLPerf Tiny's `ic_float32.tflite`. The forms are those of a file in `choices`; the ways
differ in the integers U and B of their intra level alone:

- `decomposed`: factors by alternating least squares, at 8 bits each: what there is to be rounded;
- `svd, rounded`: the singular vectors of each kernel, rounded to nearest;
- `decomposed, rounded`: the factors of the first way, rounded to nearest;
- `jointly`: as `insitu.compress` fits them, each factor against the integers of the others.

Rounded to nearest are first the rows of B, then what U becomes with their scales, each at the scale
of the least square error. In all ways layers are fitted one after the other on what the integer
layers before them give, channels' scales are refitted and biases corrected. The calibration is that
of `rows.py`. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from golden.network import INPUT, Generated, Network, Stored
from insitu.choice import Choice, read_choices
from insitu.compress import compress_weights, moments_of
from insitu.errors import InputError, InsituError
from insitu.evaluate import evaluate, read_inputs
from insitu.float_network import FloatConvolution, FloatNetwork, FloatPooling, Quantisation
from insitu.models import Model, load_float
from insitu.quantise import (
    Builder,
    Calibration,
    correct_bias,
    map_quantisations,
    quantised_layer,
    round_weights,
)
from insitu.train.retrain import calibration_from, read_samples
from rtl.config import Configuration, configuration

CACHE = Path.home() / ".cache" / "insitu"
CHOICES = Path(__file__).parent / "choices"
HELD_OUT = 5000
FINE = 8
"""Bits of factors that stand for those in floating point."""
Floats = NDArray[np.floating[Any]]
Weights = tuple[Stored | Generated, Floats]
"""Integers, and the scale of each output channel."""
Fit = Callable[[str, Floats, Choice, Configuration, Floats | None], Weights]
console = Console(highlight=False)


def decomposed(
    name: str, weights: Floats, choice: Choice, config: Configuration, metric: Floats | None
) -> Weights:
    """Weights [Co, Ci, T] with U and B at 8 bits; `metric` [Ci*T, Ci*T] is that of their error."""
    if choice.terms is not None:
        choice = replace(choice, qb=FINE, qu=FINE)
    return compress_weights(name, weights, choice, config, metric)


def decomposed_rounded(
    name: str, weights: Floats, choice: Choice, config: Configuration, metric: Floats | None
) -> Weights:
    """The same factors, rounded to nearest."""
    found, scale = decomposed(name, weights, choice, config, metric)
    if not isinstance(found, Generated) or found.B is None:
        return found, scale
    return rounded(found.U, found.B, weights, choice, config, metric)


def svd_rounded(
    name: str, weights: Floats, choice: Choice, config: Configuration, metric: Floats | None
) -> Weights:
    """Each kernel's singular vectors, rounded to nearest."""
    if choice.terms is None:
        return compress_weights(name, weights, choice, config, metric)
    left, values, right = np.linalg.svd(weights, full_matrices=False)
    kept = slice(choice.terms)
    U, B = left[:, :, kept] * values[:, np.newaxis, kept], right[:, kept]
    return rounded(U, B, weights, choice, config, metric)


def rounded(
    U: NDArray[Any],
    B: NDArray[Any],
    weights: Floats,
    choice: Choice,
    config: Configuration,
    metric: Floats | None,
) -> Weights:
    """Integers nearest to U [Co, Ci, Bi] and B [Co, Bi, T], at the shift and scales that fit best.

    `weights` [Co, Ci, T] are what they are to make.
    """
    basis, steps = round_weights(B.reshape(-1, 1, B.shape[-1]).astype(np.float64), choice.qb)
    coefficients, _ = round_weights(U * steps.reshape(len(U), 1, -1), choice.qu)
    integers = {"U": coefficients.W, "B": basis.W.reshape(B.shape)}
    wanted = weights.reshape(len(weights), -1)
    tried: list[tuple[float, Generated, Floats]] = []
    for shift in range(config.generator_max_shift + 1):
        found = Generated(**integers, qu=choice.qu, qb=choice.qb, s1=shift)
        flat = found.W.reshape(wanted.shape).astype(np.float64)
        right = flat if metric is None else flat @ metric
        power, match = (right * flat).sum(axis=1), (right * wanted).sum(axis=1)
        scale = np.maximum(match / np.maximum(power, 1e-30), 0)
        error = float((power * scale**2 - 2 * match * scale).sum())
        tried.append((error, found, scale))
    return min(tried, key=lambda one: one[0])[1:]


FITS: dict[str, Fit] = {
    "decomposed": decomposed,
    "svd, rounded": svd_rounded,
    "decomposed, rounded": decomposed_rounded,
    "jointly": compress_weights,
}


def built(
    network: FloatNetwork,
    calibration: Calibration,
    choices: Mapping[str, Choice],
    config: Configuration,
    fit: Fit,
) -> Network:
    """The network as `insitu.compress.compress` makes it, its weights fitted by `fit`.

    All choices are stored or of the intra level, and no convolution is in groups.
    """
    found = map_quantisations(network, calibration)
    builder = Builder(network, found)
    real, integer = {INPUT: calibration.inputs}, {INPUT: calibration.integers()}
    for layer in network.layers:
        sums = layer.sums(*(real[name] for name in layer.inputs))
        real[layer.name] = layer.limited(sums)
        if isinstance(layer, FloatPooling):
            found[layer.name] = found[layer.inputs[0]]
        if isinstance(layer, FloatConvolution):
            x, given = integer[layer.inputs[0]], found[layer.inputs[0]]
            seen = (x.astype(np.float32) - np.float32(given.zero_point)) * np.float32(given.scale)
            metric, target = moments_of(layer, real[layer.inputs[0]], seen)
            weights, scale = fit(layer.name, target, choices[layer.name], config, metric)
            one, after = quantised_layer(layer, weights, scale, given, found[layer.name])
            mean = sums.reshape(-1, sums.shape[-1]).mean(axis=0, dtype=np.float64)
            found[layer.name] = Quantisation(*after)
            made = builder.append(correct_bias(one, x, mean, after[0]))
        else:
            made = builder.add(layer)
        for each in made:
            integer[each.name] = each.compute(*(integer[name] for name in each.inputs))
    return builder.network()


def check(name: str, choices: Mapping[str, Choice], network: FloatNetwork) -> None:
    """Refuse choices that there are no four ways for, of a second level, or not of all layers."""
    for layer in network.layers:
        if not isinstance(layer, FloatConvolution):
            continue
        choice = choices.get(layer.name)
        if choice is None or choice.kernels is not None:
            what = "no form" if choice is None else "a second level"
            raise InputError(
                f"choices {name} have {what} for layer {layer.name!r}",
                "name some that store all layers or have their first level alone",
            )


def main() -> None:
    """Make and measure the network in each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="MLPerf Tiny's networks")
    parser.add_argument("--choices", default="ic_21kb", metavar="NAME", help="default: ic_21kb")
    parser.add_argument("--training", type=Path, default=CACHE / "cifar10_training.npz")
    parser.add_argument("--test", type=Path, default=CACHE / "cifar10.npz")
    parser.add_argument("--images", type=int, default=10_000, help="of the test images")
    arguments = parser.parse_args()
    try:
        network = load_float(arguments.folder / "ic_float32.tflite")
        samples = read_samples(arguments.training, network, channels_last=True)
        calibration = calibration_from(network, samples, HELD_OUT)
        choices = read_choices(CHOICES / f"{arguments.choices}.json")
        check(arguments.choices, choices, network)
        config = configuration("sim-8x1")
        for name, fit in FITS.items():
            with threadpool_limits(1):
                made = built(network, calibration, choices, config, fit)
            test = read_inputs(arguments.test, made, samples=arguments.images)
            if test.labels is None:
                raise InputError(f"{arguments.test} has no labels", "make it as above")
            accuracy = evaluate(Model(Path(name), made), test)["accuracy"]
            console.print(f"{name}: {accuracy:.2%} of {len(test.integers):,} images")
    except InsituError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
