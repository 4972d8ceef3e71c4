"""golden.mean against sums in Python integers."""

from typing import Any

import numpy as np
import pytest

from golden.mean import mean
from golden.requantise import Rounding, Scaling
from tests.golden import brute


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("zero_point", [-128, 0, 127])
def test_against_loops(zero_point: int, rounding: Rounding, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for shape in ((3, 7, 7, 40), (2, 1, 1, 40), (2, 9, 2, 40)):
        x = rng.integers(-128, 128, shape, dtype=np.int8)
        x[0, ..., 0], x[0, ..., 1] = -128, 127
        real = rng.uniform(0.3, 3) / (shape[1] * shape[2])
        shift = int(np.floor(-np.log2(real)))
        scaling = Scaling(11, round(real * 2.0 ** (31 + shift)), shift)
        result = mean(x, zero_point, scaling, rounding=rounding)
        assert result.shape == (shape[0], 1, 1, shape[3])
        assert result.dtype == np.int8
        for n, channel in np.ndindex(shape[0], shape[3]):
            total = sum(int(value) - zero_point for value in x[n, ..., channel].flat)
            expected = brute.rescale(total, scaling.multiplier, shift, rounding) + 11
            assert result[n, 0, 0, channel] == brute.clamp(expected, -128, 127)


def test_it_differs_from_average_pooling() -> None:
    """A multiplier that is a little less than 1/2 takes a half down; counting pixels does not."""
    x = np.array([1, 0], np.int8).reshape(1, 1, 2, 1)
    assert mean(x, 0, Scaling(0, (1 << 30) - 1, 0)).item() == 0
    assert mean(x, 0, Scaling(0, 1 << 30, 0)).item() == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": np.zeros((1, 3, 3, 1))}, TypeError, "x must be an array of int8, not float64"),
        ({"x": np.zeros((3, 3, 1), np.int8)}, ValueError, r"x must be \[N, H, W, C\], not of"),
        ({"zero_point": 128}, ValueError, "zero_point must be in -128..127, not 128"),
        ({"output_scaling": (0, 1, 32)}, ValueError, "shift must be in -30..31, not 32"),
        (
            {"x": np.broadcast_to(np.int8(0), (1, 4096, 4096, 1))},
            OverflowError,
            "sum of 16777216 pixels must fit int32",
        ),
    ],
)
def test_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "x": np.zeros((1, 3, 3, 1), np.int8),
        "zero_point": 0,
        "output_scaling": Scaling(0, 1, 0),
    }
    with pytest.raises(error, match=f"^{message}"):
        mean(**(arguments | changes))
