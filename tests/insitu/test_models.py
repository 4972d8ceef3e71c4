"""One loader for every kind of file."""

import numpy as np
import onnx
import pytest

from golden.network import Generated, Stored
from insitu.errors import InputError, ModelError
from insitu.models import load_model
from insitu.network import save
from rtl.config import CONFIGURATIONS
from tests.golden.graphs import every_kind
from tests.insitu.models import branches, example
from tests.insitu.onnx_models import Quantised
from tests.insitu.tflite_models import classifier


@pytest.fixture
def folder(tmp_path, seed):
    rng = np.random.default_rng(seed)
    onnx.save(example(rng), tmp_path / "net.onnx")
    save(every_kind(rng), tmp_path / "net.npz")
    (tmp_path / "net.tflite").write_bytes(classifier(rng))
    np.savez(tmp_path / "samples.npz", inputs=rng.random((20, 3, 9, 8), np.float32))
    return tmp_path


def test_tflite(folder):
    model = load_model(folder / "net.tflite")
    assert [layer.kind for layer in model.network.layers][:2] == ["convolution", "pooling"]
    assert model.channels_last
    assert list(model.tensors) == [layer.name for layer in model.network.layers]
    assert "SOFTMAX" in model.notes[0]


def test_npz(folder):
    model = load_model(str(folder / "net.npz"))
    assert len(model.network.layers) == 13
    assert not model.channels_last


def test_onnx_is_stored_unless_a_configuration_is_named(folder):
    samples = folder / "samples.npz"
    for stored, bits in ((None, 8), (5, 5)):
        model = load_model(folder / "net.onnx", calibration=samples, stored=stored)
        assert all(isinstance(layer.weights, Stored) for layer in model.network.layers)
        assert {layer.weights.q for layer in model.network.layers} == {bits}
    steps = []
    model = load_model(
        folder / "net.onnx",
        CONFIGURATIONS["up5k"],
        calibration=samples,
        progress=lambda *step: steps.append(step[2]),
    )
    assert len(model.compression) == 3
    assert set(steps) == {"calibrating", "compressing"}
    forms = [type(layer.weights) for layer in model.network.layers]
    assert len(forms) == 3
    assert set(forms) <= {Generated, Stored}


def test_graphs_are_stored(folder, seed):
    onnx.save(branches(np.random.default_rng(seed)), folder / "graph.onnx")
    options = {"calibration": folder / "samples.npz"}
    for configuration in (None, CONFIGURATIONS["up5k"]):
        model = load_model(folder / "graph.onnx", configuration, **options)
        weights = [layer.weights for layer in model.network.layers if hasattr(layer, "weights")]
        assert {(type(one), one.q) for one in weights} == {(Stored, 8)}
        assert not model.compression
        assert model.notes == (
            "weights are stored at 8 bits: only chains of convolutions are compressed",
        ) * (configuration is not None)
    model = load_model(folder / "graph.onnx", CONFIGURATIONS["up5k"], stored=4, **options)
    assert model.network.layers[0].weights.q == 4
    assert not model.notes


@pytest.mark.parametrize("form", ["qdq", "qlinear"])
def test_quantised_onnx(folder, form, seed):
    rng = np.random.default_rng(seed)
    builder = Quantised(form)
    x = builder.input((3, 9, 8), 0.1, 4)
    weights = rng.integers(-127, 128, (5, 3, 1, 1))
    y = builder.linear("Conv", x, weights, np.float32(0.01), None, 0.2, -5)
    onnx.save(builder.build(y), folder / "quantised.onnx")
    for configuration in (None, CONFIGURATIONS["up5k"]):
        model = load_model(folder / "quantised.onnx", configuration)
        (layer,) = model.network.layers
        np.testing.assert_array_equal(layer.weights.W[..., 0], weights[..., 0, 0])
        assert model.tensors == {layer.name: y}
    for options in ({"stored": 4}, {"calibration": folder / "samples.npz"}):
        with pytest.raises(InputError, match=f"needs no --{next(iter(options))}"):
            load_model(folder / "quantised.onnx", **options)


def test_quantised_onnx_with_maps_in_floating_point(folder):
    builder = Quantised()
    x = builder.input((3, 9, 8), 0.1, 4)
    s = builder.node("Sigmoid", [builder.real(x)])
    y = builder.quantise(builder.node("GlobalAveragePool", [s]), 1 / 255, -128)
    path = folder / "mixed.onnx"
    onnx.save(builder.build(y), path)
    with pytest.raises(ModelError, match="leaves what layer 'Sigmoid_2' gives in floating point"):
        load_model(path)
    model = load_model(path, calibration=folder / "samples.npz")
    assert [layer.kind for layer in model.network.layers] == ["table", "mean"]
    assert model.notes == ("scales of Sigmoid_2 come from the calibration",)


def test_pruned(folder):
    whole, left = (load_model(folder / "net.tflite", prune=prune) for prune in (False, True))
    assert not whole.kept
    assert list(left.kept) == [layer.name for layer in left.network.layers]
    assert "weights belong to channels that do not matter" in left.notes[-1]


@pytest.mark.parametrize("name", ["net.npz", "net.tflite"])
def test_integers_take_no_calibration(folder, name):
    for options in ({"stored": 4}, {"calibration": folder / "samples.npz"}):
        with pytest.raises(InputError, match="is of integers already"):
            load_model(folder / name, **options)


def test_refuses(folder):
    (folder / "net.pt").write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"net\.pt is no \.tflite, \.onnx or \.npz file"):
        load_model(folder / "net.pt")
    with pytest.raises(InputError, match="scales are found with sample inputs"):
        load_model(folder / "net.onnx")
