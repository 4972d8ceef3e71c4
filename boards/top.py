"""The design on a board: clock, UART port, accelerator."""

from amaranth import Module, ResetSignal
from amaranth.lib import io, wiring
from amaranth.lib.wiring import connect

from rtl.accelerator import Accelerator
from rtl.uart_bone import UartBone

from .board import BAUD, Board

__all__ = ["Top"]


class Top(wiring.Component):
    """The accelerator of the board's configuration, commanded over the board's UART.

    The first LED says that the clock runs, the second follows what the host sends.

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
        connect(m, bone.bus, accelerator.bus)

        uart = platform.request("uart", dir="-")
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.Buffer("o", uart.tx)
        m.d.comb += [bone.rx.eq(rx.i), tx.o.eq(bone.tx)]
        for number, light in enumerate((~ResetSignal(), ~rx.i)):
            led = io.Buffer("o", platform.request("led", number, dir="-"))
            m.submodules[f"led{number}"] = led
            m.d.comb += led.o.eq(light)
        return m
