"""A real serial port as far as the kernel knows: opening it, losing it."""

from __future__ import annotations

import os
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from insitu.errors import DeviceError, PortError
from insitu.link import Link, LinkError, open_port


class Terminal:
    """A pseudo-terminal: the file of its far end, the path of its near one."""

    def __init__(self) -> None:
        self.far, self._near = os.openpty()
        tty.setraw(self._near)
        self.name = os.ttyname(self._near)
        self._open = True

    def vanish(self) -> None:
        if self._open:
            os.close(self.far)
        self._open = False

    def close(self) -> None:
        self.vanish()
        os.close(self._near)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def test_words_pass(terminal: Terminal) -> None:
    with open_port(terminal.name) as port:
        link = Link(port)
        link.write(0x18, [0x554E4C4B])
        assert os.read(terminal.far, 100) == bytes.fromhex("01 01 00000006 554e4c4b")
        os.write(terminal.far, bytes.fromhex("11223344 00000007"))
        deadline = time.monotonic() + 10
        while port.in_waiting < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(LinkError, match="nobody asked for"):
            link.read(0)
        link.restart()
        assert port.in_waiting == 0


def test_silence(terminal: Terminal) -> None:
    with open_port(terminal.name) as port, pytest.raises(LinkError, match="0 of 4 bytes"):
        Link(port, patience=0.2).read(0)


@pytest.mark.parametrize("name", ["no/such/port", "."])
def test_no_such_port(name: str, tmp_path: Path) -> None:
    with pytest.raises(PortError, match=f"{name} cannot be opened at 1000000 baud") as error:
        open_port(str(tmp_path / name))
    assert "insitu serve" in error.value.next_step or "choose one of" in error.value.next_step


def test_a_file_is_no_port(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PortError, match="file cannot be opened"):
        open_port(str(tmp_path / "file"))


def test_a_port_in_use(terminal: Terminal) -> None:
    with open_port(terminal.name), pytest.raises(PortError, match="cannot be opened"):
        open_port(terminal.name)


@pytest.mark.parametrize(
    "use", [Link.restart, lambda link: link.read(0), lambda link: link.write(0, [1])]
)
def test_a_port_that_vanishes(use: Callable[[Link], object], terminal: Terminal) -> None:
    with open_port(terminal.name) as port:
        link = Link(port)
        terminal.vanish()
        with pytest.raises(DeviceError, match="the serial port has gone"):
            use(link)
