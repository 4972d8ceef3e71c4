"""The main job on the RTL, and the figures it leaves."""

import json
from dataclasses import replace

import numpy as np
import pytest

from golden.network import Generated, Stored, run
from insitu import cli
from insitu.demo import EXAMPLE, demo, intra_only, stored
from insitu.errors import FileError
from insitu.import_onnx import import_onnx
from insitu.network import load
from insitu.quantise import load_inputs, quantise_inputs
from tests.insitu.test_cli import invoke


@pytest.fixture(scope="module")
def network():
    shape = import_onnx(EXAMPLE / "fashion.onnx").input_shape
    return load(EXAMPLE / "fashion_compressed.npz", shape)


def test_stored_has_the_same_answers(network):
    other = stored(network)
    assert all(isinstance(layer.weights, Stored) for layer in other.layers)
    images, _ = load_inputs(EXAMPLE / "fashion500.npz", network.input_shape)
    inputs = quantise_inputs(images[:3], network.input_scale, network.input_zero_point)
    assert np.array_equal(run(other, inputs), run(network, inputs))


def test_intra_only_has_the_same_shapes(network):
    other = intra_only(network)
    generated = [layer.weights for layer in other.layers if isinstance(layer.weights, Generated)]
    assert len(generated) == 4
    for weights, layer in zip(generated, network.layers[1:], strict=False):
        assert weights.V is None
        assert weights.shape == layer.weights.shape
        first = replace(layer.weights, V=None, qv=0, s2=0).W[0]
        assert np.array_equal(weights.W[0], first)


def test_no_example(tmp_path):
    with pytest.raises(FileError, match="run the demo from a clone"):
        demo(example=tmp_path / "none")


@pytest.mark.slow
def test_demo(tmp_path):
    path = tmp_path / "demo.json"
    result = invoke("demo", "--samples", 2, "--json", path)
    assert result.status == 0, result.errors
    report = json.loads(path.read_text())
    assert report["samples"] == 2
    assert report["mismatches"] == 0
    assert report["values"] > 2 * 26_000
    assert report["accuracy_float"] >= 0.9
    assert report["accuracy_float"] - report["accuracy"] <= 0.015
    assert report["weight_bytes"] * 3 <= report["dense_int8_bytes"]
    assert report["generated"]["share_both_levels"] >= 0.8
    assert report["ideal_cycles"] < report["cycles"]
    for layer in report["layers"]:
        assert layer["mismatches"] == 0
        assert abs(layer["cycles"] - layer["predicted"]) <= max(16, layer["cycles"] / 100), layer
    speed = report["speed"]
    assert speed["stored"]["ratio"] <= 1.10
    assert speed["intra"]["cycles"] <= 1.01 * speed["stored"]["cycles"]
    assert "after `. .venv/bin/activate`" in result.output
    assert cli.DEMO_REPORT.name == "demo.json"
