"""ULX3S with an ECP5-25F, 45F or 85F: 25 MHz, USB serial port.

Its flash has 4 MB at least; uncompressed a bitstream takes up to 1.95 MB.
"""

from amaranth_boards.ulx3s import ULX3S_25F_Platform, ULX3S_45F_Platform, ULX3S_85F_Platform

from .board import Board, Flash
from .pll import Ecp5Pll

__all__ = ["BOARDS"]

_FLASH = Flash(offset=2 << 20, size=4 << 20)

BOARDS = (
    Board(
        name="ulx3s-25f",
        platform=ULX3S_25F_Platform,
        pll=Ecp5Pll,
        configuration="ecp5-25f",
        clock_hz=100_000_000,
        loader="ulx3s",
        flash=_FLASH,
    ),
    Board(
        name="ulx3s-45f",
        platform=ULX3S_45F_Platform,
        pll=Ecp5Pll,
        configuration="ecp5-45f",
        clock_hz=100_000_000,
        loader="ulx3s",
        flash=_FLASH,
    ),
    Board(
        name="ulx3s-85f",
        platform=ULX3S_85F_Platform,
        pll=Ecp5Pll,
        configuration="ecp5-85f",
        clock_hz=100_000_000,
        loader="ulx3s",
        flash=_FLASH,
    ),
)
