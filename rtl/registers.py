"""What a host sees of the accelerator: memory map, registers, and their bits.

Plain data, for `rtl.host_port`, for the software of a host and for `docs/host.md`. Addresses are
byte addresses of the Wishbone bus; everything is accessed in whole 32-bit words.
"""

from typing import NamedTuple

__all__ = [
    "ACTIVATIONS",
    "COEFFICIENTS",
    "CONTROL_BITS",
    "HARDWARE_VERSION",
    "IDENTITY",
    "IMAGE_FORMAT",
    "REGISTERS",
    "STATUS_BITS",
    "UNLOCK",
    "Bit",
    "Register",
    "geometry",
    "markdown",
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
"""Format of the images the hardware runs (docs/image-format.md)."""

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


REGISTERS = {
    "IDENTITY": Register(0x00, "ro", "`inst`: 0x74736E69"),
    "VERSION": Register(
        0x04, "ro", "hardware major (bits 31-24) and minor (23-16), image format (15-0)"
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
        "32-bit words of the range to check; writing it starts the check; reads as CRC_VALUE",
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
    "clear": Bit(1, "clear done, write_refused, start_refused, fault and access_error"),
}


def version():
    """Value of VERSION."""
    major, minor = HARDWARE_VERSION
    return major << 24 | minor << 16 | IMAGE_FORMAT


def geometry(config):
    """Value of GEOMETRY for a `Configuration`."""
    return (
        config.lanes
        | config.width << 8
        | (config.coefficient_bytes // 1024 - 1) << 12
        | (config.activation_bytes // 1024 - 1) << 22
    )


def markdown():
    """The tables of docs/host.md."""
    lines = ["| offset | register | access | what |", "|---|---|---|---|"]
    for name, register in REGISTERS.items():
        lines.append(f"| 0x{register.offset:02x} | {name} | {register.access} | {register.text} |")
    for name, bits in (("STATUS", STATUS_BITS), ("CONTROL", CONTROL_BITS)):
        lines += ["", f"| {name} bit | name | meaning |", "|---|---|---|"]
        lines += [f"| {bit.number} | {key} | {bit.text} |" for key, bit in bits.items()]
    return "\n".join(lines) + "\n"
