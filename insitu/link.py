"""Words over a serial port: the host's end of the UART bridge (docs/host.md)."""

import contextlib
import os
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import serial
from serial.tools import list_ports

from insitu.errors import DeviceError, PortError
from rtl.registers import IDENTITY, REGISTERS
from rtl.uart_bone import READ, WRITE

__all__ = ["BAUD", "PATIENCE_S", "Link", "LinkError", "Port", "open_port"]

BAUD = 1_000_000
"""Bits a second, by default."""

PATIENCE_S = 3.0
"""Seconds to wait for an answer: many, as a simulated device is some hundred times slower."""

QUIET_S = 0.3
"""Seconds of silence after which the bridge has forgotten whatever it was in."""

_IDENTITY = REGISTERS["IDENTITY"].offset
_LOOK_S = 0.05
_WRITE_S = 10.0

_LONGEST = 256
"""Words of a command."""

_WINDOW = 512
"""Words to write before asking whether they have been taken in."""


class LinkError(Exception):
    """What was said went wrong on the way, or may have: it can be said again."""


class Port(Protocol):
    """What a `Link` needs of a serial port: pyserial's, or one in a test."""

    @property
    def in_waiting(self) -> int:
        """Bytes that can be read at once."""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes: what has come when there are as many, or after a moment."""

    def write(self, data: bytes) -> int | None:
        """Send bytes."""


class Link:
    """Reads and writes the device's words.

    It notices what it can: an answer that does not come in time, bytes that nobody asked for. It
    cannot notice a wrong bit, nor a write that got lost; a `Device` does.

    Parameters
    ----------
    port : Port
    patience : float, optional
        Seconds to wait for the answer to a command.
    now : callable, optional
        The time in seconds.
    """

    def __init__(
        self,
        port: Port,
        *,
        patience: float = PATIENCE_S,
        now: Callable[[], float] = time.monotonic,
    ):
        self._port = port
        self._patience = patience
        self.now = now

    def restart(self) -> None:
        """Make the bridge forget a command cut off, and drop what it still sends.

        Raises
        ------
        LinkError
            If bytes keep coming.
        DeviceError
            If the port has gone.
        """
        begun = heard = self.now()
        while self.now() - heard < QUIET_S:
            if self._take(4096):
                heard = self.now()
            if heard - begun > self._patience:
                raise LinkError("bytes keep coming that nobody asked for")

    def read(self, address: int, count: int = 1) -> list[int]:
        """Words from a byte address on.

        Raises
        ------
        LinkError
            If they do not come in time, or more comes.
        DeviceError
            If the port has gone.
        """
        words: list[int] = []
        while len(words) < count:
            burst = min(count - len(words), _LONGEST)
            self._send(READ, address + 4 * len(words), burst)
            data = self._receive(4 * burst)
            words += [int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4)]
        return words

    def write(self, address: int, words: Sequence[int]) -> None:
        """Write words from a byte address on.

        Many words are written a window at a time, so that no more is under way than the device
        takes in within the patience.

        Raises
        ------
        LinkError
            If the device does not keep up, or sends what nobody asked for.
        DeviceError
            If the port has gone.
        """
        for first in range(0, len(words), _LONGEST):
            if first and first % _WINDOW == 0 and self.read(_IDENTITY) != [IDENTITY]:
                raise LinkError("the device does not say who it is")
            burst = words[first : first + _LONGEST]
            data = b"".join(word.to_bytes(4, "big") for word in burst)
            self._send(WRITE, address + 4 * first, len(burst), data)

    def _send(self, code: int, address: int, count: int, data: bytes = b"") -> None:
        with _port_errors():
            if self._port.in_waiting:
                raise LinkError("bytes came that nobody asked for")
            head = bytes([code, count % _LONGEST]) + (address // 4).to_bytes(4, "big")
            self._port.write(head + data)

    def _receive(self, size: int) -> bytes:
        data = b""
        begun = self.now()
        while len(data) < size:
            data += self._take(size - len(data))
            if self.now() - begun > self._patience and len(data) < size:
                raise LinkError(f"{len(data)} of {size} bytes came within {self._patience:g} s")
        return data

    def _take(self, size: int) -> bytes:
        with _port_errors():
            return self._port.read(size)


@contextlib.contextmanager
def _port_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # pyserial's are
        raise DeviceError(
            f"the serial port has gone: {error}",
            "see that the cable is plugged in and no other program uses the port, then try again",
        ) from None


def open_port(name: str, baud: int = BAUD) -> serial.Serial:
    """Open a serial port, for this program alone.

    Raises
    ------
    PortError
        If there is none of that name, it is in use, or does not know the rate.
    """
    try:
        port = serial.Serial(name, baud, timeout=_LOOK_S, write_timeout=_WRITE_S, exclusive=True)
    except (OSError, ValueError, termios.error) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else error
        found = ", ".join(sorted(info.device for info in list_ports.comports()))
        raise PortError(
            f"port {name} cannot be opened at {baud} baud: {reason}",
            f"choose one of {found}"
            if found
            else "plug the board in, or start a simulated one with insitu serve",
        ) from None
    # Adapters wait up to 16 ms for more to send at once, where they are not told not to.
    with contextlib.suppress(ValueError, OSError, NotImplementedError):
        port.set_low_latency_mode(True)
    return port
