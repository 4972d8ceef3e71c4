"""Colorlight i5 (ECP5-25F) and i9 (ECP5-45F) on their extension board: 25 MHz, USB serial port.

amaranth-boards has neither. Pins: i5 7.0 and i9 7.2 of
https://github.com/wuxx/Colorlight-FPGA-Projects, as litex-boards has them, too. The flash's
clock is that of the configuration. On the i5 it has 2 MB, on the i9 8 MB; an uncompressed bitstream
takes 0.68 and 1.22 MB.
"""

from typing import ClassVar

from amaranth.build import Attrs, Clock, Pins, PinsN, Resource, Subsignal
from amaranth.vendor import LatticeECP5Platform
from amaranth_boards.resources import LEDResources, UARTResource

from .board import Board, Flash
from .pll import Ecp5Pll

__all__ = ["BOARDS"]

_LVCMOS33 = Attrs(IO_TYPE="LVCMOS33")


def _resources(led):
    """Clock, flash, LED at pin `led` and the serial port of the extension board."""
    return (
        Resource("clk25", 0, Pins("P3", dir="i"), Clock(25e6), _LVCMOS33),
        *LEDResources(pins=led, invert=True, attrs=_LVCMOS33),
        UARTResource(0, rx="H18", tx="J17", attrs=_LVCMOS33),
        Resource(
            "spi_flash",
            0,
            Subsignal("cs", PinsN("R2", dir="o")),
            Subsignal("copi", Pins("W2", dir="o")),
            Subsignal("cipo", Pins("V2", dir="i")),
            _LVCMOS33,
        ),
    )


class ColorlightI5Platform(LatticeECP5Platform):
    """Colorlight i5, revision 7.0."""

    device = "LFE5U-25F"
    package = "BG381"
    speed = "6"
    default_clk = "clk25"
    resources = _resources("U16")
    connectors: ClassVar = ()


class ColorlightI9Platform(LatticeECP5Platform):
    """Colorlight i9, revision 7.2."""

    device = "LFE5U-45F"
    package = "BG381"
    speed = "6"
    default_clk = "clk25"
    resources = _resources("L2")
    connectors: ClassVar = ()


BOARDS = (
    Board(
        name="colorlight-i5",
        platform=ColorlightI5Platform,
        pll=Ecp5Pll,
        configuration="ecp5-25f",
        clock_hz=100_000_000,
        loader="colorlight-i5",
        flash=Flash(offset=1 << 20, size=2 << 20),
    ),
    Board(
        name="colorlight-i9",
        platform=ColorlightI9Platform,
        pll=Ecp5Pll,
        configuration="ecp5-45f",
        clock_hz=100_000_000,
        loader="colorlight-i9",
        flash=Flash(offset=2 << 20, size=8 << 20),
    ),
)
