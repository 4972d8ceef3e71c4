"""ECPIX-5 with an ECP5-5G-45F or 85F, which have one speed grade: 100 MHz, USB serial port.

Its flash has 16 MB; uncompressed a bitstream takes up to 1.95 MB.
"""

from amaranth_boards.ecpix5 import ECPIX545Platform, ECPIX585Platform

from .board import Board, Flash
from .pll import Ecp5Pll

__all__ = ["BOARDS"]

_FLASH = Flash(offset=2 << 20, size=16 << 20)

BOARDS = (
    Board(
        name="ecpix5-45f",
        platform=ECPIX545Platform,
        pll=Ecp5Pll,
        configuration="ecp5-45f",
        clock_hz=140_000_000,
        loader="ecpix5",
        flash=_FLASH,
    ),
    Board(
        name="ecpix5-85f",
        platform=ECPIX585Platform,
        pll=Ecp5Pll,
        configuration="ecp5-85f",
        clock_hz=100_000_000,
        loader="ecpix5",
        flash=_FLASH,
    ),
)
