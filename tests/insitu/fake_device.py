"""A device and a serial port that cost no hardware and no time: models, with faults to order.

`FakeDevice` is bridge, host port and memories by docs/host.md; `tests/insitu/test_fake_device.py`
holds it against the RTL. Time is counted in bits of the line.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random

from insitu.image import Image
from insitu.maps import Map
from rtl.config import CONFIGURATIONS, Configuration
from rtl.registers import (
    CONTROL_BITS,
    FIELDS,
    IDENTITY,
    REGISTERS,
    STATUS_BITS,
    UNLOCK,
    SelfLoad,
    geometry,
    version,
)
from rtl.uart_bone import READ, WRITE

BAUD = 1_000_000
BYTE = 10
TIMEOUT = 131072
BIT_CYCLES = 24
CRC_BITS = 2  # a word
UNDEFINED = 0xDEADC0DE
"""What a read says that ended in ``err``."""

_INDEX = {name: register.offset // 4 for name, register in REGISTERS.items()}

Engine = Callable[[bytearray, bytearray], int]
"""Does to the memories (coefficients, activations) what a run does; the bits that it takes."""


class FakeDevice:
    """Takes bytes and gives bytes, each with its time.

    ``sent`` holds (time, byte): when the last bit is out.
    """

    def __init__(
        self, config: Configuration, engine: Engine, rng: Random, *, timeout: int = TIMEOUT
    ):
        self.config, self.engine, self.rng, self.timeout = config, engine, rng, timeout
        self.sent: deque[tuple[int, int]] = deque()
        self.memories = (bytearray(config.coefficient_bytes), bytearray(config.activation_bytes))
        self.runs = 0
        self.interrupted = False
        self.self_load = SelfLoad.ABSENT
        self.reading_until = 0
        """Till then it shows that it reads its flash."""
        self.time = 0
        self.reset()

    def reset(self, *, wipe: bool = True) -> None:
        """Configure the FPGA again: memories hold anything after it; else the registers alone."""
        if wipe:
            for memory in self.memories:
                memory[:] = self.rng.randbytes(len(memory))
        self.locked = True
        self.flags: set[str] = set()  # done, and what a clear clears
        self.cycles = 0
        self.crc = self.rng.getrandbits(32)
        self.range: list[int] = [0, 0]  # memory, word
        self.busy_until = self.crc_until = self.time
        self.running = False
        self.checking = 0
        self.state = "command"
        self.heard = self.time

    # --- the bridge ---

    def receive(self, byte: int, at: int) -> None:
        """A byte whose last bit is in at a time."""
        self.advance(at)
        self.time = self.heard = at
        if self.state in ("bus", "send", "quiet"):
            self.state = "quiet"
            self.interrupted = True
        elif self.state == "command":
            self.left = b""
            if byte in (READ, WRITE):
                self.write = byte == WRITE
                self.state = "length"
        elif self.state == "length":
            self.words = byte or 256
            self.state = "address"
        else:
            self.left += bytes([byte])
            if len(self.left) == 4:
                value, self.left = int.from_bytes(self.left, "big"), b""
                if self.state == "address":
                    self.address = value
                    self.state = "data" if self.write else "bus"
                else:
                    self.value = value
                    self.state = "bus"
                self.advance(at)

    def advance(self, until: int, wanted: int | None = None) -> None:
        """Let time pass, till so many bytes have been sent if that is earlier."""
        while wanted is None or len(self.sent) < wanted:
            if self.state == "bus":
                ready = max(self.time, self._ready())
                given_up = self.heard + self.timeout
                if min(ready, given_up) > until:
                    break
                if ready < given_up:
                    self.time = ready
                    self._access()
                else:
                    self.time = given_up
                    self.state = "command"
            elif self.state == "send":
                if self.time > until:
                    break
                self.heard = self.time
                self.time += BYTE
                self.sent.append((self.time, self.left[0]))
                self.left = self.left[1:]
                if not self.left:
                    self.state = "bus" if self.words else "command"
            elif self.state != "command" and self.heard + self.timeout <= until:
                self.state = "command"
            else:
                break

    def _access(self) -> None:
        read = self._bus(self.address % (1 << 20), self.value if self.write else None)
        self.address += 1
        self.words -= 1
        if self.write:
            self.state = "data" if self.words else "command"
        else:
            self.left = read.to_bytes(4, "big")
            self.state = "send"

    # --- the host port ---

    def access(self, address: int, value: int | None = None) -> int:
        """A write or a read on the bus itself, at a word address; it waits as long as it must."""
        self.address = address
        self.time = max(self.time + 1, self._ready())
        return self._bus(address, value)

    def _ready(self) -> int:
        """When the access at hand can be served."""
        address = self.address % (1 << 20)
        if self._illegal(address) or not (address >> 18 or address & 8):
            return 0
        return max(self.crc_until, self.busy_until if address >> 18 else 0)

    def _illegal(self, address: int) -> bool:
        region, word = address >> 18, address % (1 << 18)
        sizes = 64, *(len(memory) for memory in self.memories), 0
        return 4 * word >= sizes[region]

    def _finish(self) -> None:
        """What has come to its end by now."""
        if self.running and self.time >= self.busy_until:
            self.running = False
            self.flags.add("done")
        if self.checking and self.time >= self.crc_until:
            memory, word = self.range
            data = self.memories[memory]
            message = (data * 3)[4 * word : 4 * (word + self.checking)]
            self.crc = zlib.crc32(message)
            self.range[1] = (word + self.checking) % (len(data) // 4)
            self.checking = 0

    def _bus(self, address: int, value: int | None) -> int:
        self._finish()
        region, word = address >> 18, address % (1 << 18)
        memory = region - 1
        if self._illegal(address):
            self.flags.add("access_error")
            return UNDEFINED
        if not region:
            return self._read(word) if value is None else self._write(word, value)
        if memory == 0 and value is not None and self.locked:
            self.flags.add("write_refused")
            return 0
        self.range = [memory, word]
        at = slice(4 * word, 4 * word + 4)
        if value is not None:
            self.memories[memory][at] = value.to_bytes(4, "little")
        return int.from_bytes(self.memories[memory][at], "little")

    def status(self) -> int:
        """The register."""
        self._finish()
        on = self.flags | ({"locked"} if self.locked else set())
        on |= {"busy"} if self.running else set()
        on |= {"crc_busy"} if self.checking else set()
        state = SelfLoad.READING if self.time < self.reading_until else self.self_load
        field = state << FIELDS["STATUS"]["self_load"].low
        return field + sum(1 << STATUS_BITS[name].number for name in on)

    def _read(self, index: int) -> int:
        if index < 4:
            return (IDENTITY, version(), geometry(self.config), self.config.digest)[index]
        if index == _INDEX["CYCLES"]:
            return self.cycles
        return self.crc if index >= 8 else self.status()

    def _write(self, index: int, value: int) -> int:
        if index == _INDEX["CONTROL"]:
            if value >> CONTROL_BITS["clear"].number & 1:
                self.flags.clear()
            if value >> CONTROL_BITS["start"].number & 1:
                self._start()
        elif index == _INDEX["LOCK"]:
            self.locked = value != UNLOCK
        elif index == _INDEX["CRC_ADDRESS"]:
            self.range = [value >> 21 & 1, value // 4 % (len(self.memories[0]) // 4)]
        elif index == _INDEX["CRC_LENGTH"]:
            self.crc = 0
            self.checking = value % (len(self.memories[0]) // 2)
            self.crc_until = max(self.time, self.busy_until) + CRC_BITS * self.checking
        return 0

    def _start(self) -> None:
        if not self.locked or self.running or self.checking:
            self.flags.add("start_refused")
            return
        self.flags -= {"done", "fault"}
        self.runs += 1
        took = self.engine(*self.memories)
        self.cycles = took * BIT_CYCLES
        self.busy_until = self.time + took
        self.running = True


# --- something to run ---


def answer(payload: bytes, inputs: bytes, size: int) -> bytes:
    """An answer that hangs on every bit of payload and inputs."""
    return hashlib.shake_128(payload + inputs).digest(size)


def engine(coefficients: bytearray, activations: bytearray) -> int:
    """Runs what `image` makes, or whatever there is: never a fault, so that nothing is noticed.

    The output lies where the input was, so that a second run gives another.
    """
    words = [int.from_bytes(coefficients[at : at + 4], "little") for at in range(0, 20, 4)]
    length = 4 * (words[0] % 1024)
    source, size, target, result = (word % 4096 for word in words[1:])
    got = answer(bytes(coefficients[:length]), bytes(activations[source : source + size]), result)
    activations[target : target + result] = got
    return 500


def image(rng: Random, words: int = 40) -> Image:
    """An image for `engine`."""
    inputs, outputs = (4 * rng.randint(1, 12) for _ in range(2))
    source, target = (4 * rng.randint(0, 3) for _ in range(2))
    head = (words, source, inputs, target, outputs)
    payload = b"".join(value.to_bytes(4, "little") for value in head)
    payload += rng.randbytes(4 * words - len(payload))
    maps = {
        name: Map(name, (1, 1, size), size, address, 0).report() | {"scale": 1.0}
        for name, size, address in (("input", inputs, source), ("output", outputs, target))
    }
    config = CONFIGURATIONS["up5k"]
    layer = {
        "name": "fake",
        "dataflow": "stored",
        "inputs": [maps["input"]],
        "output": maps["output"],
        "operations": [],
        "ranks": {},
        "precisions": {},
        "weight_bytes": 0,
        "cost": {"cycles": 11_000, "ideal": 10_000, "bound": "array"},
    }
    metadata = {
        "network": "fake",
        "configuration": config.name,
        **maps,
        "layers": [layer],
        "weight_bytes": 0,
        "dense_int8_bytes": 0,
        "program_bytes": 0,
        "payload_bytes": len(payload),
        "coefficient_bytes": config.coefficient_bytes,
        "activation_bytes": config.activation_bytes,
        "activation_bytes_used": 4096,
        "cycles": 12_000,
        "ideal_cycles": 10_000,
        "frames_per_second": 2750.0,
        "clock_mhz": config.clock_hz / 1e6,
    }
    return Image(config.digest, metadata, payload, b"")


# --- the line, and what may happen on it ---


@dataclass(frozen=True)
class Fault:
    """Happens to one byte of one direction: "drop", "double", "flip", "late", "reset", "vanish".

    ``amount``: the bit that is flipped; how late, in bits; whether a reset wipes the memories.
    """

    kind: str
    amount: int = 0


class FakePort:
    """A serial port with a device at its other end.

    ``faults`` maps (direction, number of the byte) to what happens to it; direction "out" is to the
    device. ``noise`` maps kinds of fault to the probability that a byte meets them.
    """

    def __init__(
        self,
        device: FakeDevice,
        faults: Mapping[tuple[str, int], Fault] | None = None,
        noise: Mapping[str, float] | None = None,
        *,
        limit_s: float = 3600,
    ) -> None:
        self._device, self._faults, self._noise = device, dict(faults or {}), dict(noise or {})
        self._limit = limit_s * BAUD
        self._arrived: deque[tuple[int, int]] = deque()
        self._late = 0
        self._gone = False
        self.time = 0
        self.bytes = {"in": 0, "out": 0}

    def now(self) -> float:
        """Seconds."""
        return self.time / BAUD

    @property
    def in_waiting(self) -> int:
        self._check()
        self._device.advance(self.time)
        self._carry()
        return sum(at <= self.time for at, _ in self._arrived)

    def write(self, data: bytes) -> int:
        for byte in data:
            self._check()
            self.time += BYTE
            for each in self._through("out", byte):
                self._device.receive(each, self.time)
        return len(data)

    def read(self, size: int) -> bytes:
        self._check()
        deadline = self.time + BAUD // 20
        # What is under way on the line comes in order, so no more is needed than as many as wanted.
        while len(self._arrived) < size:
            self._device.advance(deadline, wanted=1)
            if not self._carry():
                break
        got = []
        while len(got) < size and self._arrived and self._arrived[0][0] <= deadline:
            at, byte = self._arrived.popleft()
            self.time = max(self.time, at)
            got.append(byte)
        if len(got) < size:
            self.time = deadline
        return bytes(got)

    def _check(self) -> None:
        if self._gone:
            raise OSError(5, "Input/output error")
        if self.time > self._limit:
            raise AssertionError(f"no end after {self.now():.0f} s")

    def _carry(self) -> bool:
        """From the device towards the host; whether there was anything."""
        sent = self._device.sent
        any_sent = bool(sent)
        while sent:
            at, byte = sent.popleft()
            for each in self._through("in", byte):
                self._late = max(at, self._late)
                self._arrived.append((self._late, each))
        return any_sent

    def _through(self, way: str, byte: int) -> Iterable[int]:
        number = self.bytes[way]
        self.bytes[way] += 1
        fault = self._faults.get((way, number))
        if fault is None and self._noise:
            fault = self._by_chance()
        if fault is None:
            return (byte,)
        if fault.kind == "drop":
            return ()
        if fault.kind == "double":
            if way == "out":
                # The second takes its time as well.
                self._device.receive(byte, self.time)
                self.time += BYTE
                return (byte,)
            return (byte, byte)
        if fault.kind == "flip":
            return (byte ^ 1 << fault.amount,)
        if fault.kind == "late":
            if way == "out":
                self.time += fault.amount
            else:
                self._late = max(self._late, self._device.time) + fault.amount
        elif fault.kind == "reset":
            self._device.advance(self.time)
            self._device.time = self.time
            self._device.reset(wipe=bool(fault.amount))
        elif fault.kind == "vanish":
            self._gone = True
        return (byte,)

    def _by_chance(self) -> Fault | None:
        rng = self._device.rng
        for kind, probability in self._noise.items():
            if rng.random() < probability:
                return random_fault(rng, kind)
        return None


def random_fault(rng: Random, kind: str) -> Fault:
    """A fault of a kind."""
    if kind == "late":
        return Fault(kind, round(10 ** rng.uniform(1, 7)))
    return Fault(kind, rng.randrange(8 if kind == "flip" else 2))
