"""Rounding that gradients pass as if it were not there."""

from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golden.code import Code
from golden.fixed import symmetric_range

__all__ = ["integers", "quantise_map", "shift8", "step"]


def _exact(smooth: Tensor, exact: Tensor) -> Tensor:
    """The value of `exact`, the gradient of `smooth`."""
    return smooth + (exact - smooth).detach()


def _nearest(values: Tensor, q: int, code: Code) -> Tensor:
    """The integer that a coefficient of q bits may be nearest to each of the values."""
    if q == 1:
        return torch.where(values < 0, -1.0, 1.0)
    if code is Code.POWER_OF_TWO:
        size = values.abs()
        return values.sign() * ((size > 0.5) + 1.0 * (size > 1.5) + 2.0 * (size > 3))
    high = symmetric_range(q)[1]
    return values.round().clamp(-high, high)


@lru_cache
def _relative_step(q: int, code: Code) -> float:
    """Step of q bits, over the mean magnitude, that rounds normally distributed values best."""
    if q == 1:
        return 1.0
    normal = NormalDist()
    values = torch.tensor(
        [normal.inv_cdf((n + 0.5) / 4096) for n in range(4096)], dtype=torch.float64
    )
    steps = np.linspace(0.02, 2, 400).tolist()
    rounded = [_nearest(values / one, q, code) * one for one in steps]
    errors = [float((values - one).square().mean()) for one in rounded]
    return steps[int(np.argmin(errors))] / float(values.abs().mean())


def step(latent: Tensor, q: int, code: Code = Code.UNIFORM) -> Tensor:
    """What an integer stands for in each row of latent values [rows, ...], [rows, 1, ...].

    It follows the mean magnitude, so that rows may be scaled by anything: what scales a channel is
    the requantiser.
    """
    mean = latent.detach().abs().mean(dim=tuple(range(1, latent.ndim)), keepdim=True)
    return (mean * _relative_step(q, code)).clamp(min=1e-12)


def integers(latent: Tensor, q: int, code: Code = Code.UNIFORM) -> Tensor:
    """Latent values [rows, ...] as integers of q bits, in a float tensor of the same shape."""
    scaled = latent / step(latent, q, code)
    return _exact(scaled, _nearest(scaled.detach(), q, code))


def shift8(sums: Tensor, shift: int) -> Tensor:
    """clamp8(round_shift(sums, shift)) of integers, with the gradient of sums / 2**shift."""
    exact = torch.floor(sums.detach() / 2**shift + (0.5 if shift else 0.0)).clamp(-127, 127)
    return _exact(sums / 2**shift, exact)


class _QuantiseMap(torch.autograd.Function):
    """Round and clamp; gradients pass where nothing was clamped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, low: int, high: int) -> Tensor:
        steps = (x * (1 / scale)).round_()
        ctx.save_for_backward(steps)
        ctx.limits = low - 0.5, high + 0.5
        return steps.clamp(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (steps,) = ctx.saved_tensors
        passed = torch.ops.aten.hardtanh_backward(gradients[0], steps, *ctx.limits)
        return passed, None, None, None


def quantise_map(x: Tensor, scale: float, low: int, high: int, *, even: bool = False) -> Tensor:
    """Multiples of `scale`, from low * scale to high * scale; of double in single precision.

    With a gradient, which passes where nothing is clamped, or on demand, halves go to even; else
    away from zero.
    """
    if even or x.requires_grad:
        quantised: Tensor = _QuantiseMap.apply(x, scale, low, high)
    else:
        steps = x * (1 / scale)
        quantised = steps.abs().add_(0.5).floor_().copysign_(steps).clamp_(low, high).mul_(scale)
    return quantised.float() if x.dtype == torch.float64 else quantised
