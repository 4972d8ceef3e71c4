"""ULX3S with an ECP5-45F: 25 MHz, USB serial port."""

from amaranth_boards.ulx3s import ULX3S_45F_Platform

from .board import Board

__all__ = ["BOARD"]

BOARD = Board(
    name="ulx3s-45f",
    platform=ULX3S_45F_Platform,
    configuration="ecp5-45f",
    clock_hz=80_000_000,
    loader="ulx3s",
    seeds=(2, 1, 3, 4, 5, 6),
)
