"""The image file: a payload for the coefficient memory, how to use it, and what it computes.

The format is docs/image-format.md. Reading checks everything before any of it is used, and
trusts no length in the file.
"""

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from insitu.errors import ImageError
from insitu.files import read_file, write_file
from rtl.config import CONFIGURATIONS, Configuration

__all__ = ["FORMAT_VERSION", "MAGIC", "Image", "read_image"]

MAGIC = b"INSITU\r\n"
FORMAT_VERSION = 2
_HEADER = struct.Struct("<8sIIIIIIII")
_COMPILE_AGAIN = "compile the model again with insitu compile"
_COPY_AGAIN = "copy the file again, or compile the model again with insitu compile"


@dataclass(frozen=True)
class Image:
    """An image in memory.

    Parameters
    ----------
    digest : int
        `Configuration.digest` of the hardware it is for.
    metadata : dict
        Plain data: `network`, `configuration` (its name), `input`, `output`, `layers`, ...
    payload : bytes
        The coefficient memory from address 0.
    network : bytes
        The integer network that it was made from (`insitu.network`): what a device's answers are
        compared with. No device needs it.
    """

    digest: int
    metadata: dict[str, Any]
    payload: bytes
    network: bytes

    def to_bytes(self) -> bytes:
        """The image as the bytes of a file."""
        metadata = json.dumps(self.metadata, separators=(",", ":"), allow_nan=False).encode()
        start = _HEADER.pack(
            MAGIC,
            FORMAT_VERSION,
            len(metadata),
            len(self.payload),
            len(self.network),
            self.digest,
            zlib.crc32(self.payload),
            zlib.crc32(self.network),
            0,
        )[:-4]
        check = struct.pack("<I", zlib.crc32(metadata, zlib.crc32(start)))
        return start + check + metadata + self.payload + self.network

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "image") -> "Image":
        """Read an image from the bytes of a file.

        Parameters
        ----------
        data : bytes
        source : str
            Where they come from, for messages.

        Raises
        ------
        ImageError
            If anything about it is not as docs/image-format.md says.
        """

        def damaged(what: str) -> ImageError:
            return ImageError(f"{source} {what}", _COPY_AGAIN)

        if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
            raise ImageError(
                f"{source} is not an insitu image: it begins with {bytes(data[:8])!r}, "
                f"not {MAGIC!r}",
                "name an image made by insitu compile",
            )
        if len(data) < _HEADER.size:
            raise damaged(f"is truncated: {len(data)} bytes, a header alone has {_HEADER.size}")
        header = _HEADER.unpack_from(data)
        version, n_metadata, n_payload, n_network, digest, payload_crc, network_crc, crc = header[
            1:
        ]
        if version != FORMAT_VERSION:
            raise ImageError(
                f"{source} has format version {version}, this insitu reads {FORMAT_VERSION}",
                _COMPILE_AGAIN,
            )
        expected = _HEADER.size + n_metadata + n_payload + n_network
        if len(data) != expected:
            fault = "is truncated" if len(data) < expected else "is too long"
            raise damaged(f"{fault}: {len(data)} bytes where its header says {expected}")
        metadata = data[_HEADER.size : _HEADER.size + n_metadata]
        payload = data[_HEADER.size + n_metadata : len(data) - n_network]
        network = data[len(data) - n_network :]
        if zlib.crc32(metadata, zlib.crc32(data[: _HEADER.size - 4])) != crc:
            raise damaged("is corrupt: the CRC of its header and metadata does not match")
        for what, part, expected in (
            ("payload", payload, payload_crc),
            ("network", network, network_crc),
        ):
            if zlib.crc32(part) != expected:
                raise damaged(f"is corrupt: the CRC of its {what} does not match")
        if len(payload) % 4 or not payload:
            raise damaged(f"has a payload of {len(payload)} bytes, not a multiple of 4")
        try:
            values = json.loads(metadata)
        except ValueError as error:
            raise damaged(f"has metadata that is not JSON: {error}") from None
        return cls(digest, _checked_metadata(values, damaged), payload, network)

    def write(self, path: str | Path) -> None:
        """Write the image to a file, whole or not at all.

        Raises
        ------
        FileError
            If it cannot be written.
        """
        write_file(path, self.to_bytes(), "image")

    def check(self, configuration: Configuration, source: str = "image") -> None:
        """Check that the image is for `configuration`.

        Raises
        ------
        ImageError
            If it is not, or is larger than the configuration's coefficient memory.
        """
        if self.digest != configuration.digest:
            names = [c.name for c in CONFIGURATIONS.values() if c.digest == self.digest]
            made_for = " and ".join(names) if names else "a configuration unknown here"
            raise ImageError(
                f"{source} is for {made_for} (digest {self.digest:08x}), not for "
                f"{configuration.name} (digest {configuration.digest:08x})",
                f"compile the model for it: insitu compile MODEL -o IMAGE "
                f"--config {configuration.name}",
            )
        word = configuration.coefficient_port // 8
        size = len(self.payload)
        if size % word or size > configuration.coefficient_bytes:
            raise ImageError(
                f"{source} has a payload of {size} bytes; {configuration.name} takes a multiple "
                f"of {word} and at most {configuration.coefficient_bytes}",
                _COMPILE_AGAIN,
            )


def read_image(path: str | Path, configuration: Configuration | None = None) -> Image:
    """Read an image file, checked.

    Parameters
    ----------
    path : path
    configuration : Configuration, optional
        Also check that the image is for it.

    Raises
    ------
    FileError
        If the file cannot be read.
    ImageError
        If it is not an undamaged image of this version, or is for another configuration.
    """
    image = Image.from_bytes(read_file(path, "image"), f"image {path}")
    if configuration is not None:
        image.check(configuration, f"image {path}")
    return image


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shape(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(_natural(v) and 0 < v < 1 << 20 for v in value)
    )


def _window(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and sorted(value) == ["columns", "dilation", "kernel", "left", "stride"]
        and all(map(_natural, value.values()))
        and all(value[key] for key in value if key != "left")
    )


def _holds(one: dict[str, Any]) -> bool:
    """Whether the channels of a map are in its pixels."""
    last, count = one["pieces"][-1]
    kernel = one["window"]["kernel"] if one["window"] else 1
    channels = sum(count for _, count in one["pieces"])
    return channels == one["shape"][2] and (last + count) * kernel <= one["pitch"]


_MAP: dict[str, Callable[[Any], bool]] = {
    "name": lambda v: isinstance(v, str),
    "shape": _shape,
    "address": _natural,
    "pitch": _natural,
    "zero_point": lambda v: isinstance(v, int) and -128 <= v <= 127,
    "window": lambda v: v is None or _window(v),
    "pieces": lambda v: (
        isinstance(v, list)
        and bool(v)
        and all(isinstance(p, list) and len(p) == 2 and all(map(_natural, p)) for p in v)
    ),
}


def _checked_metadata(values: Any, damaged: Callable[[str], ImageError]) -> dict[str, Any]:
    """The metadata, if it has what every user of an image relies on."""

    def check_map(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise damaged(f"has metadata without {where}")
        for key, valid in _MAP.items():
            if key not in value or not valid(value[key]):
                raise damaged(f"has metadata with a bad {where}.{key}: {value.get(key)!r}")
        if not _holds(value):
            raise damaged(f"has metadata with a {where} whose channels do not fit its pixels")

    if not isinstance(values, dict):
        raise damaged("has metadata that is not an object")
    for key in ("network", "configuration"):
        if not isinstance(values.get(key), str):
            raise damaged(f"has metadata with a bad {key}: {values.get(key)!r}")
    layers = values.get("layers")
    if not isinstance(layers, list) or not layers:
        raise damaged("has metadata without layers")
    check_map(values.get("input"), "input")
    check_map(values.get("output"), "output")
    for number, layer in enumerate(layers):
        where = f"layers[{number}]"
        if not isinstance(layer, dict):
            raise damaged(f"has metadata without {where}")
        inputs = layer.get("inputs")
        if not isinstance(inputs, list) or not inputs:
            raise damaged(f"has metadata without {where}.inputs")
        for position, source in enumerate(inputs):
            check_map(source, f"{where}.inputs[{position}]")
        if not isinstance(layer.get("operations"), list):
            raise damaged(f"has metadata without {where}.operations")
        check_map(layer.get("output"), f"{where}.output")
    return values
