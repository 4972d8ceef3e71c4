"""What a board is to this project: amaranth-boards' pins, a configuration and a clock."""

from dataclasses import dataclass, replace

from insitu.errors import BuildError
from rtl.config import Configuration, configuration

__all__ = ["BAUD", "Board", "Flash"]

BAUD = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Flash:
    """A board's SPI flash, as far as an image may use it.

    Parameters
    ----------
    offset : int
        Byte address of the image, behind any bitstream for the FPGA.
    size : int
        Bytes of the smallest flash that the board comes with.
    """

    offset: int
    size: int


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
    flash : Flash, optional
        Where an image that loads by itself lies; None if the design cannot reach the flash, or
        openFPGALoader cannot write there. The platform then has a resource `spi_flash_1x` or
        `spi_flash`.
    self_load : bool
        Whether what is built loads the image from the flash at power-up, see `loading_itself`.
    self_load_hz : int, optional
        Clock of such a build, where it does not reach the other.
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
    flash: Flash | None = None
    self_load: bool = False
    self_load_hz: int | None = None

    def loading_itself(self) -> "Board":
        """The board, to be built so that it loads the image from its flash.

        Raises
        ------
        BuildError
            If the design cannot reach the flash, or no image be written there.
        """
        if self.flash is None:
            raise BuildError(
                f"{self.name} cannot load an image by itself: its flash is out of reach "
                "(docs/host.md says why)",
                "build it without --self-load, and load images with insitu load",
            )
        return replace(self, self_load=True, clock_hz=self.self_load_hz or self.clock_hz)

    @property
    def config(self) -> Configuration:
        """The configuration of that name."""
        return configuration(self.configuration)
