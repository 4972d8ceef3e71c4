"""Codes of coefficients: what the numbers in a segment stand for."""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from golden.fixed import in_range

__all__ = ["POWER_BITS", "Code", "check_precision", "has_code"]

Int8 = NDArray[np.int8]

POWER_BITS = 3
"""Precision of powers of two.

With 2 bits they would be the uniform code's numbers, with 4 as great as 64: twice as wide.
"""


class Code(StrEnum):
    """What a number n of the `golden.fixed.symmetric_range` stands for.

    `UNIFORM` for itself. `POWER_OF_TWO`, of `POWER_BITS` bits, for 0 or
    `sign(n) * 2**(abs(n) - 1)`: 0, +-1, +-2 or +-4.
    """

    UNIFORM = "uniform"
    POWER_OF_TWO = "power-of-two"

    @classmethod
    def _missing_(cls, value: object) -> "Code":
        raise ValueError(f"code must be one of {', '.join(cls)}, not {value!r}")

    def encoded(self, values: Int8) -> Int8:
        """The numbers that stand for `values` (`has_code`)."""
        if self is Code.UNIFORM:
            return values
        places = np.frexp(np.abs(values).astype(float))[1]  # 2**(n - 1) is 0.5 * 2**n, and 0 n = 0.
        return np.asarray(np.sign(values) * places, np.int8)

    def decoded(self, numbers: Int8) -> Int8:
        """What `numbers` stand for; those of powers of two are in -`POWER_BITS`..`POWER_BITS`."""
        if self is Code.UNIFORM:
            return numbers
        return np.asarray(np.sign(numbers) * (1 << np.abs(numbers) >> 1), np.int8)


def check_precision(name: str, precision: int, code: Code) -> None:
    """Check that there is such a code of `precision` bits.

    Raises
    ------
    ValueError
        If not; the message quotes `name`.
    """
    if code is Code.POWER_OF_TWO and precision != POWER_BITS:
        raise ValueError(f"{name} in powers of two must have {POWER_BITS} bits, not {precision}")


def has_code(name: str, values: Int8, precision: int, code: Code) -> None:
    """Check that a number of `precision` bits stands for each of `values`.

    Raises
    ------
    ValueError
        If not; the message quotes `name`, and the precision or the first offending value and its
        index.
    """
    check_precision(name, precision, code)
    if code is Code.UNIFORM:
        in_range(name, values, precision)
        return
    wrong = ~np.isin(values, (-4, -2, -1, 0, 1, 2, 4))
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name} in powers of two must be 0, +-1, +-2 or +-4, "
            f"not {values[index]} at {list(index)}"
        )
