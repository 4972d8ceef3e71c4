"""Elementwise product of two int8 maps; one may be a single pixel (squeeze-and-excitation).

Source: TFLite's reference kernel for int8 MUL.
"""

import numpy as np
from numpy.typing import NDArray

from golden.checks import array, integer
from golden.requantise import Rounding, Scaling, requantise

__all__ = ["multiply"]

Int8 = NDArray[np.int8]


def multiply(
    a: Int8,
    b: Int8,
    a_zero_point: int,
    b_zero_point: int,
    output_scaling: Scaling,
    activation_min: int = -128,
    activation_max: int = 127,
    *,
    rounding: Rounding = Rounding.TWICE,
) -> Int8:
    """requantise((a - a_zero_point) * (b - b_zero_point)).

    Parameters
    ----------
    a, b : int8 [N, H, W, C]
        Maps of the same shape, or one of them [N, 1, 1, C]: its pixel multiplies all of the other.
    a_zero_point, b_zero_point : int
        -128..127.
    output_scaling : Scaling
        Of the output; the multiplier is scale of a * scale of b / output scale.
    activation_min, activation_max : int
        -128..127.
    rounding : Rounding

    Returns
    -------
    int8 [N, H, W, C]

    Raises
    ------
    TypeError, ValueError
        For types, shapes or values outside these.
    """
    for name, x in (("a", a), ("b", b)):
        array(name, x, np.int8, "N", "H", "W", "C")
    if a.shape != b.shape and not (
        (a.shape[0], a.shape[3]) == (b.shape[0], b.shape[3])
        and (1, 1) in (a.shape[1:3], b.shape[1:3])
    ):
        raise ValueError(
            f"a and b must have the same shape, or one of them a single pixel, "
            f"not {a.shape} and {b.shape}"
        )
    a_zero_point = integer("zero point of a", a_zero_point, -128, 127)
    b_zero_point = integer("zero point of b", b_zero_point, -128, 127)
    product = (a.astype(np.int32) - a_zero_point) * (b.astype(np.int32) - b_zero_point)
    zero_point, multiplier, shift = output_scaling
    return requantise(
        product,
        multiplier,
        shift,
        zero_point,
        activation_min,
        activation_max,
        rounding=rounding,
    )
