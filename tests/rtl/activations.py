"""What the tests of the activation path share: configurations, layers and payloads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from amaranth.lib import data
from numpy.typing import ArrayLike, NDArray

import sim
from golden.windows import output_size
from rtl.config import CONFIGURATIONS as NAMED
from rtl.config import configuration

_UP5K = configuration("up5k")

CONFIGURATIONS = {
    **NAMED,
    # Half a pixel's sums at a time; narrow accumulators; the least memory.
    "small": replace(
        _UP5K,
        name="small",
        lanes=4,
        width=2,
        activation_bytes=1 << 10,
        requantiser_outputs=2,
        accumulator_bits=20,
    ),
    # A pixel is four words of memory, and a word the requantiser's output.
    "tall": replace(
        _UP5K,
        name="tall",
        family="sim",
        lanes=16,
        width=2,
        activation_bytes=1 << 12,
        activation_ports=2,
        requantiser_outputs=4,
    ),
    # A beat, a word of memory, the requantiser's output and all lanes are the same.
    "whole": replace(
        _UP5K,
        name="whole",
        lanes=4,
        width=4,
        activation_bytes=1 << 10,
        requantiser_outputs=4,
    ),
}

Pair = tuple[int, int]
MARKS = ("shift", "rectify", "last", "group_last", "final")


@dataclass(frozen=True)
class Shape:
    """A layer's geometry, as in `golden.convolve`."""

    size: Pair
    channels: int
    outputs: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)

    @property
    def output_size(self) -> Pair:
        return output_size(self.size, self.kernel, self.stride, self.padding, self.dilation)

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]


SHAPES = {
    "point": Shape((1, 1), 1, 1),
    "pointwise": Shape((3, 5), 6, 21),
    "same": Shape((5, 4), 3, 9, (3, 3), padding=(1, 1, 1, 1)),
    "strided": Shape((8, 7), 5, 4, (3, 2), (2, 3), (1, 0, 0, 1)),
    "dilated": Shape((7, 9), 2, 8, (3, 3), (1, 2), (2, 3, 0, 1), (2, 3)),
    "kernel beyond the map": Shape((2, 3), 4, 5, (5, 7), padding=(2, 3, 1, 1)),
    "padding alone": Shape((1, 1), 1, 3, (2, 2), (2, 2), (2, 2, 2, 2)),
    "whole map": Shape((3, 2), 9, 40, (3, 2)),
    "row": Shape((1, 12), 1, 2, (1, 5), (1, 3), (0, 4, 0, 0)),
    "column": Shape((12, 1), 3, 6, (4, 1), padding=(0, 0, 3, 0)),
}


def groups(total: int, each: int) -> int:
    """How many groups of `each` hold `total`."""
    return -(-total // each)


def split(values: NDArray[np.int8], each: int, axis: int) -> NDArray[np.int8]:
    """Channels as groups of `each`, the last filled up with zeros: one axis becomes two."""
    count = groups(values.shape[axis], each)
    filled = [(0, 0)] * values.ndim
    filled[axis] = (0, count * each - values.shape[axis])
    shape = values.shape
    return np.pad(values, filled).reshape(*shape[:axis], count, each, *shape[axis + 1 :])


def marks(
    lane_groups: int, pixels: int, steps: int, *, held: bool = False
) -> dict[str, NDArray[np.int64]]:
    """The marks of a walk over lane groups, pixels and steps, one element a step.

    `held`: the marks of a pixel hold for all of its steps, not only the last.
    """
    ends = [[n == size - 1 for n in range(size)] for size in (lane_groups, pixels, steps)]
    group, pixel, last = np.array(list(product(*ends))).T
    group_last = pixel & (last | held)
    return {"last": last, "group_last": group_last, "final": group & group_last}


def _place(layout: data.StructLayout, name: str) -> tuple[int, int]:
    """First bit and width of a field, or of one of its marks."""
    if name in layout.members or "marks" not in layout.members:
        return layout[name].offset, layout[name].width
    mark = layout["marks"].shape[name]
    return layout["marks"].offset + mark.offset, mark.width


def rows(layout: data.StructLayout, **fields: ArrayLike) -> list[int]:
    """Payloads of `layout`, one for each element (or row) of the fields."""
    payloads: list[int] = []
    for name, values in fields.items():
        values = np.asarray(values).astype(np.int64)
        numbers = values.reshape(len(values), -1)
        offset, width = _place(layout, name)
        packed = sim.pack_rows(numbers, width // numbers.shape[1])
        payloads = payloads or [0] * len(packed)
        payloads = [p | v << offset for p, v in zip(payloads, packed, strict=True)]
    return payloads


def field(
    layout: data.StructLayout,
    payloads: list[int],
    name: str,
    *,
    count: int = 1,
    signed: bool = True,
) -> NDArray[np.int64]:
    """One field of every payload: [payload], or [payload, element]."""
    offset, width = _place(layout, name)
    raw = [payload >> offset & (1 << width) - 1 for payload in payloads]
    numbers = sim.unpack_rows(raw, count, width // count, signed=signed)
    return numbers if count > 1 else numbers[:, 0]


def compare_marks(
    bench: sim.Bench,
    layout: data.StructLayout,
    expected: dict[str, NDArray[np.int64]],
    payloads: list[int],
) -> None:
    for name in expected:
        got = field(layout, payloads, name, signed=False)
        bench.compare(expected[name].astype(int), got, axes=["payload"], what=name)
