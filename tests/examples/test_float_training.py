"""The script that trains in floating point: what it begins from, and what it writes."""

import importlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from insitu.errors import FitError, InputError
from insitu.float_network import (
    FloatAdd,
    FloatLimit,
    FloatMean,
    FloatNetwork,
    FloatPooling,
)
from insitu.models import load_float
from sim.build import ROOT
from tests.insitu.networks import random_convolution

torch = pytest.importorskip("torch", reason="needs the extra train")

torch.set_num_threads(1)
SIZE = 32


@pytest.fixture(scope="module")
def script() -> ModuleType:
    folder = str(ROOT / "examples" / "mlperf_tiny")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("float_training")
    finally:
        sys.path.remove(folder)


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def network(rng: np.random.Generator) -> FloatNetwork:
    """Every kind of layer that is trained, names with dots among them."""

    convolution = partial(random_convolution, rng, gain=2)

    def pooling(name, source, mode, kernel, padding):
        window = {"kernel": (kernel, kernel), "stride": (2, 2), "padding": padding}
        return FloatPooling(name=name, inputs=(source,), mode=mode, **window)

    layers = (
        convolution("conv.1", "input", 8, 3, 3, padding=(1, 0, 1, 2), stride=(2, 2), low=0.0),
        convolution("deep", "conv.1", 8, 1, 3, groups=8, padding=(1, 1, 1, 1), low=0.0, high=0.5),
        convolution("wide", "deep", 8, 8, 3, dilation=(2, 2), padding=(2, 2, 2, 2)),
        FloatAdd(name="sum", inputs=("conv.1", "wide")),
        FloatLimit(name="limit", inputs=("sum",), low=0.0),
        pooling("greatest", "limit", "maximum", 3, (1, 1, 1, 1)),
        pooling("average", "greatest", "average", 3, (0, 0, 1, 1)),
        FloatMean(name="mean", inputs=("average",)),
        convolution("classes", "mean", 10, 8, 1, dense=True),
    )
    return FloatNetwork("net", (SIZE, SIZE, 3), layers)


def images(rng: np.random.Generator, count: int = 40):
    return torch.from_numpy(rng.uniform(0, 1, (count, 3, SIZE, SIZE)).astype(np.float32))


def test_it_begins_as_the_network(script, network, rng) -> None:
    x = images(rng)
    expected = network.run(x.permute(0, 2, 3, 1).numpy()).reshape(len(x), -1)
    module = script.Normalised(network, x).eval()
    with torch.no_grad():
        np.testing.assert_allclose(module(x), expected, rtol=1e-3, atol=1e-3)
    assert sorted(module.norms) == ["layer_conv_1", "layer_deep", "layer_wide"]


def test_names_that_are_the_same_in_pytorch_are_refused(script, network, rng) -> None:
    deep = replace(network.layers[1], name="conv_1")
    wide = replace(network.layers[2], inputs=("conv_1",))
    other = replace(network, layers=(network.layers[0], deep, wide, *network.layers[3:]))
    with pytest.raises(FitError, match="two layers would be called 'conv_1'"):
        script.Normalised(other, images(rng))


def test_what_is_written_is_what_was_trained(script, network, rng, tmp_path) -> None:
    x = images(rng)
    module = script.Normalised(network, x)
    module.begin_anew(seed=1)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()
    module.eval()
    with torch.no_grad():
        expected = module(x).numpy()
    path = tmp_path / "net.onnx"
    path.write_bytes(script.to_onnx(module.folded()).SerializeToString())
    found = load_float(path).run(x.permute(0, 2, 3, 1).numpy()).reshape(len(x), -1)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert np.ptp(expected) > 0.01


class Stop(Exception):
    pass


def test_it_resumes_and_knows_its_network(script, network, rng, tmp_path, monkeypatch) -> None:
    model = script.to_onnx(network).SerializeToString()
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(model)
        model += b"\x1a\x00"  # The same graph, other bytes: an empty domain.
    samples = script.samples_from(
        rng.integers(0, 256, (12_000, SIZE, SIZE, 3)).astype(np.uint8),
        rng.integers(0, 10, 12_000),
        script.PIXELS,
    ).at(torch.arange(10_300))
    few = samples.at(torch.arange(200))
    monkeypatch.setattr(script, "training_samples", lambda: samples)
    monkeypatch.setattr(script, "test_samples", lambda: few)
    monkeypatch.setattr(script, "batches", lambda *_: iter([few]))
    monkeypatch.setattr(script, "accuracy", lambda *_: 10.0)
    monkeypatch.setattr(script, "WORK", tmp_path)
    settings = script.Settings(anew=True, epochs=3, rate=0.1, cutout=0, smoothing=0.0)
    written, saved = tmp_path / "out.onnx", []
    write = script.write_checkpoint

    def stop(state, path) -> None:
        write(state, path)
        saved.append(state["epoch"])
        if saved == [1]:
            raise Stop

    monkeypatch.setattr(script, "write_checkpoint", stop)
    with pytest.raises(Stop):
        script.train(tmp_path / "a.onnx", written, settings)
    assert not written.exists()
    script.train(tmp_path / "a.onnx", written, settings)  # Goes on.
    assert saved == [1, 2, 3]
    resumed = written.read_bytes()
    with pytest.raises(InputError, match="of another network"):
        script.train(tmp_path / "b.onnx", written, settings)
    (tmp_path / "out.pt").write_bytes(b"damaged")
    with pytest.raises(InputError, match="damaged"):
        script.train(tmp_path / "a.onnx", written, settings)
    (tmp_path / "out.pt").unlink()
    script.train(tmp_path / "a.onnx", written, settings)
    assert written.read_bytes() == resumed


def test_other_inputs_are_refused(script, network, rng, tmp_path) -> None:
    path = tmp_path / "net.onnx"
    wide = replace(network.layers[2], inputs=("input",))
    other = FloatNetwork("net", (8, 8, 8), (wide,))
    path.write_bytes(script.to_onnx(other).SerializeToString())
    settings = script.Settings(anew=False, epochs=1, rate=0.1, cutout=0, smoothing=0.0)
    with pytest.raises(FitError, match="no network for images of 32 x 32 x 3"):
        script.starting_point(path, settings, None)


@pytest.mark.parametrize("at", ["first", "last"])
def test_networks_that_do_not_begin_and_end_with_convolutions_are_refused(
    at, script, network, rng, tmp_path
) -> None:
    layers = network.layers
    if at == "last":
        layers = layers[:-1]
    else:
        limit = FloatLimit(name="first", inputs=("input",), low=0.0)
        layers = (
            limit,
            *(replace(one, inputs=("first",)) if one is layers[0] else one for one in layers),
        )
    path = tmp_path / "net.onnx"
    path.write_bytes(script.to_onnx(replace(network, layers=layers)).SerializeToString())
    settings = script.Settings(anew=False, epochs=1, rate=0.1, cutout=0, smoothing=0.0)
    with pytest.raises(FitError, match="begins and ends with convolutions"):
        script.starting_point(path, settings, samples(script, rng))


def test_all_readers_of_the_pixels_are_scaled(script, network, rng, monkeypatch) -> None:
    """Networks of MLPerf take pixels, those that are written pixels / 255."""
    other = replace(network.layers[0], name="other")
    total = FloatAdd(name="total", inputs=("conv.1", "other"))
    classes = replace(network.layers[-1], inputs=("middle",))
    middle = FloatMean(name="middle", inputs=("total",))
    both = replace(network, layers=(network.layers[0], other, total, middle, classes))
    monkeypatch.setattr(script, "load_float", lambda path: both)
    settings = script.Settings(anew=False, epochs=1, rate=0.1, cutout=0, smoothing=0.0)
    some = samples(script, rng)
    module = script.starting_point(Path("net.tflite"), settings, some).eval()
    expected = both.run(some.inputs.permute(0, 2, 3, 1).float().numpy()).reshape(len(some), -1)
    with torch.no_grad():
        got = module(some.real()).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got / scale, expected / scale, atol=1e-4)


def samples(script, rng):
    pixels = rng.integers(0, 256, (40, SIZE, SIZE, 3)).astype(np.uint8)
    return script.samples_from(pixels, np.zeros(40, np.int64), script.PIXELS)
