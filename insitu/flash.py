"""What a board's SPI flash holds, so that the device loads an image by itself at power-up."""

import struct
import zlib

from insitu.device import memory_contents
from insitu.image import Image
from rtl.config import Configuration
from rtl.flash_loader import HEAD, TAIL
from rtl.registers import IDENTITY, UNLOCK, geometry, version

__all__ = ["flash_contents"]


def flash_contents(image: Image, config: Configuration) -> bytes:
    """The bytes for `rtl.flash_loader` (docs/host.md): registers, coefficient memory, registers.

    Raises
    ------
    ImageError
        If the image is for another configuration.
    """
    image.check(config)
    memory = bytearray(config.coefficient_bytes)
    for address, data in memory_contents(image, len(memory)).items():
        memory[address : address + len(data)] = data
    compared = {
        "IDENTITY": IDENTITY,
        "VERSION": version(),
        "GEOMETRY": geometry(config),
        "DIGEST": config.digest,
    }
    head = compared | {"LOCK": UNLOCK}
    return _words(HEAD, head) + memory + _words(TAIL, {"CRC_VALUE": zlib.crc32(memory)})


def _words(registers: tuple[str, ...], values: dict[str, int]) -> bytes:
    """A word for each register: 0 where it does not matter."""
    return b"".join(struct.pack("<I", values.get(name, 0)) for name in registers)
