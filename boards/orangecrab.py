"""OrangeCrab r0.2 with an ECP5-25F or 85F of speed grade 8: 48 MHz.

USB is connected to the FPGA itself, so the serial port is on the header: pin 0 receives, pin 1
sends, as on every Feather. Its bootloader writes bitstreams alone, so no image can be put into the
flash.
"""

from amaranth.build import Attrs
from amaranth_boards.orangecrab_r0_2 import OrangeCrabR0_2_25FPlatform, OrangeCrabR0_2_85FPlatform
from amaranth_boards.resources import UARTResource

from .board import Board
from .pll import Ecp5Pll

__all__ = ["BOARDS"]

_UART = UARTResource(0, rx="0", tx="1", conn=("io", 0), attrs=Attrs(IO_TYPE="LVCMOS33"))


class OrangeCrab25FPlatform(OrangeCrabR0_2_25FPlatform):
    """With a serial port on the header."""

    resources = (*OrangeCrabR0_2_25FPlatform.resources, _UART)


class OrangeCrab85FPlatform(OrangeCrabR0_2_85FPlatform):
    """With a serial port on the header."""

    resources = (*OrangeCrabR0_2_85FPlatform.resources, _UART)


BOARDS = (
    Board(
        name="orangecrab-25f",
        platform=OrangeCrab25FPlatform,
        pll=Ecp5Pll,
        configuration="ecp5-25f",
        clock_hz=130_000_000,
        loader="orangeCrab",
    ),
    Board(
        name="orangecrab-85f",
        platform=OrangeCrab85FPlatform,
        pll=Ecp5Pll,
        configuration="ecp5-85f",
        clock_hz=100_000_000,
        loader="orangeCrab",
    ),
)
