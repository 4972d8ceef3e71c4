"""Activation functions as LiteRT computes them, as tables of 256 entries.

LOGISTIC and TANH are tables there too, made in single precision. HARD_SWISH is computed in 16-bit
fixed point, rounding at each step, and is tabulated here step by step.
"""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["hard_swish", "logistic", "tanh"]

Int8 = NDArray[np.int8]
Quantisation = tuple[np.float32, int]
"""Scale and zero point."""


def logistic(given: Quantisation, result: Quantisation) -> Int8:
    """1 / (1 + exp(-x)): int8 [256]."""
    x = _inputs(given)
    with np.errstate(over="ignore"):
        return _outputs(np.float32(1) / (np.float32(1) + np.exp(-x)), result)


def tanh(given: Quantisation, result: Quantisation) -> Int8:
    """tanh(x): int8 [256]."""
    return _outputs(np.tanh(_inputs(given)), result)


def _inputs(given: Quantisation) -> NDArray[np.float32]:
    scale, zero_point = given
    return scale * (np.arange(-128, 128) - zero_point).astype(np.float32)


def _outputs(y: NDArray[np.float32], result: Quantisation) -> Int8:
    scale, zero_point = result
    scaled = (y * (np.float32(1) / scale)).astype(np.float64)
    rounded = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled) + zero_point
    return np.clip(rounded, -128, 127).astype(np.int8)


def hard_swish(given: Quantisation, result: Quantisation) -> Int8:
    """x * min(max(x + 3, 0), 6) / 6: int8 [256].

    Raises
    ------
    ValueError
        If the input's scale is 128 times the output's or more.
    """
    scale, zero_point = given
    output_scale, output_zero_point = result
    fine = scale / np.float32(128)
    to_output, output_exponent = _multiplier(float(fine / output_scale))
    to_gate, gate_exponent = _multiplier(float(fine / np.float32(3 / 32768)))
    if output_exponent > 0:
        raise ValueError(f"scales {scale} and {output_scale} are too far apart for HARD_SWISH")
    table = []
    for value in range(-128, 128):
        x = (value - zero_point) << 7
        y = _high(x, to_output, 1 << 14)
        # The gate, (x + 3) / 6 from 0 to 1, in 15 bits.
        gate = x
        if gate_exponent > 0:
            gate = _saturate(gate << (gate_exponent - 1))
        gate = _high(gate, to_gate, 1 << 14)
        up = gate_exponent > 0
        gate = _saturate(gate << 1) if up else _divide(gate, -gate_exponent)
        gate = (gate + (1 << 15)) >> 1
        y = _divide(_high(gate, y, 0), -output_exponent)
        table.append(min(max(y + output_zero_point, -128), 127))
    return np.array(table, np.int8)


def _multiplier(real: float) -> tuple[int, int]:
    """`real` as 15-bit multiplier and exponent: real = multiplier / 2**15 * 2**exponent."""
    mantissa, exponent = math.frexp(real)
    fixed = math.floor(mantissa * (1 << 31) + 0.5)
    if fixed == 1 << 31:
        fixed, exponent = 1 << 30, exponent + 1
    return min((fixed + (1 << 15)) >> 16, (1 << 15) - 1), exponent


def _saturate(x: int) -> int:
    return min(max(x, -(1 << 15)), (1 << 15) - 1)


def _high(a: int, b: int, nudge: int) -> int:
    """a * b / 2**15, towards zero after adding `nudge` away from it: halves, or nothing."""
    product = a * b
    if nudge and product < 0:
        nudge = 1 - nudge
    product += nudge
    return abs(product) >> 15 if product >= 0 else -(abs(product) >> 15)


def _divide(x: int, exponent: int) -> int:
    """x / 2**exponent, halves away from zero."""
    half = (1 << exponent) >> 1
    return (abs(x) + half) >> exponent if x >= 0 else -((abs(x) + half) >> exponent)
