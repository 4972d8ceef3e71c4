"""Mean of int8 maps over all their pixels, with its own requantisation.

Unlike average pooling, whose scale does not change, the division by the number of pixels is part
of the multiplier. Source: TFLite's reference kernel for int8 MEAN.
"""

import numpy as np
from numpy.typing import NDArray

from golden.checks import array, integer
from golden.requantise import Rounding, Scaling, requantise

__all__ = ["mean"]


def mean(
    x: NDArray[np.int8],
    zero_point: int,
    output_scaling: Scaling,
    *,
    rounding: Rounding = Rounding.TWICE,
) -> NDArray[np.int8]:
    """requantise(sum over pixels of (x - zero_point)), one value a channel.

    Parameters
    ----------
    x : int8 [N, H, W, C]
        Input.
    zero_point : int
        -128..127, of the input.
    output_scaling : Scaling
        Of the output; the multiplier is input scale / (output scale * H * W).
    rounding : Rounding

    Returns
    -------
    int8 [N, 1, 1, C]

    Raises
    ------
    TypeError, ValueError
        For types, shapes or values outside these.
    OverflowError
        If a sum does not fit int32.
    """
    array("x", x, np.int8, "N", "H", "W", "C")
    zero_point = integer("zero_point", zero_point, -128, 127)
    pixels = x.shape[1] * x.shape[2]
    if pixels * 255 >= 1 << 31:
        raise OverflowError(f"sum of {pixels} pixels must fit int32")
    sums = x.sum(axis=(1, 2), keepdims=True, dtype=np.int32) - np.int32(pixels * zero_point)
    output_zero_point, multiplier, shift = output_scaling
    return requantise(sums, multiplier, shift, output_zero_point, -128, 127, rounding=rounding)
