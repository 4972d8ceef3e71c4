"""golden.multiply against products in Python integers."""

from typing import Any

import numpy as np
import pytest

from golden.multiply import multiply
from golden.requantise import Rounding, Scaling
from tests.golden import brute


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("single", ["none", "a", "b"])
def test_against_loops(single: str, rounding: Rounding, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = {name: (2, 1, 1, 6) if single == name else (2, 3, 4, 6) for name in "ab"}
    a, b = (rng.integers(-128, 128, shapes[name], dtype=np.int8) for name in "ab")
    a[0, 0, 0, :2], b[0, 0, 0, :2] = [-128, 127], [-128, 127]
    scaling = Scaling(-7, 1_500_000_000, 6)
    for zeros, low, high in (((-128, 127), -128, 127), ((3, -5), -7, 60)):
        result = multiply(a, b, *zeros, scaling, low, high, rounding=rounding)
        assert result.shape == (2, 3, 4, 6)
        assert result.dtype == np.int8
        x, y = np.broadcast_arrays(a, b)
        for index in np.ndindex(result.shape):
            product = (int(x[index]) - zeros[0]) * (int(y[index]) - zeros[1])
            value = brute.rescale(product, scaling.multiplier, scaling.shift, rounding) - 7
            assert result[index] == brute.clamp(value, low, high), index


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"a": np.zeros((1, 2, 2, 3))}, TypeError, "a must be an array of int8, not float64"),
        ({"b": np.zeros((2, 2, 3), np.int8)}, ValueError, r"b must be \[N, H, W, C\], not of"),
        (
            {"b": np.zeros((1, 1, 2, 3), np.int8)},
            ValueError,
            r"a and b must have the same shape, or .*, not \(1, 2, 2, 3\) and \(1, 1, 2, 3\)",
        ),
        ({"b": np.zeros((1, 1, 1, 4), np.int8)}, ValueError, "a and b must have the same shape"),
        ({"b": np.zeros((2, 1, 1, 3), np.int8)}, ValueError, "a and b must have the same shape"),
        ({"b_zero_point": -129}, ValueError, "zero point of b must be in -128..127, not -129"),
        ({"output_scaling": (0, -1, 0)}, ValueError, "multiplier must be in .*, not -1"),
    ],
)
def test_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "a": np.zeros((1, 2, 2, 3), np.int8),
        "b": np.zeros((1, 2, 2, 3), np.int8),
        "a_zero_point": 0,
        "b_zero_point": 0,
        "output_scaling": Scaling(0, 1, 0),
    }
    with pytest.raises(error, match=f"^{message}"):
        multiply(**(arguments | changes))
