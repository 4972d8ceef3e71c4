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
from tests.insitu.models import example
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
    assert len(model.network.layers) == 12
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
    with pytest.raises(ModelError, match=r"net\.pt is no \.tflite, \.onnx or \.npz file"):
        load_model(folder / "net.pt")
    with pytest.raises(InputError, match="scales are found with sample inputs"):
        load_model(folder / "net.onnx")
