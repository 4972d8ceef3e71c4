"""golden.table: functions by their entries."""

from typing import Any

import numpy as np
import pytest

from golden.table import look_up


def test_every_entry_is_found(seed: int) -> None:
    table = np.random.default_rng(seed).integers(-128, 128, 256).astype(np.int8)
    every = np.arange(-128, 128, dtype=np.int8)
    np.testing.assert_array_equal(look_up(every, table), table)
    x = every.reshape(4, 8, 8)
    assert look_up(x, table).shape == (4, 8, 8)
    assert look_up(x[:, ::2], table)[1, 2, 3] == table[int(x[1, 4, 3]) + 128]


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
