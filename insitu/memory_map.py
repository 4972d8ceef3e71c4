"""What lies where in both memories, and when: as a table's rows, and as a picture.

All of it comes from a plan's report, which an image carries as its metadata.
"""

import io
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from insitu.errors import InputError
from insitu.files import check_writable, write_file
from insitu.maps import Map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.backend_bases import RendererBase

__all__ = [
    "STYLE",
    "Coefficients",
    "Span",
    "check_picture",
    "coefficients",
    "draw",
    "memory",
    "spans",
    "write_picture",
]

Report = Mapping[str, Any]

SUFFIXES = (".svg", ".png")
PROGRAM, PARAMETERS, FREE = "program", "parameters", "free"
_KINDS = {"basis": "bases B", "stream": "coefficients U", "cross": "coefficients V"}
_WHOLE = {"stored": "stored weights", "": "constants"}
"""What dataflows without these have: pooling, for one, runs with weights that are all the same."""


@dataclass(frozen=True)
class Span:
    """A map in the activation memory.

    Parameters
    ----------
    name : str
    address, size : int
        Bytes; of a map inside another, those that are its own.
    first, last : int
        Layers, both inclusive, by their place in the report, during which it is there.
    inside : str or None
        The map of which it is some channels of every pixel.
    low, high : float
        Where it is drawn, as byte addresses: a map inside another where its share of the bytes
        would be, were they not spread over the pixels.
    rows : int or None
        Of a map that is never there as a whole: the rows that its buffer holds.
    """

    name: str
    address: int
    size: int
    first: int
    last: int
    inside: str | None
    low: float
    high: float
    rows: int | None = None

    def shares(self, other: "Span") -> bool:
        """Whether some layer finds both in the same bytes."""
        together = self.first <= other.last and other.first <= self.last
        return together and self.low < other.high and other.low < self.high


@dataclass(frozen=True)
class Coefficients:
    """A part of the coefficient memory.

    Parameters
    ----------
    kind : str
        "program", "parameters", "free", or what the weights of a layer are stored as.
    size : int
        Bytes.
    layer : int or None
        By its place in the report; None for what belongs to no single one.
    """

    kind: str
    size: int
    layer: int | None = None


def spans(report: Report) -> list[Span]:
    """The maps of a plan's report: input first, then in the order in which layers make them.

    A map is there from the layer that writes it to the last that reads it; the input is from the
    first layer on, and what nothing reads is left for the host. Layers that run together in bands
    of rows count as one: all their maps are there from the first to the last of them.
    """
    groups = _groups(report)
    buffers = {
        layer["output"]["name"]: layer["bands"]["buffer_rows"]
        for layer in report["layers"]
        if "bands" in layer
    }
    found: dict[str, Map] = {}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for step, values in _mentions(report):
        one = Map.from_report(dict(values))
        rows = buffers.get(one.name)
        if rows is not None:
            one = replace(one, shape=(rows, *one.shape[1:]))
        found.setdefault(one.name, one)
        begin, end = groups[step]
        first.setdefault(one.name, begin)
        last[one.name] = end
    last[report["output"]["name"]] = len(report["layers"]) - 1

    def around(one: Map) -> Map:
        """The outermost map that has all bytes of `one`, and more, while it is there."""
        for other in found.values():
            together = first[one.name] <= last[other.name] and first[other.name] <= last[one.name]
            within = other.address <= one.address < other.address + other.pitch
            within = within and other.shape[:2] == one.shape[:2]
            if together and within and other.pitch == one.pitch and other.extent > one.extent:
                return around(other)
        return one

    result = []
    for name, one in found.items():
        outer, size = around(one), one.size
        low, high = float(one.address), float(one.address + one.size)
        if outer is not one:
            size = size // one.pitch * one.extent
            low = outer.address + (one.address - outer.address) * outer.size / outer.pitch
            high = low + size
        inside = None if outer is one else outer.name
        rows = buffers.get(name)
        result.append(
            Span(name, one.address, size, first[name], last[name], inside, low, high, rows)
        )
    return result


def _groups(report: Report) -> list[tuple[int, int]]:
    """For each layer the first and the last of those with which it runs in bands of rows."""
    groups = [(index, index) for index in range(len(report["layers"]))]
    places: dict[int, list[int]] = {}
    for place, step in enumerate(report.get("steps", ())):
        places.setdefault(step["layer"], []).append(place)
    # Layers take turns in a group, so that one begins before the one in front of it has ended.
    for layer in range(1, len(places)):
        if places[layer][0] < places[layer - 1][-1]:
            first = groups[layer - 1][0]
            groups[first : layer + 1] = [(first, layer)] * (layer + 1 - first)
    return groups


def _mentions(report: Report) -> Iterator[tuple[int, Report]]:
    """The maps that a report names, each with the layer that uses it."""
    yield 0, report["input"]
    for step, layer in enumerate(report["layers"]):
        for one in layer["inputs"]:
            yield step, one
        yield step, layer["output"]


def coefficients(report: Report) -> list[Coefficients]:
    """The parts of the coefficient memory, in the order in which they lie in it.

    What fills up the last word of the parameters counts as one of them.
    """
    weights = []
    for index, layer in enumerate(report["layers"]):
        words: dict[str, int] = {}
        own = [one for one in layer["operations"] if not one.get("shared")]
        for part in (part for one in own for part in one["segments"]):
            kind = _WHOLE.get(layer["dataflow"], _KINDS[part["kind"]])
            words[kind] = words.get(kind, 0) + part["words"] * part["count"]
        for kind, count in words.items():
            size = layer["weight_bytes"] * count // sum(words.values())
            weights.append(Coefficients(kind, size, index))
    program, used = report["program_bytes"], report["payload_bytes"]
    parameters = used - program - sum(part.size for part in weights)
    return [
        Coefficients(PROGRAM, program),
        Coefficients(PARAMETERS, parameters),
        *weights,
        Coefficients(FREE, report["coefficient_bytes"] - used),
    ]


def memory(report: Report) -> dict[str, Any]:
    """Both memories as plain data.

    Returns
    -------
    dict
        `maps`, each with `name`, `address`, `size`, the names of its `first` and `last` layer, the
        map that it is `inside` of or None, and the `rows` that its buffer holds, None of a map that
        is there as a whole; `coefficients`: bytes by kind.
    """
    names = [layer["name"] for layer in report["layers"]]
    kinds: dict[str, int] = {}
    for part in coefficients(report):
        kinds[part.kind] = kinds.get(part.kind, 0) + part.size
    return {
        "maps": [
            {
                "name": span.name,
                "address": span.address,
                "size": span.size,
                "first": names[span.first],
                "last": names[span.last],
                "inside": span.inside,
                "rows": span.rows,
            }
            for span in spans(report)
        ],
        "coefficients": kinds,
    }


def check_picture(path: Path) -> None:
    """Check that a picture can be written, before the work.

    Raises
    ------
    InputError
        If its name does not end in .svg or .png.
    FileError
        If its folder does not exist or takes no files.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"picture {path} would be of a kind unknown here: its name must end in "
            f"{' or '.join(SUFFIXES)}",
            f"name it {path.stem}.svg",
        )
    check_writable(path, "picture")


def write_picture(path: Path, report: Report) -> None:
    """Draw both memories into a file, SVG or PNG by its suffix, whole or not at all.

    Raises
    ------
    InputError, FileError
        As `check_picture`; also if the file cannot be written.
    """
    check_picture(path)
    write_file(path, draw(report, path.suffix.lower()[1:]), "picture")


_LAYERS = ("#bfdbfe", "#bbf7d0", "#fde68a", "#fecaca", "#ddd6fe", "#a5f3fc")
"""Colours of what belongs to a layer, its output and its weights, in turn."""
_INPUT, _PROGRAM, _PARAMETERS, _FREE = "#e2e8f0", "#94a3b8", "#cbd5e1", "#ffffff"
_LINE, _TEXT, _LIMIT = "#475569", "#0f172a", "#b91c1c"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # Text stays text: small, and it can be searched.
    "svg.hashsalt": "insitu",  # The same picture every time.
    "font.size": 8.0,
    "hatch.color": "#e2e8f0",
    "text.color": _TEXT,
    "text.parse_math": False,  # Names may hold any sign.
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.edgecolor": _LINE,
}
"""Of pictures made with matplotlib."""
_LONGEST = 28
"""Letters of a name."""
_SQUEEZED = 0.2
"""Bytes that nothing uses are drawn as at most so many, of those that something does."""


def draw(report: Report, kind: str) -> bytes:
    """A picture: above, the maps and the layers during which they live; below, the coefficients.

    Parameters
    ----------
    report : mapping
        Of a plan.
    kind : "svg" or "png"

    Returns
    -------
    bytes
        The picture as a file.
    """
    # Here, since it takes half a second that no other verb needs.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [_printable(layer["name"]) for layer in report["layers"]]
    longest = max(map(len, names))
    # Inches; a letter of this size is some 0.07 wide.
    width = max(8.0, min(1.5 + 0.7 * len(names), 24.0), 0.14 * len(names))
    left, right = 1.0, 0.3
    upright = longest * 0.08 > (width - left - right) / len(names)
    foot = 0.2 + 0.07 * longest if upright else 0.3
    height = 5.9 + foot
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # Whatever the user has set for other pictures.
        matplotlib.rcParams.update(STYLE)
        # A letter that the font lacks becomes a box; the table has it.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure = Figure(figsize=(width, height))
        renderer = FigureCanvasAgg(figure).get_renderer()
        inside = (width - left - right) / width
        above = figure.add_axes((left / width, (1.9 + foot) / height, inside, 3.6 / height))
        below = figure.add_axes((left / width, 0.6 / height, inside, 0.8 / height))
        _draw_maps(above, report, renderer)
        places = [index + 0.5 for index in range(len(names))]
        above.set_xticks(places, names, rotation=90 if upright else 0)
        _draw_coefficients(below, report, names, renderer)
        file = io.BytesIO()
        figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {})
    return file.getvalue()


def _draw_maps(axes: "Axes", report: Report, renderer: "RendererBase") -> None:
    found, capacity = spans(report), report["activation_bytes"]
    count = len(report["layers"])
    ranges = [(one.address, one.address + one.size) for one in found if one.inside is None]
    scale = _Scale(ranges, capacity)
    axes.set(xlim=(0, count), ylim=(0, 1.02 * scale.end), ylabel="byte address")
    for low, high in scale.unused:
        text = ("never used", f"{high - low:,}")
        _box(axes, (0, scale[low]), (count, scale[high]), _FREE, text, renderer)
    for number, span in enumerate(found):
        colour = _INPUT if number == 0 else _LAYERS[(number - 1) % len(_LAYERS)]
        rows = f" ({span.rows} rows)" if span.rows is not None else ""
        text = (_printable(span.name), f"{span.size:,}{rows}")
        for left, right in _visible(number, found):
            corners = (left, scale[span.low]), (right, scale[span.high])
            _box(axes, *corners, colour, text, renderer)
    axes.axhline(scale[capacity], color=_LIMIT, linewidth=2)
    axes.set_title(
        f"{_printable(report['network'])} on {report['configuration']}: "
        f"activation memory, {report['activation_bytes_used']:,} of {capacity:,} bytes in use"
    )
    ends = sorted({end for both in ranges for end in both})
    scale.label(axes.yaxis, [capacity, 0, *ends], 0.035)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _visible(number: int, found: list[Span]) -> list[tuple[float, float]]:
    """From where to where the map `found[number]` is drawn.

    A map that takes the bytes of another, in place or all around it, does so in the middle of the
    layer that writes it; from then on it is drawn, and not the other.
    """
    span = found[number]
    earlier = [other for other in found[:number] if span.shares(other)]
    later = [other for other in found[number + 1 :] if span.shares(other)]
    left, right = span.first + (0.5 if earlier else 0.0), span.last + 1.0
    if not later:
        return [(left, right)]
    hidden = min(other.first for other in later) + 0.5, max(other.last for other in later) + 1.0
    return [part for part in ((left, hidden[0]), (hidden[1], right)) if part[0] < part[1]]


def _draw_coefficients(
    axes: "Axes", report: Report, names: list[str], renderer: "RendererBase"
) -> None:
    colours = {PROGRAM: _PROGRAM, PARAMETERS: _PARAMETERS, FREE: _FREE}
    boxes: dict[int | str, int] = {}
    for part in coefficients(report):
        key = part.kind if part.layer is None else part.layer
        boxes[key] = boxes.get(key, 0) + part.size
    used, capacity = report["payload_bytes"], report["coefficient_bytes"]
    scale = _Scale([(0, used)], capacity)
    axes.set(xlim=(0, scale.end), ylim=(0, 1), yticks=(), xlabel="byte address")
    ends = [0]
    for key, size in boxes.items():
        if isinstance(key, int):
            name, colour = names[key], _LAYERS[key % len(_LAYERS)]
        else:
            name, colour = key, colours[key]
        start, end = ends[-1], ends[-1] + size
        if size:
            text = (name, f"{size:,}")
            _box(axes, (scale[start], 0), (scale[end], 1), colour, text, renderer)
        ends.append(end)
    scale.label(axes.xaxis, [capacity, *ends], 0.08)
    axes.set_title(f"coefficient memory, {used:,} of {capacity:,} bytes in use")


def _box(
    axes: "Axes",
    low: tuple[float, float],
    high: tuple[float, float],
    colour: str,
    text: tuple[str, str],
    renderer: "RendererBase",
) -> None:
    """A box from corner to corner, with as much of its text (name, bytes) as it has room for."""
    from matplotlib.patches import Rectangle

    (x, y), (width, height) = low, (high[0] - low[0], high[1] - low[1])
    hatch = "////" if colour == _FREE else None
    box = Rectangle(low, width, height, facecolor=colour, edgecolor=_LINE, lw=0.6, hatch=hatch)
    axes.add_patch(box)
    room = box.get_window_extent(renderer)
    name, size = text
    two, one = f"{name}\n{size}", f"{name}  {size}"
    for form, rotation in ((two, 0), (one, 0), (two, 90), (one, 90), (name, 0), (name, 90)):
        label = axes.text(x + width / 2, y + height / 2, form, rotation=rotation)
        label.set(ha="center", va="center")
        taken = label.get_window_extent(renderer)
        if taken.width + 6 <= room.width and taken.height + 2 <= room.height:
            return
        label.remove()


class _Scale:
    """Where a byte address is drawn: to scale where something lies, squeezed where nothing does."""

    def __init__(self, ranges: Iterable[tuple[int, int]], capacity: int) -> None:
        used = _union(ranges)
        most = _SQUEEZED * sum(high - low for low, high in used)
        self.unused: list[tuple[int, int]] = []
        self._addresses, self._places = [0], [0.0]
        for low, high in [*used, (capacity, capacity)]:
            before = self._addresses[-1]
            if low > before:
                self.unused.append((before, low))
                self._add(low, min(low - before, most))
            self._add(high, high - low)

    def _add(self, address: int, length: float) -> None:
        if address > self._addresses[-1]:
            self._addresses.append(address)
            self._places.append(self._places[-1] + length)

    def __getitem__(self, address: float) -> float:
        return float(np.interp(address, self._addresses, self._places))

    @property
    def end(self) -> float:
        """Where the last address is drawn."""
        return self._places[-1]

    def label(self, axis: "Axis", addresses: Iterable[int], apart: float) -> None:
        """Label addresses, those first that come first, as far as `apart` of the axis allows."""
        chosen: list[int] = []
        for address in addresses:
            if all(abs(self[address] - self[other]) > apart * self.end for other in chosen):
                chosen.append(address)
        axis.set_ticks([self[address] for address in chosen], [f"{one:,}" for one in chosen])


def _union(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges that cover the same, none of which touch."""
    result: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if result and low <= result[-1][1]:
            result[-1] = result[-1][0], max(high, result[-1][1])
        else:
            result.append((low, high))
    return result


def _printable(name: str) -> str:
    """A name that is short enough, of signs that a picture may hold; its end tells most."""
    name = "".join(sign if sign.isprintable() else "?" for sign in name)
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
