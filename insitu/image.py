"""The image file: a payload for the coefficient memory, how to use it, and what it computes.

The format is docs/image-format.md. Reading checks everything before any of it is used, and
trusts no length in the file.
"""

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from insitu.errors import ImageError
from insitu.files import read_file, write_file
from insitu.metadata import BadMetadata, activation_end, check_metadata
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
        except (ValueError, RecursionError) as error:
            raise damaged(f"has metadata that is not JSON: {error}") from None
        try:
            check_metadata(values, len(payload))
        except BadMetadata as bad:
            raise damaged(f"has metadata {bad}") from None
        return cls(digest, values, payload, network)

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
            If it is not, or does not fit the configuration's memories.
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
        end = activation_end(self.metadata)
        if end > configuration.activation_bytes:
            raise ImageError(
                f"{source} has maps up to byte {end} of activation memory; {configuration.name} "
                f"has {configuration.activation_bytes}",
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
