"""A board in simulation: the accelerator behind its UART bridge, and a pseudo-terminal for a cable.

At *bit level* Python drives and watches the two wires of the line. At *byte level* a UART of the
same RTL stands at its far end, and Python only hands over whole bytes. A bit takes eight clock
cycles, the fewest that the bridge allows.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
import tty
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cocotb
from amaranth import Instance, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from rtl.accelerator import Accelerator
from rtl.config import Configuration
from rtl.flash_loader import HEAD, TAIL, FlashLoader
from rtl.uart import UartReceiver, UartTransmitter
from rtl.uart_bone import UartBone

from .bench import Bench, testbench
from .build import ROOT, Build, build
from .run import run

__all__ = ["LEVELS", "SimulatedBoard", "board", "serve"]

LEVELS = ("byte", "bit")
BIT_CYCLES = 8
TIMEOUT_BITS = 1 << 14
"""Of the bridge: its 0.1 s would be a million cycles, and seconds of waiting."""

FLASH_OFFSET = 1 << 20
"""Where the image lies in the flash, if there is one."""

_FLASH_MODEL = ROOT / "sim" / "flash.v"
_FLASH_FILE = "flash.hex"
_BAUD = 1_000_000
_RATES = BIT_CYCLES * _BAUD, _BAUD
_QUIET_S = 0.2
"""Silence of the host after which the bridge has its timeout, however slow the simulation is."""

_AWAKE_S = 1.0
"""Silence of the host after which the clock stands still."""

_SLICE = 1000
"""Cycles between looks for bytes from the host."""

_BREATH_S = 0.25
_LOOK_S = 0.05
_FOREVER_CYCLES = 10**12
_FOREVER_S = 10**7

_PORT = "port"
_STOP = "stop"


class SimulatedBoard(wiring.Component):
    """An accelerator that is commanded over a UART.

    Parameters
    ----------
    config : Configuration
    level : "byte" or "bit"
    self_load : bool
        Whether it has a flash and loads the image from there.

    Members
    -------
    rx, tx : In(1), Out(1)
        The line, at bit level.
    to_byte, to_turn, to_taken : In(8), In(1), Out(1)
        A byte to the device, at byte level: offered while `to_turn` and `to_taken` differ.
    from_byte, from_turn : Out(8), Out(1)
        A byte from the device, at byte level: a new one whenever `from_turn` changes.
    selected : Out(1)
        Whether the flash is, if it has one: first to be woken, then to be read.
    """

    def __init__(self, config: Configuration, level: str, *, self_load: bool = False) -> None:
        if level not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(LEVELS)}, not {level!r}")
        self.config = config
        self.level = level
        self.self_load = self_load
        wires = {"rx": In(1, init=1), "tx": Out(1, init=1)}
        ends = {"to_byte": In(8), "to_turn": In(1), "to_taken": Out(1)}
        ends |= {"from_byte": Out(8), "from_turn": Out(1)}
        flash = {"selected": Out(1)} if self_load else {}
        super().__init__((wires if level == "bit" else ends) | flash)

    def elaborate(self, platform: object) -> Module:
        """The hardware."""
        m = Module()
        m.submodules.bone = bone = UartBone(*_RATES, timeout=TIMEOUT_BITS / _BAUD)
        m.submodules.accelerator = accelerator = Accelerator(self.config)
        if self.self_load:
            m.submodules.loader = loader = FlashLoader(self.config, FLASH_OFFSET)
            m.submodules.flash = Instance(
                "spi_flash",
                p_OFFSET=FLASH_OFFSET,
                p_BYTES=flash_bytes(self.config),
                i_cs=loader.flash.cs,
                i_clk=loader.flash.clk,
                i_copi=loader.flash.copi,
                o_cipo=loader.flash.cipo,
            )
            m.d.comb += self.selected.eq(loader.flash.cs)
            connect(m, bone.bus, loader.host)
            connect(m, loader.bus, accelerator.bus)
        else:
            connect(m, bone.bus, accelerator.bus)
        if self.level == "bit":
            m.d.comb += [bone.rx.eq(self.rx), self.tx.eq(bone.tx)]
            return m

        m.submodules.far_transmitter = transmitter = UartTransmitter(*_RATES)
        m.submodules.far_receiver = receiver = UartReceiver(*_RATES)
        offered = self.to_turn ^ self.to_taken
        m.d.comb += [
            transmitter.i.payload.eq(self.to_byte),
            transmitter.i.valid.eq(offered),
            bone.rx.eq(transmitter.tx),
            receiver.rx.eq(bone.tx),
        ]
        with m.If(offered & transmitter.i.ready):
            m.d.sync += self.to_taken.eq(self.to_turn)
        with m.If(receiver.valid):
            m.d.sync += [self.from_byte.eq(receiver.data), self.from_turn.eq(~self.from_turn)]
        return m


def flash_bytes(config: Configuration) -> int:
    """How much of a flash a device reads to load its image."""
    return config.coefficient_bytes + 4 * (len(HEAD) + len(TAIL))


def board(config: Configuration, level: str = "byte", *, self_load: bool = False) -> Build:
    """The simulator of a board, built or from the cache."""
    name = f"board_{config.name.replace('-', '_')}_{level}"
    if not self_load:
        return build(SimulatedBoard(config, level), name)
    simulated = SimulatedBoard(config, level, self_load=True)
    return build(simulated, f"{name}_flash", extra_sources=[_FLASH_MODEL])


def serve(
    config: Configuration,
    level: str = "byte",
    *,
    flash: bytes | None = None,
    ready: Callable[[str], None],
    seed: int = 0,
) -> None:
    """Run a board until the process is interrupted.

    Parameters
    ----------
    config, level, seed
    flash
        What the flash holds from `FLASH_OFFSET` on, `flash_bytes` long; None for a board without.
    ready
        Called with the path of the pseudo-terminal that stands for the serial port.

    Raises
    ------
    ValueError
        `flash` has another length.
    SimulationError
        The simulator died.
    """
    if flash is not None and len(flash) != flash_bytes(config):
        raise ValueError(f"flash must have {flash_bytes(config)} bytes, not {len(flash)}")
    built = board(config, level, self_load=flash is not None)
    with TemporaryDirectory() as name, ThreadPoolExecutor(1) as pool:
        folder = Path(name)
        if flash is not None:
            (folder / _FLASH_FILE).write_text(flash.hex("\n"))
        simulation = partial(
            run,
            built,
            __name__,
            "cable",
            parameters={
                "level": level,
                "parent": os.getpid(),
                "self_load": flash is not None,
            },
            seed=seed,
            timeout_cycles=_FOREVER_CYCLES,
            timeout_s=_FOREVER_S,
            directory=folder,
        )
        running = pool.submit(simulation)
        try:
            while not running.done() and not (folder / _PORT).exists():
                time.sleep(_LOOK_S)
            if not running.done():
                ready((folder / _PORT).read_text())
            running.result()
        finally:
            (folder / _STOP).touch()


@testbench
async def cable(bench: Bench) -> None:
    """Carries bytes between the board and a pseudo-terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent's, which then says stop.
    folder, parent = bench.directory, bench.parameters["parent"]
    host, port = os.openpty()
    tty.setraw(port)
    os.set_blocking(host, False)

    def give(byte: int) -> None:
        # A host that does not listen loses bytes, as on a wire.
        with contextlib.suppress(BlockingIOError):
            os.write(host, bytes([byte]))

    ends = {"byte": _Bytes, "bit": _Bits}
    end = ends[bench.parameters["level"]](bench, give)
    if bench.parameters["self_load"]:
        # Done before a computer has found out what was plugged in.
        await bench.dut.selected.falling_edge
        await bench.dut.selected.falling_edge
    (folder / "partial").write_text(os.ttyname(port))
    (folder / "partial").rename(folder / _PORT)

    heard = time.monotonic()
    while os.getppid() == parent and not (folder / _STOP).exists():
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = os.read(host, 4096)
        silence = time.monotonic() - heard
        if data:
            if silence > _QUIET_S:
                await end.quiet()
            await end.send(data)
            heard = time.monotonic()
        elif silence > _AWAKE_S:
            select.select([host], [], [], _BREATH_S)
        else:
            await bench.cycles(_SLICE)


class _End:
    """The far end of the line."""

    def __init__(self, bench: Bench, give: Callable[[int], None]) -> None:
        self._bench, self._dut, self._give = bench, bench.dut, give
        self.last = 0
        """Cycle of the last byte, either way."""
        cocotb.start_soon(self._receive())

    async def quiet(self) -> None:
        """Leave the line alone until the bridge has had its timeout."""
        while (left := self.last + (TIMEOUT_BITS + 16) * BIT_CYCLES - self._bench.cycle) > 0:
            await self._bench.cycles(left)

    async def send(self, data: bytes) -> None:
        """Send bytes to the device."""
        for byte in data:
            await self._send(byte)
            self.last = self._bench.cycle

    async def _send(self, byte: int) -> None:
        raise NotImplementedError

    async def _receive(self) -> None:
        while True:
            byte = await self._next()
            self.last = self._bench.cycle
            self._give(byte)

    async def _next(self) -> int:
        raise NotImplementedError


class _Bytes(_End):
    """Whole bytes."""

    async def _send(self, byte: int) -> None:
        self._dut.to_byte.value = byte
        self._dut.to_turn.value = not self._dut.to_taken.value
        await self._dut.to_taken.value_change

    async def _next(self) -> int:
        await self._dut.from_turn.value_change
        return int(self._dut.from_byte.value)


class _Bits(_End):
    """Levels on wires."""

    def __init__(self, bench: Bench, give: Callable[[int], None]) -> None:
        bench.dut.rx.value = 1
        super().__init__(bench, give)

    async def _send(self, byte: int) -> None:
        for level in (0, *(byte >> n & 1 for n in range(8)), 1):
            self._dut.rx.value = level
            await self._bench.cycles(BIT_CYCLES)

    async def _next(self) -> int:
        await self._dut.tx.falling_edge
        await self._bench.cycles(BIT_CYCLES // 2)
        byte = 0
        for n in range(8):
            await self._bench.cycles(BIT_CYCLES)
            byte |= int(self._dut.tx.value) << n
        await self._bench.cycles(BIT_CYCLES)
        return byte
