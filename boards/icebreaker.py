"""iCEBreaker: iCE40UP5K, 12 MHz, USB serial port.

Its bitstream has 104,090 bytes, and the flash 16 MB.
"""

from amaranth_boards.icebreaker import ICEBreakerPlatform

from .board import Board, Flash
from .pll import Ice40Pll

__all__ = ["BOARDS"]

BOARDS = (
    Board(
        name="icebreaker",
        platform=ICEBreakerPlatform,
        pll=Ice40Pll,
        configuration="up5k",
        clock_hz=33_000_000,
        loader="ice40_generic",
        flash=Flash(offset=1 << 20, size=16 << 20),
        self_load_hz=30_000_000,
    ),
)
