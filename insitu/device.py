"""A device on a serial port: what it is, loading an image, running inputs (docs/host.md).

The link has no checksum, so nothing is believed because it was sent. What counts is the CRC of a
range, read from the device's memory, and its status; where either is not as it must be, the whole
step is done again.
"""

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from insitu.errors import DeviceError, ImageError
from insitu.image import Image
from insitu.link import PATIENCE_S, Link, LinkError
from insitu.maps import Map
from insitu.progress import Progress
from rtl.config import CONFIGURATIONS, Configuration
from rtl.registers import (
    ACTIVATIONS,
    COEFFICIENTS,
    CONTROL_BITS,
    FIELDS,
    HARDWARE_VERSION,
    IDENTITY,
    IMAGE_FORMAT,
    REGISTERS,
    STATUS_BITS,
    UNLOCK,
    SelfLoad,
)

__all__ = ["ATTEMPTS", "Batch", "Device", "Identity", "Loaded", "memory_contents"]

T = TypeVar("T")

ATTEMPTS = 5
"""How often a step is tried."""

_AT = {name: register.offset for name, register in REGISTERS.items()}
_STATUS = {name: 1 << bit.number for name, bit in STATUS_BITS.items()}
_CONTROL = {name: 1 << bit.number for name, bit in CONTROL_BITS.items()}
_SELF_LOAD = FIELDS["STATUS"]["self_load"]
_SELF_LOAD_MASK = (1 << _SELF_LOAD.bits) - 1 << _SELF_LOAD.low
_IDLE = _STATUS["locked"]
_DONE = _STATUS["locked"] | _STATUS["done"]

_SLOWEST_HZ = 20_000
"""Clock cycles a second of the slowest device: a simulated one on a busy machine."""

_LEFTOVER_CYCLES = 60 * _SLOWEST_HZ
"""For whatever runs when a host comes: a minute."""

_CHECK_CYCLES = 64
"""More than the check of a range takes a word."""

_SELF_LOAD_CYCLES = 256
"""More than a word from the flash takes, with its check."""

_AT_ONCE = 1024
"""Words that are checked well within the bridge's timeout."""

_NOTE = struct.Struct("<IIIII")
_NOTE_MAGIC = int.from_bytes(b"note", "little")
_NOTE_BYTES = 4096
"""More than a note has."""

_WIRING = "check the port, --baud and the cable, and that the board is programmed: insitu program"
_NOISE = "check the cable, or try a lower rate with --baud"
_LOAD = "load an image: insitu load IMAGE --port PORT"


@dataclass(frozen=True)
class Identity:
    """What a device says of itself.

    Parameters
    ----------
    hardware : (int, int)
        Major and minor version.
    image_format : int
    lanes, width : int
    coefficient_bytes, activation_bytes : int
    digest : int
    """

    hardware: tuple[int, int]
    image_format: int
    lanes: int
    width: int
    coefficient_bytes: int
    activation_bytes: int
    digest: int

    @property
    def configuration(self) -> Configuration | None:
        """The named configuration, where this program knows it."""
        same = (one for one in CONFIGURATIONS.values() if one.digest == self.digest)
        return next(same, None)

    @property
    def name(self) -> str:
        """Its name, for messages."""
        return self.configuration.name if self.configuration else "a configuration unknown here"


@dataclass(frozen=True)
class Loaded:
    """What a host has to know of the image in a device.

    Parameters
    ----------
    network : str
    digest : int
        Of the configuration that it is for.
    input, output : Map
    input_scale : float
    payload_bytes, payload_crc : int
    cycles : int
        Predicted, of an inference.
    """

    network: str
    digest: int
    input: Map
    output: Map
    input_scale: float
    payload_bytes: int
    payload_crc: int
    cycles: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.input.shape

    @property
    def input_zero_point(self) -> int:
        """That of the input."""
        return self.input.zero_point

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.output.shape

    def report(self) -> dict[str, Any]:
        """What it is, as plain data."""
        return {
            "network": self.network,
            "payload_bytes": self.payload_bytes,
            "payload_crc": f"{self.payload_crc:08x}",
            "predicted_cycles": self.cycles,
        }

    @classmethod
    def of(
        cls, metadata: dict[str, Any], digest: int, payload_bytes: int, payload_crc: int
    ) -> "Loaded":
        """From an image's metadata, or those of a note."""
        scale = float(metadata["input"]["scale"])
        if not 0 < scale < float("inf"):
            raise ValueError(f"the input's scale must be positive and finite, not {scale}")
        return cls(
            network=str(metadata["network"]),
            digest=digest,
            input=Map.from_report(metadata["input"]),
            output=Map.from_report(metadata["output"]),
            input_scale=scale,
            payload_bytes=payload_bytes,
            payload_crc=payload_crc,
            cycles=int(metadata["cycles"]),
        )

    @classmethod
    def of_image(cls, image: Image) -> "Loaded":
        """From an image.

        Raises
        ------
        ImageError
            If its metadata does not say what is needed.
        """
        try:
            crc = zlib.crc32(image.payload)
            return cls.of(image.metadata, image.digest, len(image.payload), crc)
        except (KeyError, TypeError, ValueError) as error:
            raise ImageError(
                f"image has metadata that is no use: {error!r}",
                "compile the model again with insitu compile",
            ) from None


@dataclass(frozen=True)
class Batch:
    """Inputs that have been run.

    Parameters
    ----------
    outputs : tuple of bytes
        The output map of each.
    cycles : int
        Of an inference, counted by the device.
    seconds : float
        From the first input to the last output, with all that was said.
    """

    outputs: tuple[bytes, ...]
    cycles: int
    seconds: float


class Device:
    """The host's side of docs/host.md.

    Parameters
    ----------
    link : Link
    progress : callable, optional

    Attributes
    ----------
    identity : Identity
    self_load : SelfLoad
        Whether it has loaded an image by itself; waited for, if it was at it.
    retries : int
        Steps that had to be done again so far.

    Raises
    ------
    DeviceError
        If nothing answers, or what answers is not an accelerator that this program can drive.
    """

    def __init__(self, link: Link, *, progress: Progress | None = None):
        self._link = link
        self._tell = progress or (lambda done, total, what: None)
        self.retries = 0
        self._tell(0, None, "looking for the device")
        self._restart(_WIRING)
        self.identity = self._retry("the device cannot be identified", self._identify, _WIRING)
        found = self.identity
        if found.hardware[0] != HARDWARE_VERSION[0] or found.image_format != IMAGE_FORMAT:
            raise DeviceError(
                f"the device has hardware {found.hardware[0]}.{found.hardware[1]} for images of "
                f"format {found.image_format}, this insitu drives hardware "
                f"{HARDWARE_VERSION[0]}.x with format {IMAGE_FORMAT}",
                "build and program the board again: insitu build, insitu program",
            )
        what = "the device does not say whether it has loaded an image by itself"
        self.self_load = self._retry(what, self._end_of_self_load)

    # --- steps ---

    def load(self, image: Image) -> Loaded:
        """Load an image, and make sure that it arrived.

        Raises
        ------
        ImageError
            If it is for another configuration, or does not fit.
        DeviceError
            If it does not arrive whole in some attempts.
        """
        self._check_image(image)
        loaded = Loaded.of_image(image)
        parts = memory_contents(image, self.identity.coefficient_bytes)

        def attempt() -> None:
            self._settle()
            self._write("LOCK", UNLOCK)
            for address, data in parts.items():
                self._link.write(COEFFICIENTS + address, _words(data))
            self._write("LOCK", 0)
            for address, data in parts.items():
                self._expect(COEFFICIENTS + address, data, _IDLE)

        self._tell(0, None, f"loading {loaded.network}, {len(image.payload):,} bytes")
        self._retry(f"{loaded.network} cannot be loaded", attempt)
        return loaded

    def loaded(self) -> Loaded | None:
        """What is loaded, as the device's own note has it; None if there is no image, or no note.

        Raises
        ------
        DeviceError
            If the link fails.
        """
        loaded = self._retry("the device does not say what is loaded", self._read_note)
        return loaded if loaded is not None and self.holds(loaded) else None

    def holds(self, loaded: Loaded) -> bool:
        """Whether the device has just this image.

        Raises
        ------
        DeviceError
            If the link fails.
        """
        # Memory may outlast another bitstream's coming.
        if loaded.digest != self.identity.digest:
            return False

        def attempt() -> bool:
            self._settle()
            found = self._check(COEFFICIENTS, loaded.payload_bytes // 4)
            if found == (_IDLE, loaded.payload_crc):
                return True
            if found[0] & ~_IDLE:
                raise LinkError(_explain(found[0]))
            # It is another only if it says so twice.
            if self._check(COEFFICIENTS, loaded.payload_bytes // 4) != found:
                raise LinkError("the device contradicts itself")
            return False

        return self._retry("the image in the device cannot be checked", attempt)

    def run(self, loaded: Loaded, inputs: Sequence[bytes]) -> Batch:
        """Run inputs, one after another.

        Each is the bytes of the input map. Nothing is returned unless all of it is right.

        Raises
        ------
        ImageError
            If the maps of the image are not within the device's memory.
        DeviceError
            If the link or the device fails, in each of some attempts, or the image is no longer
            what it was.
        """
        for one in (loaded.input, loaded.output):
            if one.address % 4 or one.address + one.span > self.identity.activation_bytes:
                raise ImageError(
                    f"{loaded.network} has its map {one.name} at {one.address}, {one.span} bytes, "
                    f"and the device has {self.identity.activation_bytes}",
                    "compile the model again with insitu compile",
                )
        begun = self._link.now()
        outputs = []
        for number, data in enumerate(inputs):
            self._tell(number, len(inputs), f"running {loaded.network}")
            run = partial(self._run, loaded, data)
            outputs.append(self._retry(f"sample {number} cannot be run", run))
        # A device that was reset on the way has lost its image, and ran something else since.
        if not self.holds(loaded):
            raise DeviceError(
                f"the device has lost {loaded.network}: it was reset, or its supply failed", _LOAD
            )
        seconds = self._link.now() - begun
        self._tell(len(inputs), len(inputs), f"running {loaded.network}")
        (cycles,) = self._retry("the cycles cannot be read", partial(self._twice, _AT["CYCLES"], 1))
        return Batch(tuple(outputs), cycles, seconds)

    def _run(self, loaded: Loaded, data: bytes) -> bytes:
        """One input, once. Only reads are sent between the start and the output's last byte."""
        self._settle()
        source, target = loaded.input, loaded.output
        padded = data + bytes(-len(data) % 4)
        self._link.write(ACTIVATIONS + source.address, _words(padded))
        self._expect(ACTIVATIONS + source.address, padded, _IDLE)
        self._write("CONTROL", _CONTROL["start"])
        self._wait(loaded.cycles, "busy")
        words = self._link.read(ACTIVATIONS + target.address, -(-target.span // 4))
        output = b"".join(word.to_bytes(4, "little") for word in words)
        self._expect(ACTIVATIONS + target.address, output, _DONE)
        return output[: target.span]

    def _identify(self) -> Identity:
        said = self._twice(_AT["IDENTITY"], 4)
        identity, version, geometry, digest = said
        if identity != IDENTITY:
            raise LinkError(f"it says 0x{identity:08x} where the accelerator says 0x{IDENTITY:08x}")
        return Identity(
            hardware=(version >> 24, version >> 16 & 0xFF),
            image_format=version & 0xFFFF,
            lanes=geometry & 0xFF,
            width=geometry >> 8 & 0xF,
            coefficient_bytes=1024 * ((geometry >> 12 & 0x3FF) + 1),
            activation_bytes=1024 * ((geometry >> 22) + 1),
            digest=digest,
        )

    def _end_of_self_load(self) -> SelfLoad:
        """How it ended; nothing but registers may be touched before that."""
        cycles = self.identity.coefficient_bytes // 4 * _SELF_LOAD_CYCLES
        limit = PATIENCE_S + cycles / _SLOWEST_HZ
        begun = self._link.now()
        while (state := self._read_self_load()) == SelfLoad.READING:
            if self._link.now() - begun > limit:
                raise DeviceError(
                    f"the device is still reading its flash after {limit:.0f} s", "reset the board"
                )
        if self._read_self_load() != state:
            raise LinkError("the device contradicts itself")
        return state

    def _read_self_load(self) -> SelfLoad:
        (status,) = self._link.read(_AT["STATUS"])
        try:
            return SelfLoad((status & _SELF_LOAD_MASK) >> _SELF_LOAD.low)
        except ValueError:
            raise LinkError(f"STATUS shows 0x{status:08x}") from None

    def _read_note(self) -> Loaded | None:
        self._settle()
        size = self.identity.coefficient_bytes
        at = COEFFICIENTS + size - _NOTE.size
        tail = _bytes(self._twice(at, _NOTE.size // 4))
        magic, length, payload_bytes, payload_crc, crc = _NOTE.unpack(tail)
        if magic != _NOTE_MAGIC or length > _NOTE_BYTES or payload_bytes > size:
            return None
        padded = length + -length % 4
        text = _bytes(self._twice(at - padded, padded // 4))[:length]
        if zlib.crc32(tail[:-4], zlib.crc32(text)) != crc:
            return None
        try:
            said = json.loads(text)
            return Loaded.of(said, int(said["digest"]), payload_bytes, payload_crc)
        except (KeyError, TypeError, ValueError):
            return None

    def _check_image(self, image: Image) -> None:
        """Whether an image is one for this device."""
        found = self.identity
        if image.digest != found.digest:
            raise ImageError(
                f"the image is for {image.metadata['configuration']} (digest {image.digest:08x}), "
                f"the device is {found.name} (digest {found.digest:08x})",
                "compile the model for it: insitu compile MODEL -o IMAGE --config "
                f"{found.configuration.name if found.configuration else 'NAME'}",
            )
        if len(image.payload) > found.coefficient_bytes:
            raise ImageError(
                f"the image has {len(image.payload)} bytes for a memory of "
                f"{found.coefficient_bytes}",
                "compile the model again with insitu compile",
            )

    # --- what steps are made of ---

    def _retry(self, what: str, step: Callable[[], T], next_step: str = _NOISE) -> T:
        """Take a step until it succeeds, from a fresh start each time."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return step()
            except LinkError as error:
                fault = error
            if attempt < ATTEMPTS:
                self.retries += 1
                self._restart(next_step)
        raise DeviceError(f"{what}: {fault}, at the last of {ATTEMPTS} attempts", next_step)

    def _restart(self, next_step: str) -> None:
        try:
            self._link.restart()
        except LinkError as error:
            raise DeviceError(f"the line is never quiet: {error}", next_step) from None

    def _settle(self) -> None:
        """Wait until nothing is at work, and forget what was: flags, and the last CRC."""
        self._wait(_LEFTOVER_CYCLES, "busy", "crc_busy")
        self._write("CONTROL", _CONTROL["clear"])
        self._expect(COEFFICIENTS, b"")

    def _wait(self, cycles: int, *names: str) -> None:
        """Wait for bits of STATUS to go, which they do within some cycles."""
        limit = PATIENCE_S + cycles / _SLOWEST_HZ
        begun = self._link.now()
        while self._link.read(_AT["STATUS"])[0] & sum(_STATUS[name] for name in names):
            if self._link.now() - begun > limit:
                raise DeviceError(
                    f"the device is still at work after {limit:.0f} s ({', '.join(names)})",
                    "reset the board, and load the image again",
                )

    def _expect(self, address: int, data: bytes, status: int | None = None) -> None:
        """Check that memory holds `data`, and that STATUS is as given."""
        found, crc = self._check(address, len(data) // 4)
        if status is not None and found != status:
            raise LinkError(_explain(found))
        if crc != zlib.crc32(data):
            raise LinkError(f"{len(data)} bytes are not in the device as they should be")

    def _check(self, address: int, words: int) -> tuple[int, int]:
        """STATUS, but for crc_busy and self_load, and the CRC of a range."""
        self._link.write(_AT["CRC_ADDRESS"], [address, words])
        if words > _AT_ONCE:
            self._wait(words * _CHECK_CYCLES, "crc_busy")
        # From STATUS to CRC_VALUE: CONTROL and LOCK read as the one, the last three as the other.
        said = self._link.read(_AT["STATUS"], (_AT["CRC_VALUE"] - _AT["STATUS"]) // 4 + 1)
        statuses = {word & ~_STATUS["crc_busy"] & ~_SELF_LOAD_MASK for word in said[:3]}
        values = set(said[-3:])
        if len(statuses) > 1 or len(values) > 1:
            raise LinkError("the device contradicts itself")
        return statuses.pop(), values.pop()

    def _twice(self, address: int, count: int) -> list[int]:
        """Words that are the same when read again."""
        words = self._link.read(address, count)
        if self._link.read(address, count) != words:
            raise LinkError("the device contradicts itself")
        return words

    def _write(self, register: str, value: int) -> None:
        self._link.write(_AT[register], [value])


def memory_contents(image: Image, size: int) -> dict[int, bytes]:
    """What is to be in a coefficient memory of some bytes, by address.

    That is the payload, and at the end of the memory the note, if there is room for it.

    Raises
    ------
    ImageError
        If the image's metadata does not say what a note needs.
    """
    note = _note(image, Loaded.of_image(image))
    parts = {0: image.payload}
    if len(image.payload) + len(note) <= size:
        parts[size - len(note)] = note
    return parts


def _note(image: Image, loaded: Loaded) -> bytes:
    """What `load` leaves at the end of the coefficient memory, for hosts to come."""
    said = {key: image.metadata[key] for key in ("network", "input", "output", "cycles")}
    said["digest"] = image.digest
    text = json.dumps(said, separators=(",", ":")).encode()
    head = _NOTE.pack(_NOTE_MAGIC, len(text), loaded.payload_bytes, loaded.payload_crc, 0)[:-4]
    crc = struct.pack("<I", zlib.crc32(head, zlib.crc32(text)))
    return text + bytes(-len(text) % 4) + head + crc


def _words(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def _bytes(words: Sequence[int]) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def _explain(status: int) -> str:
    """STATUS in words."""
    named = [name for name, bit in _STATUS.items() if status & bit]
    return f"STATUS shows {', '.join(named) or 'nothing'} (0x{status:08x})"
