"""Flat bit vectors, as Verilog ports carry them, from and to arrays of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth.hdl import Const, ShapeCastable
from amaranth.lib import data
from numpy.typing import ArrayLike, NDArray


def pack(values: ArrayLike, width: int) -> int:
    """One flat vector of ``values``, ``width`` bits each, the first lowest; signed or not."""
    return pack_rows(np.reshape(values, (1, -1)), width)[0]


def unpack(vector: int, count: int, width: int, *, signed: bool) -> list[int]:
    """The ``count`` numbers of ``width`` bits in ``vector``, lowest first."""
    return unpack_rows([vector], count, width, signed=signed)[0].tolist()


def pack_rows(values: ArrayLike, width: int) -> list[int]:
    """Pack every row of a two-dimensional array; see :func:`pack`.

    Raises
    ------
    ValueError
        A value is no integer or does not fit in ``width`` bits, or the dimensions are not two.
    """
    rows = np.asarray(values)
    if rows.ndim != 2:
        raise ValueError(f"values must have two dimensions, not {rows.ndim}")
    _check_width(width)
    if rows.dtype.kind == "f" and (rows != np.rint(rows)).any():
        raise ValueError(f"values must be integers, not {rows.tolist()}")
    low, high = (int(rows.min()), int(rows.max())) if rows.size else (0, 0)
    if low < -(1 << width - 1) or high >= 1 << width:
        raise ValueError(f"values must fit in {width} bits, not span {low}..{high}")
    bits = (rows.astype(np.int64)[:, :, None] >> np.arange(width)) & 1
    octets = np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in octets]


def unpack_rows(
    vectors: Sequence[int], count: int, width: int, *, signed: bool
) -> NDArray[np.int64]:
    """One row of ``count`` numbers of ``width`` bits for every vector; see :func:`unpack`."""
    _check_width(width)
    size = (count * width + 7) // 8
    octets = np.frombuffer(b"".join(v.to_bytes(size, "little") for v in vectors), np.uint8)
    octets = octets.reshape(len(vectors), size)
    bits = np.unpackbits(octets, axis=1, count=count * width, bitorder="little")
    values = bits.reshape(len(vectors), count, width).astype(np.int64) @ (1 << np.arange(width))
    return values - ((values >> width - 1) << width) if signed else values


def encode(shape: ShapeCastable[Any], value: Any) -> int:
    """The bits of a structured payload, such as ``encode(Beat, {"last": 1, "data": [1, 2]})``."""
    return Const.cast(shape.const(value)).value


def decode(shape: data.Layout | type[data.Struct], vector: int) -> dict[Any, Any]:
    """The fields of a structured payload as plain numbers; arrays become ``{index: number}``."""
    return _plain(shape.from_bits(vector))


def _plain(value: Any) -> Any:
    if not isinstance(value, data.Const):
        return value
    return {key: _plain(value[key]) for key, _ in value.shape()}


def _check_width(width: int) -> None:
    if not 1 <= width <= 62:
        raise ValueError(f"width must be 1 to 62 bits, not {width!r}")
