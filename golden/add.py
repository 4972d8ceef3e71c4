"""Residual addition of two int8 maps of different scales.

Source: TFLite's reference kernel for int8 ADD (left shift 20, each product rounded twice). ONNX's
sum is the same, but for halves, which go to even.
"""

import numpy as np
from numpy.typing import NDArray

from golden.checks import integer
from golden.requantise import Rounding, Scaling, requantise, rescale

__all__ = ["add"]

LEFT_SHIFT = 20


def add(
    a: NDArray[np.int8],
    b: NDArray[np.int8],
    a_scaling: Scaling,
    b_scaling: Scaling,
    output_scaling: Scaling,
    activation_min: int = -128,
    activation_max: int = 127,
    *,
    rounding: Rounding = Rounding.TWICE,
) -> NDArray[np.int8]:
    """Sum of two maps.

    With rescale rounding twice, s = rescale((a - a_zero_point) << 20) + the same of b; with rescale
    rounding as `rounding` says, the result is
    clamp(rescale(s) + output_zero_point, activation_min, activation_max).

    Parameters
    ----------
    a, b : int8 arrays of the same shape
        Maps.
    a_scaling, b_scaling, output_scaling : Scaling
        Shifts are 0..31: the multipliers of TFLite are below 1 by construction.
    activation_min, activation_max : int
        -128..127.
    rounding : Rounding

    Returns
    -------
    int8 array of that shape.

    Raises
    ------
    TypeError, ValueError
        For types, shapes or values outside these.
    """
    parts = []
    for name, x, (zero_point, multiplier, shift) in (("a", a, a_scaling), ("b", b, b_scaling)):
        if not isinstance(x, np.ndarray) or x.dtype != np.int8:
            kind = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
            raise TypeError(f"{name} must be an array of int8, not {kind}")
        zero_point = integer(f"zero point of {name}", zero_point, -128, 127)
        shift = integer(f"shift of {name}", shift, 0, 31)
        raised = (x.astype(np.int32) - zero_point) << LEFT_SHIFT
        parts.append(rescale(raised, multiplier, shift, rounding=Rounding.TWICE))
    if a.shape != b.shape:
        raise ValueError(f"a and b must have the same shape, not {a.shape} and {b.shape}")
    zero_point, multiplier, shift = output_scaling
    shift = integer("shift of the output", shift, 0, 31)
    return requantise(
        (parts[0] + parts[1]).astype(np.int32),  # each at most 255 << 20
        multiplier,
        shift,
        zero_point,
        activation_min,
        activation_max,
        rounding=rounding,
    )
