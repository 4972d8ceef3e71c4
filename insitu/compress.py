"""Compress a trained network to bases and coefficients, without training.

A layer's weights W [Co, Ci*T] become V (U B), both levels of section 1 of the design. What is
minimised is the error of the layer's outputs on sample inputs, `tr((W - W') H (W - W')^T)` with H
the covariance of what the layer's taps see (biases take care of the mean). In three stages:

1. Factors in floating point, by alternating least squares: kernel by kernel U and B, then V.
2. Integers. With all other factors fixed, each of U and B of a kernel and V of an output channel
   is the solution of a quadratic problem; it is rounded coordinate by coordinate, each rounding
   error being fed into the coordinates that follow. A channel's scale is free: V is rounded at
   several and the best is kept. Since every stage works against the integers of the others, sweeps
   repeat until they no longer help.
3. The shifts s1 and s2 are chosen by the error of the weights that `golden.generate` recovers, and
   the channels' scales refitted to them.

Afterwards each layer's biases are corrected for the mean error of the samples. The result depends
on nothing but the arguments.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from golden.code import Code
from golden.fixed import symmetric_range
from golden.network import INPUT, Convolution, Generated, Network, Stored
from insitu.choice import Choice
from insitu.errors import FitError
from insitu.float_network import (
    FloatConvolution,
    FloatNetwork,
    FloatPad,
    FloatPooling,
    Quantisation,
)
from insitu.progress import Progress
from insitu.quantise import (
    Builder,
    Calibration,
    correct_bias,
    map_quantisations,
    quantised_layer,
    round_weights,
    spread,
)
from rtl.config import Configuration

__all__ = [
    "MOST_INPUTS",
    "Choice",
    "LayerResult",
    "check_groups",
    "check_names",
    "check_ranks",
    "compress",
    "compress_weights",
    "compressible",
    "covariance_of",
    "default_choices",
    "effective_weights",
    "fit_basis",
    "moments_of",
    "pointwise",
]

Floats = NDArray[np.floating[Any]]
Int8 = NDArray[np.int8]

_DAMPING = 0.01
_SWEEPS = 25, 6
"""In floating point and in integers."""
_QUICK_SWEEPS = 4, 1
MOST_INPUTS = 4608
"""Inputs of an output that can be compressed, Ci*T: 512 channels of 3 x 3 taps."""
_SUMS = 20_000
"""Sums of a basis kernel that its map's step is chosen by."""
_UNIT = Quantisation(1.0, 0)
"""Of the map behind basis kernels, whose channels have scales of their own."""


@dataclass(frozen=True)
class LayerResult:
    """What became of a layer.

    Parameters
    ----------
    name : str
    choice : Choice
    weight_error : float
        Norm of the weights' error relative to the norm of the weights, those with which the layer
        comes nearest to the float network on what the compressed layers before it give.
    output_error : float
        The same of the outputs on the samples, their means apart.
    bits : int
        Bits to store, without padding.
    """

    name: str
    choice: Choice
    weight_error: float
    output_error: float
    bits: int


def default_choices(network: FloatNetwork, config: Configuration) -> dict[str, Choice]:
    """A choice for each layer that a configuration can run, as a beginning.

    Layers of at least 1,000 weights with more than one tap get both levels: two terms and 5/8 as
    many kernels as output channels, at 4 bits. Others are stored, at 4 bits where they are large
    and fully connected, else at 8.
    """
    choices = {}
    for layer in compressible(network):
        co, ci, taps = layer.weights.shape
        blocks = max(1, -(-co * 5 // (8 * config.lanes)))
        kernels = min(blocks, config.basis_blocks) * config.lanes
        tile = config.lanes * -(-ci // config.width) * config.width * taps
        terms = min(2, config.generator_terms)
        if layer.groups > 1:
            choices[layer.name] = Choice()
        elif layer.dense or layer.weights.size < 1000 or terms >= min(ci, taps):
            choices[layer.name] = Choice(q=4 if layer.weights.size >= 1000 else 8)
        elif tile > config.tile_bytes or kernels >= min(co, ci * taps):
            choices[layer.name] = Choice(terms=terms)
        else:
            choices[layer.name] = Choice(terms=terms, kernels=kernels)
    return {
        name: replace(
            choice,
            qb=min(choice.qb, config.generator_b_bits),
            qu=min(choice.qu, config.generator_u_bits),
        )
        for name, choice in choices.items()
    }


def compress(
    network: FloatNetwork,
    calibration: Calibration,
    choices: Mapping[str, Choice],
    config: Configuration,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Network, list[LayerResult]]:
    """Compress a network.

    Parameters
    ----------
    network : FloatNetwork
    calibration : Calibration
    choices : mapping of layer name to Choice
        Layers left out are stored at 8 bits; convolutions in groups are stored.
    config : Configuration
        Bounds the shifts; `insitu.plan` checks everything else.
    seed : int, optional
        Of the random beginnings.
    progress : callable, optional
        Called with what is done, what there is to do, and the layer's name.

    Returns
    -------
    (Network, list of LayerResult)

    Raises
    ------
    FitError
        For a choice of ranks or precisions that the layer cannot have, or that no layer can be
        made for; names the layer.
    """
    # Many small products: threads would only wait for each other.
    with threadpool_limits(1):
        return _compress(network, calibration, choices, config, seed, progress)


def _compress(
    network: FloatNetwork,
    calibration: Calibration,
    choices: Mapping[str, Choice],
    config: Configuration,
    seed: int,
    progress: Progress | None,
) -> tuple[Network, list[LayerResult]]:
    chosen = {layer.name: choices.get(layer.name, Choice()) for layer in compressible(network)}
    check_names(choices, chosen)
    found = map_quantisations(network, calibration)
    builder = Builder(network, found)
    fitter = _Fitter(network, chosen, config, seed, progress)
    # Maps of the float network and of the compressed one, as long as a layer still reads them.
    real: dict[str, Floats] = {INPUT: calibration.inputs}
    integer: dict[str, Int8] = {INPUT: calibration.integers()}
    for index, layer in enumerate(network.layers):
        samples = [real[name] for name in layer.inputs]
        sums = layer.sums(*samples)
        if isinstance(layer, FloatPad | FloatPooling):
            found[layer.name] = found[layer.inputs[0]]
        if isinstance(layer, FloatConvolution) and layer.weight_scale is None:
            source = layer.inputs[0]
            seen = _Seen(samples[0], integer[source], found[source], sums, found[layer.name])
            layers, found[layer.name] = fitter.fit(layer, seen)
            made = [one for layer in layers for one in builder.append(layer)]
        else:
            made = builder.add(layer)
        real[layer.name] = layer.limited(sums)
        for one in made:
            integer[one.name] = one.compute(*(integer[name] for name in one.inputs))
        read = {name for later in network.layers[index + 1 :] for name in later.inputs}
        for maps in (real, integer):
            for name in maps.keys() - read:
                del maps[name]
    return builder.network(), fitter.results


def check_names(choices: Collection[str], layers: Collection[str]) -> None:
    """Raise FitError for a choice whose layer is none of `layers`."""
    unknown = set(choices) - set(layers)
    if unknown:
        raise FitError(
            f"there is no layer {sorted(unknown)[0]!r} to compress",
            f"name one of {', '.join(layers)}",
        )


def check_groups(layer: FloatConvolution, choice: Choice) -> None:
    """Raise FitError for a convolution in groups whose weights are not stored."""
    if layer.groups > 1 and choice != Choice(q=choice.q):
        raise FitError(f"layer {layer.name!r} has groups, and is stored", "choose only q for it")


def check_ranks(name: str, weights: Floats, choice: Choice) -> None:
    """Raise FitError for ranks that weights [Co, Ci, T] cannot have; `name` is for the message."""
    co, ci, taps = weights.shape
    for what, rank, most in (
        ("terms", choice.terms, min(ci, taps)),
        ("kernels", choice.kernels, min(co, ci * taps)),
    ):
        if rank is not None and not 1 <= rank <= most:
            raise FitError(
                f"layer {name!r} cannot have {rank} {what}", f"choose 1 to {most} {what}"
            )


def compressible(network: FloatNetwork) -> list[FloatConvolution]:
    """The layers that a choice can be made for: convolutions, those in groups only stored."""
    return [
        layer
        for layer in network.layers
        if isinstance(layer, FloatConvolution) and layer.weight_scale is None
    ]


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a layer sees and should give for the samples.

    Parameters
    ----------
    real : float32 [N, H, W, Ci]
        Its input in the float network.
    integer : int8 [N, H, W, Ci]
        Its input in the compressed network.
    quantisation : Quantisation
        Of that.
    sums : float32 [N, H', W', Co]
        Its output in the float network, before the limits.
    result : Quantisation
        Of the output, as calibrated.
    """

    real: Floats
    integer: Int8
    quantisation: Quantisation
    sums: Floats
    result: Quantisation

    @property
    def mean(self) -> Floats:
        """Mean of each output channel, float64 [Co]."""
        return _pixels(self.sums).mean(axis=0, dtype=np.float64)


class _Fitter:
    """Fits layer after layer.

    Parameters
    ----------
    network : FloatNetwork
    choices : dict
        For each layer that can have one.
    config : Configuration
    seed : int
    progress : callable or None
    """

    def __init__(
        self,
        network: FloatNetwork,
        choices: Mapping[str, Choice],
        config: Configuration,
        seed: int,
        progress: Progress | None,
    ):
        self.results: list[LayerResult] = []
        self._choices = choices
        self._config = config
        self._seed = seed
        self._progress = progress
        self._sizes = {
            layer.name: _work(layer, choices[layer.name]) for layer in compressible(network)
        }
        self._done = 0

    def fit(
        self, layer: FloatConvolution, seen: _Seen
    ) -> tuple[tuple[Convolution, ...], Quantisation]:
        """The integer layers of one, and the quantisation of its output."""
        choice = self._choices[layer.name]
        if layer.groups > 1:
            return self._grouped(layer, choice, seen)
        weights: Stored | Generated
        self._report(layer, 0)
        step = (seen.integer.astype(np.float32) - np.float32(seen.quantisation.zero_point)) * (
            np.float32(seen.quantisation.scale)
        )
        moments, target = moments_of(layer, seen.real, step)
        del step
        seed = self._seed + len(self.results)
        arguments = layer.name, target, choice, self._config, moments, seed
        if choice.factored:
            basis, V = fit_basis(*arguments, lambda fraction: self._report(layer, fraction))
            factor = self._fully_factored if choice.fully else self._factored
            made, result, effective = factor(layer, basis, V, choice, seen)
            bits = sum(sum(one.weights.bits.values()) for one in made)
        else:
            weights, scale = compress_weights(
                *arguments, lambda fraction: self._report(layer, fraction)
            )
            made, result = self._single(layer, weights, scale, seen)
            effective = scale[:, np.newaxis, np.newaxis] * weights.W
            bits = sum(weights.bits.values())
        self.results.append(_result(layer.name, target, choice, effective, bits, moments))
        self._report(layer, 1)
        self._done += self._sizes[layer.name]
        return made, result

    def _grouped(
        self, layer: FloatConvolution, choice: Choice, seen: _Seen
    ) -> tuple[tuple[Convolution, ...], Quantisation]:
        check_groups(layer, choice)
        weights, scale = round_weights(layer.weights, choice.q)
        effective = scale[:, np.newaxis, np.newaxis] * weights.W
        bits = sum(weights.bits.values())
        self.results.append(_result(layer.name, layer.weights, choice, effective, bits, None))
        self._done += self._sizes[layer.name]
        return self._single(layer, weights, scale, seen)

    def _report(self, layer: FloatConvolution, fraction: float) -> None:
        if self._progress is not None:
            now = self._done + round(fraction * self._sizes[layer.name])
            self._progress(now, sum(self._sizes.values()), layer.name)

    def _single(
        self, layer: FloatConvolution, weights: Stored | Generated, scale: Floats, seen: _Seen
    ) -> tuple[tuple[Convolution, ...], Quantisation]:
        integer, after = quantised_layer(layer, weights, scale, seen.quantisation, seen.result)
        integer = correct_bias(integer, seen.integer, seen.mean, after[0])
        return (integer,), Quantisation(*after)

    def _factored(
        self,
        layer: FloatConvolution,
        weights: Stored | Generated,
        V: Floats,
        choice: Choice,
        seen: _Seen,
    ) -> tuple[tuple[Convolution, ...], Quantisation, Floats]:
        """The convolution with the basis kernels, and V as a pointwise layer behind it.

        The map between them has zero point 0; its channels have mean 0 and a scale each, which is
        in the requantiser's multiplier before it and in V's column behind it. V is fitted once more
        to what the map really holds.
        """
        kernels = weights.W.astype(np.float64)
        basis, step = _first_stage(
            replace(layer, name=f"{layer.name}.basis"), weights, seen.integer, seen.quantisation
        )
        unit = seen.quantisation.scale * step
        last, result, V = self._last_stage(layer, basis, seen.integer, V * unit, choice, seen)
        effective = ((V / unit) @ kernels.reshape(len(kernels), -1)).reshape(layer.weights.shape)
        return (basis, last), result, effective

    def _fully_factored(
        self,
        layer: FloatConvolution,
        weights: Stored | Generated,
        V: Floats,
        choice: Choice,
        seen: _Seen,
    ) -> tuple[tuple[Convolution, ...], Quantisation, Floats]:
        """U as a pointwise layer, B as a depthwise one and V as a pointwise one.

        Channel b * Bi + i of the maps between them is term i of kernel b. V has a column for each,
        and so sums over i as well; it is fitted once more to what the last of them really holds.
        """
        if isinstance(weights, Stored) or weights.B is None:
            # Weights of zeros have no terms.
            return self._factored(layer, weights, V, choice, seen)
        bo, ci, terms = weights.U.shape
        count, taps = bo * terms, weights.B.shape[2]
        before = replace(pointwise(layer), name=f"{layer.name}.coefficients")
        U = Stored(weights.U.transpose(0, 2, 1).reshape(count, ci, 1).copy(), weights.qu)
        # Padding reads zeros: the map's real zero has to stay 0.
        first, step = _first_stage(before, U, seen.integer, seen.quantisation, centred=False)
        between = first.compute(seen.integer)
        B = Stored(weights.B.reshape(count, 1, taps).copy(), weights.qb)
        depthwise = replace(layer, name=f"{layer.name}.basis", inputs=(first.name,), groups=count)
        second, other = _first_stage(depthwise, B, between, _UNIT)
        unit = seen.quantisation.scale * step * other
        prior = np.repeat(V, terms, axis=1) * 2.0**-weights.s1 * unit
        last, result, V = self._last_stage(layer, second, between, prior, choice, seen)
        terms_of = U.W.astype(np.float64) * B.W  # [Bo * Bi, Ci, T]
        effective = ((V / unit) @ terms_of.reshape(count, -1)).reshape(layer.weights.shape)
        return (first, second, last), result, effective

    def _last_stage(
        self,
        layer: FloatConvolution,
        basis: Convolution,
        x: Int8,
        prior: Floats,
        choice: Choice,
        seen: _Seen,
    ) -> tuple[Convolution, Quantisation, Floats]:
        """V, the quantisation of its output, and what its integers stand for.

        Parameters
        ----------
        layer : FloatConvolution
        basis : Convolution
            The layer before it.
        x : int8 [N, H, W, channels]
            What that reads.
        prior : float64 [Co, channels]
            V as it is without the roundings of the map.
        choice, seen

        Returns
        -------
        (Convolution, Quantisation, float64 [Co, channels])
        """
        # [pixels, channels] and [pixels, Co] about their means
        y = basis.compute(x)
        z = _pixels(y).astype(np.float64)
        z -= z.mean(axis=0)
        sums = _pixels(seen.sums).astype(np.float64) - seen.mean
        square = z.T @ z / len(z)
        damping = _DAMPING * max(float(np.trace(square)) / len(square), 1e-12)
        square += damping * np.eye(len(square))
        wanted = np.linalg.solve(square, (sums.T @ z / len(z) + damping * prior).T).T
        behind = replace(pointwise(layer), inputs=(basis.name,), weights=wanted[:, :, np.newaxis])
        if choice.qv == 1:
            coefficients, scale = round_weights(behind.weights, 1)
        else:
            coefficients, scale = _round_stored(behind.weights, choice.qv, square)
        last, after = quantised_layer(behind, coefficients, scale, _UNIT, seen.result)
        last = correct_bias(last, y, seen.mean, after[0])
        return last, Quantisation(*after), scale[:, np.newaxis] * coefficients.W[:, :, 0]


def pointwise(layer: FloatConvolution) -> FloatConvolution:
    """The layer with the window of one pixel; its weights are still to be replaced."""
    return replace(
        layer,
        kernel=(1, 1),
        stride=(1, 1),
        dilation=(1, 1),
        padding=(0, 0, 0, 0),
    )


def _first_stage(
    layer: FloatConvolution,
    weights: Stored | Generated,
    x: Int8,
    quantisation: Quantisation,
    *,
    centred: bool = True,
) -> tuple[Convolution, Floats]:
    """A layer of which nothing but the geometry is that of `layer`, into a map of zero point 0.

    Parameters
    ----------
    layer : FloatConvolution
    weights : Stored or Generated
    x : int8 [N, H, W, channels]
        What it reads, of this `quantisation`.
    centred : bool
        Whether its outputs have a mean of 0 each, instead of a real zero at 0.

    Returns
    -------
    (Convolution, float64 [outputs])
        And how many units of the sums an output's integer stands for.
    """
    count = len(weights.W)
    layer = replace(
        layer,
        weights=weights.W.astype(np.float64),
        bias=np.zeros(count),
        low=-math.inf,
        high=math.inf,
        dense=False,
    )
    # As if sums were not to be scaled at all, to look at them.
    zero_point = quantisation.zero_point
    plain, _ = quantised_layer(layer, weights, np.ones(count), (1.0, zero_point), _UNIT)
    step = np.maximum(_best_step(plain.sums(x), centred=centred), 1.0)
    scale = 1 / (quantisation.scale * step)
    made, _ = quantised_layer(layer, weights, scale, quantisation, _UNIT)
    if centred:
        made = correct_bias(made, x, np.zeros(count), 1.0)
    return made, step


def _work(layer: FloatConvolution, choice: Choice) -> int:
    """How long a layer takes to fit, roughly."""
    if choice.stored:
        return 1
    return 1 + (len(layer.weights) if choice.kernels is None else choice.kernels)


def _pixels(maps: NDArray[Any]) -> NDArray[Any]:
    """[N, H, W, C] as [pixels, C]."""
    return maps.reshape(-1, maps.shape[-1])


def _best_step(sums: NDArray[Any], *, centred: bool) -> Floats:
    """For each channel of [N, H, W, C] the step with which int8 comes nearest to it.

    About the channels' means if `centred`.
    """
    some = spread(_pixels(sums), _SUMS, period=math.prod(sums.shape[1:3])).astype(np.float64)
    if centred:
        some -= some.mean(axis=0)
    largest = np.maximum(np.abs(some).max(axis=0), 1e-30)
    best, steps = np.full(len(largest), np.inf), largest / 127
    for factor in np.linspace(1, 0.4, 13):
        step = largest * (factor / 127)
        error = np.square(np.clip(np.rint(some / step), -128, 127) * step - some).sum(axis=0)
        steps[error < best] = step[error < best]
        best = np.minimum(best, error)
    return steps


def _result(
    name: str, target: Floats, choice: Choice, effective: Floats, bits: int, moments: Floats | None
) -> LayerResult:
    flat = target.reshape(len(target), -1)
    error = flat - effective.reshape(flat.shape)
    relative = [np.linalg.norm(error) / max(float(np.linalg.norm(flat)), 1e-30)]
    if moments is not None:
        power = np.einsum("oi,ij,oj->", flat, moments, flat, optimize=True)
        wrong = np.einsum("oi,ij,oj->", error, moments, error, optimize=True)
        relative.append(np.sqrt(wrong / max(power, 1e-30)))
    return LayerResult(name, choice, float(relative[0]), float(relative[-1]), bits)


def covariance_of(
    layer: FloatConvolution, samples: Floats, *, damped: bool = False
) -> Floats | None:
    """Covariance [Ci*T, Ci*T] of what a layer's taps see; None where it is very wide.

    Damped it is the metric of `moments_of`, for samples that are seen as they are.
    """
    n = layer.weights[0].size
    if n > MOST_INPUTS:
        return None
    square, _, count = _covariances(layer, samples, samples)
    return square + _damping(square, count) if damped else square


def moments_of(
    layer: FloatConvolution, samples: Floats, seen: Floats
) -> tuple[Floats | None, Floats]:
    """Metric of a layer's weights, and the weights it should have.

    Parameters
    ----------
    layer : FloatConvolution
    samples : float32 [N, H, W, Ci]
        What the layer sees in the float network.
    seen : float32 [N, H, W, Ci]
        What it sees in the compressed one.

    Returns
    -------
    (float64 [Ci*T, Ci*T], float64 [Co, Ci, T])
        Damped covariance of what the taps see in the compressed network, and the weights whose
        outputs on it come nearest to those of the float network. None, and the layer's own
        weights, where it is very wide.
    """
    n = layer.weights[0].size
    if n > MOST_INPUTS:
        return None, layer.weights
    square, product, count = _covariances(layer, samples, seen)
    damping = _damping(square, count)
    metric = square + damping
    flat = layer.weights.reshape(len(layer.weights), n)
    wanted = np.linalg.solve(metric, (flat @ (product + damping)).T).T
    return metric, wanted.reshape(layer.weights.shape)


def _damping(square: Floats, count: int) -> Floats:
    """What is added to a covariance of `count` pixels.

    Few samples say little about many inputs: with it the weights stay as they were.
    """
    n = len(square)
    share = _DAMPING * max(1.0, 4 * n / count)
    damping: Floats = share * max(float(np.trace(square)) / n, 1e-12) * np.eye(n)
    return damping


def _covariances(
    layer: FloatConvolution, samples: Floats, seen: Floats
) -> tuple[Floats, Floats, int]:
    """Of what the taps see, with itself and with what they should see; and of how many pixels."""
    n = layer.weights[0].size
    square, product = np.zeros((n, n)), np.zeros((n, n))
    mean, mean_seen = np.zeros(n), np.zeros(n)
    count = 0
    # About some mean: single precision would lose what varies little about a large one.
    about, about_seen = (
        layer.patches(maps[:1]).reshape(-1, n).mean(axis=0) for maps in (samples, seen)
    )
    for start in range(0, len(samples), 16):
        y = layer.patches(seen[start : start + 16]).reshape(-1, n) - about_seen
        square += y.T @ y
        mean_seen += y.sum(axis=0, dtype=np.float64)
        count += len(y)
        if samples is not seen:
            x = layer.patches(samples[start : start + 16]).reshape(-1, n) - about
            product += x.T @ y
            mean += x.sum(axis=0, dtype=np.float64)
    square = square / count - np.outer(mean_seen, mean_seen) / count**2
    if samples is seen:
        return square, square, count
    product = product / count - np.outer(mean, mean_seen) / count**2
    return square, product, count


def compress_weights(
    name: str,
    weights: Floats,
    choice: Choice,
    config: Configuration,
    moments: Floats | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> tuple[Stored | Generated, Floats]:
    """Compress the weights of one layer.

    Parameters
    ----------
    name : str
        For messages.
    weights : float64 [Co, Ci, T]
    choice : Choice
    config : Configuration
        Bounds s1.
    moments : float64 [Ci*T, Ci*T], optional
        Metric of the error, positive definite; by default that of the weights themselves.
    seed : int, optional
    progress : callable, optional
        Called with the fraction done.

    Returns
    -------
    (Stored or Generated, float64 [Co])
        Integers, and the scale of each output channel.

    Raises
    ------
    FitError
        For ranks that the layer cannot have.
    ValueError
        For a factored choice, which is for `fit_basis`.
    """
    if choice.factored:
        raise ValueError(f"layer {name!r} is factored: fit its basis")
    if choice.stored:
        if moments is None or choice.q == 1:
            return round_weights(weights, choice.q)
        return _round_stored(weights, choice.q, moments)
    if not weights.any():
        return round_weights(weights, choice.q)
    factors = _factors(name, weights, choice, config, moments, seed)
    _, found, scale = factors.fit(progress or (lambda fraction: None))
    return found, scale


def fit_basis(
    name: str,
    weights: Floats,
    choice: Choice,
    config: Configuration,
    moments: Floats | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> tuple[Stored | Generated, Floats]:
    """Find the basis kernels of a factored layer.

    Parameters
    ----------
    name, weights, choice, config, moments, seed, progress
        As for `compress_weights`.

    Returns
    -------
    (Stored or Generated without V, float64 [Co, Bo])
        Integers of the basis kernels, and the V that, times these, comes nearest to the weights.

    Raises
    ------
    FitError
        For ranks that the layer cannot have.
    """
    if choice.kernels is None:
        raise ValueError(f"layer {name!r} has no basis kernels")
    factors = _factors(name, weights, choice, config, moments, seed)
    if not weights.any():
        zeros = np.zeros((choice.kernels, *weights.shape[1:]), np.int8)
        return Stored(zeros, max(choice.qu, 2)), np.zeros((len(weights), choice.kernels))
    _, found, scale = factors.fit(progress or (lambda fraction: None))
    V = scale[:, np.newaxis] * np.asarray(found.V)
    if found.B is None:
        return Stored(found.U, found.qu), V
    return replace(found, V=None, qv=0, s2=0), V


def effective_weights(
    name: str,
    weights: Floats,
    choice: Choice,
    config: Configuration,
    moments: Floats | None = None,
    seed: int = 0,
) -> Floats:
    """What about is left of a layer's weights, in real numbers: float64 [Co, Ci, T].

    From fewer sweeps than `compress` makes. Of a factored layer without what the rounding of the
    map between its two layers takes. Parameters and errors as for `compress_weights`, and of any
    choice.
    """
    if choice.stored or not weights.any():
        found, scale = compress_weights(name, weights, Choice(q=choice.q), config, moments)
        return scale[:, np.newaxis, np.newaxis] * found.W
    factors = _factors(name, weights, choice, config, moments, seed)
    _, recovered, scale = factors.fit(lambda fraction: None, quick=True)
    if not choice.factored:
        return scale[:, np.newaxis, np.newaxis] * recovered.W
    V = scale[:, np.newaxis] * np.asarray(recovered.V)
    return (V @ recovered.W1.reshape(len(recovered.W1), -1)).reshape(weights.shape)


def _factors(
    name: str,
    weights: Floats,
    choice: Choice,
    config: Configuration,
    moments: Floats | None,
    seed: int,
) -> "_Factors":
    check_ranks(name, weights, choice)
    _, ci, taps = weights.shape
    if moments is None:
        if ci * taps > MOST_INPUTS:
            raise FitError(
                f"layer {name!r} has {ci * taps} inputs for each output",
                f"store it; at most {MOST_INPUTS} can be compressed",
            )
        moments = np.eye(ci * taps)
    return _Factors(weights, choice, config, moments, seed)


def _round_stored(weights: Floats, q: int, moments: Floats) -> tuple[Stored, Floats]:
    """Round stored weights with error feedback, at the best of several scales a channel."""
    flat = weights.reshape(len(weights), -1)
    factors = np.linspace(1, 0.9 if q > 6 else 0.35, 14)
    integers, scale = _round_rows(flat, moments, _Numbers(q), factors)
    return Stored(integers.astype(np.int8).reshape(weights.shape), q), scale


def _triangle(metric: Floats) -> Floats:
    """What `_babai` needs of a metric [n, n]: upper triangular, with a diagonal of ones."""
    # (x - z)' M (x - z) = |R (x - z)|^2 with R upper triangular: the last coordinate first.
    factor = np.linalg.cholesky(metric).T
    return factor / np.diag(factor)[:, np.newaxis]


class _Numbers(NamedTuple):
    """The integers that a coefficient of `q` bits may be."""

    q: int
    code: Code = Code.UNIFORM

    @property
    def largest(self) -> int:
        """The largest of them."""
        return 4 if self.code is Code.POWER_OF_TWO else symmetric_range(self.q)[1]

    def nearest(self, values: Floats) -> Floats:
        """That nearest to each of the values."""
        if self.q == 1:
            return np.where(values < 0, -1.0, 1.0)
        if self.code is Code.POWER_OF_TWO:
            size = np.abs(values)
            return np.copysign((size > 0.5) + 1.0 * (size > 1.5) + 2.0 * (size > 3), values)
        return np.clip(np.rint(values), -self.largest, self.largest)


def _babai(targets: Floats, factor: Floats, numbers: _Numbers) -> Floats:
    """Integers near rows of `targets` [rows, n] in the metric of a `_triangle` [n, n].

    Coordinate by coordinate; the error of each is fed into those that follow.
    """
    result = np.empty_like(targets)
    residual = np.zeros_like(targets)
    for k in range(targets.shape[1] - 1, -1, -1):
        wanted = targets[:, k] + residual[:, k + 1 :] @ factor[k, k + 1 :]
        result[:, k] = numbers.nearest(wanted)
        residual[:, k] = targets[:, k] - result[:, k]
    return result


def _round_rows(
    targets: Floats,
    metric: Floats,
    numbers: _Numbers,
    factors: Floats,
    triangle: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Integers and a scale for each row: min |t - scale * z| over both.

    `factors` are those of the largest value that are tried as the largest integer; `triangle` is
    that of the metric, where it is known.

    Returns
    -------
    (float64 [rows, n], float64 [rows])
    """
    largest = np.abs(targets).max(axis=1, keepdims=True)
    largest[largest == 0] = 1
    best_error = np.full(len(targets), np.inf)
    integers, scales = numbers.nearest(np.zeros_like(targets)), np.zeros(len(targets))
    weighted = targets @ metric
    triangle = _triangle(metric) if triangle is None else triangle
    scaled = np.concatenate(
        [targets * (numbers.largest / (factor * largest)) for factor in factors]
    )
    for z in np.split(_babai(scaled, triangle, numbers), len(factors)):
        zm = z @ metric
        scale = (weighted * z).sum(axis=1) / np.maximum((zm * z).sum(axis=1), 1e-30)
        error = (weighted * targets).sum(axis=1) - scale * (weighted * z).sum(axis=1)
        better = (error < best_error) & (scale > 0)
        best_error[better], scales[better], integers[better] = (
            error[better],
            scale[better],
            z[better],
        )
    return integers, scales


class _Factors:
    """The factors of one layer's weights, and the sweeps that improve them.

    `V` [Co, Bo] is real or, times `scale`, integer; U [Bo, Ci, Bi] and B [Bo, Bi, T] likewise
    without a scale of their own: whatever they are scaled by, V undoes.
    """

    def __init__(
        self,
        weights: Floats,
        choice: Choice,
        config: Configuration,
        moments: Floats,
        seed: int,
    ):
        self.choice = choice
        self.numbers_u = _Numbers(choice.qu, choice.code)
        self.numbers_b = _Numbers(choice.qb)
        self.config = config
        self.co, self.ci, self.taps = weights.shape
        self.W = weights.reshape(self.co, -1).astype(np.float64)
        self.H = moments
        self.H4 = moments.reshape(self.ci, self.taps, self.ci, self.taps)
        self.bo = self.co if choice.kernels is None else choice.kernels
        self.rng = np.random.default_rng(seed)
        self.W1: Floats = np.zeros((self.bo, self.W.shape[1]))
        self.V: Floats = np.zeros((self.co, self.bo))
        self.integer_v: Floats = self.V

    def fit(
        self, progress: Callable[[float], None], quick: bool = False
    ) -> tuple[float, Generated, Floats]:
        """All three stages: error, weights and scales.

        Where the layer is factored, what counts is V times the recovered W1, without the rounding
        to weights of 8 bits that s2 stands for.
        """
        floats, integers = _QUICK_SWEEPS if quick else _SWEEPS
        sweeps = floats + 2 * integers
        self._begin()
        for sweep in range(floats):
            self._float_sweep()
            progress((sweep + 1) / sweeps)
        self._round_kernels()
        best = self._round_v()
        for sweep in range(1, integers + 1):
            progress((floats + 2 * sweep) / sweeps)
            self._integer_sweep()
            found = self._round_v()
            if found[0] < best[0]:
                best = found
        return best

    @cached_property
    def _triangle(self) -> Floats:
        return _triangle(self.H)

    # Stage 1: floating point.

    def _begin(self) -> None:
        """V and W1 of the best rank Bo, turned at random; U and B nearest to that W1."""
        if self.choice.kernels is None:
            self.V = np.eye(self.co)
            self.W1 = self.W.copy()
        else:
            root = np.linalg.cholesky(self.H)
            left, values, right = np.linalg.svd(self.W @ root, full_matrices=False)
            turn, _ = np.linalg.qr(self.rng.standard_normal((self.bo, self.bo)))
            basis = (values[: self.bo, np.newaxis] * right[: self.bo]) @ np.linalg.inv(root)
            self.V = left[:, : self.bo] @ turn
            self.W1 = turn.T @ basis
        if self.choice.terms is not None:
            left, values, right = np.linalg.svd(
                self.W1.reshape(self.bo, self.ci, self.taps), full_matrices=False
            )
            n = self.choice.terms
            self.U = left[:, :, :n] * values[:, np.newaxis, :n]
            self.B = right[:, :n].copy()
            for b in range(self.bo):
                self._recover(b)
            self._float_v()

    def _recover(self, b: int) -> None:
        self.W1[b] = (self.U[b] @ self.B[b]).reshape(-1)

    def _float_v(self) -> None:
        """V by least squares."""
        if self.choice.kernels is None:
            return
        right = self.W1 @ self.H
        gram = right @ self.W1.T
        gram += 1e-9 * np.trace(gram) / len(gram) * np.eye(len(gram))
        self.V = np.linalg.solve(gram, right @ self.W.T).T

    def _target(self, b: int) -> Floats:
        """What W1[b] would have to be, all else fixed, [Ci*T]."""
        v = self.V[:, b]
        power = float(v @ v)
        if power == 0:
            return self.W1[b]
        return self.W1[b] + v @ (self.W - self.V @ self.W1) / power

    def _u_metric(self, b: int) -> Floats:
        """Metric of U[b], [Ci*Bi, Ci*Bi]."""
        half = np.einsum("it,ctds->cids", self.B[b], self.H4, optimize=True)
        n = self.ci * len(self.B[b])
        return np.einsum("cids,js->cidj", half, self.B[b], optimize=True).reshape(n, n)

    def _b_metric(self, b: int) -> Floats:
        """Metric of B[b], [Bi*T, Bi*T]."""
        half = np.einsum("ci,ctds->itds", self.U[b], self.H4, optimize=True)
        n = self.B[b].size
        return np.einsum("itds,dj->itjs", half, self.U[b], optimize=True).reshape(n, n)

    def _solve_u(self, b: int, target: Floats) -> tuple[Floats, Floats]:
        """U[b] [Ci*Bi] by least squares, and its metric."""
        metric = _regular(self._u_metric(b))
        right = (target @ self.H).reshape(self.ci, self.taps) @ self.B[b].T
        return np.linalg.solve(metric, right.reshape(-1)), metric

    def _solve_b(self, b: int, target: Floats) -> tuple[Floats, Floats]:
        """B[b] [Bi*T] by least squares, and its metric."""
        metric = _regular(self._b_metric(b))
        right = self.U[b].T @ (target @ self.H).reshape(self.ci, self.taps)
        return np.linalg.solve(metric, right.reshape(-1)), metric

    def _float_sweep(self) -> None:
        if self.choice.terms is None:
            return
        for b in range(self.bo):
            target = self._target(b)
            self.U[b] = self._solve_u(b, target)[0].reshape(self.U[b].shape)
            self.B[b] = self._solve_b(b, target)[0].reshape(self.B[b].shape)
            # Orthogonal rows of B keep the least squares problems well conditioned.
            q, r = np.linalg.qr(self.B[b].T)
            self.B[b], self.U[b] = q.T, self.U[b] @ r.T
            self._recover(b)
        self._float_v()

    # Stage 2: integers.

    def _round_kernels(self) -> None:
        """U and B, kernel by kernel, each at the best of several scales."""
        choice = self.choice
        for b in range(self.bo):
            target = self._target(b)
            if choice.terms is None:
                z, scale = _round_rows(
                    target[np.newaxis],
                    self.H,
                    self.numbers_u,
                    np.linspace(1, 0.4, 13),
                    self._triangle,
                )
                self._replace(b, z[0], float(scale[0]))
                continue
            self._balance(b)
            largest = np.maximum(np.abs(self.B[b]).max(axis=1, keepdims=True), 1e-30)
            tried: list[tuple[float, Floats, Floats, float]] = []
            for factor in (1.0, 0.85, 0.7):
                scaled = self.B[b] * self.numbers_b.largest / (factor * largest)
                integers = self.numbers_b.nearest(scaled)
                before, self.B[b] = self.B[b].copy(), integers
                u, metric = self._solve_u(b, target)
                z, scale = _round_rows(
                    u[np.newaxis], metric, self.numbers_u, np.linspace(1, 0.4, 9)
                )
                w1 = (z.reshape(self.U[b].shape) @ integers).reshape(-1)
                error = target - float(scale[0]) * w1
                tried.append((float(error @ self.H @ error), integers, z[0], float(scale[0])))
                self.B[b] = before
            best = min(tried, key=lambda found: found[0])
            self.B[b] = best[1]
            self.U[b] = best[2].reshape(self.U[b].shape)
            self._replace(b, (self.U[b] @ self.B[b]).reshape(-1), best[3])

    def _balance(self, b: int) -> None:
        """Turn U B so that each term has about as much to say as the others.

        All terms of U share a scale; a term much smaller than the others would be lost.
        """
        left, values, right = np.linalg.svd(self.U[b] @ self.B[b], full_matrices=False)
        n = len(self.B[b])
        turn = _even_turn(n)
        self.B[b] = turn @ right[:n]
        self.U[b] = (left[:, :n] * values[:n]) @ turn.T

    def _replace(self, b: int, w1: Floats, scale: float) -> None:
        """Make W1[b] the integers `w1`, which stand for `scale * w1`."""
        self.W1[b] = w1
        self.V[:, b] *= scale if scale > 0 else 1.0

    def _integer_sweep(self) -> None:
        """U and B once more, against the integer V (times its scales)."""
        choice = self.choice
        for b in range(self.bo):
            target = self._target(b)
            before = self._error(target, self.W1[b])
            if choice.terms is None:
                z = _babai(target[np.newaxis], self._triangle, self.numbers_u)[0]
                if self._error(target, z) < before:
                    self.W1[b] = z
                continue
            u, metric = self._solve_u(b, target)
            z = _babai(u[np.newaxis], _triangle(metric), self.numbers_u)[0].reshape(self.U[b].shape)
            w1 = (z @ self.B[b]).reshape(-1)
            after = self._error(target, w1)
            if after < before:
                self.U[b], self.W1[b], before = z, w1, after
            x, metric = self._solve_b(b, target)
            z = _babai(x[np.newaxis], _triangle(metric), self.numbers_b)[0].reshape(self.B[b].shape)
            w1 = (self.U[b] @ z).reshape(-1)
            if self._error(target, w1) < before:
                self.B[b], self.W1[b] = z, w1

    def _error(self, target: Floats, w1: Floats) -> float:
        error = target - w1
        return float(error @ self.H @ error)

    def _round_v(self) -> tuple[float, Generated, Floats]:
        """V at the best of several scales for each output channel; `V` is then scale * integer.

        Returns what `_shifted` makes of it.
        """
        if self.choice.kernels is None:
            power = ((self.W1 @ self.H) * self.W1).sum(axis=1)
            match = ((self.W @ self.H) * self.W1).sum(axis=1)
            self.integer_v = np.eye(self.co)
            self.V = np.diag(match / np.maximum(power, 1e-30))
            return self._shifted()
        right = self.W1 @ self.H
        gram = _regular(right @ self.W1.T)
        exact = np.linalg.solve(gram, right @ self.W.T).T
        # Where a kernel counts for much its column is large: even them out, in W1's favour.
        self.integer_v, scale = _round_rows(
            exact, gram, _Numbers(self.choice.qv), np.linspace(1, 0.4, 25)
        )
        self.V = scale[:, np.newaxis] * self.integer_v
        return self._shifted()

    # Stage 3: what the hardware makes of them.

    def _shifted(self) -> tuple[float, Generated, Floats]:
        """Error, weights and scales at the best shifts."""
        choice = self.choice
        factors: dict[str, Any] = {"qu": choice.qu}
        if choice.terms is None:
            factors["U"] = self.W1.reshape(self.bo, self.ci, -1).astype(np.int8)
            shifts1 = [0]
        else:
            factors |= {"U": self.U.astype(np.int8), "B": self.B.astype(np.int8)}
            factors |= {"qb": choice.qb, "code": choice.code}
            shifts1 = list(range(self.config.generator_max_shift + 1))
        shifts2 = [0]
        if choice.kernels is not None:
            factors |= {"V": self.integer_v.astype(np.int8), "qv": choice.qv}
            shifts2 = [1] if choice.factored else list(range(1, 16))
        tried: list[tuple[float, Generated, Floats]] = []
        for s1 in shifts1:
            for s2 in shifts2:
                weights = Generated(**factors, s1=s1, s2=s2)
                if choice.factored:
                    flat = self.integer_v @ weights.W1.reshape(self.bo, -1)
                else:
                    flat = weights.W.reshape(self.co, -1).astype(np.float64)
                right = flat @ self.H
                power = (right * flat).sum(axis=1)
                match = (right * self.W).sum(axis=1)
                scale = np.maximum(match / np.maximum(power, 1e-30), 0)
                error = float((power * scale**2 - 2 * match * scale).sum())
                tried.append((error, weights, scale))
        return min(tried, key=lambda found: found[0])


def _regular(metric: Floats) -> Floats:
    """The metric, with a trace of the identity: kernels can be linearly dependent."""
    n = len(metric)
    return metric + (1e-7 * float(np.trace(metric)) / n + 1e-20) * np.eye(n)


def _even_turn(n: int) -> Floats:
    """An orthogonal matrix whose rows weigh all coordinates about equally."""
    k = np.arange(n)
    turn = np.cos(np.pi * (2 * k[np.newaxis] + 1) * k[:, np.newaxis] / (2 * n))
    turn[0] /= np.sqrt(2)
    return (turn * np.sqrt(2 / n)).T
