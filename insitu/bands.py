"""Networks whose maps do not fit the activation memory layer by layer: depth first, in bands.

A *group* of consecutive layers runs band by band. In each band every layer computes the rows that
are newly needed: of the last layers a share of all rows, of those before them what these read. So a
row is there from the operation that writes it to the last that reads it, and no longer.

- A map that is read or written outside its group is there as a whole, row behind row. Rows that
  have been read make room for those of other maps, and a sum may overwrite an input row by row.
- A map between two layers of a group is never there as a whole. Its *buffer* holds the rows of a
  band, and in front of them those of the band before that are still needed (the halo), which are
  moved there: a copy takes a cycle a byte, computing them again many.

Which layers form groups, and of how many bands, is found by dynamic programming over the layers:
the fewest predicted cycles with which no step needs more bytes than there are. What a group needs
does not depend on other groups, since maps between them are whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from golden.network import (
    Add,
    Concatenation,
    Convolution,
    Generated,
    Layer,
    Network,
    Pad,
    Pooling,
    Requantise,
    Table,
)
from insitu.errors import FitError
from insitu.lower import lower_rows, move, only_rows
from insitu.maps import IN_PLACE, Forms, Layout, Map, Placed, smaller
from insitu.operation import Operation
from insitu.shapes import Part, alive, place_shapes
from rtl.config import Configuration

__all__ = ["bandable", "lay_out_in_bands"]

LONGEST = 12
"""Layers of a group, at most."""

ATTEMPTS = 8
"""How often groups are chosen anew, for less memory, where they cannot be placed."""

Cycles = Callable[[Operation], int]


@dataclass(frozen=True)
class _Group:
    """Layers `first` to `end` - 1, in so many bands."""

    first: int
    end: int
    bands: int


@dataclass(frozen=True)
class _Step:
    """Rows of a layer's output, in a band of its group; all of them where it is in none."""

    layer: int
    rows: range
    band: int | None = None


@dataclass(frozen=True)
class _Buffer:
    """Of a map that is never there as a whole.

    Parameters
    ----------
    origins : tuple of int
        For each band of its group the row at its beginning.
    rows : int
    """

    origins: tuple[int, ...]
    rows: int


def bandable(layer: Layer) -> bool:
    """Whether each row of the output comes from a few rows of the input."""
    if isinstance(layer, Convolution):
        # A weight tile would be generated anew for each band.
        return not isinstance(layer.weights, Generated) or layer.weights.V is None
    return isinstance(layer, Add | Concatenation | Pad | Pooling | Requantise | Table)


def _reads(layer: Layer, rows: range, height: int) -> range:
    """Rows of an input, of so many, that some rows of the output come from."""
    kernel, stride, dilation, top = 1, 1, 1, 0
    if isinstance(layer, Convolution | Pooling):
        kernel, stride, top = layer.kernel[0], layer.stride[0], layer.padding[0]
    if isinstance(layer, Convolution):
        dilation = layer.dilation[0]
    if isinstance(layer, Pad):
        top = layer.padding[0]
    if not bandable(layer):
        return range(height)
    first = rows.start * stride - top
    end = (rows.stop - 1) * stride - top + (kernel - 1) * dilation + 1
    return range(min(max(first, 0), height), min(max(end, 0), height)) if rows else range(0)


class _Schedule:
    """What is done when, for a choice of groups, and how long each row of each map is needed.

    Step 0 is the input's arrival; the output is needed to the end.
    """

    def __init__(self, forms: Forms, groups: Sequence[_Group]):
        self.forms = forms
        self.layers = forms.network.layers
        self.heights = {name: size[0] for name, size in forms.sizes.items()}
        self.readers: dict[str, list[int]] = {name: [] for name in self.heights}
        for index, layer in enumerate(self.layers):
            for name in {*layer.inputs}:
                self.readers[name].append(index)
        self.steps: list[_Step] = []
        self.buffers: dict[str, _Buffer] = {}
        self._ends: dict[str, list[int]] = {}
        begin = {group.first: group for group in groups}
        index = 0
        while index < len(self.layers):
            if index in begin:
                self._run(begin[index])
                index = begin[index].end
            else:
                height = self.heights[self.layers[index].name]
                self.steps.append(_Step(index, range(height)))
                index += 1
        self._time()

    def _run(self, group: _Group) -> None:
        """Steps and buffers of a group."""
        layers = self.layers[group.first : group.end]
        inside = {
            layer.name: [n for n in self.readers[layer.name] if n < group.end] for layer in layers
        }
        # Rows of each output that are there after each band.
        ends = {layer.name: [0] for layer in layers}
        for band in range(1, group.bands + 1):
            for layer in reversed(layers):
                height = self.heights[layer.name]
                readers = inside[layer.name]
                if band == group.bands:
                    end = height
                elif readers:
                    end = max(
                        _reads(one, range(ends[one.name][-1]), height).stop
                        for one in (self.layers[n] for n in readers)
                    )
                else:
                    end = -(-height * band // group.bands)
                ends[layer.name].append(end)
        for band in range(group.bands):
            for number, layer in enumerate(layers, group.first):
                rows = range(*ends[layer.name][band : band + 2])
                if rows:
                    self.steps.append(_Step(number, rows, band))
        self._ends |= ends
        for layer in layers:
            name = layer.name
            within = inside[name] == self.readers[name] and name != self.layers[-1].name
            apart = self.forms.nesting.nested(name) or any(
                isinstance(self.layers[n], Concatenation) for n in self.readers[name]
            )
            if within and not apart:
                buffer = self._buffer(name, group.bands)
                if buffer.rows < self.heights[name]:
                    self.buffers[name] = buffer

    def _buffer(self, name: str, bands: int) -> _Buffer:
        """The smallest buffer; rows move only where what is new would not fit behind them."""
        ends, height = self._ends[name], self.heights[name]
        kept = [0]  # after each band: the first row that is still needed, or not there yet
        for band in range(1, bands + 1):
            needed = ends[band]
            for layer in (self.layers[n] for n in self.readers[name]):
                done, whole = self._ends[layer.name][band], self.heights[layer.name]
                if done < whole:
                    needed = min(needed, _reads(layer, range(done, whole), height).start)
            kept.append(needed)
        rows = max(ends[band + 1] - kept[band] for band in range(bands))
        origins = [0]
        for band in range(1, bands):
            fits = ends[band + 1] - origins[-1] <= rows
            still = ends[band + 1] == ends[band]
            origins.append(origins[-1] if fits or still else kept[band])
        return _Buffer(tuple(origins), rows)

    def _time(self) -> None:
        """When each row is written and when it is read last."""
        self.written = {name: np.zeros(height, int) for name, height in self.heights.items()}
        self.read = {name: np.zeros(height, int) for name, height in self.heights.items()}
        for time, step in enumerate(self.steps, 1):
            layer = self.layers[step.layer]
            for written in (self.written, self.read):
                written[layer.name][step.rows.start : step.rows.stop] = time
            for name in layer.inputs:
                rows = _reads(layer, step.rows, self.heights[name])
                self.read[name][rows.start : rows.stop] = time
        self.read[self.layers[-1].name][:] = len(self.steps) + 1

    def kept(self, step: _Step) -> range:
        """Rows of a step's output that are still needed, and have to move before it."""
        buffer = self.buffers.get(self.layers[step.layer].name)
        if not step.band or buffer is None:
            return range(0)
        before, origin = buffer.origins[step.band - 1 : step.band + 1]
        return range(origin, step.rows.start) if origin != before else range(0)

    @cached_property
    def homes(self) -> dict[str, str]:
        """In which map's region each map lies."""
        nesting = self.forms.nesting
        homes = {name: nesting.root(name)[0] for name in self.heights}
        for layer in self.layers:
            if not isinstance(layer, IN_PLACE) or nesting.nested(layer.name):
                continue
            for name in layer.inputs:
                free = not {name, layer.name} & self.buffers.keys() and not nesting.nested(name)
                # Each row is read last in the step that overwrites it.
                if free and (self.read[name] == self.written[layer.name]).all():
                    homes[layer.name] = homes[name]
                    break
        return homes

    @cached_property
    def shapes(self) -> dict[str, list[Part]]:
        """The shape in memory of each region, by the map that it is called after."""
        members: dict[str, list[str]] = {}
        for name, home in self.homes.items():
            members.setdefault(home, []).append(name)
        return {
            home: self._moving(home) if home in self.buffers else self._whole(home, inside)
            for home, inside in members.items()
        }

    def _whole(self, home: str, inside: Sequence[str]) -> list[Part]:
        """Rows that come and go together are a part."""
        first = np.min([self.written[name] for name in inside], axis=0)
        last = np.max([self.read[name] for name in inside], axis=0)
        # Rows that a stride leaves out make holes, too small for what could lie there.
        last = np.maximum.accumulate(last)
        ends = [*(np.flatnonzero(np.diff(first) | np.diff(last)) + 1).tolist(), len(first)]
        word, row = self.forms.config.activation_word, self.forms.row(home)
        parts, start = [], 0
        for end in ends:
            low, high = start * row // word * word, -(-end * row // word) * word
            parts.append(Part(low, high - low, int(first[start]), int(last[start])))
            start = end
        return parts

    def _moving(self, name: str) -> list[Part]:
        """A buffer is needed as far as it is filled, and what is kept until more comes."""
        row, ends, buffer = self.forms.row(name), self._ends[name], self.buffers[name]
        written, read = self.written[name], self.read[name]
        parts = []
        bands = [band for band in range(len(ends) - 1) if ends[band] < ends[band + 1]]
        for band, after in zip(bands, [*bands[1:], None], strict=True):
            origin, end = buffer.origins[band], ends[band + 1]
            first = int(written[end - 1])
            if after is None:
                last = int(read[origin:end].max())
                parts.append(Part(0, (end - origin) * row, first, last))
                continue
            until = int(written[ends[after + 1] - 1])
            # Rows that are needed after that are read before it too, or wait for it.
            gone = read[origin:end] < until
            last = int(read[origin:end][gone].max(initial=first))
            parts.append(Part(0, (end - origin) * row, first, last))
            kept = origin + int(np.argmin(gone)) if not gone.all() else end
            if kept < end and last + 1 < until:
                parts.append(Part((kept - origin) * row, (end - kept) * row, last + 1, until - 1))
        return parts

    @cached_property
    def needed(self) -> NDArray[np.int64]:
        """Bytes of activation memory at each step."""
        return alive(list(self.shapes.values()), len(self.steps) + 2)

    def most(self, first: int, end: int, enough: int) -> int:
        """Bytes of activation memory while layers `first` to `end` - 1 are at work.

        As placed, if there may be `enough` of them; else the most that some step needs.
        """
        times = [n for n, step in enumerate(self.steps, 1) if first <= step.layer < end]
        most = int(self.needed[times].max())
        if most > enough:
            return most
        there = [
            [part for part in shape if part.first <= times[-1] and times[0] <= part.last]
            for shape in self.shapes.values()
        ]
        return place_shapes([shape for shape in there if shape], enough)[1]

    def placed(self, addresses: Sequence[int]) -> tuple[dict[str, Map], tuple[Placed, ...]]:
        """The maps, and the steps with theirs, for an address of each shape."""
        forms = self.forms
        base = dict(zip(self.shapes, addresses, strict=True))
        maps = {name: forms.view(name, home, base[home]) for name, home in self.homes.items()}
        joined = forms.joined(maps)

        def during(name: str, band: int | None) -> Map:
            """A map as if it were whole, with its rows of the band where they are."""
            one = maps[name]
            if band is None or name not in self.buffers:
                return one
            return replace(one, address=one.address - self.buffers[name].origins[band] * one.row)

        steps = []
        for step in self.steps:
            layer = self.layers[step.layer]
            target = during(layer.name, step.band)
            moved = None
            kept = self.kept(step)
            if step.band and kept:
                before = during(layer.name, step.band - 1)
                moved = before.only(kept), target.only(kept)
            steps.append(
                Placed(
                    layer=step.layer,
                    rows=step.rows,
                    sources=tuple(during(name, step.band) for name in layer.inputs),
                    target=target,
                    joined=joined.get(layer.name, ()),
                    moved=moved,
                )
            )
        return maps, tuple(steps)


class _Costs:
    """Predicted cycles of rows of a layer, wherever its maps are."""

    def __init__(self, forms: Forms, cycles: Cycles):
        self._forms, self._cycles = forms, cycles
        plain = _Schedule(forms, ())
        sizes = [max(p.offset + p.size for p in shape) for shape in plain.shapes.values()]
        maps, steps = plain.placed([sum(sizes[:n]) for n in range(len(sizes))])
        self._maps = maps
        self._operations = [
            lower_rows(layer, step, forms.config)
            for layer, step in zip(forms.network.layers, steps, strict=True)
        ]
        self._rows: dict[tuple[int, int, int], int] = {}
        self._moves: dict[tuple[str, int], int] = {}

    def rows(self, layer: int, rows: range) -> int:
        """Cycles of some rows of a layer's output."""
        key = layer, rows.start, rows.stop
        if key not in self._rows:
            target = self._maps[self._forms.network.layers[layer].name]
            parts = only_rows(self._operations[layer], target, rows)
            self._rows[key] = sum(map(self._cycles, parts))
        return self._rows[key]

    def layer(self, layer: int) -> int:
        """Cycles of a layer as a whole."""
        return sum(map(self._cycles, self._operations[layer]))

    def move(self, name: str, rows: int) -> int:
        """Cycles of moving some rows of a map."""
        key = name, rows
        if key not in self._moves:
            some = self._maps[name].only(range(rows))
            self._moves[key] = self._cycles(move(some, some, self._forms.config))
        return self._moves[key]


class _Search:
    """The groups that take the fewest cycles."""

    def __init__(self, forms: Forms, cycles: Cycles, each: int):
        self.forms, self.each = forms, each
        self.layers = forms.network.layers
        self.costs = _Costs(forms, cycles)
        plain = _Schedule(forms, ())
        self.whole = [int(plain.needed[n + 1]) for n in range(len(self.layers))]
        """Bytes that each layer needs as a whole."""
        self._tried: dict[_Group, tuple[int, int]] = {}

    def _try(self, group: _Group) -> tuple[int, int]:
        """Bytes that a group needs, and its cycles, 0 where there are fewer bytes."""
        if group not in self._tried:
            capacity = self.forms.config.activation_bytes
            schedule = _Schedule(self.forms, [group])
            needed = schedule.most(group.first, group.end, capacity)
            self._tried[group] = needed, self._cycles(schedule) if needed <= capacity else 0
        return self._tried[group]

    def _cycles(self, schedule: _Schedule) -> int:
        """Cycles of all steps that belong to a group."""
        cycles = 0
        for step in schedule.steps:
            if step.band is None:
                continue
            cycles += self.costs.rows(step.layer, step.rows) + self.each
            kept = schedule.kept(step)
            if kept:
                name = self.layers[step.layer].name
                cycles += self.costs.move(name, len(kept)) + self.each
        return cycles

    def _choices(self, first: int, end: int) -> list[_Group]:
        """Groups of these layers, of ever more bands."""
        layers = self.layers[first:end]
        inside = {name for layer in layers for name in layer.inputs}
        ends = [layer for layer in layers if layer.name not in inside]
        heights = [self.forms.sizes[layer.name][0] for layer in ends]
        if not all(map(bandable, layers)) or min(heights) < 2:
            return []
        counts = sorted({-(-max(heights) // rows) for rows in range(1, max(heights))})
        return [_Group(first, end, count) for count in counts]

    def run(self, limit: int) -> list[_Group] | None:
        """Groups with which no step needs more than `limit` bytes; None if there are none."""
        best: list[tuple[int, list[_Group]] | None] = [(0, [])]
        for end in range(1, len(self.layers) + 1):
            found: list[tuple[int, list[_Group]]] = []
            before = best[end - 1]
            if before and self.whole[end - 1] <= limit:
                found.append((before[0] + self.costs.layer(end - 1), before[1]))
            for first in range(max(0, end - LONGEST), end):
                before = best[first]
                if before is None or max(self.whole[first:end]) <= limit:
                    continue
                for group in self._choices(first, end):
                    needed, cycles = self._try(group)
                    if needed <= limit:
                        found.append((before[0] + cycles, [*before[1], group]))
                        break
            best.append(min(found, key=lambda one: one[0], default=None))
        final = best[-1]
        return final[1] if final else None

    def least(self) -> tuple[int, int]:
        """Fewest bytes with which there are groups, and the layer that takes them."""
        word = self.forms.config.activation_word
        low, high = 0, -(-max(self.whole) // word)
        while low < high:
            middle = (low + high) // 2
            if self.run(middle * word) is None:
                low = middle + 1
            else:
                high = middle
        schedule = _Schedule(self.forms, self.run(high * word) or [])
        time = int(schedule.needed[1 : len(schedule.steps) + 1].argmax())
        return int(schedule.needed.max()), schedule.steps[time].layer


def lay_out_in_bands(
    network: Network, config: Configuration, cycles: Cycles, each: int = 0, *, explain: bool = True
) -> Layout:
    """Place the maps of a network of which some layers run in bands of rows.

    Parameters
    ----------
    network : Network
    config : Configuration
    cycles : callable
        Predicts those of an operation.
    each : int, optional
        Cycles that an operation more counts on top, for the memory that its record takes.
    explain : bool, optional
        Find out what is missing where they cannot be placed, which takes longer than that.

    Returns
    -------
    Layout

    Raises
    ------
    FitError
        If the activation memory is too small.
    """
    placed = 0
    for unroll in (True, False):
        search = _Search(Forms(network, config, unroll=unroll), cycles, each)
        found = _lay_out(search)
        if isinstance(found, Layout):
            return found
        placed = found
    if not explain:
        raise FitError(f"the feature maps do not fit {config.name}", "use smaller ones")
    raise _misfit(search, placed)


def _lay_out(search: _Search) -> Layout | int:
    """The layout; without one the fewest bytes that it took, 0 if there are no groups to place."""
    forms, config = search.forms, search.forms.config
    limit = config.activation_bytes
    least = 0
    for _ in range(ATTEMPTS):
        groups = search.run(limit)
        if groups is None:
            break
        schedule = _Schedule(forms, groups)
        addresses, peak = place_shapes([*schedule.shapes.values()], config.activation_bytes)
        if peak <= config.activation_bytes:
            maps, steps = schedule.placed(addresses)
            buffers = {name: buffer.rows for name, buffer in schedule.buffers.items()}
            return Layout(maps, steps, peak, buffers)
        least = min(least or peak, peak)
        limit = min(limit, int(schedule.needed.max())) - config.activation_word
    return least


def _misfit(search: _Search, placed: int) -> FitError:
    """Why there is no layout; `placed` are the bytes that the best took."""
    config = search.forms.config
    total = config.activation_bytes
    if placed:
        needed = placed
        what = "the feature maps, placed as well as they could be in bands of rows, take"
        maps = ""
    else:
        needed, worst = search.least()
        layer, whole = search.layers[worst], search.whole[worst]
        what, maps = f"layer {layer.name!r} needs", ""
        if needed < whole:
            # What a step needs; where that is there, placing it may take more.
            what += " at least"
            maps = f" in bands of rows, {whole} as a whole,"
        maps += " for the maps " + " and ".join(
            f"{name!r} {search.forms.sizes[name]}" for name in (*layer.inputs, layer.name)
        )
    return FitError(
        f"{what} {needed} bytes of activation memory{maps}, {config.name} has {total}: "
        f"{needed - total} bytes are missing",
        smaller(needed, total),
    )
