"""What each layer of a network can be: forms, ranks and precisions, with their price and loss.

The price of an option is exact: `insitu.plan.price` of layers of that shape, in the place that the
layer has when the network is planned with stored weights. Only where a network runs in bands of
rows do a plan's cycles differ from the sum of prices.

The loss of an option is a stand-in that is meant to be added up over layers. The option's weights
are fitted to the layer alone, quickly, in the metric of what it sees of some samples in the float
network; the error of its outputs is that on others. What it costs the network is measured at a few
precisions of stored weights: the float network runs with them in place of the layer's own, means
corrected and layers behind it refitted as `compress` does; the loss is how far the network's output
moves (`distance`) on the samples that nothing was fitted to. Other errors lie between
(`Sensitivity`). Both levels run factored, fully or not, or recovered into the tile: one fit is for
all.

Errors and losses are kept in a folder under a digest of all that they depend on.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from golden.code import POWER_BITS, Code
from golden.network import INPUT, Convolution, Generated, Rounding, Shape, Stored
from insitu.bands import bandable
from insitu.choice import Choice
from insitu.compress import (
    MOST_INPUTS,
    compressible,
    covariance_of,
    effective_weights,
    moments_of,
    pointwise,
)
from insitu.errors import FileError, FitError, SizeError
from insitu.files import write_file
from insitu.float_network import FloatConvolution, FloatNetwork
from insitu.maps import Map
from insitu.misfit import narrowed
from insitu.plan import Price, plan, price
from insitu.progress import Progress
from insitu.quantise import Calibration, quantise
from rtl.config import LARGEST_MEMORY, Configuration

__all__ = [
    "Menu",
    "Option",
    "Sensitivity",
    "Site",
    "Store",
    "between",
    "choices_for",
    "digest",
    "distance",
    "menus_for",
    "network_digest",
    "place",
]

Floats = NDArray[np.floating[Any]]

_VERSION = "4"
"""Of fits and networks: to be raised when code would make other ones of the same inputs."""
_SAMPLES = 128
"""That layers are fitted to, and that errors are measured on."""
_REFITTING = 32
"""Of them, for layers behind, unless these have few pixels."""
_SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8)
"""Basis kernels, of as many as there can be."""
_INTRA = ((4, 4), (4, 3), (3, 3), (4, 2), (3, 2))
_BASES = ((4, 4), (3, 3), (4, 2))
"""Bits of B and U of the intra level alone, and below a cross level."""
_FLAT = ((4, 6), (4, 4), (3, 6), (3, 4), (2, 4))
"""Bits of stored basis kernels and of V."""
_MEASURED = (5, 4, 3, 2, 1)
"""Bits of stored weights at which the network's output is looked at."""
_PLAIN = 4
"""Bits of stored weights that a compressed form has to beat in memory or cycles."""


@dataclass(frozen=True)
class Option:
    """One way to keep a layer's weights.

    Parameters
    ----------
    choice : Choice
    price : Price
    loss : float
        At least 0.
    """

    choice: Choice
    price: Price
    loss: float

    @property
    def bytes(self) -> int:
        """Of weights and parameters."""
        return self.price.weight_bytes + self.price.parameter_bytes


@dataclass(frozen=True)
class Menu:
    """The options of a layer.

    Parameters
    ----------
    name : str
    options : tuple of Option
    """

    name: str
    options: tuple[Option, ...]

    @property
    def best(self) -> "Menu":
        """Those than which none is as good in all that limits count and in loss, and better in one.

        That is weights and parameters, program, and cycles.
        """
        kept: list[Option] = []
        worths: list[tuple[float, ...]] = []
        for one in sorted(self.options, key=_worth):
            worth = _worth(one)
            if not any(all(a <= b for a, b in zip(w, worth, strict=True)) for w in worths):
                kept.append(one)
                worths.append(worth)
        return Menu(self.name, tuple(kept))

    @property
    def stored(self) -> "Menu":
        """Those that store the weights."""
        return Menu(self.name, tuple(one for one in self.options if one.choice.stored))


def _worth(option: Option) -> tuple[float, ...]:
    return option.bytes, option.loss, option.price.cycles, option.price.program_bytes


class Store:
    """Results by digest, in a folder; None keeps nothing.

    Parameters
    ----------
    folder : path or None
        Made when something is kept.
    """

    def __init__(self, folder: Path | None):
        self._folder = folder

    def get(self, key: str) -> bytes | None:
        """What is kept under a key, if anything."""
        if self._folder is None:
            return None
        try:
            return (self._folder / key).read_bytes()
        except OSError:
            return None

    def put(self, key: str, data: bytes) -> None:
        """Keep something.

        Raises
        ------
        FileError
            If it cannot be written.
        """
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(
                f"folder {self._folder} cannot be made: {error.strerror}", "choose another --cache"
            ) from None
        write_file(self._folder / key, data, "cache")

    def figures(self, key: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Figures kept under a key, or made and kept."""
        found = self.get(key)
        if found is not None:
            try:
                values = json.loads(found)
                return {str(name): float(value) for name, value in values.items()}
            except (ValueError, TypeError, AttributeError):
                pass  # Another program's file, or damaged: made again.
        made = make()
        self.put(key, json.dumps(made).encode())
        return made


def digest(*parts: Any) -> str:
    """A key that is equal where the parts, arrays or plain values, are."""
    found = hashlib.sha256(_VERSION.encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(repr((part.shape, part.dtype.str)).encode())
            found.update(np.ascontiguousarray(part).tobytes())
        else:
            found.update(repr(part).encode())
    return found.hexdigest()[:40]


def network_digest(network: FloatNetwork) -> str:
    """A key for a network in floating point."""
    parts: list[Any] = []
    for layer in network.layers:
        parts.append(type(layer).__name__)
        for name, value in sorted(vars(layer).items()):
            # A function is what it makes of some values.
            parts += [name, value(np.linspace(-8, 8, 257)) if callable(value) else value]
    return digest(network.input_shape, *parts)


def distance(outputs: NDArray[Any], wanted: NDArray[Any]) -> float:
    """How far outputs [N, ...] are from those wanted: Kullback-Leibler divergence, mean of samples.

    Of the softmax of all of a sample's outputs.
    """
    p, q = (_log_softmax(values.reshape(len(values), -1)) for values in (wanted, outputs))
    return max(0.0, float((np.exp(p) * (p - q)).sum(axis=1).mean()))


def _log_softmax(values: NDArray[Any]) -> NDArray[np.float64]:
    shifted = values.astype(np.float64) - values.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float64)


def choices_for(layer: FloatConvolution, config: Configuration) -> list[Choice]:
    """Every choice that is looked at for a layer."""
    co, ci, taps = layer.weights.shape
    found = [Choice(q=q) for q in range(8, 0, -1)]
    if layer.groups > 1 or ci * taps > MOST_INPUTS:
        return found
    most = min(ci, taps)
    terms = range(1, min(config.generator_terms + 1, most))
    bits = config.generator_b_bits, config.generator_u_bits

    def within(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(qb, qu) for qb, qu in pairs if qb <= bits[0] and qu <= bits[1]]

    def generated(pairs: Iterable[tuple[int, int]], kernels: int | None = None) -> list[Choice]:
        """With an intra level, and each code that U can have."""
        made = [
            Choice(terms=n, kernels=kernels, qb=qb, qu=qu)
            for n in terms
            for qb, qu in within(pairs)
        ]
        if config.generator_u_bits <= POWER_BITS:
            return made
        powers = [replace(one, code=Code.POWER_OF_TWO) for one in made if one.qu == POWER_BITS]
        return made + powers

    found += generated(_INTRA)
    most = min(co, ci * taps)
    kernels = {round(share * most / config.lanes) * config.lanes for share in _SHARES}
    for bo in sorted(kernels - {0}):
        if bo >= most:
            continue
        both = [Choice(kernels=bo, qu=qu, qv=qv) for qu, qv in _FLAT]
        both += generated(_BASES, kernels=bo)
        found += [
            replace(choice, factored=factored) for choice in both for factored in (True, False)
        ]
        found += [
            replace(choice, factored=True, fully=True)
            for choice in both
            if choice.terms is not None and choice.code is Code.UNIFORM
        ]
    return found


@dataclass(frozen=True)
class Site:
    """Where a layer is on a configuration.

    Parameters
    ----------
    source, target : Map
    banded : bool
        Whether it runs in bands of rows.
    """

    source: Map
    target: Map
    banded: bool = False

    def price(self, layer: FloatConvolution, choice: Choice, config: Configuration) -> Price:
        """What a layer takes in a form; FitError if the configuration cannot run it so."""
        source = self.source
        if source.window and not (choice.stored or (choice.factored and choice.terms is None)):
            # Taps are in the place of channels only where weights are stored.
            pitch = -(-source.shape[2] // config.width) * config.width
            source = replace(source, window=None, pitch=pitch)
        weights = _ones(layer.weights.shape, choice)
        if not choice.factored:
            made = _convolution(layer, weights, source, self.target)
            if self.banded and not bandable(made):
                raise FitError(
                    f"layer {layer.name!r} runs in bands of rows, for each of which its weights "
                    "would be recovered into the tile",
                    "let it stay factored",
                )
            return price(made, source, self.target, config)
        single = pointwise(layer)
        channels = choice.kernels or 0
        found, read = None, source
        if choice.fully:
            channels *= choice.terms or 0
            coefficients = between(source.shape, channels, config)
            U = Stored(np.ones((channels, layer.weights.shape[1], 1), np.int8), choice.qu)
            first = _convolution(single, U, source, coefficients)
            found, read = price(first, source, coefficients, config), coefficients
            layer = replace(layer, groups=channels)
            weights = Stored(np.ones((channels, 1, layer.weights.shape[2]), np.int8), choice.qb)
        basis = between(self.target.shape, channels, config)
        second = price(_convolution(layer, weights, read, basis), read, basis, config)
        V = Stored(np.ones((self.target.shape[2], channels, 1), np.int8), choice.qv)
        last = _convolution(single, V, basis, self.target)
        last_price = price(last, basis, self.target, config)
        return second + last_price if found is None else found + second + last_price


def between(shape: Shape, channels: int, config: Configuration) -> Map:
    """A map between a factored layer's own layers, as high and wide as another, at no address."""
    pitch = -(-channels // config.activation_word) * config.activation_word
    return Map(name="between", shape=(*shape[:2], channels), pitch=pitch, address=0, zero_point=0)


def _ones(shape: tuple[int, ...], choice: Choice) -> Stored | Generated:
    """Weights in a form, all ones; of a factored layer those of the basis kernels."""
    co, ci, taps = shape

    def ones(*sizes: int) -> NDArray[np.int8]:
        return np.ones(sizes, np.int8)

    if choice.stored:
        return Stored(ones(co, ci, taps), choice.q)
    rows = co if choice.kernels is None else choice.kernels
    if choice.terms is None and choice.factored:
        return Stored(ones(rows, ci, taps), choice.qu)
    factors: dict[str, Any] = {"qu": choice.qu}
    if choice.terms is None:
        factors["U"] = ones(rows, ci, taps)
    else:
        factors |= {"U": ones(rows, ci, choice.terms), "B": ones(rows, choice.terms, taps)}
        factors |= {"qb": choice.qb, "code": choice.code}
    if choice.kernels is not None and not choice.factored:
        factors |= {"V": ones(co, rows), "qv": choice.qv, "s2": 1}
    return Generated(**factors)


def _convolution(
    layer: FloatConvolution, weights: Stored | Generated, source: Map, target: Map
) -> Convolution:
    channels = weights.shape[0]
    return Convolution(
        name=layer.name,
        inputs=layer.inputs,
        kernel=layer.kernel,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        weights=weights,
        bias=np.zeros(channels, np.int32),
        # Each channel's own: equal ones would be stored once.
        multiplier=((1 << 30) + np.arange(channels)).astype(np.int32),
        shift=np.ones(channels, np.int8),
        input_zero_point=source.zero_point,
        output_zero_point=target.zero_point,
        activation_min=-128,
        activation_max=127,
        rounding=Rounding.UP,
    )


def place(
    network: FloatNetwork, calibration: Calibration, config: Configuration
) -> tuple[dict[str, Site], Price]:
    """Where layers are, and what takes memory and cycles whatever is chosen for them.

    The network is planned with weights of 8 bits, or else of 1 bit, in as much coefficient memory
    as there can be.

    Raises
    ------
    FitError
        If the network's maps do not fit, a layer is none that the hardware can run, or even weights
        of 1 bit are too many.
    """
    roomy = replace(config, coefficient_bytes=LARGEST_MEMORY)
    bits, made = 8, quantise(network, calibration)
    try:
        planned = plan(made, roomy, name=network.name)
    except SizeError:
        names = {layer.name for layer in compressible(network)}
        layers = (narrowed(one, 1) if one.name in names else one for one in made.layers)
        bits, made = 1, replace(made, layers=tuple(layers))
        try:
            planned = plan(made, roomy, name=network.name)
        except SizeError:
            raise FitError(
                f"network {network.name!r} is too large for any configuration: even with weights "
                f"of 1 bit it takes more than {LARGEST_MEMORY:,} bytes of coefficient memory",
                "use a network of fewer channels",
            ) from None
    sites = {
        one.layer.name: Site(one.inputs[0], one.output, banded=len(one.steps) > 1)
        for one in planned.layers
        if isinstance(one.layer, Convolution)
    }
    fixed = Price(
        planned.weight_bits // 8,
        sum(one.parameter_bytes for one in planned.layers),
        planned.parameters_base,
        planned.cycles,
    )
    for layer in compressible(network):
        fixed -= sites[layer.name].price(layer, Choice(q=bits), config)
    return sites, fixed


class _Meter:
    """Measures what becomes of a network's output where one layer has other weights.

    Layers behind it get the weights whose outputs come nearest to what they were, as when a network
    is compressed: they make good a part of the error.

    Parameters
    ----------
    network : FloatNetwork
    fitted, unseen : float32 [N, H, W, C]
        Samples that weights are fitted to, and those that are measured on.
    """

    def __init__(self, network: FloatNetwork, fitted: Floats, unseen: Floats):
        self._network = network
        self._fitted: dict[str, Floats] = {INPUT: fitted}
        self._unseen: dict[str, Floats] = {INPUT: unseen}
        self._means: dict[str, Floats] = {}
        for layer in network.layers:
            for maps in (self._unseen, self._fitted):
                sums = layer.sums(*(maps[name] for name in layer.inputs))
                maps[layer.name] = layer.limited(sums)
            self._means[layer.name] = sums.mean(axis=(0, 1, 2))

    def fitted(self, layer: FloatConvolution) -> Floats:
        """What a layer sees of the samples to fit to."""
        return self._fitted[layer.inputs[0]]

    def unseen(self, layer: FloatConvolution) -> Floats:
        """What it sees of the others."""
        return self._unseen[layer.inputs[0]]

    def moved(self, layer: FloatConvolution, weights: Floats) -> float:
        """How far the output moves, the means of convolutions' channels kept."""
        fitted: dict[str, Floats] = {}
        unseen: dict[str, Floats] = {}
        for one in self._network.layers:
            own = one.name == layer.name
            if not own and not any(name in fitted for name in one.inputs):
                continue
            inputs = [fitted.get(name, self._fitted[name]) for name in one.inputs]
            others = [unseen.get(name, self._unseen[name]) for name in one.inputs]
            if isinstance(one, FloatConvolution) and (own or one.weight_scale is None):
                if own:
                    one = replace(one, weights=weights)
                elif one.groups == 1:
                    one = replace(one, weights=self._refitted(one, inputs[0]))
                sums = one.sums(*inputs)
                apart = (self._means[one.name] - sums.mean(axis=(0, 1, 2))).astype(sums.dtype)
                fitted[one.name] = one.limited(sums + apart)
                unseen[one.name] = one.limited(one.sums(*others) + apart)
            else:
                fitted[one.name], unseen[one.name] = one.run(*inputs), one.run(*others)
        last = self._network.layers[-1].name
        return distance(unseen[last], self._unseen[last])

    def _refitted(self, layer: FloatConvolution, seen: Floats) -> Floats:
        """The weights that a layer should have for what it sees, by some pixels for each input."""
        pixels = int(np.prod(self._fitted[layer.name].shape[1:3]))
        some = max(_REFITTING, -(-4 * layer.weights[0].size // pixels))
        return moments_of(layer, self.fitted(layer)[:some], seen[:some])[1]


@dataclass(frozen=True)
class Sensitivity:
    """How far a network's output moves, by the error of one layer's outputs.

    Between measured points, and to both sides of them, a straight line of logarithms; below the
    least of them in proportion to the error.

    Parameters
    ----------
    errors : tuple of float
        Square errors relative to the power of the outputs, ascending, greater than 0.
    losses : tuple of float
        `distance` at each, not descending, greater than 0.
    """

    errors: tuple[float, ...]
    losses: tuple[float, ...]

    @classmethod
    def of(cls, points: Iterable[tuple[float, float]]) -> "Sensitivity":
        """From measured errors and losses in any order: noise must not make less of a loss."""
        known = sorted((max(error, 1e-12), max(loss, 1e-12)) for error, loss in points)
        errors = np.array([error for error, _ in known])
        losses = np.maximum.accumulate([loss for _, loss in known])
        new = np.append(True, np.diff(errors) > 0)
        return cls(tuple(errors[new].tolist()), tuple(losses[new].tolist()))

    def loss(self, error: float) -> float:
        """What an error costs."""
        errors, losses = self.errors, self.losses
        if error <= errors[0] or len(errors) == 1:
            return error * losses[0] / errors[0]
        n = int(np.clip(np.searchsorted(errors, error), 1, len(errors) - 1))
        slope = np.log(losses[n] / losses[n - 1]) / np.log(errors[n] / errors[n - 1])
        return float(losses[n - 1] * (error / errors[n - 1]) ** slope)


def menus_for(
    network: FloatNetwork,
    calibration: Calibration,
    config: Configuration,
    sites: dict[str, Site],
    *,
    store: Store,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Menu]:
    """The options of every layer that has some.

    Raises
    ------
    FitError
        If a layer has none that the configuration can run.
    """
    tell = progress or (lambda done, total, what: None)
    samples = calibration.inputs[: 2 * _SAMPLES]
    base = network_digest(network), samples, seed, config.generator_max_shift
    key = digest(*base)
    # A layer of many inputs can be fitted to few samples as well as one likes.
    meter = _Meter(network, samples[::2], samples[1::2])
    layers = compressible(network)
    last = network.layers[-1].name
    priced = [
        (layer, _priced(layer, sites[layer.name], config, output=layer.name == last))
        for layer in layers
    ]
    total, done = sum(len(options) for _, options in priced), 0
    menus = []
    for layer, options in priced:
        fits = _Fits(layer, meter, config, seed, store, key)
        found = []
        for choice, cost in options:
            tell(done, total, f"options of {layer.name}")
            found.append(Option(choice, cost, fits.loss(choice)))
            done += 1
        menus.append(Menu(layer.name, tuple(found)))
    return menus


def _priced(
    layer: FloatConvolution, site: Site, config: Configuration, *, output: bool
) -> list[tuple[Choice, Price]]:
    """Choices that can run, and that take less memory or fewer cycles than weights of few bits.

    The network's output is stored or factored, so that it can be retrained.
    """
    found = []
    refused = None
    for choice in choices_for(layer, config):
        if output and not (choice.stored or choice.factored):
            continue
        try:
            found.append((choice, site.price(layer, choice, config)))
        except FitError as error:
            refused = error
    plain = next((cost for choice, cost in found if choice == Choice(q=_PLAIN)), None)
    if refused is not None and not found:
        raise refused
    return [
        (choice, cost)
        for choice, cost in found
        if choice.stored
        or plain is None
        or cost.weight_bytes + cost.parameter_bytes < plain.weight_bytes + plain.parameter_bytes
        or cost.cycles < plain.cycles
    ]


class _Fits:
    """Fits one layer in all forms, and says what each would cost the network."""

    def __init__(
        self,
        layer: FloatConvolution,
        meter: _Meter,
        config: Configuration,
        seed: int,
        store: Store,
        key: str,
    ):
        self._layer, self._meter, self._config, self._seed = layer, meter, config, seed
        self._store, self._key = store, key

    def loss(self, choice: Choice) -> float:
        """Loss of a choice."""
        both = replace(choice, factored=choice.kernels is not None, fully=False)
        return self._sensitivity.loss(self._figures("error", both, self._error))

    @cached_property
    def _sensitivity(self) -> Sensitivity:
        points = []
        for q in _MEASURED:
            choice = Choice(q=q)
            error = self._figures("error", choice, self._error)
            points.append((error, self._figures("loss", choice, self._moved)))
        return Sensitivity.of(points)

    def _figures(self, what: str, choice: Choice, make: Callable[[Choice], float]) -> float:
        key = digest(self._key, self._layer.name, what, sorted(asdict(choice).items()))
        return self._store.figures(key, lambda: {what: make(choice)})[what]

    @cached_property
    def _metric(self) -> Floats | None:
        """What is fitted in."""
        if self._layer.groups > 1:
            return None
        return covariance_of(self._layer, self._meter.fitted(self._layer), damped=True)

    @cached_property
    def _measure(self) -> Floats | None:
        """What errors are measured in: of samples that no fit has seen."""
        if self._layer.groups > 1:
            return None
        return covariance_of(self._layer, self._meter.unseen(self._layer))

    def _weights(self, choice: Choice) -> Floats:
        layer = self._layer
        with threadpool_limits(1):
            return effective_weights(
                layer.name, layer.weights, choice, self._config, self._metric, self._seed
            )

    def _error(self, choice: Choice) -> float:
        """Square error of the layer's outputs, relative to their power, means apart."""
        wanted = self._layer.weights.reshape(len(self._layer.weights), -1)
        apart = wanted - self._weights(choice).reshape(wanted.shape)
        wrong, power = (
            float(((rows if self._measure is None else rows @ self._measure) * rows).sum())
            for rows in (apart, wanted)
        )
        return max(wrong, 0.0) / max(power, 1e-30)

    def _moved(self, choice: Choice) -> float:
        return self._meter.moved(self._layer, self._weights(choice))
