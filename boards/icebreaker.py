"""iCEBreaker: iCE40UP5K, 12 MHz, USB serial port."""

from amaranth_boards.icebreaker import ICEBreakerPlatform

from .board import Board

__all__ = ["BOARD"]

BOARD = Board(
    name="icebreaker",
    platform=ICEBreakerPlatform,
    configuration="up5k",
    clock_hz=27_000_000,
    loader="ice40_generic",
)
