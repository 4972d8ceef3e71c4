"""What the engine runs: one walk over a map, with its weights and its requantisation.

An operation is one layer record. A layer becomes one or several (`insitu.lower`).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.code import Code
from golden.decode import segment_words
from golden.requantise import Rounding
from rtl.config import Configuration
from rtl.record import CROSS, FIELDS, STORED

__all__ = ["Loop", "Operation", "Segment", "Walk"]

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]

_BEAT_STEPS = [name for name in FIELDS if name.startswith("input_") and name.endswith("_step")]


@dataclass(frozen=True)
class Loop:
    """A loop of a walk.

    Parameters
    ----------
    count : int
        Turns.
    bytes, rows, columns : int
        From one turn to the next: in memory, and in the map.
    """

    count: int = 1
    bytes: int = 0
    rows: int = 0
    columns: int = 0


@dataclass(frozen=True, kw_only=True)
class Walk:
    """The loops over taps, channels, pixels and lane groups (`rtl.address_generator`).

    Parameters
    ----------
    start : int
        Byte address of the first tap; outside the map, that of where it would be.
    row, column : int
        Its place in the map.
    height, width : int
        Of the map; a tap outside reads the zero point.
    kx, ky, channel, x, y, group : Loop
        Innermost first. A row of pixels begins at `column` again, a lane group at both.
    """

    start: int
    row: int = 0
    column: int = 0
    height: int
    width: int
    kx: Loop = Loop()
    ky: Loop = Loop()
    channel: Loop = Loop()
    x: Loop = Loop()
    y: Loop = Loop()
    group: Loop = Loop()

    @property
    def steps(self) -> int:
        """Steps of an output pixel."""
        return self.kx.count * self.ky.count * self.channel.count

    @property
    def taps(self) -> int:
        """Steps of a channel group."""
        return self.kx.count * self.ky.count

    @property
    def pixels(self) -> int:
        """Output pixels."""
        return self.x.count * self.y.count

    def band(self, rows: range) -> "Walk":
        """The walk for some of the rows of its output.

        A walk that keeps places in the map begins at the first of them or above the map: rows count
        from the first that is read.
        """
        row = self.row + rows.start * self.y.rows
        above = max(0, row)
        return replace(
            self,
            start=self.start + rows.start * self.y.bytes,
            row=row - above,
            height=self.height - above,
            y=replace(self.y, count=len(rows)),
        )

    def fields(self, beat: int) -> dict[str, int]:
        """The fields of a layer record, for beats of so many bytes."""
        values = {
            "kernel_width": self.kx.count - 1,
            "kernel_height": self.ky.count - 1,
            "channel_groups": self.channel.count - 1,
            "output_width": self.x.count - 1,
            "output_height": self.y.count - 1,
            "groups": self.group.count - 1,
            "input_width": self.width,
            "input_height": self.height,
            "input_start": self.start // beat,
            "row_start": self.row,
            "column_start": self.column,
            "column_y_start": self.column,
            "row_group_start": self.row,
            "column_group_start": self.column,
        }
        # A step goes back first, from where the loops inside have ended.
        back = rows = columns = 0
        for name in ("kx", "ky", "channel", "x", "y", "group"):
            loop: Loop = getattr(self, name)
            values[f"input_{name}_step"] = (loop.bytes - back) // beat
            values |= {f"row_{name}_step": loop.rows - rows}
            values |= {f"column_{name}_step": loop.columns - columns}
            back += (loop.count - 1) * loop.bytes
            rows += (loop.count - 1) * loop.rows
            columns += (loop.count - 1) * loop.columns
        values = {name: value for name, value in values.items() if name in FIELDS}
        for name in ("input_start", *_BEAT_STEPS):
            values[name] %= 1 << FIELDS[name].width
        return values


@dataclass(frozen=True, eq=False)
class Segment:
    """The segments of one kind that an operation has (docs/image-format.md).

    Parameters
    ----------
    kind : "basis", "stream" or "cross"
    precision : int
        Bits a coefficient.
    values : int8 [segment, vector, R, C]
        The coefficients.
    code : Code
        Of a stream of U.
    """

    kind: str
    precision: int
    values: Int8
    code: Code = Code.UNIFORM

    @property
    def count(self) -> int:
        """Segments of this kind."""
        return len(self.values)

    @property
    def vectors(self) -> int:
        """Vectors of one segment."""
        return self.values.shape[1]

    def words(self, config: Configuration) -> int:
        """Coefficient words of one segment."""
        return segment_words(self.vectors, self.precision, config.stripe_bits)

    def report(self, config: Configuration) -> dict[str, Any]:
        """The figures as plain data."""
        return {
            "kind": self.kind,
            "precision": self.precision,
            "code": str(self.code),
            "vectors": self.vectors,
            "words": self.words(config),
            "count": self.count,
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class Operation:
    """A walk and what becomes of it.

    Parameters
    ----------
    walk : Walk
    segments : tuple of Segment
        In the order basis, stream, cross, as far as there are any.
    bias, multiplier, shift : int32 [channels]
        Of the output channels, in the order in which they lie in memory.
    rounding : Rounding
    input_zero_point, output_zero_point, activation_min, activation_max : int
    output : int
        Byte address of the first output pixel.
    pitch : int
        Bytes from output pixel to output pixel.
    dataflow : STORED, INTRA, CROSS or TILE
    terms, kernels : int
        Bi and Bo, where there are any.
    s1, s2 : int
        Shifts of the levels.
    flat : bool
        Cross level without an intra level.
    depthwise, shifted_sums, rectified_sums, to_tile : bool
        As in the record.
    table : int8 [256] or None
        What results from -128 to 127 become.
    """

    walk: Walk
    segments: tuple[Segment, ...]
    bias: Int32
    multiplier: Int32
    shift: Int32
    rounding: Rounding
    input_zero_point: int
    output_zero_point: int
    activation_min: int = -128
    activation_max: int = 127
    output: int
    pitch: int
    dataflow: int = STORED
    terms: int = 1
    kernels: int = 0
    s1: int = 0
    s2: int = 0
    flat: bool = False
    depthwise: bool = False
    shifted_sums: bool = False
    rectified_sums: bool = False
    to_tile: bool = False
    table: Int8 | None = None

    @property
    def channels(self) -> int:
        """Bytes of an output pixel that are written."""
        return len(self.bias)

    @property
    def uniform(self) -> bool:
        """Whether all channels have one multiplier and one shift, which are stored once."""
        same = (self.multiplier == self.multiplier[0]) & (self.shift == self.shift[0])
        return self.dataflow != CROSS and bool(same.all())
