"""What an image's metadata must say, whoever wrote it: checked before anything of it is used.

docs/image-format.md says what it means; `insitu.plan.Plan.report` makes it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from insitu.maps import Map
from rtl.config import LARGEST_MEMORY

__all__ = ["BadMetadata", "activation_end", "check_metadata"]

Check = Callable[[Any], bool]
_MOST = 1 << 53
"""Of any number: JSON of others is exact up to there."""
_LONGEST = 1 << 20
"""Of an axis, and of a row of pixels with its padding."""


class BadMetadata(Exception):
    """What is wrong, as the end of a sentence: "has metadata ..."."""


def check_metadata(values: Any, payload_bytes: int) -> None:
    """Check that metadata has all that users of an image rely on.

    Parameters
    ----------
    values
        What was read.
    payload_bytes : int
        Of the image.

    Raises
    ------
    BadMetadata
    """
    if not isinstance(values, dict):
        raise BadMetadata("that is not an object")
    _fields(values, "", _WHOLE)
    if values["payload_bytes"] != payload_bytes:
        raise BadMetadata(f"for a payload of {values['payload_bytes']} bytes, not {payload_bytes}")
    for name in ("input", "output"):
        _map(values.get(name), name)
        _fields(values[name], name, {"scale": _scale})
    layers = _list(values, "layers")
    for number, layer in enumerate(layers):
        _layer(layer, f"layers[{number}]", values["input"])
    if "held_out" in values:
        _fields(values, "", {"held_out": lambda value: _number(value) and value <= 100})
    for where, one, rows in _maps(values):
        end = _end(one, rows)
        if end > LARGEST_MEMORY:
            raise BadMetadata(f"with a {where} that ends at byte {end}, beyond any memory")
    if not _same(values["output"], layers[-1]["output"]):
        raise BadMetadata("with an output that is not the last layer's")
    if "steps" in values:
        _steps(_list(values, "steps"), layers)


def activation_end(values: Mapping[str, Any]) -> int:
    """The byte of activation memory behind all maps of checked metadata."""
    ends = [_end(one, rows) for _, one, rows in _maps(values)]
    for step in values.get("steps", ()):
        output = values["layers"][step["layer"]]["output"]
        rows = step["rows"][1] - step["rows"][0]
        ends.append(_end({**output, "address": step["address"]}, rows))
    return max(ends)


# Single values.


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def _positive(value: Any) -> bool:
    return _natural(value) and value > 0


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < _MOST


def _scale(value: Any) -> bool:
    return _number(value) and value > 0


def _address(value: Any) -> bool:
    return _natural(value) and value % 4 == 0 and value < LARGEST_MEMORY


def _figures(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_natural, value.values()))


def _shape(value: Any) -> bool:
    sizes = isinstance(value, list) and len(value) == 3 and all(map(_positive, value))
    return sizes and all(size < _LONGEST for size in value)


def _pieces(value: Any) -> bool:
    """Runs of channels, one behind the other: first byte and number of each."""
    end = 0
    for piece in value if isinstance(value, list) else ():
        if not isinstance(piece, list) or len(piece) != 2 or not all(map(_natural, piece)):
            return False
        first, count = piece
        if first < end or not count:
            return False
        end = first + count
    return end > 0


def _window(value: Any) -> bool:
    if not isinstance(value, dict) or sorted(value) != _WINDOW or not _figures(value):
        return False
    if not all(value[key] for key in _WINDOW if key != "left"):
        return False
    reach = (value["columns"] - 1) * value["stride"] + (value["kernel"] - 1) * value["dilation"]
    return reach < _LONGEST and value["left"] < _LONGEST


def _bands(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    rows = value.get("buffer_rows", 0)
    return (
        _positive(value.get("count"))
        and _positive(value.get("rows"))
        and (rows is None or _positive(rows))
    )


def _rows(value: Any) -> bool:
    pair = isinstance(value, list) and len(value) == 2 and all(map(_natural, value))
    return pair and value[0] < value[1]


_WINDOW = ["columns", "dilation", "kernel", "left", "stride"]

_WHOLE: dict[str, Check] = {
    "network": _text,
    "configuration": _text,
    "cycles": _natural,
    "ideal_cycles": _natural,
    "weight_bytes": _natural,
    "dense_int8_bytes": _natural,
    "program_bytes": _natural,
    "payload_bytes": _natural,
    "coefficient_bytes": _positive,
    "activation_bytes": _positive,
    "activation_bytes_used": _natural,
    "frames_per_second": _number,
    "clock_mhz": _number,
}

_MAP: dict[str, Check] = {
    "name": _text,
    "shape": _shape,
    "address": _address,
    "pitch": lambda value: _positive(value) and value <= LARGEST_MEMORY,
    "zero_point": lambda value: type(value) is int and -128 <= value <= 127,
    "pieces": _pieces,
    "window": lambda value: value is None or _window(value),
}

_LAYER: dict[str, Check] = {
    "name": _text,
    "dataflow": lambda value: value in ("", "stored", "intra", "cross", "tile"),
    "ranks": _figures,
    "precisions": _figures,
    "weight_bytes": _natural,
}

_COST: dict[str, Check] = {"cycles": _natural, "ideal": _natural, "bound": _text}

_SEGMENT: dict[str, Check] = {
    "kind": lambda value: value in ("basis", "stream", "cross"),
    "words": _positive,
    "count": _positive,
}

_STEP: dict[str, Check] = {
    "layer": _natural,
    "rows": _rows,
    "address": _address,
    "operations": _natural,
}


# What is made of them.


def _fields(value: Any, where: str, checks: Mapping[str, Check]) -> None:
    if not isinstance(value, dict):
        raise BadMetadata(f"without {where}")
    for key, valid in checks.items():
        if key not in value or not valid(value[key]):
            name = f"{where}.{key}" if where else key
            raise BadMetadata(f"with a bad {name}: {value.get(key)!r}")


def _list(value: dict[str, Any], key: str, where: str = "", *, least: int = 1) -> list[Any]:
    found = value.get(key)
    if not isinstance(found, list) or len(found) < least:
        raise BadMetadata(f"without {where}{'.' * bool(where)}{key}")
    return found


def _map(value: Any, where: str) -> None:
    _fields(value, where, _MAP)
    pieces, window = value["pieces"], value["window"]
    kernel = window["kernel"] if window else 1
    channels = sum(count for _, count in pieces)
    if channels != value["shape"][2] or sum(pieces[-1]) * kernel > value["pitch"]:
        raise BadMetadata(f"with a {where} whose channels do not fit its pixels")
    if window and pieces != [[0, channels]]:
        raise BadMetadata(f"with a {where} that has a window and pieces")


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[key] == other[key] for key in _MAP)


def _layer(value: Any, where: str, network_input: dict[str, Any]) -> None:
    if not isinstance(value, dict):
        raise BadMetadata(f"without {where}")
    for position, source in enumerate(_list(value, "inputs", where)):
        _map(source, f"{where}.inputs[{position}]")
        if source["window"] and not _same(source, network_input):
            raise BadMetadata(f"with a window on {where}.inputs[{position}]")
    for number, operation in enumerate(_list(value, "operations", where, least=0)):
        within = f"{where}.operations[{number}]"
        if not isinstance(operation, dict):
            raise BadMetadata(f"without {within}")
        for place, segment in enumerate(_list(operation, "segments", within, least=0)):
            _fields(segment, f"{within}.segments[{place}]", _SEGMENT)
    _map(value.get("output"), f"{where}.output")
    if value["output"]["window"]:
        raise BadMetadata(f"with a window on {where}.output")
    _fields(value, where, _LAYER)
    _fields(value.get("cost"), f"{where}.cost", _COST)
    if "bands" in value:
        _fields(value, where, {"bands": _bands})


def _maps(values: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], int | None]]:
    """Every map with where it is named, and the rows of one that is never there as a whole."""
    layers = values["layers"]
    buffers = {
        layer["output"]["name"]: layer["bands"]["buffer_rows"]
        for layer in layers
        if "bands" in layer
    }
    yield "input", values["input"], None
    yield "output", values["output"], None
    for number, layer in enumerate(layers):
        for position, one in enumerate(layer["inputs"]):
            yield f"layers[{number}].inputs[{position}]", one, buffers.get(one["name"])
        yield f"layers[{number}].output", layer["output"], buffers.get(layer["output"]["name"])


def _end(value: dict[str, Any], rows: int | None) -> int:
    """The byte behind a map, or behind some rows of it."""
    one = Map.from_report(value)
    if rows is not None:
        one = replace(one, shape=(rows, *one.shape[1:]))
    return one.address + one.span


def _steps(steps: list[Any], layers: list[dict[str, Any]]) -> None:
    """Each layer's rows follow each other from the first to the last, and so do its operations."""
    rows, operations = [0] * len(layers), [0] * len(layers)
    for number, step in enumerate(steps):
        _fields(step, f"steps[{number}]", _STEP)
        layer, (begin, end) = step["layer"], step["rows"]
        if layer >= len(layers):
            raise BadMetadata(f"with a bad steps[{number}].layer: {layer}")
        if begin != rows[layer]:
            raise BadMetadata(f"with a bad steps[{number}].rows: {[begin, end]}")
        rows[layer] = end
        operations[layer] += step["operations"]
    for layer, one in enumerate(layers):
        if rows[layer] != one["output"]["shape"][0]:
            raise BadMetadata(f"whose steps are not for all rows of layers[{layer}]")
        if operations[layer] != len(one["operations"]):
            raise BadMetadata(f"whose steps are not for all operations of layers[{layer}]")
