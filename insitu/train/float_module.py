"""A network in floating point as a module: what teaches, and how its layers compute in PyTorch."""

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from golden.network import INPUT
from insitu.errors import FitError
from insitu.float_network import (
    FloatAdd,
    FloatConvolution,
    FloatLayer,
    FloatLimit,
    FloatMean,
    FloatNetwork,
    FloatPooling,
)

__all__ = [
    "FloatModule",
    "NetworkModule",
    "check_layer",
    "convolve",
    "register",
    "registered",
    "without_weights",
]


def convolve(
    x: Tensor, weights: Tensor, layer: FloatConvolution, bias: Tensor | None = None
) -> Tensor:
    """Sums of weights [Co, Ci / groups, T] over x [N, Ci, H, W]."""
    top, left, bottom, right = layer.padding
    kernel = weights.reshape(*weights.shape[:2], *layer.kernel)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    if (top, left) == (bottom, right):
        padding = top, left
    else:
        x, padding = functional.pad(x, (left, right, top, bottom)), (0, 0)
    return functional.conv2d(x, kernel, bias, layer.stride, padding, layer.dilation, layer.groups)


def _limited(x: Tensor, layer: FloatLayer) -> Tensor:
    if math.isinf(layer.low) and math.isinf(layer.high):
        return x
    return x.clamp(layer.low, layer.high)


def _pool(x: Tensor, layer: FloatPooling) -> Tensor:
    top, left, bottom, right = layer.padding
    if layer.mode == "maximum":
        padded = functional.pad(x, (left, right, top, bottom), value=-math.inf)
        return functional.max_pool2d(padded, layer.kernel, layer.stride)
    if any(layer.padding):
        inside = functional.pad(torch.ones_like(x[:1, :1]), (left, right, top, bottom))
        x = functional.pad(x, (left, right, top, bottom))
        share = functional.avg_pool2d(inside, layer.kernel, layer.stride)
        return functional.avg_pool2d(x, layer.kernel, layer.stride) / share
    return functional.avg_pool2d(x, layer.kernel, layer.stride)


class NetworkModule(nn.Module):
    """A network in floating point, whose convolutions a subclass computes.

    Parameters
    ----------
    network : FloatNetwork
        Of convolutions, sums, poolings, means and limits.
    """

    def __init__(self, network: FloatNetwork):
        super().__init__()
        for layer in network.layers:
            check_layer(layer)
        self.network = network

    @abstractmethod
    def convolution(self, x: Tensor, layer: FloatConvolution) -> Tensor:
        """Output of a convolution before its limits."""

    def forward(self, x: Tensor) -> Tensor:
        """Output [N, classes] for x [N, C, H, W]."""
        ((layer, sums),) = deque(self._walk(x), maxlen=1)
        return _limited(sums, layer).flatten(1)

    def moments(self, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and deviation of each convolution's channels before its limits."""
        return {
            layer.name: (sums.mean(dim=(0, 2, 3)), sums.std(dim=(0, 2, 3)))
            for layer, sums in self._walk(x)
            if isinstance(layer, FloatConvolution)
        }

    def _walk(self, x: Tensor) -> Iterator[tuple[FloatLayer, Tensor]]:
        """Each layer and its output before the limits."""
        maps = {INPUT: x}
        for layer in self.network.layers:
            sources = [maps[name] for name in layer.inputs]
            if isinstance(layer, FloatConvolution):
                sums = self.convolution(sources[0], layer)
            else:
                sums = without_weights(layer, *sources)
            maps[layer.name] = _limited(sums, layer)
            yield layer, sums


class _Fixed(nn.Module):
    """Weights and bias of a layer that is not trained."""

    def __init__(self, layer: FloatConvolution):
        super().__init__()
        self.register_buffer("weights", torch.from_numpy(layer.weights).float())
        self.register_buffer("bias", torch.from_numpy(layer.bias).float())


class FloatModule(NetworkModule):
    """The network as it is: what teaches.

    Raises
    ------
    FitError
        For a layer of another kind, or names that are the same in PyTorch.
    """

    def __init__(self, network: FloatNetwork):
        super().__init__(network)
        for layer in network.layers:
            if isinstance(layer, FloatConvolution):
                register(self, layer.name, _Fixed(layer))

    def convolution(self, x: Tensor, layer: FloatConvolution) -> Tensor:
        """Output of a convolution before its limits."""
        part = getattr(self, registered(layer.name))
        return convolve(x, part.weights, layer, part.bias)


def without_weights(layer: FloatLayer, *maps: Tensor) -> Tensor:
    """Output, before the limits, of a layer that is no convolution."""
    if isinstance(layer, FloatAdd):
        return maps[0] + maps[1]
    if isinstance(layer, FloatMean):
        return maps[0].mean(dim=(2, 3), keepdim=True)
    if isinstance(layer, FloatPooling):
        return _pool(maps[0], layer)
    return maps[0]


def check_layer(layer: FloatLayer) -> None:
    """Raise FitError for a layer of another kind than modules are made of."""
    known = FloatConvolution | FloatAdd | FloatMean | FloatPooling | FloatLimit
    if not isinstance(layer, known):
        raise FitError(
            f"layer {layer.name!r} is a {type(layer).__name__.removeprefix('Float').lower()}, "
            "which is not retrained",
            "retrain networks of convolutions, sums, poolings, means and limits",
        )


def register(module: nn.Module, name: str, part: nn.Module) -> None:
    """Add a layer's part to a module; FitError if another layer has the same name in PyTorch."""
    if hasattr(module, registered(name)):
        raise FitError(f"two layers would be called {name!r} here", "rename one in the model")
    module.add_module(registered(name), part)


def registered(name: str) -> str:
    """A layer's name as PyTorch takes it."""
    return f"layer_{name}".replace(".", "_")
