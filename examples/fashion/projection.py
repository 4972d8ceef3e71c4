"""Projection of float weights on the two-level form, by alternating least squares; NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stored:
    """A layer whose weights are stored, at q bits (2 to 8)."""

    q: int


@dataclass(frozen=True)
class Generated:
    """A layer with weights generated on both levels: ranks, precisions in bits, first shift."""

    bo: int
    bi: int = 2
    qb: int = 4
    qu: int = 4
    qv: int = 4
    s1: int = 0


def highest(q: int) -> int:
    """Return the largest integer of the symmetric q-bit range, q >= 2."""
    return (1 << (q - 1)) - 1


def quantise_rows(x: Floats, q: int) -> Floats:
    """Divide each row of x [rows,...] by the clipping limit that costs least when it is quantised.

    Returns: the shape of x, clipped to -1..1, not yet rounded; times highest(q) it is in integers.
    """
    flat = x.reshape(len(x), -1)
    peak = np.abs(flat).max(1, keepdims=True) + 1e-12
    levels = highest(q)
    best, limits = np.full(len(x), np.inf), peak[:, 0]
    for fraction in np.linspace(0.5, 1, 26):
        limit = peak * fraction
        error = flat - np.round(np.clip(flat / limit, -1, 1) * levels) / levels * limit
        loss = (error**2).sum(1)
        limits = np.where(loss < best, limit[:, 0], limits)
        best = np.minimum(best, loss)
    return np.clip(x / limits.reshape(-1, *[1] * (x.ndim - 1)), -1, 1)


def _solve(design: Floats, target: Floats) -> Floats:
    """Least squares with a little ridge, so that no coefficient runs away."""
    gram = design.T @ design
    ridge = 1e-6 * np.trace(gram) / len(gram) + 1e-12
    solution: Floats = np.linalg.solve(gram + ridge * np.eye(len(gram)), design.T @ target)
    return solution


def _solve_b(w: Floats, u: Floats, v: Floats) -> Floats:
    design = np.einsum("ob,bci->ocbi", v, u).reshape(len(w) * w.shape[1], -1)
    return _solve(design, w.reshape(-1, w.shape[2])).reshape(len(u), -1, w.shape[2])


def _solve_u(w: Floats, b: Floats, v: Floats) -> Floats:
    co, ci, t = w.shape
    design = np.einsum("ob,bit->otbi", v, b).reshape(co * t, -1)
    solution = _solve(design, w.transpose(0, 2, 1).reshape(co * t, ci))
    return solution.reshape(*b.shape[:2], ci).transpose(0, 2, 1)


def _solve_v(w: Floats, b: Floats, u: Floats) -> Floats:
    basis = np.einsum("bci,bit->bct", u, b).reshape(len(b), -1)
    return _solve(basis.T, w.reshape(len(w), -1).T).T


def project(w: Floats, plan: Generated, rounds: int = 100) -> tuple[Floats, Floats, Floats]:
    """Project w [Co,Ci,T] on V * (U * B) of the plan's ranks and precisions.

    The start is the truncated singular value decomposition of w, and of each basis kernel. After
    the rounds B is quantised, U solved again and quantised, then V solved again: each takes up the
    error, and the scale, of those before it.

    Returns: B [Bo,Bi,T], U [Bo,Ci,Bi], V [Co,Bo] in -1..1; times highest of its precision each is
    in integers. The scale of each output channel is dropped.
    """
    co, ci, t = w.shape
    left, strength, right = np.linalg.svd(w.reshape(co, -1), full_matrices=False)
    v = left[:, : plan.bo] * strength[: plan.bo]
    kernels = right[: plan.bo].reshape(-1, ci, t)
    first, middle, last = np.linalg.svd(kernels, full_matrices=False)
    root = np.sqrt(middle[:, : plan.bi])
    u, b = first[:, :, : plan.bi] * root[:, None], last[:, : plan.bi] * root[:, :, None]
    for _ in range(rounds):
        b = _solve_b(w, u, v)
        u = _solve_u(w, b, v)
        v = _solve_v(w, b, u)
        norms = np.sqrt((u**2).sum((1, 2)))
        u, v = u / norms[:, None, None], v * norms
    levels = highest(plan.qb)
    b = quantise_rows(b.reshape(-1, t), plan.qb).reshape(b.shape)
    b = np.round(b * levels) / levels
    u = _solve_u(w, b, v)
    levels = highest(plan.qu)
    u = np.round(quantise_rows(u, plan.qu) * levels) / levels
    return b, u, quantise_rows(_solve_v(w, b, u), plan.qv)
