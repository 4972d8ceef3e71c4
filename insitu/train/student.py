"""A network whose forward pass holds the integers of the hardware, and its way into `golden`.

Maps are real multiples of their scale, channels first. A convolution's sums are normalised by a
batch normalisation, which becomes the requantiser's multipliers and the biases; so the scale of
weights does not matter in training. Scales of maps are powers of two: bfloat16 then holds every
map exactly. In evaluation mode biases are rounded as in the integer network.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from golden.network import INPUT, Convolution, Network, Rounding
from insitu.choice import Choice
from insitu.compress import check_groups, check_names, check_ranks, pointwise
from insitu.errors import FitError
from insitu.float_network import (
    FloatConvolution,
    FloatLayer,
    FloatNetwork,
    FloatPooling,
    Quantisation,
)
from insitu.quantise import Builder, Calibration, quantised_layer
from insitu.train.float_module import (
    FloatModule,
    check_layer,
    convolve,
    register,
    registered,
    without_weights,
)
from insitu.train.straight_through import quantise_map, step
from insitu.train.weights import (
    StoredWeights,
    Weights,
    split_terms,
    truncated,
    weights_for,
)

__all__ = ["Student"]

_BASIS_SCALE = 2.0**-5
"""Of the map behind a basis: its channels have at most unit variance, so four sigma fit."""
_BETWEEN = Quantisation(_BASIS_SCALE, 0)
_LOWEST = -127 * _BASIS_SCALE
"""Of that map."""
_SMALLEST_GAIN = 0.01
"""A channel is never multiplied by less: its bias has to fit the accumulators."""
_LARGEST_MULTIPLIER = 1 - 2.0**-10
"""Of a sum, on its way into the layer's map: the requantiser multiplies by less than 1."""


class _Unit(nn.Module):
    """Weights, and the normalisation of their sums.

    Parameters
    ----------
    weights : Weights
    affine : bool
        Whether the normalisation has a gain and an offset.
    """

    def __init__(self, weights: Weights, *, affine: bool = True):
        super().__init__()
        self.weights = weights
        self.norm = nn.BatchNorm2d(len(weights()), affine=affine)

    def store(self, real: Tensor, q: int) -> None:
        """Begin with these weights, stored at q bits."""
        self.weights = StoredWeights(real, q)

    def deviation(self) -> Tensor:
        """Of each channel's sums, as the normalisation takes it, [channels]."""
        return torch.sqrt(self.norm.state_dict()["running_var"].double() + self.norm.eps)

    def gain(self) -> Tensor:
        """What the sums are multiplied with, [channels]."""
        return self.norm.weight.double() / self.deviation()

    def gains(self, input_scale: float) -> tuple[Tensor, Tensor]:
        """What an accumulator's unit is worth, and what is added, [channels] each."""
        gain = self.gain()
        offset = -self.norm.state_dict()["running_mean"] * gain
        if self.norm.affine:
            offset = offset + self.norm.bias.double()
        return gain * input_scale, offset

    def forward(self, x: Tensor, layer: FloatConvolution, input_scale: float) -> Tensor:
        """The normalised sums; in double precision where they are rounded as by the requantiser."""
        weights = self.weights()
        if self.training:
            return self._normalise(convolve(x, weights, layer))
        sums = convolve(x / input_scale, weights, layer)
        gain, offset = self.gains(input_scale)
        bias = offset / gain
        # What has no weights is as fine as its bias needs it.
        bias = torch.where(weights.flatten(1).any(dim=1), torch.round(bias), bias)
        return (sums.double() + bias[:, None, None]) * gain[:, None, None]

    def _normalise(self, sums: Tensor) -> Tensor:
        normed: Tensor = self.norm(sums)
        return normed


class _Basis(_Unit):
    """Basis kernels, or a part of them. Nothing learns their gain: a column of V scales a channel.

    Parameters
    ----------
    weights : Weights
    most : float
        What the sums may be multiplied with. Of few bits and few inputs they deviate by so little
        that unit variance would take more.
    centred : bool
        Whether the outputs have a mean of 0 each, instead of a real zero at 0.
    """

    def __init__(self, weights: Weights, most: float, *, centred: bool):
        super().__init__(weights, affine=False)
        self.most = most
        self.centred = centred

    def gain(self) -> Tensor:
        """What the sums are multiplied with, [channels]."""
        return (1 / self.deviation()).clamp(max=self.most)

    @torch.no_grad()
    def worth(self, real: Tensor) -> Tensor:
        """The real sums of kernels [channels, Ci, T], over what the map holds, [channels]."""
        rows, wanted = self.weights().double().flatten(1), real.double().flatten(1)
        scale = (rows * wanted).sum(dim=1) / rows.square().sum(dim=1).clamp(min=1)
        return scale / self.gain()

    def _normalise(self, sums: Tensor) -> Tensor:
        if self.centred:
            normed = super()._normalise(sums)
        else:  # Beside its negative its mean is 0.
            normed = super()._normalise(torch.cat([sums, -sums]))[: len(sums)]
        smaller = (self.most * self.deviation()).clamp(max=1)  # These sums are in it.
        return normed * smaller.to(normed.dtype)[:, None, None]


class _Output(nn.Module):
    """The last layer's weights: its sums are scaled, not normalised.

    Parameters
    ----------
    real : float [Co, Ci, T]
        What the weights stand for.
    q : int
        Their bits.
    bias : float [Co]
    """

    def __init__(self, real: Tensor, q: int, bias: Tensor):
        super().__init__()
        self.bias = nn.Parameter(bias.clone())
        self.scale = nn.Parameter(torch.ones(()))
        self.store(real, q)

    def store(self, real: Tensor, q: int) -> None:
        """Begin with these weights."""
        self.weights = StoredWeights(real, q)
        self.unit = float(real.abs().mean())

    def gains(self, input_scale: float) -> tuple[Tensor, Tensor]:
        """What an accumulator's unit is worth, and what is added, [channels] each."""
        one = step(self.weights.w, self.weights.q).flatten().double()
        return one * self.unit * self.scale.double().abs() * input_scale, self.bias.double()

    def forward(self, x: Tensor, layer: FloatConvolution, input_scale: float) -> Tensor:
        """The scaled sums, also in double precision there."""
        gain, bias = self.gains(input_scale)
        sums = convolve(x / input_scale, self.weights(), layer).float()
        if self.training:
            return sums * gain.float()[:, None, None] + bias.float()[:, None, None]
        return (sums.double() + torch.round(bias / gain)[:, None, None]) * gain[:, None, None]


class _Stage(NamedTuple):
    """What a layer runs as, or one of the layers that a factored one runs as.

    Parameters
    ----------
    layer : FloatConvolution
        Name and geometry count.
    given : Quantisation
        Of the map that it reads.
    centred : bool
        Whether its sums may be moved to a mean of 0: padding reads zeros of the next map.
    """

    layer: FloatConvolution
    given: Quantisation
    centred: bool = True


def _stages(
    layer: FloatConvolution, choice: Choice, given: Quantisation, groups: int
) -> tuple[_Stage, ...]:
    """A layer as it runs; `groups` are those of B where it is fully factored."""
    if not choice.factored:
        return (_Stage(layer, given),)
    basis = replace(layer, name=f"{layer.name}.basis", low=_LOWEST, high=math.inf)
    stages = []
    if choice.fully:
        first = replace(_pointwise(basis), name=f"{layer.name}.coefficients")
        stages.append(_Stage(first, given, centred=False))
        basis, given = replace(basis, inputs=(first.name,), groups=groups), _BETWEEN
    stages.append(_Stage(basis, given))
    stages.append(_Stage(replace(_pointwise(layer), inputs=(basis.name,)), _BETWEEN))
    return tuple(stages)


def _parts(weights: Tensor, choice: Choice) -> tuple[Tensor, ...]:
    """The real numbers of each of a layer's stages, for weights [Co, Ci, T]."""
    if not choice.factored:
        return (weights,)
    v, kernels = truncated(weights, choice.kernels)
    if not choice.fully:
        return kernels, v[:, :, None]
    u, b = split_terms(kernels, choice.terms)
    bo, terms, taps = b.shape
    return (
        u.mT.reshape(bo * terms, -1, 1),
        b.reshape(bo * terms, 1, taps),
        v.repeat_interleave(terms, dim=1)[:, :, None],
    )


def _forms(parts: Sequence[Tensor], choice: Choice) -> tuple[Weights, ...]:
    """The same as they are trained."""
    if not choice.factored:
        return (weights_for(parts[0], choice),)
    if choice.fully:
        bits = choice.qu, choice.qb, choice.qv
        return tuple(StoredWeights(part, q) for part, q in zip(parts, bits, strict=True))
    inner = replace(choice, kernels=None, factored=False, q=choice.qu)
    return weights_for(parts[0], inner), StoredWeights(parts[1], choice.qv)


class Student(nn.Module):
    """A network in the compressed form, to be trained.

    Parameters
    ----------
    network : FloatNetwork
        What FloatModule takes.
    choices : mapping of layer name to Choice
        Layers left out are stored at 8 bits.
    calibration : Calibration
        Gives the maps' scales, which are rounded up to powers of two, and the batches that set the
        normalisations to what the network gives.

    Raises
    ------
    FitError
        For a layer of another kind, ranks that a layer cannot have, an output layer that is
        neither stored nor factored, or names that are the same in PyTorch.
    """

    def __init__(
        self, network: FloatNetwork, choices: Mapping[str, Choice], calibration: Calibration
    ):
        super().__init__()
        self.network = network
        self.choices = {
            layer.name: choices.get(layer.name, Choice())
            for layer in network.layers
            if isinstance(layer, FloatConvolution)
        }
        check_names(choices, self.choices)
        self.quantisations = _quantisations(network, calibration)
        self.output = network.layers[-1].name
        self._stages: dict[str, tuple[_Stage, ...]] = {}
        parts = {}
        for layer in network.layers:
            check_layer(layer)
            if isinstance(layer, FloatConvolution):
                parts[layer.name] = self._add(layer, self.choices[layer.name])
        self._match(calibration, parts)

    def _add(self, layer: FloatConvolution, choice: Choice) -> tuple[Tensor, ...]:
        """Add the modules of a layer; the real numbers of its stages."""
        given = self.quantisations[layer.inputs[0]]
        real = torch.from_numpy(layer.weights).float()
        if layer.name == self.output and not (choice.stored or choice.factored):
            raise FitError(
                f"layer {layer.name!r} gives the network's output, and is stored or factored",
                "choose only q for it, or a factored form",
            )
        check_groups(layer, choice)
        check_ranks(layer.name, layer.weights, choice)
        parts = _parts(real, choice)
        *bases, last = _forms(parts, choice)
        self._stages[layer.name] = _stages(layer, choice, given, groups=len(parts[0]))
        for stage, weights in zip(self._stages[layer.name][:-1], bases, strict=True):
            most = _LARGEST_MULTIPLIER * _BASIS_SCALE / stage.given.scale
            register(self, stage.layer.name, _Basis(weights, most, centred=stage.centred))
        if layer.name == self.output:
            bits = choice.qv if choice.factored else choice.q
            bias = torch.from_numpy(layer.bias).float()
            register(self, layer.name, _Output(parts[-1], bits, bias))
        else:
            register(self, layer.name, _Unit(last))
        return parts

    def _part(self, layer: FloatConvolution) -> "_Unit | _Output":
        part: _Unit | _Output = getattr(self, registered(layer.name))
        return part

    @torch.no_grad()
    def _match(self, calibration: Calibration, parts: Mapping[str, Sequence[Tensor]]) -> None:
        """Give the sums the statistics that those of the float network have.

        Normalising takes the scale from basis kernels: V's columns get it. Each layer is matched
        behind those before it as they are then.
        """
        x = torch.from_numpy(calibration.inputs).permute(0, 3, 1, 2)
        x = x.contiguous(memory_format=torch.channels_last)
        moments = FloatModule(self.network).moments(x)
        for name, (mean, deviation) in moments.items():
            unit = self._part(self._stages[name][-1].layer)
            if isinstance(unit, _Unit):
                unit.norm.weight.copy_(deviation)
                unit.norm.bias.copy_(mean)
        for name, (*bases, last) in self._stages.items():
            if not bases:
                continue
            self._measure([x])
            *kernels, v = parts[name]
            for stage, real in zip(bases, kernels, strict=True):
                basis = cast(_Basis, self._part(stage.layer))
                v = v * basis.worth(real).float()[:, None]
            self._part(last.layer).store(v, self.choices[name].qv)
        # Once more behind the channels that the first time has limited.
        self.settle([x])
        self.settle([x])
        if self.choices[self.output].factored:  # What centring took from V's inputs.
            output = cast(_Output, self._part(self._stages[self.output][-1].layer))
            self.eval()
            made = self(x).reshape(len(x), len(output.bias), -1).mean(dim=(0, 2))
            output.bias.add_(moments[self.output][0] - made)

    @torch.no_grad()
    def settle(self, batches: Iterable[Tensor]) -> None:
        """Set the normalisations' statistics to the mean over batches of real inputs.

        Those that training leaves lag behind the weights, of which each step moves some to another
        integer; at few bits this costs tens of points of accuracy.
        """
        self._measure(batches)
        self.limit()

    def _measure(self, batches: Iterable[Tensor]) -> None:
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # Every batch counts the same.
        self.train()
        for x in batches:
            self(x)
        for norm in norms:
            norm.momentum = 0.1

    @torch.no_grad()
    def limit(self) -> None:
        """Keep every channel's gain large enough for its bias, and small enough for its map.

        Of few bits and few inputs, as of a depthwise layer, a sum's unit can be worth more than its
        map's. Call it after each update.
        """
        for name, stages in self._stages.items():
            unit = self._part(stages[-1].layer)
            if isinstance(unit, _Unit):
                norm = unit.norm
                least = _SMALLEST_GAIN * norm.weight.abs().mean()
                ratio = self.quantisations[name].scale / stages[-1].given.scale
                norm.weight.clamp_(least, _LARGEST_MULTIPLIER * ratio * unit.deviation().float())

    def coherence(self) -> Tensor:
        """Mean over the layers of how far their bases are from orthogonal."""
        found = [module.coherence() for module in self.modules() if isinstance(module, Weights)]
        return torch.stack(found).sum() / len(self.choices)

    def forward(self, x: Tensor) -> Tensor:
        """Output [N, classes] for real inputs x [N, C, H, W]."""
        maps = {INPUT: self._quantise(x, INPUT, None)}
        for layer in self.network.layers:
            sources = [maps[name] for name in layer.inputs]
            if isinstance(layer, FloatConvolution):
                sums = self._sums(sources[0], layer)
            else:
                sums = without_weights(layer, *sources)
            maps[layer.name] = self._quantise(sums, layer.name, layer)
        return maps[self.output].flatten(1)

    def _sums(self, x: Tensor, layer: FloatConvolution) -> Tensor:
        *bases, last = self._stages[layer.name]
        for stage in bases:
            sums = self._part(stage.layer)(x, stage.layer, stage.given.scale)
            x = quantise_map(sums, _BASIS_SCALE, -127, 127)
        made: Tensor = self._part(last.layer)(x, last.layer, last.given.scale)
        return made

    def _quantise(self, x: Tensor, name: str, layer: FloatLayer | None) -> Tensor:
        scale, zero_point = self.quantisations[name]
        low, high = -128 - zero_point, 127 - zero_point
        # All but convolutions round in ONNX's way.
        even = not isinstance(layer, FloatConvolution)
        pools = isinstance(layer, FloatPooling)
        if layer is not None and not pools and self.training and name == self.output:
            return x  # The loss wants every logit as it is.
        if layer is not None:
            low = max(low, math.floor(layer.low / scale + 0.5)) if layer.low > -math.inf else low
            high = (
                min(high, math.floor(layer.high / scale + 0.5)) if layer.high < math.inf else high
            )
        return quantise_map(x, scale, low, high, even=even)

    @torch.no_grad()
    def golden(self) -> Network:
        """The integer network, which computes what this one does in evaluation mode."""
        builder = Builder(self.network, self.quantisations)
        for layer in self.network.layers:
            if not isinstance(layer, FloatConvolution):
                builder.add(layer)
                continue
            stages = self._stages[layer.name]
            results = *(stage.given for stage in stages[1:]), self.quantisations[layer.name]
            for stage, result in zip(stages, results, strict=True):
                unit = self._part(stage.layer)
                builder.append(_integer(unit, stage.layer, stage.given, result))
        return builder.network()


def _integer(
    unit: _Unit | _Output, layer: FloatConvolution, given: Quantisation, result: Quantisation
) -> Convolution:
    gain, offset = (values.cpu().numpy() for values in unit.gains(given.scale))
    layer = replace(layer, bias=offset)
    integer, after = quantised_layer(
        layer, unit.weights.golden(), gain / given.scale, given, result
    )
    if after != tuple(result):
        raise FitError(
            f"layer {layer.name!r} multiplies its sums by 1 or more",
            "choose more bits for it, and calibrate with samples like those the network was "
            "trained with",
        )
    return replace(integer, rounding=Rounding.UP)


def _pointwise(layer: FloatConvolution) -> FloatConvolution:
    """The layer of one tap that V is, or U."""
    return replace(pointwise(layer), weights=np.zeros((len(layer.weights), 1, 1)))


def _quantisations(network: FloatNetwork, calibration: Calibration) -> dict[str, Quantisation]:
    """Of every map: a scale that is a power of two, no negative values or as many as positive."""
    names = (INPUT, *(layer.name for layer in network.layers))
    found: dict[str, Quantisation] = {}
    layers = {layer.name: layer for layer in network.layers}
    for name, scale, zero_point in zip(
        names, calibration.scales, calibration.zero_points, strict=True
    ):
        if name == INPUT:
            found[name] = Quantisation(scale, zero_point)
            continue
        layer = layers[name]
        if isinstance(layer, FloatPooling):
            found[name] = found[layer.inputs[0]]
            continue
        largest = scale * max(127 - zero_point, 128 + zero_point)
        steps = 255 if zero_point == -128 else 127
        power = 2.0 ** math.ceil(math.log2(largest / steps) - 0.25)
        found[name] = Quantisation(power, -128 if zero_point == -128 else 0)
    return found
