"""What a board is to this project: amaranth-boards' pins, a configuration and a clock."""

from dataclasses import dataclass

from rtl.config import Configuration, configuration

__all__ = ["BAUD", "Board"]

BAUD = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board, and what is built for it.

    Parameters
    ----------
    name : str
        Name, as used on the command line.
    platform : class
        Of amaranth-boards, or like one of those. It has a default clock and a resource `uart`; two
        of its LEDs, `led` or colours of `rgb_led`, are used where it has them.
    pll : type
        The PLL that makes the clock, see `boards.pll`.
    configuration : str
        Name of the accelerator's configuration.
    clock_hz : int
        Clock that the PLL makes and that place and route must reach.
    loader : str
        What openFPGALoader calls the board.
    cable : str, optional
        What openFPGALoader calls its programmer, where that board has another.
    high : tuple of str
        Resources that are kept high: what else is on the UART's wires is deselected by them.
    seeds : tuple of int
        Seeds of place and route, tried in turn until one reaches the clock.
    """

    name: str
    platform: type
    pll: type
    configuration: str
    clock_hz: int
    loader: str
    cable: str | None = None
    high: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (1, 2, 3, 4)

    @property
    def config(self) -> Configuration:
        """The configuration of that name."""
        return configuration(self.configuration)
