"""The design on a board: clock, UART port, accelerator, and where asked for the flash loader."""

from amaranth import Instance, Module, ResetSignal
from amaranth.lib import io, wiring
from amaranth.lib.wiring import connect
from amaranth.vendor import LatticeECP5Platform

from rtl.accelerator import Accelerator
from rtl.flash_loader import FlashLoader
from rtl.uart_bone import UartBone

from .board import BAUD, Board

__all__ = ["Top", "leds"]


class Top(wiring.Component):
    """The accelerator of the board's configuration, commanded over the board's UART.

    With `board.self_load` it loads the image from the board's flash when it comes out of reset.

    The first LED says that the clock runs, the second follows what the host sends, where the board
    has them.

    Parameters
    ----------
    board : Board
    """

    def __init__(self, board: Board):
        if not isinstance(board, Board):
            raise TypeError(f"board must be a Board, not {board!r}")
        self.board = board
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        board, config = self.board, self.board.config
        board.pll(board.clock_hz).drive_sync(m)
        m.submodules.uart_bone = bone = UartBone(board.clock_hz, BAUD)
        m.submodules.accelerator = accelerator = Accelerator(config, config.family)
        if board.self_load and board.flash:
            m.submodules.flash_loader = loader = FlashLoader(config, board.flash.offset)
            connect(m, bone.bus, loader.host)
            connect(m, loader.bus, accelerator.bus)
            _connect_flash(m, platform, loader.flash)
        else:
            connect(m, bone.bus, accelerator.bus)

        uart = platform.request("uart", dir="-")
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.Buffer("o", uart.tx)
        m.d.comb += [bone.rx.eq(rx.i), tx.o.eq(bone.tx)]
        lights = zip(leds(platform), (~ResetSignal(), ~rx.i), strict=False)
        for number, (port, light) in enumerate(lights):
            m.submodules[f"led{number}"] = led = io.Buffer("o", port)
            m.d.comb += led.o.eq(light)
        for name in board.high:
            m.submodules[name] = buffer = io.Buffer("o", platform.request(name, dir="-"))
            m.d.comb += buffer.o.eq(1)
        return m


def _connect_flash(m, platform, wires):
    """Lead a loader's wires to the board's flash, which is not to write and not to hold."""
    name = next(one for one in ("spi_flash_1x", "spi_flash") if (one, 0) in platform.resources)
    flash = platform.request(name, dir="-")
    signals = {"cs": wires.cs, "copi": wires.copi, "wp": 0, "hold": 0}
    if isinstance(platform, LatticeECP5Platform):
        # Reached only so: the pin is that of the configuration's clock.
        m.submodules.flash_clk = Instance("USRMCLK", i_USRMCLKI=wires.clk, i_USRMCLKTS=0)
    else:
        signals["clk"] = wires.clk
    for pin, value in signals.items():
        if hasattr(flash, pin):
            m.submodules[f"flash_{pin}"] = buffer = io.Buffer("o", getattr(flash, pin))
            m.d.comb += buffer.o.eq(value)
    m.submodules.flash_cipo = cipo = io.Buffer("i", flash.cipo)
    m.d.comb += wires.cipo.eq(cipo.i)


def leds(platform):
    """Ports of the platform's first LEDs, at most two."""
    if ("rgb_led", 0) in platform.resources:
        led = platform.request("rgb_led", dir="-")
        return [led.g, led.b]
    numbers = [number for number in range(2) if ("led", number) in platform.resources]
    return [platform.request("led", number, dir="-") for number in numbers]
