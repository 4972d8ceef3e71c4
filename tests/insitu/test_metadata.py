"""Metadata of images: that of every plan is right, and what is wrong is found before it is used."""

import copy
import json
import random
from dataclasses import replace

import numpy as np
import pytest

from insitu import show
from insitu.device import Loaded
from insitu.errors import InsituError
from insitu.image import Image
from insitu.maps import Map
from insitu.memory_map import memory
from insitu.metadata import BadMetadata, activation_end, check_metadata
from insitu.pack import make_image
from insitu.plan import plan
from insitu.simulate import _parts
from rtl.config import CONFIGURATIONS, LARGEST_MEMORY
from tests.insitu.networks import random_network, random_stored
from tests.insitu.random_networks import (
    random_bands,
    random_plan,
    random_residual_bands,
    residual_network,
)

UP5K, WIDE = CONFIGURATIONS["up5k"], CONFIGURATIONS["sim-16x4"]


def plain(planned):
    """The metadata of a plan as a file gives it back."""
    return json.loads(json.dumps(planned.report()))


def banded():
    """Of a network in bands, a buffer among its maps."""
    config = replace(UP5K, activation_bytes=1 << 12)
    rng = np.random.default_rng(1)
    network = residual_network(rng, config, (16, 12, 3), [(16, 1), (24, 2)], (6, 8, 10, 12))
    return plain(plan(network, config))


def windowed():
    """Of a network whose input holds a kernel's row of taps in each pixel."""
    layer = {"weights": random_stored(np.random.default_rng(1), 5, 1, 9, 4), "kernel": (3, 3)}
    return plain(plan(random_network(np.random.default_rng(1), [layer], (9, 8, 1)), WIDE))


BANDED, WINDOWED = banded(), windowed()


def at(values, path):
    for key in path:
        values = values[key]
    return values


def changed(values, path, value):
    """A copy with another value at `path`; without it where that is None."""
    values = copy.deepcopy(values)
    inside = at(values, path[:-1])
    if value is None:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return values


def check(values, payload_bytes=None):
    check_metadata(values, payload_bytes or values.get("payload_bytes"))


@pytest.mark.parametrize("config", CONFIGURATIONS.values(), ids=list(CONFIGURATIONS))
def test_that_of_every_plan_is_right(config, seed):
    for number in range(6):
        rng = np.random.default_rng([seed, number])
        planned = random_plan(rng, config, 8, keep_maps=bool(number % 2))
        image = Image.from_bytes(make_image(planned).to_bytes())
        assert 0 < activation_end(image.metadata) <= planned.activation_bytes


@pytest.mark.parametrize("config", ["up5k", "ecp5-25f"])
def test_that_of_every_plan_in_bands_is_right(config, seed):
    for number in range(4):
        rng = np.random.default_rng([seed, number])
        few = (random_residual_bands, {}) if number % 2 else (random_bands, {"count": 6})
        planned = few[0](rng, CONFIGURATIONS[config], **few[1])
        check(plain(planned))
        assert activation_end(plain(planned)) <= planned.activation_bytes


MAP = ("layers", 0, "output")
BUFFER = next(
    ("layers", number, "bands", "buffer_rows")
    for number, layer in enumerate(BANDED["layers"])
    if layer.get("bands", {}).get("buffer_rows")
)
WRONG = [
    (("cycles",), None, "bad cycles: None"),
    (("held_out",), "91", "bad held_out: '91'"),
    (("held_out",), float("nan"), "bad held_out: nan"),
    (("held_out",), 101, "bad held_out: 101"),
    (("ideal_cycles",), 1.5, "bad ideal_cycles: 1.5"),
    (("frames_per_second",), float("nan"), "bad frames_per_second: nan"),
    (("coefficient_bytes",), 0, "bad coefficient_bytes: 0"),
    (("payload_bytes",), True, "bad payload_bytes: True"),
    (("input",), None, "without input"),
    (("input", "scale"), 0, "bad input.scale: 0"),
    (("output", "scale"), float("inf"), "bad output.scale: inf"),
    (("output", "address"), 4, "an output that is not the last layer's"),
    (("layers", 1), 3, r"without layers\[1\]"),
    (("layers", 1, "inputs"), [], r"without layers\[1\].inputs"),
    (("layers", 1, "operations"), None, r"without layers\[1\].operations"),
    (("layers", 1, "cost"), None, r"without layers\[1\].cost"),
    (("layers", 1, "cost", "cycles"), None, r"bad layers\[1\].cost.cycles: None"),
    (("layers", 1, "cost", "ideal"), "9", r"bad layers\[1\].cost.ideal: '9'"),
    (("layers", 1, "dataflow"), "none", r"bad layers\[1\].dataflow: 'none'"),
    (("layers", 1, "precisions"), {"w": -1}, r"bad layers\[1\].precisions"),
    (("layers", 1, "operations", 0, "segments", 0, "words"), 0, r"segments\[0\].words: 0"),
    (("layers", 1, "operations", 0, "segments", 0, "kind"), "x", r"segments\[0\].kind: 'x'"),
    ((*MAP, "shape"), [1, -1, 1], r"bad layers\[0\].output.shape"),
    ((*MAP, "shape"), [1, 1 << 20, 1], r"bad layers\[0\].output.shape"),
    ((*MAP, "pitch"), 1 << 60, r"bad layers\[0\].output.pitch: 1152921504606846976"),
    ((*MAP, "pitch"), 1 << 20, r"layers\[0\].output that ends at byte \d+, beyond any memory"),
    ((*MAP, "address"), 2, r"bad layers\[0\].output.address: 2"),
    ((*MAP, "address"), 1 << 20, r"bad layers\[0\].output.address: 1048576"),
    ((*MAP, "address"), (1 << 20) - 4, r"layers\[0\].output that ends at byte \d+, beyond any"),
    ((*MAP, "zero_point"), True, r"bad layers\[0\].output.zero_point: True"),
    ((*MAP, "zero_point"), 128, r"bad layers\[0\].output.zero_point: 128"),
    ((*MAP, "pieces"), [], r"bad layers\[0\].output.pieces: \[\]"),
    ((*MAP, "pieces"), [[0]], r"bad layers\[0\].output.pieces"),
    ((*MAP, "pieces"), [[0, 16], [16, 0]], r"bad layers\[0\].output.pieces"),
    ((*MAP, "pieces"), [[8, 8], [0, 8]], r"bad layers\[0\].output.pieces"),
    ((*MAP, "pieces"), [[0, 8], [7, 8]], r"bad layers\[0\].output.pieces"),
    ((*MAP, "pieces"), [[0, 15]], r"layers\[0\].output whose channels do not fit its pixels"),
    ((*MAP, "pieces"), [[4, 16]], r"layers\[0\].output whose channels do not fit its pixels"),
    (BUFFER, 0, r"bad layers\[\d\].bands"),
    (BUFFER, 1 << 15, "beyond any memory"),
    (("steps",), {}, "without steps"),
    (("steps", 1), [], r"without steps\[1\]"),
    (("steps", 1, "layer"), 99, r"bad steps\[1\].layer: 99"),
    (("steps", 1, "address"), 6, r"bad steps\[1\].address: 6"),
    (("steps", 1, "operations"), 1 << 60, r"bad steps\[1\].operations"),
    (("steps", 1, "operations"), 1 << 40, r"steps are not for all operations of layers\[\d\]"),
    (("steps", 0, "rows"), [0, 0], r"bad steps\[0\].rows: \[0, 0\]"),
    (("steps", 0, "rows"), [1, 2], r"bad steps\[0\].rows: \[1, 2\]"),
    (("steps", -1, "rows"), None, r"bad steps\[\d+\].rows: None"),
    (("steps", -1), None, r"steps are not for all rows of layers\[\d+\]"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG)
def test_what_is_wrong_is_named(path, value, message):
    check(BANDED)
    with pytest.raises(BadMetadata, match=message):
        check(changed(BANDED, path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("input", "window", "kernel"), 0, "bad input.window"),
        (("input", "window", "left"), None, "bad input.window"),
        (("input", "window", "stride"), 1 << 20, "bad input.window"),
        (("input", "pieces"), [[0, 1], [1, 0]], "bad input.pieces"),
        (("input", "window", "kernel"), 5, "input whose channels do not fit its pixels"),
        (("layers", 0, "inputs", 0, "window", "left"), 1, r"a window on layers\[0\].inputs\[0\]"),
        (("layers", 0, "output", "window"), WINDOWED["input"]["window"], r"on layers\[0\].output"),
    ],
)
def test_windows_are_the_inputs_alone(path, value, message):
    check(WINDOWED)
    with pytest.raises(BadMetadata, match=message):
        check(changed(WINDOWED, path, value))


def test_windows_and_pieces_are_not_together():
    wide = changed(WINDOWED, ("input", "pitch"), 8)
    wide = changed(wide, ("layers", 0, "inputs", 0, "pitch"), 8)
    check(wide)
    with pytest.raises(BadMetadata, match="input that has a window and pieces"):
        check(changed(wide, ("input", "pieces"), [[1, 1]]))


def paths(values, path=()):
    """Every place in nested lists and dictionaries."""
    inside = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in inside:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from paths(value, (*path, key))


def use(values):
    """What is done with metadata, but for running it."""
    show.network(values)
    show.memory(memory(values))
    image = Image(0, values, bytes(values["payload_bytes"]), b"")
    Loaded.of_image(image)
    activation_end(values)
    maps = [Map.from_report(layer["output"]) for layer in values["layers"]]
    _parts(image, maps)
    for one in [Map.from_report(values["input"]), *maps]:
        if one.shape[0] * one.shape[1] * one.shape[2] < LARGEST_MEMORY:
            assert len(one.place(np.zeros(one.shape, np.int8))) == one.span


@pytest.mark.parametrize("values", [BANDED, WINDOWED], ids=["banded", "windowed"])
def test_what_is_accepted_can_be_used(values, seed):
    """Whatever is changed at one place."""
    rng = random.Random(seed)
    # Places of a kind, as one in each layer, together count as one.
    kinds: dict[tuple[str, ...], list[tuple[str | int, ...]]] = {}
    for path in paths(values):
        kinds.setdefault(tuple(key for key in path if isinstance(key, str)), []).append(path)
    kept = 0
    for _ in range(600):
        path = rng.choice(kinds[rng.choice(list(kinds))])
        value = rng.choice(
            [None, -1, 0, 1, 3, rng.randrange(1 << 12), 1 << 60, 2.5, True, "x", [], {}, [[0, 1]]]
        )
        wrong = changed(values, path, value)
        try:
            check(wrong, values["payload_bytes"])
        except BadMetadata:
            continue
        kept += 1
        try:
            use(wrong)
        except InsituError:
            continue
        except Exception as error:
            pytest.fail(f"seed {seed}: {path} as {value!r}: {error!r}")
    assert kept > 50
