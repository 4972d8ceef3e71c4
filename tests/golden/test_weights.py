"""golden.weights: what is stored, recovered and refused."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from golden.code import Code
from golden.generate import cross, intra
from golden.weights import Generated, Stored

Int8 = NDArray[np.int8]


def random(rng: np.random.Generator, *shape: int, q: int = 8) -> Int8:
    largest = max(1, (1 << (q - 1)) - 1)
    values = rng.integers(-largest, largest + 1, shape, dtype=np.int8)
    return np.where(values == 0, np.int8(1), values) if q == 1 else values


def ones(*shape: int) -> Int8:
    return np.ones(shape, np.int8)


def test_stored(seed: int) -> None:
    W = random(np.random.default_rng(seed), 4, 3, 9, q=5)
    stored = Stored(W, 5)
    np.testing.assert_array_equal(stored.W, W)
    assert stored.shape == (4, 3, 9)
    assert stored.bits == {"basis": 0, "coefficients": 0, "stored": 4 * 3 * 9 * 5}


def test_generated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    B, U, V = random(rng, 5, 2, 9, q=4), random(rng, 5, 6, 2, q=6), random(rng, 7, 5, q=3)
    both = Generated(B=B, U=U, V=V, qb=4, qu=6, qv=3, s1=2, s2=3)
    W1 = intra(U, B, 2)
    np.testing.assert_array_equal(both.W1, W1)
    np.testing.assert_array_equal(both.W, cross(V, W1, 3))
    assert both.W is both.W
    assert both.shape == both.W.shape == (7, 6, 9)
    assert both.bits == {"basis": 90 * 4, "coefficients": 60 * 6 + 35 * 3, "stored": 0}

    alone = Generated(B=B, U=U, qb=4, qu=6, s1=2)
    np.testing.assert_array_equal(alone.W, W1)
    assert alone.shape == alone.W.shape == (5, 6, 9)
    assert alone.bits == {"basis": 90 * 4, "coefficients": 60 * 6, "stored": 0}

    flat = Generated(U=U, V=V, qu=6, qv=3, s2=1)
    np.testing.assert_array_equal(flat.W1, U)
    np.testing.assert_array_equal(flat.W, cross(V, U, 1))
    assert flat.shape == flat.W.shape == (7, 6, 2)
    assert flat.bits == {"basis": 60 * 6, "coefficients": 35 * 3, "stored": 0}


def test_powers_of_two(seed: int) -> None:
    rng = np.random.default_rng(seed)
    U = rng.choice(np.array([-4, -2, -1, 0, 1, 2, 4], np.int8), (5, 6, 2))
    B = random(rng, 5, 2, 9, q=4)
    weights = Generated(B=B, U=U, qb=4, qu=3, s1=1, code="power-of-two")  # type: ignore[arg-type]
    assert weights.code is Code.POWER_OF_TWO
    np.testing.assert_array_equal(weights.W, intra(U, B, 1))
    assert weights.bits == {"basis": 90 * 4, "coefficients": 60 * 3, "stored": 0}


def test_memory_of_resnet18() -> None:
    """docs: ResNet-18/CIFAR-10 at (Bi, Bo, qb, qu, qv) = (2, 44, 3, 6, 3) takes 307.5 KiB."""
    convolutions = [(3, 64, 9)] + [(64, 64, 9)] * 4
    for co in (128, 256, 512):
        convolutions += [(co // 2, co, 9), (co // 2, co, 1)] + [(co, co, 9)] * 3
    bits = 0
    for ci, co, taps in convolutions:
        bo, V, qv = (44, ones(co, 44), 3) if min(co, ci * taps) > 44 else (co, None, 0)
        weights = (
            Generated(U=ones(bo, ci, 2), B=ones(bo, 2, taps), V=V, qu=6, qb=3, qv=qv)
            if taps > 1
            else Generated(U=ones(bo, ci, 1), V=V, qu=3, qv=qv)
        )
        assert weights.shape == (co, ci, taps)
        bits += sum(weights.bits.values())
    assert bits == 307.5 * 1024 * 8


@pytest.mark.parametrize(
    ("W", "q", "error", "message"),
    [
        ([1], 3, TypeError, "W must be an array of int8, not list"),
        (np.ones((1, 1, 1)), 3, TypeError, "W must be an array of int8, not float64"),
        (np.ones((1, 1), np.int8), 3, ValueError, r"W must be \[Co, Ci, T\], not of shape \(1, 1"),
        (np.ones((1, 0, 1), np.int8), 3, ValueError, r"W must be \[Co, Ci, T\], not of shape"),
        (np.ones((1, 1, 1), np.int8), 0, ValueError, "q must be in 1..8, not 0"),
        (np.ones((1, 1, 1), np.int8), 9, ValueError, "q must be in 1..8, not 9"),
        (np.ones((1, 1, 1), np.int8), 3.0, TypeError, "q must be an integer, not 3.0"),
        (
            np.full((1, 1, 1), 4, np.int8),
            3,
            ValueError,
            r"W of 3 bits must be in -3..3, not 4 at \[0, 0, 0\]",
        ),
    ],
)
def test_stored_refuses(W: Any, q: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        Stored(W, q)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"B": None, "V": None}, ValueError, "Generated must have B or V; weights without either"),
        ({"U": ones(5, 6, 2).astype(int)}, TypeError, "U must be an array of int8, not int64"),
        ({"U": ones(5, 6)}, ValueError, r"U must be \[Bo, Ci, Bi\], not of shape \(5, 6\)"),
        (
            {"U": ones(5, 6), "B": None, "qb": 0, "s1": 0},
            ValueError,
            r"U must be \[Bo, Ci, T\], not of shape \(5, 6\)",
        ),
        ({"B": ones(5, 2)}, ValueError, r"B must be \[Bo, Bi, T\], not of shape \(5, 2\)"),
        ({"B": ones(4, 2, 9)}, ValueError, r"B must be .*, not \(4, 2, 9\) with \(5, 6, 2\)"),
        ({"B": ones(5, 3, 9)}, ValueError, r"B must be .*, not \(5, 3, 9\) with \(5, 6, 2\)"),
        ({"V": ones(7)}, ValueError, r"V must be \[Co, Bo\], not of shape \(7,\)"),
        ({"V": ones(7, 6)}, ValueError, r"V must be .*, not \(7, 6\) with \(5, 6, 2\)"),
        ({"qu": 0}, ValueError, "qu must be in 1..8, not 0"),
        ({"qb": 9}, ValueError, "qb must be in 1..8, not 9"),
        ({"qv": True}, TypeError, "qv must be an integer, not True"),
        ({"s1": -1}, ValueError, "s1 must be in 0..31, not -1"),
        ({"s2": 32}, ValueError, "s2 must be in 0..31, not 32"),
        ({"B": None, "qb": 3, "s1": 0}, ValueError, "qb must be 0 where B is None, not 3"),
        ({"B": None, "qb": 0, "s1": 1}, ValueError, "s1 must be 0 where B is None, not 1"),
        ({"V": None, "qv": 2}, ValueError, "qv must be 0 where V is None, not 2"),
        ({"V": None, "qv": 0, "s2": 1}, ValueError, "s2 must be 0 where V is None, not 1"),
        ({"U": 4 * ones(5, 6, 2)}, ValueError, r"U of 3 bits must be in -3..3, not 4 at \[0, 0"),
        ({"B": 0 * ones(5, 2, 9), "qb": 1}, ValueError, r"B of 1 bits must be -1 or \+1, not 0"),
        (
            {"code": "ternary"},
            ValueError,
            "code must be one of uniform, power-of-two, not 'ternary'",
        ),
        (
            {"code": Code.POWER_OF_TWO, "B": None, "U": ones(5, 6, 9), "qb": 0, "s1": 0},
            ValueError,
            "code must be uniform where B is None, not power-of-two",
        ),
        (
            {"code": Code.POWER_OF_TWO, "qu": 4},
            ValueError,
            "U in powers of two must have 3 bits, not 4",
        ),
        (
            {"code": Code.POWER_OF_TWO, "U": 3 * ones(5, 6, 2)},
            ValueError,
            r"U in powers of two must be 0, \+-1, \+-2 or \+-4, not 3 at \[0, 0, 0\]",
        ),
        ({"V": -2 * ones(7, 5)}, ValueError, r"V of 2 bits must be in -1..1, not -2 at \[0, 0\]"),
    ],
)
def test_generated_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "B": ones(5, 2, 9),
        "U": ones(5, 6, 2),
        "V": ones(7, 5),
        "qb": 3,
        "qu": 3,
        "qv": 2,
        "s1": 1,
        "s2": 1,
    }
    Generated(**arguments)
    with pytest.raises(error, match=f"^{message}"):
        Generated(**(arguments | changes))
