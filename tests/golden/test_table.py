"""golden.table: functions by their entries."""

import math
from typing import Any

import numpy as np
import pytest

from golden.table import look_up, tabulate


def test_every_entry_is_found(seed: int) -> None:
    table = np.random.default_rng(seed).integers(-128, 128, 256).astype(np.int8)
    every = np.arange(-128, 128, dtype=np.int8)
    np.testing.assert_array_equal(look_up(every, table), table)
    x = every.reshape(4, 8, 8)
    assert look_up(x, table).shape == (4, 8, 8)
    assert look_up(x[:, ::2], table)[1, 2, 3] == table[int(x[1, 4, 3]) + 128]


def test_hard_swish() -> None:
    def hard_swish(x: Any) -> Any:
        return x * np.clip(x + 3, 0, 6) / 6

    table = tabulate(hard_swish, 0.05, -10, 0.03, -100)
    assert table.dtype == np.int8
    for value in range(-128, 128):
        x = (value + 10) * 0.05
        y = round(x * min(max(x + 3, 0), 6) / 6 / 0.03) - 100
        assert table[value + 128] == min(max(y, -128), 127)


def test_sigmoid_saturates() -> None:
    table = tabulate(lambda x: 1 / (1 + np.exp(-x)), 0.1, 0, 1 / 256, -128)
    assert table[0] == -128
    assert table[128] == 0
    assert table[255] == 127
    assert (np.diff(table.astype(int)) >= 0).all()


@pytest.mark.parametrize(
    ("x", "table", "error", "message"),
    [
        (np.zeros(3), np.zeros(256, np.int8), TypeError, "x must be an array of int8, not float64"),
        (np.zeros(3, np.int8), np.zeros(256), TypeError, "table must be an array of int8, not"),
        (
            np.zeros(3, np.int8),
            np.zeros(255, np.int8),
            ValueError,
            "table must have 256 entries, not 255",
        ),
    ],
)
def test_look_up_refuses(x: Any, table: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        look_up(x, table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 0}, "scale must be positive and finite, not 0"),
        ({"output_scale": math.inf}, "output_scale must be positive and finite, not inf"),
        ({"zero_point": 128}, "zero_point must be in -128..127, not 128"),
        ({"output_zero_point": -129}, "output_zero_point must be in -128..127, not -129"),
        ({"function": lambda x: x[:3]}, "function must give one finite number for each"),
        ({"function": lambda x: x * np.nan}, "function must give one finite number for each"),
    ],
)
def test_tabulate_refuses(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "function": lambda x: x,
        "scale": 1.0,
        "zero_point": 0,
        "output_scale": 1.0,
        "output_zero_point": 0,
    }
    with pytest.raises(ValueError, match=f"^{message}"):
        tabulate(**(arguments | changes))
