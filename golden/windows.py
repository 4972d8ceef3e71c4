"""Windows that sweep over maps, channels last: shared by convolution and pooling."""

import numpy as np
from numpy.typing import NDArray

from golden.checks import integers

__all__ = ["output_size", "pad", "tap_slices"]


def output_size(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int]:
    """Height and width of what a window sweeps out of a map of `size`, both [y, x].

    Parameters
    ----------
    size, kernel, stride, dilation : (int, int)
        Height and width of the map, of the window in taps, its steps, and its distance from tap
        to tap, all at least 1.
    padding : (int, int, int, int)
        Pixels added at top, left, bottom, right, at least 0.

    Raises
    ------
    TypeError, ValueError
        For parameters outside these ranges, or a window larger than the padded map.
    """
    kernel_y, kernel_x = integers("kernel", kernel, 2, 1)
    stride_y, stride_x = integers("stride", stride, 2, 1)
    top, left, bottom, right = integers("padding", padding, 4, 0)
    dilation_y, dilation_x = integers("dilation", dilation, 2, 1)
    height = size[0] + top + bottom - dilation_y * (kernel_y - 1)
    width = size[1] + left + right - dilation_x * (kernel_x - 1)
    if height < 1 or width < 1:
        raise ValueError(
            f"kernel {kernel} with dilation {dilation} must fit into a map of {size} "
            f"padded by {padding}"
        )
    return (height - 1) // stride_y + 1, (width - 1) // stride_x + 1


def pad(x: NDArray[np.int8], padding: tuple[int, int, int, int], value: int) -> NDArray[np.int8]:
    """`x` [N, H, W, C] with `value` around it: `padding` pixels at top, left, bottom, right."""
    top, left, bottom, right = padding
    if not any(padding):
        return x
    n, height, width, channels = x.shape
    shape = (n, height + top + bottom, width + left + right, channels)
    padded = np.full(shape, value, np.int8)
    padded[:, top : top + height, left : left + width] = x
    return padded


def tap_slices(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> list[tuple[slice, slice]]:
    """For each tap, rows first: the rows and columns of the padded map that it reads.

    Each pair of slices gives one pixel for each output pixel of `size` (y, x).
    """
    return [
        (
            slice(ky * dilation[0], ky * dilation[0] + (size[0] - 1) * stride[0] + 1, stride[0]),
            slice(kx * dilation[1], kx * dilation[1] + (size[1] - 1) * stride[1] + 1, stride[1]),
        )
        for ky in range(kernel[0])
        for kx in range(kernel[1])
    ]
