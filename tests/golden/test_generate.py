"""golden.generate against Python integers and loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from golden.fixed import symmetric_range
from golden.generate import cross, intra
from tests.golden.brute import clamp, rounded

Int8 = NDArray[np.int8]


def coefficients(rng: np.random.Generator, shape: tuple[int, ...], q: int) -> Int8:
    low, high = symmetric_range(q)
    values = rng.integers(low, high + 1, shape, dtype=np.int8)
    return np.where(values == 0, np.int8(1), values) if q == 1 else values


def brute_intra(U: Int8, B: Int8, s1: int) -> list[list[list[int]]]:
    (bo, ci, bi), taps = U.shape, B.shape[2]
    return [
        [
            [
                clamp(
                    rounded(sum(int(U[b, c, i]) * int(B[b, i, t]) for i in range(bi)), s1),
                    -127,
                    127,
                )
                for t in range(taps)
            ]
            for c in range(ci)
        ]
        for b in range(bo)
    ]


def brute_cross(V: Int8, W1: Int8, s2: int) -> list[list[list[int]]]:
    (co, bo), (_, ci, taps) = V.shape, W1.shape
    return [
        [
            [
                clamp(
                    rounded(sum(int(V[o, b]) * int(W1[b, c, t]) for b in range(bo)), s2),
                    -127,
                    127,
                )
                for t in range(taps)
            ]
            for c in range(ci)
        ]
        for o in range(co)
    ]


BITS = st.integers(1, 8)
SMALL = st.integers(1, 5)


@settings(deadline=None, max_examples=200)
@given(SMALL, SMALL, SMALL, st.sampled_from([1, 4, 9]), BITS, BITS, st.integers(0, 31), SMALL)
def test_intra(bo: int, ci: int, bi: int, taps: int, qu: int, qb: int, s1: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    U, B = coefficients(rng, (bo, ci, bi), qu), coefficients(rng, (bo, bi, taps), qb)
    for shift in (s1, s1 % 8):
        W1 = intra(U, B, shift)
        assert W1.dtype == np.int8
        assert W1.tolist() == brute_intra(U, B, shift)


@settings(deadline=None, max_examples=200)
@given(SMALL, SMALL, st.integers(1, 9), st.sampled_from([1, 4, 9]), BITS, st.integers(0, 31), SMALL)
def test_cross(co: int, ci: int, bo: int, taps: int, qv: int, s2: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    V, W1 = coefficients(rng, (co, bo), qv), coefficients(rng, (bo, ci, taps), 8)
    for shift in (s2, s2 % 8):
        W = cross(V, W1, shift)
        assert W.dtype == np.int8
        assert W.tolist() == brute_cross(V, W1, shift)


@pytest.mark.parametrize("sign", [-1, 1])
def test_extremes(sign: int) -> None:
    U, B = np.full((1, 1, 8), 127, np.int8), np.full((1, 8, 1), sign * 127, np.int8)
    total = sign * 8 * 127 * 127  # 129,032
    for s1 in (0, 9, 10, 11, 17, 18, 31):
        assert intra(U, B, s1).item() == clamp(rounded(total, s1), -127, 127)
    V, W1 = np.full((1, 512), 127, np.int8), np.full((512, 1, 1), sign * 127, np.int8)
    total = sign * 512 * 127 * 127  # 8,258,048: needs 24 bits
    for s2 in (0, 15, 16, 17, 22, 23, 31):
        assert cross(V, W1, s2).item() == clamp(rounded(total, s2), -127, 127)


def test_halves_go_up() -> None:
    U = np.array([[[3], [-3], [1], [-1]]], np.int8)
    B = np.array([[[1]]], np.int8)
    assert intra(U, B, 1).ravel().tolist() == [2, -1, 1, 0]
    assert cross(U[0], B, 1).ravel().tolist() == [2, -1, 1, 0]


def test_intra_refuses() -> None:
    U, B = np.ones((2, 3, 4), np.int8), np.ones((2, 4, 9), np.int8)
    with pytest.raises(TypeError, match=r"^U must be an array of int8, not int64$"):
        intra(U.astype(np.int64), B, 0)
    with pytest.raises(ValueError, match=r"^B must be \[Bo, Bi, T\], not of shape \(4, 9\)$"):
        intra(U, B[0], 0)
    for wrong in (B[:1], B[:, :1]):
        with pytest.raises(ValueError, match=r"with the Bo and Bi of U .*, not \(\d, \d, 9\) with"):
            intra(U, wrong, 0)
    with pytest.raises(ValueError, match=r"^s1 must be in 0..31, not 32$"):
        intra(U, B, 32)


def test_cross_refuses() -> None:
    V, W1 = np.ones((5, 2), np.int8), np.ones((2, 3, 9), np.int8)
    with pytest.raises(TypeError, match=r"^V must be an array of int8, not float64$"):
        cross(V.astype(float), W1, 0)
    with pytest.raises(ValueError, match=r"^W1 must be \[Bo, Ci, T\], not of shape"):
        cross(V, W1[0], 0)
    with pytest.raises(ValueError, match=r"^V must be .* of W1, not \(5, 1\) with \(2, 3, 9\)$"):
        cross(V[:, :1], W1, 0)
    with pytest.raises(ValueError, match=r"^s2 must be in 0..31, not -1$"):
        cross(V, W1, -1)
