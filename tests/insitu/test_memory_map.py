"""What lies where in memory, and its picture, against plans."""

import contextlib
import itertools
import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from insitu.errors import FileError, FitError, InputError
from insitu.memory_map import (
    Coefficients,
    Span,
    _visible,
    check_picture,
    coefficients,
    draw,
    memory,
    spans,
    write_picture,
)
from insitu.plan import plan
from rtl.config import CONFIGURATIONS
from sim.build import ROOT
from tests.golden.graphs import every_kind
from tests.insitu.networks import random_generated, random_network, random_stored
from tests.insitu.random_networks import random_layers

INPUT = "#e2e8f0"


@pytest.fixture
def report(seed):
    """Of a plan with a layer of each dataflow."""
    rng = np.random.default_rng(seed)
    layers = [
        {"weights": random_stored(rng, 8, 3, 9, 4), "kernel": (3, 3)},
        {"weights": random_generated(rng, 20, 8, 9, terms=2, s1=0), "kernel": (3, 3)},
        {"weights": random_generated(rng, 16, 20, 9, terms=2, kernels=9, s1=0), "kernel": (3, 3)},
        {"weights": random_stored(rng, 5, 16, 16, 8), "kernel": (4, 4)},
    ]
    network = random_network(rng, layers, (10, 10, 3))
    return json.loads(json.dumps(plan(network, CONFIGURATIONS["up5k"], name="net").report()))


def one(name, address, size):
    return {
        "name": name,
        "shape": [1, 1, size],
        "pitch": size,
        "address": address,
        "zero_point": 0,
        "pieces": [[0, size]],
        "window": None,
    }


def step(name, inputs, output):
    """A layer without weights in a report."""
    rest = {"dataflow": "", "weight_bytes": 0, "operations": []}
    return {"name": name, "inputs": inputs, "output": output} | rest


def graph(name="add"):
    """A report with a shortcut."""
    source, a, b = one("input", 0, 64), one("a", 64, 128), one("b", 192, 128)
    total = one(name, 0, 32)
    layers = [step("a", [source], a), step("b", [a], b), step(name, [b, a], total)]
    return {
        "network": name,
        "configuration": "up5k",
        "input": source,
        "output": total,
        "layers": layers,
        "program_bytes": 40,
        "payload_bytes": 64,
        "coefficient_bytes": 1000,
        "activation_bytes_used": 320,
        "activation_bytes": 100_000,
    }


def boxes(svg):
    """Filled rectangles, each with colour and corners as the picture has them."""
    found = []
    for path in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"):
        colour = re.search(r"fill: (#\w+|url)", path.get("style", ""))
        points = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.get("d", "")), float)
        if colour and len(points) == 4:
            found.append((colour[1], *points.min(axis=0), *points.max(axis=0)))
    return found


def texts(svg):
    """Every text, each line by itself."""
    root = ElementTree.fromstring(svg)
    return [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_maps_of_a_chain(report):
    found = spans(report)
    assert all((s.low, s.high) == (s.address, s.address + s.size) for s in found)
    names = ["input", *(layer["name"] for layer in report["layers"])]
    assert [span.name for span in found] == names
    assert [(span.first, span.last) for span in found] == [(0, 0), (0, 1), (1, 2), (2, 3), (3, 3)]
    address = report["input"]["address"]
    assert found[0] == Span("input", address, 300, 0, 0, None, address, address + 300)
    assert found[-1].address == report["output"]["address"]
    alive = [sum(s.size for s in found if s.first <= step <= s.last) for step in range(4)]
    assert max(alive) == report["activation_bytes_used"]


def test_maps_of_a_graph_live_until_their_last_reader():
    assert [(span.name, span.first, span.last) for span in spans(graph())] == [
        ("input", 0, 0),
        ("a", 0, 2),
        ("b", 1, 2),
        ("add", 2, 2),
    ]


def test_maps_of_a_concatenation_are_inside_it(seed):
    report = plan(every_kind(np.random.default_rng(seed)), CONFIGURATIONS["sim-8x1"]).report()
    found = {span.name: span for span in spans(report)}
    inside = {name: span.inside for name, span in found.items() if span.inside}
    assert inside == dict.fromkeys(("add", "requantise"), "concatenation")
    whole, first, second = (found[name] for name in ("concatenation", "add", "requantise"))
    # 30 pixels of 24 bytes hold 4 channels of `add`, of `requantise` 8 bytes further, of a copy.
    assert (first.address, second.address) == (whole.address, whole.address + 8)
    assert (whole.size, first.size, second.size) == (720, 120, 120)
    assert (second.low, second.high) == (whole.address + 240, whole.address + 360)
    assert memory(report)["maps"][6]["inside"] == "concatenation"


@pytest.mark.parametrize("config", ["sim-8x1", "ecp5-45f"])
def test_every_map_is_drawn_and_none_over_another(config, seed):
    configuration = CONFIGURATIONS[config]
    rng = np.random.default_rng(seed)
    reports = []
    for network in (every_kind(rng), *(random_layers(rng, configuration, 12) for _ in range(16))):
        with contextlib.suppress(FitError):
            reports.append(plan(network, configuration).report())
    assert len(reports) > 5
    shared = 0
    for report in reports:
        found = spans(report)
        assert len(found) == len(report["layers"]) + 1
        drawn = []
        for number, span in enumerate(found):
            assert 0 <= span.low < span.high <= report["activation_bytes_used"]
            parts = _visible(number, found)
            assert parts
            shared += parts[0][1] < span.last + 1
            drawn += [(*part, span.low, span.high) for part in parts]
        for (left, right, low, high), other in itertools.combinations(drawn, 2):
            beside = right <= other[0] or other[1] <= left
            assert beside or high <= other[2] or other[3] <= low
    assert shared


def test_coefficients_fill_the_memory(report):
    parts = coefficients(report)
    assert sum(part.size for part in parts) == report["coefficient_bytes"]
    assert parts[0] == Coefficients("program", report["program_bytes"])
    assert 0 <= parts[1].size - report["parameter_bytes"] < 8
    for index, layer in enumerate(report["layers"]):
        assert sum(p.size for p in parts if p.layer == index) == layer["weight_bytes"]
    assert [part.kind for part in parts if part.layer is not None] == [
        "stored weights",
        *("bases B", "coefficients U"),
        *("bases B", "coefficients U", "coefficients V"),
        "stored weights",
    ]


def test_memory_is_plain_data(report):
    values = memory(report)
    assert json.loads(json.dumps(values)) == values
    assert values["maps"][1] == {
        "name": "layer0",
        "address": report["layers"][0]["output"]["address"],
        "size": 8 * 8 * 8,
        "first": "layer0",
        "last": "layer1",
        "inside": None,
        "rows": None,
    }
    kinds = values["coefficients"]
    stored = report["layers"][0]["weight_bytes"] + report["layers"][3]["weight_bytes"]
    assert kinds["stored weights"] == stored
    assert kinds["free"] == report["coefficient_bytes"] - report["payload_bytes"]
    assert memory(graph())["coefficients"] == {"program": 40, "parameters": 24, "free": 936}


def test_picture_shows_every_map_and_layer(report):
    svg = draw(report, "svg")
    said = texts(svg)
    title = f"net on up5k: activation memory, {report['activation_bytes_used']:,} of 65,536 bytes"
    assert any(text.startswith(title) for text in said)
    assert any(f"{report['payload_bytes']:,} of 65,536 bytes in use" in text for text in said)
    for layer in report["layers"]:
        assert layer["name"] in said
    assert {"input", "never used", "free", "parameters"} <= set(said)


def test_picture_is_the_same_whatever_the_user_has_set(report):
    svg = draw(report, "svg")
    with matplotlib.rc_context({"font.size": 20, "savefig.transparent": True, "text.usetex": True}):
        assert draw(report, "svg") == svg
        assert matplotlib.rcParams["font.size"] == 20


def test_picture_is_to_scale_and_has_no_overlaps():
    found = boxes(draw(graph(), "svg"))
    # White are the page and both frames, hatched what nothing uses, grey program and parameters.
    maps = [box for box in found if box[0] not in ("#ffffff", "url", "#94a3b8", "#cbd5e1")]
    assert len(maps) == 4
    source = next(box for box in maps if box[0] == INPUT)
    column = source[3] - source[1]
    byte = (source[4] - source[2]) / 64
    left, bottom = source[1], source[4]
    for box, span in zip(maps, spans(graph()), strict=True):
        assert box[1] == pytest.approx(left + column * span.first, abs=0.01)
        assert box[3] == pytest.approx(left + column * (span.last + 1), abs=0.01)
        assert box[4] == pytest.approx(bottom - byte * span.address, abs=0.01)
        assert box[2] == pytest.approx(bottom - byte * (span.address + span.size), abs=0.01)
    # 99,680 bytes that nothing uses are a fifth of the 320 that something does.
    unused = next(box for box in found if box[0] == "url")
    assert unused[4] == pytest.approx(bottom - byte * 320, abs=0.01)
    assert unused[4] - unused[2] == pytest.approx(byte * 64, abs=0.01)


def test_a_full_memory_has_nothing_unused():
    full = graph() | {"activation_bytes": 320, "coefficient_bytes": 64}
    assert not {"never used", "free"} & set(texts(draw(full, "svg")))


@pytest.mark.parametrize("name", ["a<b>&'\"", "$x^$", "\x00\x1f\ud800", "漢字", "n" * 500, ""])
def test_any_name_can_be_drawn(name):
    svg = draw(graph(name), "svg")
    assert len(boxes(svg)) > 4
    assert all(len(text) < 100 for text in texts(svg))


def test_a_hundred_layers_can_be_drawn():
    layers, before = [], one("input", 0, 64)
    for index in range(100):
        after = one(f"model/block{index}/activation", 64 * (1 - index % 2), 64)
        layers.append(step(after["name"], [before], after))
        before = after
    said = texts(draw(graph() | {"layers": layers, "output": before}, "svg"))
    assert all(layer["name"] in said for layer in layers)


@pytest.mark.parametrize(
    ("name", "start"), [("a.svg", b"<?xml"), ("a.png", b"\x89PNG\r\n"), ("a.PNG", b"\x89PNG\r\n")]
)
def test_suffix_says_what_is_written(report, tmp_path, name, start):
    write_picture(tmp_path / name, report)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["a.pdf", "a", "svg", ".svg"])
def test_unknown_suffix_is_refused(report, tmp_path, name):
    for refusing in (check_picture, lambda path: write_picture(path, report)):
        with pytest.raises(InputError, match=r"its name must end in \.svg or \.png"):
            refusing(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_missing_folder_is_refused(report, tmp_path):
    with pytest.raises(FileError, match="there is no folder"):
        write_picture(tmp_path / "none" / "a.svg", report)


def test_nothing_else_waits_for_the_drawing_library():
    code = "import sys, insitu.cli, insitu.inspect, insitu.show; print('matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
