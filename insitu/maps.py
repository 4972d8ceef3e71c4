"""Feature maps in the activation memory: their form, and where each lies.

A concatenation mostly costs nothing: what it joins lies side by side in each pixel of its own.
Sums, tables and changes of scale overwrite an input that nobody reads after them. The network's
input has the form that suits the layer that reads it, since the host writes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.network import (
    INPUT,
    Add,
    Concatenation,
    Convolution,
    Network,
    Requantise,
    Shape,
    Stored,
    Table,
    shapes,
    zero_points,
)
from insitu.errors import FitError
from insitu.placement import Region, lower_bound, place
from rtl.config import Configuration

__all__ = [
    "IN_PLACE",
    "Forms",
    "Layout",
    "Map",
    "Placed",
    "Window",
    "lay_out",
    "layer_places",
    "smaller",
]

IN_PLACE = (Add, Requantise, Table)
"""Kinds whose output may lie where an input did: they write a pixel after they read it."""


@dataclass(frozen=True)
class Window:
    """What a pixel of the input holds in place of its channels: a kernel's row of pixels.

    So the taps of a row take the place of channels, where there are fewer of these than the array
    is wide.

    Parameters
    ----------
    kernel, stride, dilation, left : int
        Of the kernel that reads it, along a row; `left` is the padding.
    columns : int
        Rows of the kernel's pixels that there are: its outputs.
    """

    kernel: int
    stride: int
    dilation: int
    left: int
    columns: int

    def unroll(self, values: NDArray[np.int8], zero_point: int) -> NDArray[np.int8]:
        """[H, W, C] as [H, columns, kernel * C]; beyond the map is `zero_point`."""
        height, width, channels = values.shape
        reach = (self.columns - 1) * self.stride + (self.kernel - 1) * self.dilation + 1
        row = np.full((height, max(reach, self.left + width), channels), zero_point, np.int8)
        row[:, self.left : self.left + width] = values
        pixels = np.arange(self.columns)[:, np.newaxis] * self.stride
        taps = pixels + np.arange(self.kernel) * self.dilation
        return row[:, taps].reshape(height, self.columns, -1)


@dataclass(frozen=True)
class Map:
    """A feature map in the activation memory, channels last.

    Parameters
    ----------
    name : str
    shape : (int, int, int)
        Height, width, channels.
    pitch : int
        Bytes from pixel to pixel; rows follow each other without a gap.
    address : int
        Byte address of the first pixel.
    zero_point : int
    pieces : tuple of (int, int)
        Where a pixel's channels are: for each run of them its first byte and its channels. One run
        from byte 0 on, unless it is a concatenation of maps that do not fill activation words.
    window : Window or None
        Of the network's input: the form in which the host writes it.
    """

    name: str
    shape: tuple[int, int, int]
    pitch: int
    address: int
    zero_point: int
    pieces: tuple[tuple[int, int], ...] = ()
    window: Window | None = None

    def __post_init__(self) -> None:
        if not self.pieces:
            object.__setattr__(self, "pieces", ((0, self.shape[2]),))

    @property
    def size(self) -> int:
        """Bytes from the first pixel to behind the last."""
        return self.shape[0] * self.row

    @property
    def span(self) -> int:
        """Bytes to transfer: whole 32-bit words up to the last pixel's last channel."""
        return self.size - (self.pitch - self.extent) // 4 * 4

    @property
    def row(self) -> int:
        """Bytes from row to row."""
        return self.columns * self.pitch

    @property
    def columns(self) -> int:
        """Pixels of a row."""
        return self.window.columns if self.window else self.shape[1]

    @property
    def extent(self) -> int:
        """Bytes of a pixel up to its last channel."""
        offset, channels = self.pieces[-1]
        return (offset + channels) * (self.window.kernel if self.window else 1)

    @property
    def positions(self) -> NDArray[np.intp]:
        """The byte of each channel in its pixel."""
        return np.concatenate([np.arange(first, first + count) for first, count in self.pieces])

    def only(self, rows: range) -> "Map":
        """Some of its rows, as a map."""
        shape = len(rows), *self.shape[1:]
        return replace(self, shape=shape, address=self.address + rows.start * self.row)

    def place(self, values: NDArray[np.int8]) -> bytes:
        """The `span` bytes from `address` on that hold `values` (int8, of `shape`)."""
        values = np.asarray(values, np.int8)
        if values.shape != self.shape:
            raise ValueError(f"values must have shape {self.shape}, not {values.shape}")
        memory = np.zeros((self.shape[0], self.columns, self.pitch), np.int8)
        if self.window:
            memory[..., : self.extent] = self.window.unroll(values, self.zero_point)
        else:
            memory[..., self.positions] = values
        return memory.tobytes()[: self.span]

    def take(self, data: bytes) -> NDArray[np.int8]:
        """The values in `data`, the bytes of memory from `address` on: int8, of `shape`.

        Not of a map with a window, which does not hold every value.
        """
        if self.window:
            raise ValueError(f"the map {self.name!r} is not there as such")
        height, width, _ = self.shape
        missing = self.size - min(self.size, len(data))
        memory = np.frombuffer(data[: self.size] + bytes(missing), np.int8)
        return memory.reshape(height, width, self.pitch)[..., self.positions].copy()

    def report(self) -> dict[str, Any]:
        """The map as plain data."""
        return {
            **asdict(self),
            "shape": list(self.shape),
            "pieces": [list(piece) for piece in self.pieces],
        }

    @classmethod
    def from_report(cls, values: dict[str, Any]) -> "Map":
        """The map that `report` described, say in an image's metadata."""
        shape = values["shape"]
        return cls(
            name=values["name"],
            shape=(int(shape[0]), int(shape[1]), int(shape[2])),
            pitch=int(values["pitch"]),
            address=int(values["address"]),
            zero_point=int(values["zero_point"]),
            pieces=tuple((int(first), int(count)) for first, count in values["pieces"]),
            window=Window(**values["window"]) if values["window"] else None,
        )


class _Nesting:
    """Which map lies inside which, and how far from its pixels' first byte."""

    def __init__(self, network: Network, sizes: dict[str, Shape], word: int):
        self.pieces: dict[str, tuple[tuple[int, int], ...]] = {}
        self._parent: dict[str, tuple[str, int]] = {}
        self.offsets: dict[str, tuple[int, ...]] = {}
        self.extents: dict[str, int] = {}
        # Both maps of a sum need one pitch, so neither lies in another.
        self._apart = {
            name for layer in network.layers if isinstance(layer, Add) for name in layer.inputs
        }
        for name in sizes:
            self.pieces[name] = ((0, sizes[name][2]),)
        for layer in network.layers:
            if isinstance(layer, Concatenation):
                self._join(layer, word)
            elif not isinstance(layer, Convolution) or layer.depthwise:
                # Channel by channel: what goes in at a byte comes out there.
                self.pieces[layer.name] = self.pieces[layer.inputs[0]]
        for name, pieces in self.pieces.items():
            last, count = pieces[-1]
            self.extents[name] = -(-(last + count) // word) * word

    def _join(self, layer: Concatenation, word: int) -> None:
        offset = 0
        offsets = []
        pieces: list[tuple[int, int]] = []
        for name in layer.inputs:
            offsets.append(offset)
            # A map lies inside one other at most; what is joined again is copied.
            before = layer.inputs[: len(offsets) - 1]
            if name not in {*self._parent, *self._apart, *before}:
                self._parent[name] = layer.name, offset
            for first, count in self.pieces[name]:
                if pieces and sum(pieces[-1]) == offset + first:
                    pieces[-1] = pieces[-1][0], pieces[-1][1] + count
                else:
                    pieces.append((offset + first, count))
            last, count = self.pieces[name][-1]
            offset += -(-(last + count) // word) * word
        self.offsets[layer.name] = tuple(offsets)
        self.pieces[layer.name] = tuple(pieces)

    def root(self, name: str) -> tuple[str, int]:
        """The outermost map around a map, and the bytes from its pixels' beginning."""
        offset = 0
        while name in self._parent:
            name, further = self._parent[name]
            offset += further
        return name, offset

    def nested(self, name: str) -> bool:
        """Whether a map lies inside another, or others in it."""
        return name in self._parent or name in self.offsets


class Forms:
    """The form of every map of a network, before it has an address.

    Parameters
    ----------
    network : Network
    config : Configuration
    unroll : bool
        The taps of a row may take the place of the input's channels.

    Members
    -------
    sizes : dict of str to Shape
        Of the input and each layer's output.
    nesting : which map lies inside which
    """

    def __init__(self, network: Network, config: Configuration, *, unroll: bool):
        names = [INPUT, *(layer.name for layer in network.layers)]
        self.network, self.config = network, config
        self.sizes = dict(zip(names, shapes(network), strict=True))
        self._zeros = dict(zip(names, zero_points(network), strict=True))
        self.nesting = _Nesting(network, self.sizes, config.activation_word)
        self._pitches = dict(self.nesting.extents)
        self._window: Window | None = None
        if not self.nesting.nested(INPUT):
            form = _input_form(network, self.sizes, config, unroll)
            self._window, self._pitches[INPUT] = form

    def row(self, name: str) -> int:
        """Bytes of a row of a map that lies by itself."""
        windowed = self._window if name == INPUT else None
        return (windowed.columns if windowed else self.sizes[name][1]) * self._pitches[name]

    def size(self, name: str) -> int:
        """Bytes of a map that lies by itself, in whole words."""
        word = self.config.activation_word
        return -(-self.sizes[name][0] * self.row(name) // word) * word

    def view(self, name: str, home: str, base: int) -> Map:
        """A map that lies in the region of the map `home`, which begins at `base`."""
        return Map(
            name=name,
            shape=self.sizes[name],
            pitch=self._pitches[home],
            address=base + self.nesting.root(name)[1],
            zero_point=self._zeros[name],
            pieces=self.nesting.pieces[name],
            window=self._window if name == INPUT else None,
        )

    def joined(self, maps: Mapping[str, Map]) -> dict[str, tuple[Map, ...]]:
        """For each concatenation, where its inputs must be."""
        found = {}
        for layer in self.network.layers:
            if isinstance(layer, Concatenation):
                whole = maps[layer.name]
                found[layer.name] = tuple(
                    replace(maps[name], pitch=whole.pitch, address=whole.address + offset)
                    for name, offset in zip(
                        layer.inputs, self.nesting.offsets[layer.name], strict=True
                    )
                )
        return found


@dataclass(frozen=True)
class Placed:
    """A layer, or some rows of its output, with the maps that it reads and writes.

    Parameters
    ----------
    layer : int
    rows : range
        Of the output.
    sources : tuple of Map
    target : Map
    joined : tuple of Map
        For a concatenation, where its inputs must be: where they are, or must be copied to.
    moved : (Map, Map) or None
        Rows of the output that are still needed, and where they have to be moved before.
    """

    layer: int
    rows: range
    sources: tuple[Map, ...]
    target: Map
    joined: tuple[Map, ...] = ()
    moved: tuple[Map, Map] | None = None


@dataclass(frozen=True)
class Layout:
    """Where all maps of a network are.

    Parameters
    ----------
    maps : dict of str to Map
        The input's and each layer's output. Of a map that is never there as a whole, its address
        is that of its buffer.
    steps : tuple of Placed
        What is done, in order.
    peak : int
        Bytes of activation memory in use at most.
    buffers : dict of str to int
        For each map that is never there as a whole, the rows that its buffer holds.
    """

    maps: dict[str, Map]
    steps: tuple[Placed, ...]
    peak: int
    buffers: dict[str, int] = field(default_factory=dict)

    @property
    def banded(self) -> bool:
        """Whether some layers run in bands of rows."""
        return len(self.steps) > len({step.layer for step in self.steps})


def layer_places(
    forms: Forms, layer: int, maps: Mapping[str, Map], joined: Mapping[str, tuple[Map, ...]]
) -> Placed:
    """A layer as a whole, with its maps."""
    one = forms.network.layers[layer]
    return Placed(
        layer=layer,
        rows=range(forms.sizes[one.name][0]),
        sources=tuple(maps[name] for name in one.inputs),
        target=maps[one.name],
        joined=joined.get(one.name, ()),
    )


def lay_out(network: Network, config: Configuration, keep: bool) -> Layout:
    """Place the maps of a network that runs layer by layer.

    Parameters
    ----------
    network : Network
    config : Configuration
    keep : bool
        Give every map memory of its own, for the whole time.

    Returns
    -------
    Layout

    Raises
    ------
    FitError
        If the activation memory is too small.
    """
    try:
        return _lay_out(Forms(network, config, unroll=True), keep)
    except FitError:
        # Taps in the place of channels save steps, and may take more memory.
        return _lay_out(Forms(network, config, unroll=False), keep)


def _lay_out(forms: Forms, keep: bool) -> Layout:
    network, config, sizes, nesting = forms.network, forms.config, forms.sizes, forms.nesting
    names = [*sizes]
    # Steps: the input is there at 0, layer i is at work at i + 1.
    first = {name: step for step, name in enumerate(names)}
    last = dict(first)
    for step, layer in enumerate(network.layers, 1):
        last |= dict.fromkeys(layer.inputs, step)
    last[names[-1]] = len(names)

    home = {name: nesting.root(name)[0] for name in names}  # whose region it lies in
    if not keep:
        for step, layer in enumerate(network.layers, 1):
            if isinstance(layer, IN_PLACE) and not nesting.nested(layer.name):
                for name in layer.inputs:
                    if last[name] == step and not nesting.nested(name):
                        home[layer.name] = home[name]
                        break
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(home[name], []).append(name)
    regions = [
        Region(
            name=root,
            size=forms.size(root),
            first=0 if keep else min(first[name] for name in inside),
            last=len(names) if keep else max(last[name] for name in inside),
        )
        for root, inside in members.items()
    ]
    addresses, peak = place(regions)
    if peak > config.activation_bytes:
        raise _misfit(network, config, sizes, regions, peak, keep)
    base = dict(zip(members, addresses, strict=True))
    maps = {name: forms.view(name, home[name], base[home[name]]) for name in names}
    joined = forms.joined(maps)
    steps = [layer_places(forms, index, maps, joined) for index in range(len(network.layers))]
    return Layout(maps, tuple(steps), peak)


def _input_form(
    network: Network, sizes: dict[str, Shape], config: Configuration, unroll: bool
) -> tuple[Window | None, int]:
    """Window and pitch of the network's input, where it lies by itself."""
    _, width, channels = sizes[INPUT]
    readers = [layer for layer in network.layers if INPUT in layer.inputs]
    if not all(isinstance(one, Convolution) and one.groups == 1 for one in readers):
        return None, -(-channels // config.activation_word) * config.activation_word
    # Only what the engine writes has to fill words.
    plain = -(-channels // config.width) * config.width
    (reader, *others) = readers
    if not isinstance(reader, Convolution) or not isinstance(reader.weights, Stored):
        return None, plain
    if others or not unroll:
        return None, plain
    columns, kernel = sizes[reader.name][1], reader.kernel[1]
    unrolled = -(-kernel * channels // config.width) * config.width
    better = unrolled - kernel * plain, columns * unrolled - width * plain
    if better >= (0, 0):
        return None, plain
    return (
        Window(kernel, reader.stride[1], reader.dilation[1], reader.padding[1], columns),
        unrolled,
    )


def _misfit(
    network: Network,
    config: Configuration,
    sizes: dict[str, Shape],
    regions: Sequence[Region],
    peak: int,
    keep: bool,
) -> FitError:
    total = config.activation_bytes
    missing = f"{config.name} has {total}: {{}} bytes are missing"
    if keep:
        return FitError(
            f"the feature maps together take {peak} bytes of activation memory, "
            + missing.format(peak - total),
            "let maps overwrite each other (do not keep them)",
        )
    needed = lower_bound(regions)
    if needed <= total:
        return FitError(
            f"the feature maps, placed as well as they could be, take {peak} bytes of activation "
            "memory, " + missing.format(peak - total),
            smaller(peak, total),
        )

    def alive(step: int) -> list[Region]:
        return [region for region in regions if region.first <= step <= region.last]

    steps = range(1, len(network.layers) + 1)
    worst = max(steps, key=lambda step: sum(region.size for region in alive(step)))
    maps = " and ".join(f"{one.name!r} {sizes[one.name]}" for one in alive(worst))
    return FitError(
        f"layer {network.layers[worst - 1].name!r} needs {needed} bytes of activation memory for "
        f"the maps {maps}, " + missing.format(needed - total),
        smaller(needed, total),
    )


def smaller(needed: int, total: int) -> str:
    """The next step where maps need more bytes than there are."""
    less = 1 - total / needed
    return (
        f"use smaller inputs or fewer channels: these maps must be {less:.0%} smaller, "
        "whatever the rank and precision of the weights"
    )
