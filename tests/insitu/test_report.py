"""The HTML report: what it shows, that it needs no other file, and what it refuses."""

import json
import shutil
import subprocess
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from insitu import cli
from insitu.choice import Choice
from insitu.compress import compress
from insitu.float_network import FloatNetwork
from insitu.plan import plan
from insitu.quantise import calibrate
from insitu.report import read_entries
from rtl.config import CONFIGURATIONS
from tests.insitu.networks import (
    random_convolution,
    random_generated,
    random_network,
    random_stored,
)

ROOT = Path(__file__).parents[2]
VOID = {"br", "meta", "path", "use", "rect", "line", "stop"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Page(HTMLParser):
    """What a page holds; complains about elements that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.references, self.rows, self.ids = [], [], [], []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_startendtag(self, tag, attributes):
        self._attributes(attributes)

    def handle_starttag(self, tag, attributes):
        self._attributes(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip()

    def _attributes(self, attributes):
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)


@pytest.fixture
def row(seed):
    """Figures as examples/compression/rows.py writes them."""
    rng = np.random.default_rng(seed)
    layers = [
        {"weights": random_generated(rng, 12, 3, 9, terms=2, kernels=9, s1=0), "kernel": (3, 3)},
        {"weights": random_generated(rng, 8, 12, 9, terms=2, s1=0, powers=True), "kernel": (3, 3)},
        {"weights": random_stored(rng, 10, 8, 6, 4), "kernel": (2, 3)},
    ]
    made = random_network(rng, layers, (6, 7, 3))
    planned = plan(made, CONFIGURATIONS["sim-8x1"], name="net").report()
    memory = {
        "weights": planned["weight_bytes"],
        "parameters": planned["parameter_bytes"],
        "program": planned["program_bytes"],
    }
    return {
        "row": "small <b>",
        "model": "net.tflite",
        "plain": False,
        "budget_bytes": 100,
        "over": True,
        "bits_a_weight": 1.25,
        "memory": memory | {"total": sum(memory.values())},
        "cycles_stored_int8": 3 * planned["cycles"],
        "accuracy": {"retrained": 81.25, "untrained": 40.5, "float": 90.0},
        "training": {"epochs": [{}] * 7},
        "choices": {},
        "plan": planned,
    }


def compressed():
    """Figures as insitu compress writes them."""
    one = {
        "weight_bytes": 900,
        "parameter_bytes": 90,
        "program_bytes": 9,
        "cycles": 12_345,
        "layers": [
            {
                "name": "c",
                "choice": "intra, Bi 2",
                "bytes": 990,
                "cycles": 1,
                "proxy_loss": 0.5,
                "instead": None,
            },
            {
                "name": "d",
                "choice": "stored, q 3",
                "bytes": 980,
                "cycles": 1,
                "proxy_loss": 0.5,
                "instead": {
                    "choice": "cross, Bo 8",
                    "bytes": 970,
                    "cycles": 4321,
                    "proxy_loss": 0.75,
                },
            },
        ],
    }
    return {
        "model": "folder/net.onnx",
        "configuration": "up5k",
        "budget_bytes": 1024,
        "written": "compressed",
        "compressed": one,
        "plain": {"refused": "too large"},
        "frontier": [{"bytes": 500, "proxy_loss": 0.9}, {"bytes": 900, "proxy_loss": 0.1}],
        "plain_frontier": [{"bytes": 800, "proxy_loss": 0.8}],
    }


def report(folder, *values):
    names = []
    for number, value in enumerate(values):
        names.append(str(folder / f"{number}.json"))
        (folder / f"{number}.json").write_text(
            value if isinstance(value, str) else json.dumps(value)
        )
    result = CliRunner().invoke(cli.app, ["report", *names, "-o", str(folder / "out.html")])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.stderr.split())


def test_a_row_need_not_be_retrained(tmp_path, row):
    right = {"untrained": 33.25, "float": 90.0}
    untrained = {name: value for name, value in row.items() if name != "training"}
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row, untrained | {"accuracy": right}]))
    trained, other = read_entries(path)
    assert (trained.accuracy, trained.untrained, trained.epochs) == (81.25, 40.5, 7)
    assert (other.accuracy, other.untrained, other.epochs) == (33.25, None, None)


def retrained(choice, seed, shape=(5, 6, 3), **settings):
    """Figures as insitu retrain writes them, of two layers; choice and settings of the second."""
    rng = np.random.default_rng(seed)
    layers = (
        random_convolution(rng, "a", "input", 16, 3, 1, low=0.0),
        random_convolution(rng, "b", "a", 24, 16, 3, **settings),
    )
    network = FloatNetwork("net", shape, layers)
    x = rng.uniform(0, 1, (30, *shape)).astype(np.float32)
    choices = {"a": Choice(q=4), "b": choice}
    config = CONFIGURATIONS["sim-8x1"]
    made, _ = compress(network, calibrate(network, x), choices, config)
    return {
        "model": "net.onnx",
        "choices": {name: asdict(one) for name, one in choices.items()},
        "training": {"epochs": [{}] * 7, "held_out": 81.25, "untrained": 40.5},
        "plan": plan(made, config, name="net").report(),
        "bits_a_weight": 1.25,
    }


@pytest.mark.parametrize(
    ("choice", "plain"),
    [
        (Choice(q=3), True),
        (Choice(kernels=8, factored=True), False),  # Two stored layers, as they run.
        (Choice(terms=2), False),
    ],
)
def test_a_retrained_network_is_plain_if_all_is_stored(tmp_path, choice, plain, seed):
    path = tmp_path / "net.json"
    path.write_text(json.dumps(retrained(choice, seed)))
    (entry,) = read_entries(path)
    assert entry.plain is plain
    assert (entry.accuracy, entry.untrained, entry.epochs) == (81.25, 40.5, 7)


@pytest.mark.parametrize(
    ("choice", "forms", "bits", "multiplications"),
    [
        (
            Choice(kernels=8, qu=3, qv=4, factored=True),
            {"b.basis": "factored, W1: stored 3", "b": "factored, V: stored 4"},
            8 * 16 * 9 * 3 + 24 * 8 * 4,
            8 * 16 * 9 + 24 * 8,
        ),
        (
            Choice(kernels=8, terms=2, qb=3, qu=2, qv=4, factored=True),
            {"b.basis": "factored, W1: intra Bi 2: 3/2", "b": "factored, V: stored 4"},
            16 * 16 * 2 + 16 * 9 * 3 + 24 * 8 * 4,
            8 * 16 * 9 + 24 * 8,
        ),
        (
            Choice(kernels=8, terms=2, qb=3, qu=2, qv=4, factored=True, fully=True),
            {
                "b.coefficients": "fully factored, U: stored 2",
                "b.basis": "fully factored, B: stored 3",
                "b": "fully factored, V: stored 4",
            },
            16 * 16 * 2 + 2 * 256 + 24 * 16 * 4,  # Of B 216 bits for 8 channels, in whole words.
            16 * 16 + 16 * 9 + 24 * 16,
        ),
    ],
)
def test_says_what_the_parts_of_a_factored_layer_are(
    tmp_path, choice, forms, bits, multiplications, seed
):
    path = tmp_path / "net.json"
    path.write_text(json.dumps(retrained(choice, seed, padding=(1, 1, 1, 1))))
    (entry,) = read_entries(path)
    layers = {layer["name"]: layer for layer in entry.layers}
    assert {name: layers[name]["form"] for name in layers} == {"a": "stored 4"} | forms
    whole = 24 * 16 * 9
    for name in forms:
        assert layers[name]["why"].startswith(
            f"the parts of b take together {bits / whole:.2f} bits a weight and "
            f"{multiplications / whole:.2f} of the multiplications; "
        )


def test_multiplications_of_parts_are_where_their_pixels_are(tmp_path, seed):
    """U on all pixels of 3 x 3, B and V on the one that is left."""
    choice = Choice(kernels=8, terms=2, factored=True, fully=True)
    path = tmp_path / "net.json"
    path.write_text(json.dumps(retrained(choice, seed, (3, 3, 3))))
    (entry,) = read_entries(path)
    share = (16 * 16 * 9 + 16 * 9 + 24 * 16) / (24 * 16 * 9)
    assert f" {share:.2f} of the multiplications" in entry.layers[-1]["why"]


def test_committed_rows_make_a_page(tmp_path):
    assert report(tmp_path, (ROOT / "examples/compression/rows.json").read_text())[0] == 0
    assert "intra Bi 3: 4/4" in (tmp_path / "out.html").read_text()


def test_holds_every_figure_and_needs_nothing_else(tmp_path, row):
    plain = row | {"row": "plain", "plain": True, "budget_bytes": None, "over": False}
    assert report(tmp_path, [row, plain], compressed())[0] == 0
    text = (tmp_path / "out.html").read_text()
    assert text.count('class="over"') == 1
    page = Page(text)
    # Only places in the page itself.
    assert page.references
    assert all(one.startswith("#") and one[1:] in page.ids for one in page.references)
    memory, cycles = row["memory"], row["plan"]["cycles"]
    assert page.rows[1] == [
        "small <b>",
        f"{row['bits_a_weight']:.2f}",
        f"{memory['weights']:,}",
        f"{memory['parameters']:,}",
        f"{memory['program']:,}",
        f"{memory['total']:,}",
        "40.50",
        "81.25",
        "7",
        f"{cycles:,}",
        "3.00",
    ]
    assert page.rows[3][0] == "net, compressed, written"
    assert page.rows[3][9] == "12,345"
    layers = {one[2]: one for one in page.rows if len(one) == 6}
    first = layers["cross Bi 2 Bo 9: 4/4/4"]
    assert "cycles recover the weights" in first[5]
    assert "intra Bi 2: 4/3p" in layers
    alone = "adds 0.5 to the loss; no other dataflow is as small"
    assert ["c", "", "intra, Bi 2", "990", "1", alone] in page.rows
    other = "cross, Bo 8, 970 bytes, would add 0.75 in 4,321 cycles"
    assert ["d", "", "stored, q 3", "980", "1", f"adds 0.5 to the loss; {other}"] in page.rows
    for label in ("float, 90.00 %", "all weights stored", "coefficient memory", "budget"):
        assert label in page.text
    assert text.count('class="frontier"') == 1
    assert "$" not in page.text  # Of formulas that nobody sets.


def test_each_model_has_a_picture_with_the_best_named(tmp_path, row):
    """Neither a network of another task nor a larger one that is no better is among the best."""

    def made(name, model, size, right):
        planned = row["plan"] | {"weight_bytes": size}
        accuracy = row["accuracy"] | {"retrained": right}
        return row | {"row": name, "model": model, "plan": planned, "accuracy": accuracy}

    rows = [
        made("small", "one.onnx", 4_000, 80.0),
        made("same", "one.onnx", 4_000, 79.5),
        made("larger", "one.onnx", 6_000, 79.0),
        made("largest", "one.onnx", 9_000, 85.0),
        made("other", "two.onnx", 3_000, 99.0),
    ]
    assert report(tmp_path, rows)[0] == 0
    text = (tmp_path / "out.html").read_text()
    first, second = text.split('<figure class="frontier">')[1:]
    first, second = (part.partition("</figure>")[0] for part in (first, second))
    for name in ("small", "largest"):
        assert f">{name}<" in first
    for name in ("same", "larger"):
        assert f">{name}<" not in first
    assert ">other<" in second
    assert ">other<" not in first


def without(values, key):
    return {name: value for name, value in values.items() if name != key}


def test_what_a_report_is_not_made_of_is_refused(tmp_path, row):
    solved = compressed()
    solved["compressed"]["plan"] = {**row["plan"], "layers": []}
    for values, cause in (
        ("{", "are no JSON"),
        ([], "are empty"),
        ({"model": "x"}, "are none that a report is made of"),
        ([5], "are none that a report is made of"),
        (without(row, "cycles_stored_int8"), "KeyError: 'cycles_stored_int8'"),
        (row | {"plan": without(row["plan"], "payload_bytes")}, "KeyError: 'payload_bytes'"),
        (row | {"plan": without(row["plan"], "cycles")}, "0.json have a plan with a bad cycles"),
        (
            row | {"plan": without(row["plan"], "activation_bytes")},
            "0.json have a plan with a bad activation_bytes: None",
        ),
        (solved, "0.json have a plan without layers"),
    ):
        status, errors = report(tmp_path, values)
        assert status == 2
        assert cause in errors
        assert "next: name rows of examples/compression/rows.py" in errors
        assert not (tmp_path / "out.html").exists()


@pytest.mark.slow
def test_a_browser_shows_it(tmp_path, row):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)}")
    assert report(tmp_path, row, compressed())[0] == 0
    # A script of the test's own reports how large the pictures are once they are laid out.
    page = (tmp_path / "out.html").read_text()
    script = (
        "<script>onload = () => { document.title = [...document.querySelectorAll('svg')]"
        ".map(one => Math.round(one.getBoundingClientRect().width)).join(' ') }</script></body>"
    )
    (tmp_path / "out.html").write_text(page.replace("</body>", script))
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/user"]
    done = subprocess.run(
        [browser, *arguments, "--dump-dom", (tmp_path / "out.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    widths = done.stdout.partition("<title>")[2].partition("</title>")[0].split()
    assert len(widths) == 3  # Accuracy, the solver's frontier, memory.
    assert all(int(width) > 400 for width in widths)
