"""What a board is to this project: amaranth-boards' pins, a configuration and a clock."""

from dataclasses import dataclass

from rtl.config import Configuration, configuration

from .pll import Ecp5Pll, Ice40Pll

__all__ = ["BAUD", "Board"]

BAUD = 1_000_000

PLLS = {"ice40": Ice40Pll, "ecp5": Ecp5Pll}


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board, and what is built for it.

    Parameters
    ----------
    name : str
        Name, as used on the command line.
    platform : class
        Of amaranth-boards, or like one of those. It has a default clock and resources `uart` and
        `led`.
    configuration : str
        Name of the accelerator's configuration.
    clock_hz : int
        Clock that the PLL makes and that place and route must reach.
    loader : str
        What openFPGALoader calls the board.
    seeds : tuple of int
        Seeds of place and route, tried in turn until one reaches the clock.
    """

    name: str
    platform: type
    configuration: str
    clock_hz: int
    loader: str
    seeds: tuple[int, ...] = (1, 2, 3, 4)

    @property
    def config(self) -> Configuration:
        """The configuration of that name."""
        return configuration(self.configuration)

    @property
    def pll(self) -> type:
        """The PLL of its FPGA."""
        return PLLS[self.config.family]
