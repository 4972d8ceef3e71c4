"""UPduino 3: iCE40UP5K, 12 MHz oscillator on pin 20, USB serial port.

The jumper OSC must be closed: it leads the oscillator to pin 20, without it there is no clock. The
internal oscillator is not accurate enough for the serial port.

The FT232H that programs the board is also its serial port, on the wires of the SPI flash: the FPGA
receives on pin 15, sends on pin 14 and keeps the flash deselected with pin 16 (pinout of
https://github.com/tinyvision-ai-inc/UPduino-v3.0). So an image cannot be loaded from the flash.
"""

from amaranth.build import Attrs, Pins, Resource
from amaranth_boards.resources import UARTResource
from amaranth_boards.upduino_v3 import UpduinoV3Platform

from .board import Board
from .pll import Ice40CorePll

__all__ = ["BOARDS"]


class UpduinoPlatform(UpduinoV3Platform):
    """With the oscillator for a clock, and the serial port."""

    default_clk = "clk12"
    resources = (
        *UpduinoV3Platform.resources,
        UARTResource(0, rx="15", tx="14", attrs=Attrs(IO_STANDARD="SB_LVCMOS")),
        Resource("flash_cs_n", 0, Pins("16", dir="o"), Attrs(IO_STANDARD="SB_LVCMOS")),
    )


BOARDS = (
    Board(
        name="upduino",
        platform=UpduinoPlatform,
        pll=Ice40CorePll,
        configuration="up5k",
        clock_hz=33_000_000,
        loader="ice40_generic",
        cable="ft232",
        high=("flash_cs_n",),
    ),
)
