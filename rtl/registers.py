"""What a host sees of the accelerator: memory map, registers, and their bits.

Plain data, the one source of `rtl.host_port`, `rtl.stream_port`, the software of a host, the tables
of `docs/host.md`, C headers and SVD (`insitu.register_map`). Addresses are byte addresses of the
bus; everything is accessed in whole 32-bit words.
"""

from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "ACTIVATIONS",
    "BITS",
    "COEFFICIENTS",
    "CONTROL_BITS",
    "FIELDS",
    "HARDWARE_VERSION",
    "IDENTITY",
    "IMAGE_FORMAT",
    "REGISTERS",
    "STATUS_BITS",
    "STREAM_CONTROL_BITS",
    "STREAM_REGISTERS",
    "STREAM_STATUS_BITS",
    "UNLOCK",
    "Bit",
    "Field",
    "Register",
    "SelfLoad",
    "geometry",
    "markdown",
    "stream_markdown",
    "version",
]

COEFFICIENTS = 0x100000
"""Byte address of the coefficient memory."""

ACTIVATIONS = 0x200000
"""Byte address of the activation memory."""

IDENTITY = int.from_bytes(b"inst", "little")
"""Value of IDENTITY: in memory order, as a little-endian host stores it, it reads `inst`."""

HARDWARE_VERSION = (0, 2)
"""Major and minor version of the hardware; a host refuses another major version."""

IMAGE_FORMAT = 1
"""Format of the payloads the hardware runs (docs/image-format.md)."""

UNLOCK = 0x554E4C4B
"""The key that, written to LOCK, opens the coefficient memory for writing: `UNLK`."""


class Register(NamedTuple):
    """A register: byte offset, access ("ro", "wo", "rw") and what it is for."""

    offset: int
    access: str
    text: str


class Bit(NamedTuple):
    """A bit of a register: its number and what it says."""

    number: int
    text: str


class Field(NamedTuple):
    """Several bits of a register that are a number: the lowest, how many, and what it is."""

    low: int
    bits: int
    text: str


REGISTERS = {
    "IDENTITY": Register(0x00, "ro", "`inst`: 0x74736E69"),
    "VERSION": Register(
        0x04, "ro", "hardware major (bits 31-24) and minor (23-16), payload format (15-0)"
    ),
    "GEOMETRY": Register(
        0x08,
        "ro",
        "lanes (bits 7-0), width (11-8), KB of coefficient memory less 1 (21-12) and of activation "
        "memory less 1 (31-22)",
    ),
    "DIGEST": Register(0x0C, "ro", "digest of the configuration; an image carries the same"),
    "STATUS": Register(0x10, "ro", "see below"),
    "CONTROL": Register(0x14, "wo", "see below; reads as STATUS"),
    "LOCK": Register(
        0x18,
        "wo",
        "0x554E4C4B unlocks the coefficient memory, anything else locks it; reads as STATUS",
    ),
    "CYCLES": Register(0x1C, "ro", "clock cycles of the run at work or the last one"),
    "CRC_ADDRESS": Register(
        0x20,
        "wo",
        "byte address of the range to check; an access to a memory changes it, so write it right "
        "before CRC_LENGTH; reads as CRC_VALUE",
    ),
    "CRC_LENGTH": Register(
        0x24,
        "wo",
        "32-bit words of the range to check, modulo twice those of the larger memory or of the "
        "power of two above it; writing it starts the check; reads as CRC_VALUE",
    ),
    "CRC_VALUE": Register(0x28, "ro", "CRC-32 of the range last checked"),
}

STATUS_BITS = {
    "busy": Bit(0, "the engine runs"),
    "done": Bit(1, "a run has ended; until the next start or a clear"),
    "locked": Bit(2, "the coefficient memory is locked"),
    "crc_busy": Bit(3, "the check of a range is not finished"),
    "write_refused": Bit(4, "a write to the locked coefficient memory was refused; until a clear"),
    "start_refused": Bit(
        5, "a start was refused: unlocked, running, or checking a range; until a clear"
    ),
    "fault": Bit(6, "the engine met an illegal program; until the next start or a clear"),
    "access_error": Bit(
        7, "an access was answered with `err`: no such address, or not a whole word; until a clear"
    ),
}

CONTROL_BITS = {
    "start": Bit(0, "run the program in the coefficient memory"),
    "clear": Bit(
        1,
        "clear done, write_refused, start_refused, fault and access_error; one that comes with the "
        "end of a run, or behind it, clears what that left",
    ),
}


_MAP_ADDRESS = (
    "byte address on the bus of the {} map, a multiple of 4: "
    f"0x{ACTIVATIONS:06x} and the map's address in the image's metadata"
)

STREAM_REGISTERS = {
    "STREAM_CONTROL": Register(0x40, "rw", "see below; reads as the bits that stay"),
    "STREAM_STATUS": Register(0x44, "ro", "see below"),
    "INPUT_ADDRESS": Register(0x48, "rw", _MAP_ADDRESS.format("input")),
    "INPUT_WORDS": Register(0x4C, "rw", "32-bit words of an input frame"),
    "OUTPUT_ADDRESS": Register(0x50, "rw", _MAP_ADDRESS.format("output")),
    "OUTPUT_WORDS": Register(0x54, "rw", "32-bit words of an output frame, 1 at least"),
}
"""What there is in addition where inputs and outputs are streams."""

STREAM_CONTROL_BITS = {
    "enable": Bit(0, "begin with input frames; one begun is brought to its end without it, too"),
    "clear": Bit(1, "clear the flags of STREAM_STATUS"),
}

STREAM_STATUS_BITS = {
    "active": Bit(0, "a frame is at work"),
    "short_frame": Bit(1, "an input frame had too few words, and was not run; until a clear"),
    "long_frame": Bit(2, "an input frame had too many words, and was not run; until a clear"),
    "run_failed": Bit(
        3, "the accelerator refused a start or an access, or met a fault; until a clear"
    ),
}

BITS = {
    "STATUS": STATUS_BITS,
    "CONTROL": CONTROL_BITS,
    "STREAM_CONTROL": STREAM_CONTROL_BITS,
    "STREAM_STATUS": STREAM_STATUS_BITS,
}
"""Registers that are made of bits."""

FIELDS = {
    "STATUS": {
        "self_load": Field(
            8,
            3,
            "loading from the board's flash by itself: 0 the device does not, 1 reading, 2 loaded, "
            "3 no image for this device found, 4 the CRC of the image is wrong",
        ),
    },
    "VERSION": {
        "image_format": Field(0, 16, "format of the images it runs"),
        "minor": Field(16, 8, "minor version of the hardware"),
        "major": Field(24, 8, "major version of the hardware"),
    },
    "GEOMETRY": {
        "lanes": Field(0, 8, "output channels in parallel"),
        "width": Field(8, 4, "input channels in parallel"),
        "coefficient_kb": Field(12, 10, "KB of coefficient memory, less 1"),
        "activation_kb": Field(22, 10, "KB of activation memory, less 1"),
    },
}
"""Registers that are made of numbers, or have some among their bits."""


class SelfLoad(IntEnum):
    """Values of the field `self_load` of STATUS: how loading from the board's flash went."""

    ABSENT = 0
    READING = 1
    LOADED = 2
    NONE_FOUND = 3
    CRC_WRONG = 4


def _joined(register, **values):
    """Value of a register from those of its fields."""
    return sum(value << FIELDS[register][name].low for name, value in values.items())


def version():
    """Value of VERSION."""
    major, minor = HARDWARE_VERSION
    return _joined("VERSION", major=major, minor=minor, image_format=IMAGE_FORMAT)


def geometry(config):
    """Value of GEOMETRY for a `Configuration`."""
    return _joined(
        "GEOMETRY",
        lanes=config.lanes,
        width=config.width,
        coefficient_kb=config.coefficient_bytes // 1024 - 1,
        activation_kb=config.activation_bytes // 1024 - 1,
    )


def _tables(registers):
    lines = ["| offset | register | access | what |", "|---|---|---|---|"]
    for name, register in registers.items():
        lines.append(f"| 0x{register.offset:02x} | {name} | {register.access} | {register.text} |")
    for name in [name for name in BITS if name in registers]:
        lines += ["", f"| {name} bit | name | meaning |", "|---|---|---|"]
        lines += [f"| {bit.number} | {key} | {bit.text} |" for key, bit in BITS[name].items()]
    return "\n".join(lines) + "\n"


def markdown():
    """The tables of docs/host.md."""
    return _tables(REGISTERS)


def stream_markdown():
    """Those of the registers of streams."""
    return _tables(STREAM_REGISTERS)
