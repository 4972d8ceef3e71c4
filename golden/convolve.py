"""Convolution of int8 maps to int32 accumulators, channels last.

The sums are exact integers. They are computed as floating point matrix products only where every
partial sum is an integer that the format holds exactly.
"""

import numpy as np
from numpy.typing import DTypeLike, NDArray

from golden import checks
from golden.windows import output_size, pad, tap_slices

__all__ = ["convolve"]

Int8 = NDArray[np.int8]
Pair = tuple[int, int]

CHUNK = 1 << 21
"""Elements of the matrix of input patches that is built at a time."""


def convolve(
    x: Int8,
    W: Int8,
    bias: NDArray[np.int32],
    kernel: Pair,
    stride: Pair = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    zero_point: int = 0,
    groups: int = 1,
) -> NDArray[np.int32]:
    """Accumulators of a convolution: sum over taps and channels of x * W, plus bias.

    Parameters
    ----------
    x : int8 [H, W, Ci] or [N, H, W, Ci]
        Input, as stored: the zero point is not subtracted.
    W : int8 [Co, Ci / groups, T]
        Weights, taps rows first: t = ky * kw + kx.
    bias : int32 [Co]
    kernel, stride, dilation : (int, int)
        Taps, steps of the window and steps from tap to tap (y, x), at least 1.
    padding : (int, int, int, int)
        Pixels at top, left, bottom, right.
    zero_point : int
        -128..127; what taps in the padding read.
    groups : int
        Output channel o reads input channels g * Ci/groups .. (g+1) * Ci/groups - 1 with
        g = o // (Co / groups).

    Returns
    -------
    int32 [Ho, Wo, Co] or [N, Ho, Wo, Co].

    Raises
    ------
    TypeError, ValueError
        For types, shapes or values outside these, or a kernel larger than the padded map.
    OverflowError
        If a sum with its bias does not fit int32.
    """
    checks.array("W", W, np.int8, "Co", "Ci", "T")
    if isinstance(x, np.ndarray) and x.ndim == 3:
        x = x[np.newaxis]
        single = True
    else:
        single = False
    checks.array("x", x, np.int8, "N", "H", "W", "Ci")
    co, ci, taps = W.shape
    checks.bias(bias, co)
    zero_point = checks.integer("zero_point", zero_point, -128, 127)
    groups = checks.integer("groups", groups, 1, 1 << 16)
    if co % groups:
        raise ValueError(f"groups must divide {co} output channels, not {groups}")
    if x.shape[3] != ci * groups:
        raise ValueError(
            f"x must have {groups} * {ci} channels, as W and groups say, not {x.shape[3]}"
        )
    size = output_size((x.shape[1], x.shape[2]), kernel, stride, padding, dilation)
    if kernel[0] * kernel[1] != taps:
        raise ValueError(f"kernel {kernel} must have the {taps} taps of W")

    largest = 128 * int(np.abs(W.astype(np.int64)).sum(axis=(1, 2)).max())
    fits = largest + int(np.abs(bias.astype(np.int64)).max()) < 1 << 31
    padded = pad(x, padding, zero_point)
    slices = tap_slices(size, kernel, stride, dilation)
    sums = np.empty((len(x), *size, co), np.int32 if fits else np.int64)
    if ci == 1 and groups > 1:
        _depthwise(padded, W, slices, sums)
    else:
        # int8 * int8 sums stay below 2**53 for any matrix that fits a machine.
        exact: DTypeLike = np.float32 if largest < 1 << 24 else np.float64
        step = co // groups
        for group in range(groups):
            _dense(
                padded[..., group * ci : (group + 1) * ci],
                W[group * step : (group + 1) * step],
                slices,
                sums[..., group * step : (group + 1) * step],
                exact,
            )
    sums += bias
    if not fits:
        for extreme in (sums.min(), sums.max()):
            if not -(1 << 31) <= extreme < 1 << 31:
                raise OverflowError(f"accumulator must fit int32, not be {extreme}")
    result = sums.astype(np.int32, copy=False)
    return result[0] if single else result


def _dense(
    padded: Int8,
    W: Int8,
    slices: list[tuple[slice, slice]],
    sums: NDArray[np.integer],
    exact: DTypeLike,
) -> None:
    """Fill `sums` [N, Ho, Wo, Co] with patches [pixels, T * Ci] times weights [T * Ci, Co]."""
    n, height, width, co = sums.shape
    ci, taps = W.shape[1:]
    weights = W.transpose(2, 1, 0).reshape(taps * ci, co).astype(exact)
    pixel = taps * ci
    batch = min(n, max(1, CHUNK // (height * width * pixel)))
    patches = np.empty((batch, height, width, taps, ci), exact)
    for start in range(0, n, batch):
        part = padded[start : start + batch]
        for tap, (rows, columns) in enumerate(slices):
            patches[: len(part), :, :, tap] = part[:, rows, columns]
        product = patches[: len(part)].reshape(-1, pixel) @ weights
        sums[start : start + batch] = product.reshape(len(part), height, width, co)


def _depthwise(
    padded: Int8, W: Int8, slices: list[tuple[slice, slice]], sums: NDArray[np.integer]
) -> None:
    """Fill `sums` [N, Ho, Wo, Co] tap by tap; each input channel feeds Co / Ci outputs."""
    co = len(W)
    if co != padded.shape[3]:
        padded = np.repeat(padded, co // padded.shape[3], axis=3)
    sums[...] = 0
    weights = W[:, 0].astype(sums.dtype)
    for tap, (rows, columns) in enumerate(slices):
        sums += padded[:, rows, columns] * weights[:, tap]
