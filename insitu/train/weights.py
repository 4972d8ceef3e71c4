"""Weights that are trained in the form in which they are stored."""

from abc import abstractmethod
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from golden.network import Generated, Stored
from insitu.choice import Choice
from insitu.train.straight_through import integers, shift8

__all__ = [
    "CrossWeights",
    "IntraWeights",
    "StoredWeights",
    "Weights",
    "split_terms",
    "truncated",
    "weights_for",
]


class Weights(nn.Module):
    """Weights [Co, Ci, T] of a layer, with latent parameters behind them."""

    @abstractmethod
    def forward(self) -> Tensor:
        """The integers that the hardware multiplies with, in a float tensor [Co, Ci, T]."""

    @abstractmethod
    def golden(self) -> Stored | Generated:
        """The same for `golden`."""

    def coherence(self) -> Tensor:
        """How far the bases are from orthogonal: mean square of the cosines between them."""
        return torch.zeros((), device=next(self.parameters()).device)


def _latent(values: Tensor) -> nn.Parameter:
    """A parameter of mean magnitude 1: what scales weights is the requantiser."""
    return nn.Parameter((values / values.abs().mean().clamp(min=1e-12)).contiguous())


def _int8(values: Tensor) -> NDArray[np.int8]:
    return values.detach().cpu().numpy().astype(np.int8)


def _cosines(rows: Tensor) -> Tensor:
    """Mean square of the cosines between the rows of each matrix [..., rows, n]."""
    count = rows.shape[-2]
    if count == 1:
        return torch.zeros((), device=rows.device)
    normal = nn.functional.normalize(rows, dim=-1)
    square = (normal @ normal.mT).square()
    return (square.sum(dim=(-2, -1)) - count).mean() / (count * (count - 1))


class StoredWeights(Weights):
    """W at q bits.

    Parameters
    ----------
    weights : float [Co, Ci, T]
    q : int
    """

    def __init__(self, weights: Tensor, q: int):
        super().__init__()
        self.w = _latent(weights)
        self.q = q

    def forward(self) -> Tensor:
        """The integers."""
        return integers(self.w, self.q)

    def golden(self) -> Stored:
        """The same for `golden`."""
        return Stored(_int8(self()), self.q)


class IntraWeights(Weights):
    """W1 = U B, the intra level.

    Parameters
    ----------
    weights : float [Co, Ci, T]
    choice : Choice
        With `terms`, qb, qu and code.
    """

    def __init__(self, weights: Tensor, choice: Choice):
        super().__init__()
        if choice.terms is None:
            raise ValueError("terms must be a number, not None")
        u, b = split_terms(weights, choice.terms)
        self.u, self.b = _latent(u), _latent(b)
        self.choice = choice
        self.s1 = _shift_for(self._sums())

    def _factors(self) -> tuple[Tensor, Tensor]:
        choice = self.choice
        return integers(self.u, choice.qu, choice.code), integers(self.b, choice.qb)

    def _sums(self) -> Tensor:
        u, b = self._factors()
        return u @ b

    def forward(self) -> Tensor:
        """The integers."""
        return shift8(self._sums(), self.s1)

    def golden(self) -> Generated:
        """The same for `golden`."""
        u, b = self._factors()
        choice = self.choice
        return Generated(
            U=_int8(u), B=_int8(b), qu=choice.qu, qb=choice.qb, s1=self.s1, code=choice.code
        )

    def coherence(self) -> Tensor:
        """Between the rows of B of each kernel."""
        return _cosines(self.b)


class CrossWeights(Weights):
    """W = V W1, the cross level, over stored or generated W1.

    Parameters
    ----------
    weights : float [Co, Ci, T]
    choice : Choice
        With `kernels`, and `terms` if the intra level is on.
    """

    def __init__(self, weights: Tensor, choice: Choice):
        super().__init__()
        if choice.kernels is None:
            raise ValueError("kernels must be a number, not None")
        v, basis = truncated(weights, choice.kernels)
        self.v = _latent(v)
        self.basis: Weights
        if choice.terms is None:
            self.basis = StoredWeights(basis, choice.qu)
        else:
            self.basis = IntraWeights(basis, choice)
        self.choice = choice
        self.s2 = max(1, _shift_for(self._sums()))  # The hardware's least.

    def _sums(self) -> Tensor:
        return torch.einsum("ob,bct->oct", integers(self.v, self.choice.qv), self.basis())

    def forward(self) -> Tensor:
        """The integers."""
        return shift8(self._sums(), self.s2)

    def golden(self) -> Generated:
        """The same for `golden`."""
        basis = self.basis.golden()
        v, qv = _int8(integers(self.v, self.choice.qv)), self.choice.qv
        if isinstance(basis, Stored):
            return Generated(U=basis.W, qu=basis.q, V=v, qv=qv, s2=self.s2)
        return replace(basis, V=v, qv=qv, s2=self.s2)

    def coherence(self) -> Tensor:
        """Between the columns of V; the basis, a module too, has its own."""
        return _cosines(self.v.T)


def truncated(weights: Tensor, kernels: int | None) -> tuple[Tensor, Tensor]:
    """V [Co, Bo] and W1 [Bo, Ci, T] nearest to weights [Co, Ci, T]; None is the full rank."""
    left, values, right = torch.linalg.svd(weights.flatten(1), full_matrices=False)
    root = values[:kernels].sqrt()
    basis = (right[:kernels] * root[:, None]).reshape(kernels, *weights.shape[1:])
    return (left[:, :kernels] * root).contiguous(), basis.contiguous()


def split_terms(weights: Tensor, terms: int | None) -> tuple[Tensor, Tensor]:
    """U [Bo, Ci, Bi] and B [Bo, Bi, T] nearest to weights [Bo, Ci, T]; None is the full rank."""
    left, values, right = torch.linalg.svd(weights, full_matrices=False)
    root = values[:, :terms].sqrt()
    return left[:, :, :terms] * root[:, None], right[:, :terms] * root[:, :, None]


def _shift_for(sums: Tensor) -> int:
    """The least shift that brings all but one in a thousand of the sums into 8 bits."""
    largest = float(torch.quantile(sums.detach().abs().flatten()[: 1 << 24], 0.999))
    shift = 0
    while largest / 2**shift > 127:
        shift += 1
    return shift


def weights_for(weights: Tensor, choice: Choice) -> Weights:
    """Weights [Co, Ci, T] in the form that is chosen for a layer, or for its basis."""
    if choice.kernels is not None:
        return CrossWeights(weights, choice)
    if choice.terms is not None:
        return IntraWeights(weights, choice)
    return StoredWeights(weights, choice.q)
