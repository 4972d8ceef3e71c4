"""The command line: what each verb leaves, and what it says of bad input."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from threading import Thread
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from rich.console import Console
from typer.testing import CliRunner

import golden.network
import insitu.simulate
from boards import BOARDS
from golden.network import run
from insitu import cli, show
from insitu.cost import program_cycles
from insitu.image import Image, read_image
from insitu.network import from_bytes, load, save, to_bytes
from insitu.pack import make_image
from insitu.plan import plan
from insitu.verilog import BLOCKS
from rtl.config import CONFIGURATIONS
from sim.build import ROOT
from tests.insitu.models import chain, example
from tests.insitu.networks import random_generated, random_network, random_stored
from tests.insitu.onnx_models import Quantised
from tests.insitu.tflite_models import classifier, linear

CONFIG = CONFIGURATIONS["up5k"]
SHAPE = (6, 5, 3)
SAMPLES = 7


def invoke(*arguments):
    """Exit status, standard output and error of a command."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return SimpleNamespace(
        status=result.exit_code, output=result.stdout, errors=" ".join(result.stderr.split())
    )


def network(rng, outputs=10):
    return random_network(
        rng,
        [
            {
                "weights": random_generated(rng, 12, 3, 9, terms=2, kernels=9, s1=0),
                "kernel": (3, 3),
                "padding": (1, 1, 1, 1),
            },
            {"weights": random_stored(rng, outputs, 12, 30, 4), "kernel": (6, 5)},
        ],
        SHAPE,
    )


@pytest.fixture
def files(tmp_path, seed):
    """A folder with a network, its image, inputs and an ONNX model."""
    rng = np.random.default_rng(seed)
    height, width, channels = SHAPE
    inputs = rng.integers(0, 256, (SAMPLES, channels, height, width), np.uint8)
    made = network(rng)
    save(made, tmp_path / "net.npz")
    make_image(plan(made, CONFIG, name="net")).write(tmp_path / "net.image")
    np.savez(tmp_path / "inputs.npz", inputs=inputs)
    np.savez(tmp_path / "labels.npz", inputs=inputs, labels=np.arange(SAMPLES) % 10)
    onnx.save(example(rng), tmp_path / "net.onnx")
    np.savez(tmp_path / "samples.npz", inputs=rng.random((20, 3, 9, 8), np.float32))
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def refused(folder, *arguments, cause, next_step=""):
    """A command that ends with status 2, says why and what to do, and leaves nothing behind."""
    before = contents(folder)
    result = invoke(*arguments)
    assert result.status == 2, result
    said, _, advice = result.errors.rpartition("error: ")[2].partition(" next: ")
    assert cause in said
    assert advice
    assert next_step in advice
    assert not result.output
    assert contents(folder) == before


class _Device:
    """Stands in for the simulated device: the golden model, with some values spoilt."""

    def __init__(self, made, spoilt=()):
        self.network, self.spoilt = made, spoilt

    def __call__(self, config, job, *, progress, workers, **limits):
        planned = plan(self.network, config)
        results = []
        for index, data in enumerate(job.inputs):
            maps = run(self.network, planned.input.take(data)[np.newaxis], keep=True)
            row = []
            for number, step in enumerate(job.steps):
                layer = number if step.program else len(maps) - 1
                values = maps[layer][0].copy()
                if (index, layer) in self.spoilt:
                    values.reshape(-1)[1] ^= 1
                place = planned.layers[layer].output
                assert step.address == place.address
                row.append(SimpleNamespace(data=place.place(values), cycles=100 + layer))
            results.append(row)
            progress((index + 1) * len(job.steps))
        return results


@pytest.fixture
def device(files, monkeypatch):
    def put(spoilt=()):
        made = from_bytes(read_image(files / "net.image").network, "image")
        monkeypatch.setattr(insitu.simulate, "accelerator", lambda config: None)
        monkeypatch.setattr(insitu.simulate, "simulate", _Device(made, spoilt))

    return put


# --- what the verbs do ---


@pytest.mark.parametrize(
    "verb",
    [
        "compile",
        "compress",
        "inspect",
        "evaluate",
        "retrain",
        "simulate",
        "verilog",
        "build",
        "bench",
        "demo",
        "serve",
        "ping",
        "load",
        "infer",
    ],
)
def test_help_has_an_example_and_json(verb):
    result = invoke(verb, "--help")
    assert result.status == 0
    assert f"Example: insitu {verb}" in result.output
    assert "--json" in result.output


def test_help_names_every_block():
    described = invoke("verilog", "--help").output
    assert all(block in described for block in BLOCKS)


def test_version():
    assert invoke("--version").output.startswith("insitu 0.")


def test_compile_integer_network(files):
    result = invoke(
        *("compile", files / "net.npz", "-o", files / "a.image"),
        *("--config", "up5k", "--json", files / "a.json"),
    )
    assert result.status == 0, result.errors
    assert "layer0" in result.output
    assert (files / "a.image").read_bytes() == (files / "net.image").read_bytes()
    report = json.loads((files / "a.json").read_text())
    assert report["configuration"] == "up5k"
    assert report["image_bytes"] == (files / "a.image").stat().st_size
    assert [layer["dataflow"] for layer in report["layers"]] == ["cross", "stored"]


def test_names_are_no_markup(files):
    made = network(np.random.default_rng(0))
    first, second = made.layers
    first, second = replace(first, name="[bold]a"), replace(second, name="b[/c]")
    named = replace(made, layers=(first, replace(second, inputs=(first.name,))))
    folder = files / "d[/red]:+1:"
    folder.mkdir(parents=True)
    save(named, folder / "n[m].npz")
    result = invoke(
        *("compile", folder / "n[m].npz", "-o", folder / "a.image", "--config", "up5k"),
        *("--json", files / "a.json"),
    )
    assert result.status == 0, result.errors
    assert f"Image: {folder}/a.image" in result.output
    any_console = Console(file=StringIO(), width=100)
    any_console.print(show.network(json.loads((files / "a.json").read_text())))
    for text in (result.output, any_console.file.getvalue()):
        for name in ("[bold]a", "b[/c]", "n[m] on up5k"):
            assert name in text


def test_compile_into_a_pipe(files):
    pipe = files / "pipe"
    os.mkfifo(pipe)
    made = []
    reader = Thread(target=lambda: made.append(pipe.read_bytes()), daemon=True)
    reader.start()
    result = invoke("compile", files / "net.npz", "-o", pipe, "--config", "up5k")
    assert result.status == 0, result.errors
    reader.join(timeout=10)
    assert Image.from_bytes(*made).metadata["network"] == "net"


@pytest.mark.parametrize("options", [(), ("--stored", 5)])
def test_compile_onnx(files, options):
    result = invoke(
        *("compile", files / "net.onnx", "-o", files / "a.image", "--config", "ecp5-45f"),
        *("--calibration", files / "samples.npz", "--json", files / "a.json", *options),
    )
    assert result.status == 0, result.errors
    report = json.loads((files / "a.json").read_text())
    assert ("compression" in report) == (not options)
    made = from_bytes(read_image(files / "a.image").network, "image")
    assert made.input_shape == (9, 8, 3)


def test_compile_finds_the_samples_beside_the_model(files):
    (files / "samples.npz").rename(files / "calibration.npz")
    arguments = ("compile", files / "net.onnx", "-o", files / "a.image", "--config", "up5k")
    assert invoke(*arguments, "--stored", 8).status == 0


def test_compile_overwrites_images_of_the_same_model_alone(files):
    compiling = ("compile", files / "net.npz", "-o", files / "a.image", "--config")
    assert invoke(*compiling, "up5k").status == 0
    made = (files / "a.image").read_bytes()
    assert invoke(*compiling, "up5k").status == 0
    other = files / "other.npz"
    other.write_bytes((files / "net.npz").read_bytes())
    (files / "text.image").write_text("kept")
    for arguments, cause in (
        ((*compiling, "ecp5-45f"), "is an image of net for up5k"),
        (("compile", other, *compiling[2:], "up5k"), "is an image of net for up5k"),
        (
            ("compile", other, "-o", files / "text.image", "--config", "up5k"),
            "text.image exists, and is no image",
        ),
    ):
        refused = invoke(*arguments)
        assert refused.status == 2
        assert cause in refused.errors
        assert (files / "a.image").read_bytes() == made
        assert (files / "text.image").read_text() == "kept"
        assert invoke(*arguments, "--force").status == 0
        (files / "a.image").write_bytes(made)
        (files / "text.image").write_text("kept")


def test_compile_overwrites_no_better_image(files):
    network = load(files / "net.npz")

    def compile_one(held_out, *more):
        record = None if held_out is None else {"held_out": held_out}
        (files / "net.npz").write_bytes(to_bytes(network, record))
        return invoke(
            *("compile", files / "net.npz", "-o", files / "a.image", "--config", "up5k", *more)
        )

    assert compile_one(None).status == 0
    assert compile_one(91.5).status == 0
    assert compile_one(91.5).status == 0
    made = (files / "a.image").read_bytes()
    for worse, cause in ((91.25, "net.npz on 91.25 %: it stays"), (None, "net.npz does not say")):
        refused = compile_one(worse)
        assert refused.status == 2
        assert "is right on 91.50 % of its held-out samples" in refused.errors
        assert cause in refused.errors
        assert (files / "a.image").read_bytes() == made
    assert compile_one(91.75).status == 0
    assert compile_one(91.25, "--force").status == 0
    assert read_image(files / "a.image").metadata["held_out"] == 91.25
    shown = invoke("inspect", files / "a.image")
    assert re.search(r"held-out samples +91\.25 %", shown.output)


def test_compile_overwrites_no_image_of_a_retrained_network_with_a_float_model(files):
    image = ("-o", files / "a.image", "--config", "up5k")
    (files / "net.npz").write_bytes(to_bytes(load(files / "net.npz"), {"held_out": 91.5}))
    assert invoke("compile", files / "net.npz", *image).status == 0
    calibration = ("--calibration", files / "samples.npz")
    refused = invoke("compile", files / "net.onnx", *image, *calibration)
    assert refused.status == 2
    assert "net.onnx does not say: it stays" in refused.errors


@pytest.fixture
def tflite(files, seed):
    """An int8 model that can be planned, and inputs for it."""
    rng = np.random.default_rng(seed)
    (files / "net.tflite").write_bytes(linear(rng, "FULLY_CONNECTED", (), 60, 12))
    integers = rng.integers(-128, 128, (9, 60)).astype(np.int8)
    np.savez(files / "integers.npz", inputs=integers, labels=np.arange(9) % 12)
    return files / "net.tflite"


def test_compile_tflite(files, tflite):
    result = invoke(
        *("compile", tflite, "-o", files / "a.image", "--config", "up5k"),
        *("--json", files / "a.json"),
    )
    assert result.status == 0, result.errors
    made = from_bytes(read_image(files / "a.image").network, "image")
    assert made.input_shape == (1, 1, 60)
    assert made.layers[0].rounding == "up"


def test_compile_says_what_the_host_has_to_do(files, seed):
    (files / "net.tflite").write_bytes(classifier(np.random.default_rng(seed)))
    arguments = ("inspect", files / "net.tflite", "--config", "up5k", "--json", files / "a.json")
    result = invoke(*arguments)
    assert result.status == 0, result.errors
    assert "left to the host" in result.output
    report = json.loads((files / "a.json").read_text())
    assert "SOFTMAX" in report["notes"][0]


def test_inspect_a_model(files, tflite):
    result = invoke("inspect", tflite, "--config", "up5k", "--json", files / "a.json")
    assert result.status == 0, result.errors
    assert "fully connected" in result.output
    report = json.loads((files / "a.json").read_text())
    assert report["macs"] == 720
    assert report["plan"]["configuration"] == "up5k"


def test_inspect_an_image(files):
    result = invoke("inspect", files / "net.image", "--json", files / "a.json")
    assert result.status == 0, result.errors
    assert "net on up5k" in result.output
    assert json.loads((files / "a.json").read_text())["network"] == "net"
    refused(
        files,
        *("inspect", files / "net.image", "--config", "up5k"),
        cause="is planned already",
        next_step="name the model",
    )


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_inspect_draws_memory(files, tflite, suffix):
    picture = files / f"a.{suffix}"
    for source, options in ((files / "net.image", ()), (tflite, ("--config", "up5k"))):
        before = contents(files)
        arguments = ("inspect", source, *options, "--memory", picture, "--json", files / "a.json")
        result = invoke(*arguments)
        assert result.status == 0, result.errors
        assert "Activation memory" in result.output
        assert "Coefficient memory" in result.output
        report = json.loads((files / "a.json").read_text())
        assert report["memory"]["maps"][0]["name"] == "input"
        assert contents(files).keys() - before.keys() <= {picture.name, "a.json"}
        assert picture.stat().st_size > 1000
        picture.unlink()


def test_inspect_draws_no_memory_that_is_not_there(files, tflite, seed):
    picture = ("--memory", files / "a.svg")
    bad = ("--memory", files / "a.pdf")
    refused(files, "inspect", tflite, "--config", "up5k", *bad, cause="must end in .svg or .png")
    refused(files, "inspect", files / "net.image", *bad, cause="a.pdf", next_step="name it a.svg")
    refused(files, "inspect", tflite, *picture, cause="no memory to draw", next_step="--config")
    folder = ("--memory", files / "none" / "a.svg")
    refused(files, "inspect", files / "net.image", *folder, cause="there is no folder")
    save(network(np.random.default_rng(seed), 4000), files / "large.npz")
    large = ("inspect", files / "large.npz", "--config", "up5k")
    refused(files, *large, *picture, cause="bytes are missing")
    assert invoke(*large).status == 0


def test_evaluate_compares(files, tflite):
    arguments = ("evaluate", tflite, "--inputs", files / "integers.npz", "--samples", 5)
    result = invoke(*arguments, "--compare", "--json", files / "a.json")
    assert result.status == 0, result.errors
    assert "100.00% of outputs equal" in result.output
    report = json.loads((files / "a.json").read_text())
    assert report["samples"] == 5
    assert report["comparison"]["kernels"]["reference"]["layers"]["dense_0"]["different"] == 0
    plain = invoke(*arguments)
    assert plain.status == 0, plain.errors
    assert "LiteRT" not in plain.output


def test_evaluate_a_quantised_onnx(files, seed):
    rng = np.random.default_rng(seed)
    builder = Quantised("qlinear")
    x = builder.input((3, 6, 5), 0.1, 4)
    weights = rng.integers(-64, 65, (4, 3, 1, 1))
    y = builder.linear("Conv", x, weights, np.float32(0.0097), None, 0.1713, -5)
    onnx.save(builder.build(y), files / "quantised.onnx")
    arguments = ("evaluate", files / "quantised.onnx", "--inputs", files / "inputs.npz")
    result = invoke(*arguments, "--compare", "--json", files / "a.json")
    assert result.status == 0, result.errors
    assert "alone: differ" in result.output
    assert "Layer by layer against ONNX Runtime" in result.output
    comparison = json.loads((files / "a.json").read_text())["comparison"]
    assert comparison["alone"]["layers"]["QLinearConv_1"]["values"] == SAMPLES * 120
    compiled = ("compile", files / "quantised.onnx", "-o", files / "q.image", "--config", "sim-8x1")
    assert invoke(*compiled).status == 0
    assert read_image(files / "q.image").metadata["network"] == "quantised"
    refused(
        files,
        *(*compiled, "--calibration", files / "samples.npz"),
        cause="is of integers already: it needs no --calibration",
        next_step="leave that out",
    )


def test_evaluate_a_pruned_model(files, tflite):
    arguments = ("evaluate", tflite, "--inputs", files / "integers.npz", "--compare", "--prune")
    result = invoke(*arguments, "--json", files / "a.json")
    assert result.status == 0, result.errors
    report = json.loads((files / "a.json").read_text())
    assert "channels that do not matter" in report["notes"][-1]
    assert "channels that do not matter" in " ".join(result.output.split())
    assert report["comparison"]["kernels"]["reference"]["equal_outputs"] == 1


def test_evaluate_a_network_of_integers(files):
    result = invoke("evaluate", files / "net.npz", "--inputs", files / "labels.npz")
    assert result.status == 0, result.errors
    assert "right, golden model" in result.output


def test_simulate_compares(files, device):
    device()
    result = invoke(
        *("simulate", files / "net.image", "--inputs", files / "inputs.npz"),
        *("--samples", 3, "--json", files / "a.json"),
    )
    assert result.status == 0, result.errors
    report = json.loads((files / "a.json").read_text())
    assert (report["samples"], report["values"], report["mismatches"]) == (3, 30, 0)
    assert report["cycles"] == 101
    assert report["layers"] == []
    assert "accuracy" not in report


def test_simulate_takes_integers(files, device):
    device()
    x = np.random.default_rng(1).integers(-128, 128, (3, *SHAPE)).astype(np.int8)
    np.savez(files / "integers.npz", inputs=x)
    result = invoke("simulate", files / "net.image", "--inputs", files / "integers.npz")
    assert result.status == 0, result.errors
    assert "0 of 30" in result.output


def test_simulate_compares_every_layer(files, device, monkeypatch):
    device()
    ran = []

    def counted(made, x, keep):
        ran.append(len(x))
        return run(made, x, keep=keep)

    monkeypatch.setattr(insitu.simulate, "run", counted)
    monkeypatch.setattr(golden.network, "run", None)
    result = invoke(
        *("simulate", files / "net.image", "--inputs", files / "labels.npz", "--layers"),
        *("--json", files / "a.json"),
    )
    assert result.status == 0, result.errors
    report = json.loads((files / "a.json").read_text())
    assert [layer["values"] for layer in report["layers"]] == [4 * 360, 4 * 10]
    around = program_cycles(CONFIG)
    assert [layer["cycles"] for layer in report["layers"]] == [100 - around, 101 - around]
    assert report["values"] == 4 * 370 + 10
    assert 0 <= report["accuracy"] <= 1
    assert ran == [4]


@pytest.mark.parametrize("layers", [(), ("--layers",)])
def test_simulate_ends_with_status_1_where_values_differ(files, device, layers):
    device(spoilt=[(2, 1)])
    result = invoke(
        *("simulate", files / "net.image", "--inputs", files / "inputs.npz", *layers),
        *("--json", files / "a.json"),
    )
    assert result.status == 1
    report = json.loads((files / "a.json").read_text())
    assert report["mismatches"] == 1
    assert "sample 2, row 0, column 0, channel 1: expected" in report["first_mismatch"]
    assert "1 values differ" in result.output


def test_simulate_names_the_layer_that_differs(files, device):
    device(spoilt=[(0, 0), (1, 0)])
    arguments = ("simulate", files / "net.image", "--inputs", files / "inputs.npz", "--layers")
    result = invoke(*arguments)
    assert result.status == 1
    assert "layer0, sample 0" in result.output


def _rename(values):
    values["layers"][0]["name"] = "other"


def _shorten(values):
    del values["layers"][0]


def _enlarge(values):
    values["input"]["shape"][0] += 1


def _shift(values):
    values["layers"][0]["output"]["zero_point"] += 1


@pytest.mark.parametrize("change", [_rename, _shorten, _enlarge, _shift])
def test_simulate_refuses_metadata_of_another_network(files, change):
    made = read_image(files / "net.image")
    change(made.metadata)
    made.write(files / "net.image")
    arguments = ("simulate", files / "net.image", "--inputs", files / "inputs.npz")
    cause = "net.image has metadata of another network than the one inside"
    refused(files, *arguments, cause=cause, next_step="compile the model again")


def test_a_device_that_fails_is_status_1(files, monkeypatch):
    def fail(*_, **__):
        raise insitu.simulate.SimulationError("no ack")

    monkeypatch.setattr(insitu.simulate, "accelerator", lambda config: None)
    monkeypatch.setattr(insitu.simulate, "simulate", fail)
    result = invoke("simulate", files / "net.image", "--inputs", files / "inputs.npz")
    assert result.status == 1
    assert "no ack" in result.errors


def test_verilog_of_a_block(files):
    result = invoke(
        *("verilog", "--config", "up5k", "--block", "mac_array", "-o", files / "a.v"),
        *("--json", files / "a.json"),
    )
    assert result.status == 0, result.errors
    assert "module insitu_mac_array" in (files / "a.v").read_text()
    report = json.loads((files / "a.json").read_text())
    assert report["module"] == "insitu_mac_array"
    assert report["bytes"] == (files / "a.v").stat().st_size


def test_verilog_with_a_bus_and_its_registers(files):
    result = invoke(
        *("verilog", "--config", "up5k", "--bus", "stream", "-o", files / "a.v"),
        *("--header", files / "a.h", "--svd", files / "a.svd", "--json", files / "a.json"),
    )
    assert result.status == 0, result.errors
    assert "module insitu_accelerator_stream(" in (files / "a.v").read_text()
    assert "INSITU_STREAM_CONTROL" in (files / "a.h").read_text()
    assert "<name>STREAM_CONTROL</name>" in (files / "a.svd").read_text()
    report = json.loads((files / "a.json").read_text())
    assert (report["bus"], report["header"]) == ("stream", str(files / "a.h"))


def test_registers_without_verilog(files):
    result = invoke("verilog", "--config", "up5k", "--header", files / "a.h")
    assert result.status == 0, result.errors
    assert "STREAM" not in (files / "a.h").read_text()
    assert not (files / "a.v").exists()


@pytest.mark.parametrize(
    ("options", "cause", "next_step"),
    [
        (("--bus", "ahb", "-o", "a.v"), "no bus 'ahb'", "wishbone, axi-lite, stream"),
        (("--bus", "stream", "--block", "mac_array", "-o", "a.v"), "has no bus", "--block"),
        (("--block", "mac_array", "--svd", "a.svd"), "has no registers", "--block"),
        ((), "nothing to write", "-o FILE, --header FILE or --svd FILE"),
        (("-o", "a.v", "--header", "no/a.h"), "there is no folder", ""),
    ],
)
def test_verilog_refuses(files, options, cause, next_step):
    paths = [files / part if part.startswith(("a.", "no/")) else part for part in options]
    arguments = ("verilog", "--config", "up5k", *paths)
    refused(files, *arguments, cause=cause, next_step=next_step)


def test_build(files, monkeypatch):
    report = {
        "board": "icebreaker",
        "device": "iCE40UP5K",
        "clock_mhz": 24.0,
        "fmax_mhz": 25.5,
        "utilisation": {"lc": {"used": 4000, "available": 5280}},
        "blocks": {"mac_array": {"lc": 500}},
        "bitstream": "a.bin",
        "bitstream_bytes": 104090,
    }

    def build(board, *, output_dir, progress, self_load):
        progress("elaborating")
        return report | {"board": board, "folder": str(output_dir), "self_load": self_load}

    monkeypatch.setattr("boards.build.build", build)
    result = invoke("build", "--board", "icebreaker", "-o", files, "--json", files / "a.json")
    assert result.status == 0, result.errors
    assert "mac_array" in result.output
    assert "elaborating" in result.errors
    said = json.loads((files / "a.json").read_text())
    assert said == report | {"folder": str(files), "self_load": False}
    invoke("build", "--board", "icebreaker", "--self-load", "--json", files / "a.json")
    assert json.loads((files / "a.json").read_text())["self_load"]


def test_build_lists_boards():
    result = invoke("build", "--list")
    assert result.status == 0, result.errors
    (row,) = [line for line in result.output.splitlines() if "ulx3s-45f" in line]
    clock = f"{BOARDS['ulx3s-45f'].clock_hz / 1e6:g}"
    assert {"LFE5U-45F-6", "ecp5-45f", clock} <= set(row.split())
    assert all(name in result.output for name in BOARDS)


def test_bench(files):
    result = invoke(
        *("bench", files / "net.npz", "--board", "icebreaker", "--board", "ulx3s-45f"),
        *("--json", files / "a.json"),
    )
    assert result.status == 0, result.errors
    rows = json.loads((files / "a.json").read_text())["rows"]
    assert [row["board"] for row in rows] == ["icebreaker", "ulx3s-45f"]
    assert "cost model" in result.output
    for row in rows:
        (line,) = [text for text in result.output.splitlines() if row["board"] in text]
        assert f"{row['compressed']['frames_per_second']:,}" in line
        assert f"{row['stored']['mac_utilisation']:.1%}" in line
        assert line.split()[-1] == str(row["utilisation"]["dsp"]["used"])


def test_bench_says_what_does_not_fit(files):
    rng = np.random.default_rng(0)
    layers = [{"weights": random_stored(rng, 128, 64, 9, 5), "kernel": (3, 3)}]
    save(random_network(rng, layers, (4, 4, 64)), files / "large.npz")
    save(
        random_network(
            rng, [{"weights": random_stored(rng, 9, 3, 1, 4), "kernel": (1, 1)}], (300, 300, 3)
        ),
        files / "wide.npz",
    )
    result = invoke("bench", files / "large.npz", files / "wide.npz", "--board", "icebreaker")
    assert result.status == 0, result.errors
    assert "73/64*" in result.output or "74/64*" in result.output
    assert "as if it were there" in result.output
    assert "no fit" in result.output
    assert "wide, up5k" in result.output


def test_bench_ends_with_status_1_where_values_differ(files, device):
    device(spoilt={(0, 1)})
    result = invoke("bench", files / "net.npz", "--board", "icebreaker", "--rtl")
    assert result.status == 1
    assert "2 values differ" in result.output


# --- bad input: images ---


def simulate(files, image, inputs="inputs.npz", **expected):
    arguments = ("simulate", image, "--inputs", files / inputs, "--json", files / "a.json")
    refused(files, *arguments, **expected)


def test_missing_image(files):
    path = files / "no.image"
    simulate(files, path, cause=f"image {path} does not exist", next_step="check the path")


def test_truncated_image(files):
    path = files / "net.image"
    path.write_bytes(path.read_bytes()[:-5])
    simulate(files, path, cause="is truncated", next_step="insitu compile")


@pytest.mark.parametrize(("at", "part"), [(-9, "payload"), (60, "metadata"), (17, "header")])
def test_corrupted_image(files, at, part):
    path = files / "net.image"
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
    cause = "is truncated" if part == "header" else "is corrupt"
    simulate(files, path, cause=cause, next_step="insitu compile")


def test_image_of_another_version(files):
    path = files / "net.image"
    data = bytearray(path.read_bytes())
    data[8] = 9
    path.write_bytes(data)
    simulate(files, path, cause="has format version 9", next_step="insitu compile")


def test_image_for_another_configuration(files):
    path = files / "net.image"
    image = read_image(path)
    Image(CONFIGURATIONS["ecp5-45f"].digest, image.metadata, image.payload, image.network).write(
        path
    )
    simulate(files, path, cause="is for ecp5-45f", next_step="--config up5k")


def test_image_for_a_configuration_unknown_here(files):
    path = files / "net.image"
    image = read_image(path)
    Image(
        image.digest, image.metadata | {"configuration": "x9"}, image.payload, image.network
    ).write(path)
    simulate(files, path, cause="configuration 'x9'", next_step="up5k")


def test_not_an_image(files):
    simulate(files, files / "net.npz", cause="is not an insitu image")


# --- bad input: inputs ---


@pytest.mark.parametrize(
    ("arrays", "cause"),
    [
        ({"inputs": np.zeros((2, 3, 6, 6), np.uint8)}, "have shape (2, 3, 6, 6)"),
        ({"inputs": np.zeros((2, 6, 5, 3), np.uint8)}, "the network takes (N, 3, 6, 5)"),
        ({"inputs": np.zeros((2, 3, 6, 5), np.int32)}, "are of int32"),
        ({"inputs": np.full((2, 3, 6, 5), np.nan, np.float32)}, "infinities or NaN"),
        ({"images": np.zeros((2, 3, 6, 5), np.uint8)}, "have no array 'inputs', only images"),
        (
            {"inputs": np.zeros((2, 3, 6, 5), np.uint8), "labels": np.zeros(3, int)},
            "has labels of",
        ),
    ],
    ids=["shape", "channels last", "type", "NaN", "key", "labels"],
)
def test_wrong_inputs(files, arrays, cause):
    np.savez(files / "bad.npz", **arrays)
    simulate(files, files / "net.image", "bad.npz", cause=cause)


def test_missing_inputs(files):
    simulate(files, files / "net.image", "no.npz", cause="does not exist")


def test_truncated_inputs(files):
    (files / "bad.npz").write_bytes((files / "inputs.npz").read_bytes()[:100])
    simulate(files, files / "net.image", "bad.npz", cause="truncated, corrupt")


def test_too_few_inputs(files):
    arguments = ("simulate", files / "net.image", "--inputs", files / "inputs.npz")
    refused(files, *arguments, "--samples", 8, cause="hold 7 samples, not 8", next_step="lower")


# --- bad input: models ---


def compile_(files, model, *options, config="up5k", **expected):
    arguments = ("compile", files / model, "-o", files / "a.image", "--config", config)
    refused(files, *arguments, "--json", files / "a.json", *options, **expected)


def test_network_that_does_not_fit(files, seed):
    rng = np.random.default_rng(seed)
    layer = {"weights": random_stored(rng, 256, 64, 9, 4), "kernel": (3, 3)}
    save(random_network(rng, [layer], (4, 4, 64)), files / "big.npz")
    compile_(files, "big.npz", cause="bytes are missing", next_step="configuration sim-8x1")


def test_unsupported_operator(files, seed):
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [("Conv", ["w"], {}), ("LeakyRelu", [], {})]
    onnx.save(chain(nodes, (3, 9, 8), {"w": weights}), files / "leaky.onnx")
    options = ("--calibration", files / "samples.npz")
    compile_(files, "leaky.onnx", *options, cause="(LeakyRelu)", next_step="use Relu")


@pytest.mark.parametrize("model", ["net.onnx", "net.npz", "net.tflite"])
def test_truncated_model(files, tflite, model):
    path = files / model
    path.write_bytes(path.read_bytes()[:200])
    options = ("--calibration", files / "samples.npz") if model == "net.onnx" else ()
    compile_(files, model, *options, cause=model, next_step="copy the file again")


def test_missing_model(files):
    (files / "calibration.npz").write_bytes((files / "samples.npz").read_bytes())
    compile_(files, "no.onnx", cause="does not exist")


def test_unknown_kind_of_model(files):
    (files / "net.h5").write_bytes(b"HDF")
    compile_(files, "net.h5", cause="is no .tflite, .onnx or .npz file", next_step="ONNX")


def test_no_samples_to_calibrate_with(files):
    compile_(files, "net.onnx", cause="there is no", next_step="--calibration FILE.npz")


def test_samples_of_the_wrong_shape(files):
    options = ("--calibration", files / "inputs.npz")
    compile_(files, "net.onnx", *options, cause="have shape", next_step="ONNX model")


def test_options_for_floating_point_only(files):
    compile_(files, "net.npz", "--stored", 4, cause="of integers already", next_step=".onnx")


# --- bad input: names and places ---


def test_unknown_configuration(files):
    for verb in (("compile", files / "net.npz"), ("verilog",)):
        arguments = (*verb, "-o", files / "a", "--config", "up6k")
        refused(files, *arguments, cause="'up6k'", next_step=", ".join(CONFIGURATIONS))


def test_unknown_block(files):
    arguments = ("verilog", "--config", "up5k", "--block", "alu", "-o", files / "a.v")
    refused(files, *arguments, cause="no block named 'alu'", next_step="mac_array")


def test_unknown_board(files):
    arguments = ("build", "--board", "arty", "-o", files / "x")
    refused(files, *arguments, cause="no board named 'arty'", next_step="icebreaker")
    arguments = ("bench", files / "net.npz", "--board", "arty")
    refused(files, *arguments, cause="no board named 'arty'", next_step="icebreaker")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ("compile net.npz --config up5k --force -o net.npz", "image net.npz would replace what is"),
        ("compile net.npz --config up5k -o a.image --json a.image", "image and report are both"),
        ("compile net.npz --config up5k -o a.image --json net.npz", "report net.npz would replace"),
        ("compile net.npz --config up5k -o a.npz", "image a.npz would be taken for a model"),
        ("inspect net.npz --json net.npz", "report net.npz would replace what is read"),
        ("inspect net.npz --json same.npz", "report same.npz would replace what is read"),
        (
            "inspect net.npz --config up5k --memory a.svg --json a.svg",
            "picture and report are both",
        ),
        ("evaluate net.npz --inputs inputs.npz --json inputs.npz", "report inputs.npz would"),
        ("simulate net.image --inputs inputs.npz --json net.image", "report net.image would"),
        ("verilog --config up5k --header a.h --svd a.h", "C header and SVD file are both a.h"),
        ("report a.json -o a.json", "report a.json would replace what is read"),
        ("load net.image --port /dev/null --json net.image", "report net.image would replace"),
        ("infer --port /dev/null --inputs inputs.npz -o inputs.npz", "outputs inputs.npz would"),
    ],
)
def test_an_output_is_no_other_file(files, arguments, cause, monkeypatch):
    (files / "same.npz").symlink_to(files / "net.npz")
    monkeypatch.chdir(files)
    refused(files, *arguments.split(), cause=cause)


def test_two_outputs_may_go_nowhere(files):
    arguments = ("inspect", files / "net.npz", "--json", "/dev/null")
    assert invoke(*arguments).status == 0
    arguments = ("verilog", "--config", "up5k", "--header", "/dev/null", "--svd", "/dev/null")
    assert invoke(*arguments).status == 0


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("none.xyz", "does not exist"),
        ("", "is a folder"),
        ("text.txt", "is no .tflite, .onnx or .npz file"),
        ("net.image", "is an image, no model"),
    ],
)
def test_what_is_no_model(files, name, cause):
    (files / "text.txt").write_text("text")
    refused(files, "evaluate", files / name, "--inputs", files / "inputs.npz", cause=cause)


@pytest.mark.parametrize(("value", "cause"), [(0.0, "hold nothing but 0"), (1e30, "reach 1e+30")])
def test_calibration_of_other_ranges(files, value, cause):
    with np.load(files / "samples.npz") as file:
        samples = file["inputs"] * 0
    if value:
        samples.flat[7] = value
    np.savez(files / "bad.npz", inputs=samples)
    compiling = ("compile", files / "net.onnx", "--config", "up5k", "-o", files / "a.image")
    refused(files, *compiling, "--calibration", files / "bad.npz", cause=cause)


def test_an_interruption_is_said(files, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("insitu.models.load_model", interrupted)
    result = invoke("inspect", files / "net.npz")
    assert (result.status, result.output, result.errors) == (130, "", "interrupted")


@pytest.mark.parametrize(
    ("path", "cause"),
    [("no/a", "there is no folder"), (".", "is a folder")],
    ids=["none", "folder"],
)
def test_unwritable_output(files, path, cause):
    at = files / path
    compiling = ("compile", files / "net.npz", "--config", "up5k")
    refused(files, *compiling, "-o", at, cause=cause)
    refused(files, *compiling, "-o", files / "a.image", "--json", at, cause=cause)
    refused(files, "verilog", "--config", "up5k", "-o", at, cause=cause)
    simulating = ("simulate", files / "net.image", "--inputs", files / "inputs.npz")
    refused(files, *simulating, "--json", at, cause=cause)
    refused(files, "demo", "--json", at, cause=cause)
    refused(files, "build", "--board", "icebreaker", "--json", at, cause=cause)
    refused(files, "bench", files / "net.npz", "--json", at, cause=cause)


def test_wrong_usage_is_status_2():
    assert invoke("compile").status == 2
    assert invoke("simulate", "x", "--inputs", "y", "--samples", 0).status == 2


def test_exit_status_and_message_of_the_program(tmp_path):
    command = [sys.executable, "-c", "from insitu.cli import main; main()"]
    command += ["simulate", str(tmp_path / "no.image"), "--inputs", "x.npz"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: image ")
    assert "Traceback" not in done.stderr
    assert not done.stdout
