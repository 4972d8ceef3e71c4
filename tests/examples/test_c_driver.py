"""The C driver, compiled for this machine, against the model of the device, with faults."""

from __future__ import annotations

import ctypes
import subprocess
import zlib
from collections.abc import Callable
from random import Random

import pytest

from insitu.image import Image
from insitu.register_map import c_header
from rtl.config import configuration
from rtl.registers import ACTIVATIONS, COEFFICIENTS, CONTROL_BITS, REGISTERS
from sim.build import ROOT
from tests.insitu.fake_device import FakeDevice, answer, engine, image

FOLDER = ROOT / "examples" / "c"
UP5K = configuration("up5k")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
ERRORS = (
    "OK",
    "NOT_THERE",
    "OTHER_VERSION",
    "OTHER_CONFIGURATION",
    "DOES_NOT_FIT",
    "NOT_LOADED",
    "TIMEOUT",
    "BAD_CRC",
    "FAILED",
)
BASE = 0x9000_0000
AT = {name: register.offset for name, register in REGISTERS.items()}
Word = ctypes.c_uint32
"""Of the bus."""


class CImage(ctypes.Structure):
    _fields_ = [
        ("payload", ctypes.POINTER(Word)),
        ("payload_words", Word),
        ("payload_crc", Word),
        ("input_address", Word),
        ("input_words", Word),
        ("output_address", Word),
        ("output_words", Word),
    ]


class CDevice(ctypes.Structure):
    _fields_ = [
        ("base", ctypes.c_size_t),
        ("patience", Word),
        ("image", ctypes.POINTER(CImage)),
    ]


READ = ctypes.CFUNCTYPE(Word, ctypes.c_size_t, Word)
WRITE = ctypes.CFUNCTYPE(None, ctypes.c_size_t, Word, Word)
BUS = """\
#include "insitu.h"
uint32_t (*on_read)(uintptr_t, uint32_t);
void (*on_write)(uintptr_t, uint32_t, uint32_t);
uint32_t insitu_read(uintptr_t base, uint32_t offset) { return on_read(base, offset); }
void insitu_write(uintptr_t base, uint32_t offset, uint32_t word) { on_write(base, offset, word); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The driver with a bus that Python is at the other end of."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "insitu_registers.h").write_text(c_header(UP5K, "wishbone"))
    (folder / "bus.c").write_text(BUS)
    sources = (str(FOLDER / "insitu.c"), "bus.c")
    flags = ("-DINSITU_OWN_BUS", "-shared", "-fPIC", "-I.", f"-I{FOLDER}", "-o", "driver.so")
    subprocess.run(["cc", *STRICT, *flags, *sources], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "driver.so"))


class Host:
    """A program that uses the driver on a model of the device.

    `spoil` is given each access, the offset (of a write, with bit 0 set) and the word, and gives
    back another word, or None to drop a write.
    """

    def __init__(self, library: ctypes.CDLL, seed: int) -> None:
        self.rng = Random(seed)
        self.device = FakeDevice(UP5K, engine, self.rng)
        self.image: Image = image(self.rng)
        self.spoil: Callable[[int, int | None], int | None] = lambda offset, word: word
        self._library = library
        self.handle = CDevice()

        def read(base: int, offset: int) -> int:
            assert base == BASE
            word = self.device.access(offset // 4)
            spoiled = self.spoil(offset, word)
            return word if spoiled is None else spoiled

        def write(base: int, offset: int, word: int) -> None:
            assert base == BASE
            spoiled = self.spoil(offset | 1, word)
            if spoiled is not None:
                self.device.access(offset // 4, spoiled)

        self._kept = READ(read), WRITE(write)
        for name, function in zip(("on_read", "on_write"), self._kept, strict=True):
            address = ctypes.cast(function, ctypes.c_void_p).value
            ctypes.c_void_p.in_dll(library, name).value = address

    def open(self, patience: int = 100_000) -> str:
        return ERRORS[
            self._library.insitu_open(ctypes.byref(self.handle), ctypes.c_size_t(BASE), patience)
        ]

    def load(self, **changes: int) -> str:
        payload, maps = self.image.payload, self.image.metadata
        words = (Word * (len(payload) // 4)).from_buffer_copy(payload)
        self._c_image = CImage(
            words,
            len(words),
            zlib.crc32(payload),
            maps["input"]["address"],
            maps["input"]["pitch"] // 4,
            maps["output"]["address"],
            maps["output"]["pitch"] // 4,
        )
        for name, value in changes.items():
            setattr(self._c_image, name, value)
        done = self._library.insitu_load(ctypes.byref(self.handle), ctypes.byref(self._c_image))
        return ERRORS[done]

    def infer(self) -> str:
        """Run a random input; an answer that is given out as right must be right."""
        maps = self.image.metadata
        data = self.rng.randbytes(maps["input"]["pitch"])
        given = (Word * (len(data) // 4)).from_buffer_copy(data)
        taken = (Word * (maps["output"]["pitch"] // 4))()
        done = ERRORS[self._library.insitu_infer(ctypes.byref(self.handle), given, taken)]
        if done == "OK":
            assert bytes(taken) == answer(self.image.payload, data, len(bytes(taken)))
        return done


def test_runs(library: ctypes.CDLL, seed: int) -> None:
    host = Host(library, seed)
    assert host.open() == "OK"
    assert host.infer() == "NOT_LOADED"
    for number in range(5):
        assert host.load() == "OK"
        assert host.infer() == host.infer() == "OK"
        assert host.device.runs == 2 * (number + 1)
    library.insitu_cycles.restype = Word
    assert library.insitu_cycles(ctypes.byref(host.handle)) == host.device.cycles


@pytest.mark.parametrize(
    ("register", "bit", "error"),
    [
        ("IDENTITY", 3, "NOT_THERE"),
        ("VERSION", 24, "OTHER_VERSION"),
        ("VERSION", 16, "OK"),
        ("VERSION", 1, "OTHER_VERSION"),
        ("DIGEST", 31, "OTHER_CONFIGURATION"),
    ],
)
def test_looks_before_it_leaps(
    library: ctypes.CDLL, register: str, bit: int, error: str, seed: int
) -> None:
    host = Host(library, seed)
    host.spoil = lambda offset, word: word ^ (offset == AT[register]) << bit
    assert host.open() == error


def test_refuses_what_does_not_fit(library: ctypes.CDLL, seed: int) -> None:
    host = Host(library, seed)
    assert host.open() == "OK"
    for changes in (
        {"payload_words": UP5K.coefficient_bytes // 4 + 1},
        {"input_address": 2},
        {"input_address": UP5K.activation_bytes},
        {"output_words": UP5K.activation_bytes // 4 + 1},
        {"output_address": 0xFFFF_FFFC},
    ):
        assert host.load(**changes) == "DOES_NOT_FIT", changes
        assert host.infer() == "NOT_LOADED"
    assert host.device.locked


def test_sees_a_word_that_arrives_wrong(library: ctypes.CDLL, seed: int) -> None:
    host = Host(library, seed)
    assert host.open() == "OK"
    at = COEFFICIENTS + 4 * host.rng.randrange(len(host.image.payload) // 4)
    bit = host.rng.randrange(32)
    host.spoil = lambda offset, word: word ^ (offset == at | 1) << bit
    assert host.load() == "BAD_CRC"
    assert host.infer() == "NOT_LOADED"
    host.spoil = lambda offset, word: None if offset == AT["LOCK"] | 1 else word
    assert host.load() != "OK", "stays locked"
    host.spoil = lambda offset, word: word
    assert host.load() == "OK"
    assert host.infer() == "OK"


def test_sees_a_run_that_did_not_happen(library: ctypes.CDLL, seed: int) -> None:
    host = Host(library, seed)
    assert host.open() == "OK"
    assert host.load() == "OK"
    start = 1 << CONTROL_BITS["start"].number
    host.spoil = lambda offset, word: None if (offset, word) == (AT["CONTROL"] | 1, start) else word
    assert host.infer() == "FAILED"
    host.spoil = lambda offset, word: word
    host.device.locked = False
    assert host.infer() == "FAILED"
    host.device.locked = True
    assert host.infer() == "OK"

    def fault(offset: int, word: int | None) -> int | None:
        if offset == ACTIVATIONS + host.image.metadata["output"]["address"]:
            host.device.flags.add("fault")
        return word

    host.spoil = fault
    assert host.infer() == "FAILED"


def test_gives_up(library: ctypes.CDLL, seed: int) -> None:
    host = Host(library, seed)
    assert host.open(patience=50) == "OK"
    host.device.crc_until = host.device.time + 10_000
    host.device.checking = 1
    assert host.load() == "TIMEOUT"


def test_every_error_has_a_message(library: ctypes.CDLL) -> None:
    library.insitu_message.restype = ctypes.c_char_p
    messages = [library.insitu_message(number).decode() for number in range(len(ERRORS) + 1)]
    assert len(set(messages)) == len(messages)
    assert messages[-1] == "no such error"
    assert all(": " in message for message in messages[1:-1])


def test_driver_is_short() -> None:
    lines = sum(len((FOLDER / name).read_text().splitlines()) for name in ("insitu.c", "insitu.h"))
    assert lines < 200
