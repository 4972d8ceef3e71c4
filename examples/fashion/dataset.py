"""Fashion-MNIST as NumPy arrays, and the fixed split of its training images.

The training set is cut once: images 0 to 54,999 train, images 55,000 to 59,999 are held out for
checkpoint selection and calibration. The test set is for reporting only.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
TRAINING = 55_000

Images = NDArray[np.uint8]
Labels = NDArray[np.uint8]


class DatasetError(Exception):
    """The dataset is absent or unreadable; the message says what to do."""


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one gzipped IDX file of unsigned bytes.

    Returns: uint8 array of the shape the file states.
    Raises: DatasetError where the file is absent, corrupt or not an IDX file of bytes.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
        zeros, kind, dimensions = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{dimensions}I", raw, 4)
        if (zeros, kind) != (0, 8):
            raise DatasetError(f"{path} is not an IDX file of unsigned bytes")
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except FileNotFoundError:
        raise DatasetError(
            f"{path} not found: install the Debian package dataset-fashion-mnist "
            "(apt-get install dataset-fashion-mnist), or name a folder that holds "
            "its four .gz files with --data"
        ) from None
    except (OSError, EOFError, struct.error, ValueError, zlib.error) as error:
        raise DatasetError(f"{path} is truncated or corrupt: {error}") from error


def load(folder: Path, split: str) -> tuple[Images, Labels]:
    """Load one split: `train` (55,000 images), `held-out` (5,000) or `test` (10,000).

    Returns: images uint8 [N,1,28,28], labels uint8 [N].
    Raises: DatasetError where files are absent or unreadable, ValueError for another split.
    """
    if split not in ("train", "held-out", "test"):
        raise ValueError(f"split must be train, held-out or test, not {split!r}")
    stem = "t10k" if split == "test" else "train"
    images = _read_idx(folder / f"{stem}-images-idx3-ubyte.gz")[:, None]
    labels = _read_idx(folder / f"{stem}-labels-idx1-ubyte.gz")
    if split == "train":
        return images[:TRAINING], labels[:TRAINING]
    if split == "held-out":
        return images[TRAINING:], labels[TRAINING:]
    return images, labels
