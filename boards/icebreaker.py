"""iCEBreaker: iCE40UP5K, 12 MHz, USB serial port."""

from amaranth_boards.icebreaker import ICEBreakerPlatform

from .board import Board
from .pll import Ice40Pll

__all__ = ["BOARDS"]

BOARDS = (
    Board(
        name="icebreaker",
        platform=ICEBreakerPlatform,
        pll=Ice40Pll,
        configuration="up5k",
        clock_hz=27_000_000,
        loader="ice40_generic",
    ),
)
