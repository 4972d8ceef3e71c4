"""A simulated board behind a pseudo-terminal, for everything that talks to a real one."""

import signal
from collections.abc import Callable
from typing import Any

from insitu.errors import DeviceError, SimulatorError
from insitu.progress import Progress
from rtl.config import Configuration
from sim.board import LEVELS, board
from sim.board import serve as run
from sim.build import BuildError
from sim.run import SimulationError

__all__ = ["LEVELS", "serve"]


def serve(
    config: Configuration,
    level: str,
    *,
    flash: bytes | None = None,
    ready: Callable[[str], None],
    progress: Progress,
) -> None:
    """Run a board's RTL until this process is interrupted or told to end.

    Parameters
    ----------
    config : Configuration
    level : "byte" or "bit"
    flash : bytes, optional
        What the board's flash holds, of `insitu.flash`: the device loads it by itself.
    ready : callable
        Called with the path of the serial port.
    progress : callable

    Raises
    ------
    SimulatorError
        If the simulator cannot be built.
    DeviceError
        If the simulation dies.
    """
    progress(0, None, f"simulator of a board with {config.name}: a minute the first time")
    try:
        board(config, level, self_load=flash is not None)
    except BuildError as error:
        raise SimulatorError(
            f"the simulator of {config.name} cannot be built: {error}",
            "see that a C++ compiler is installed (apt-get install g++), then try again",
        ) from None

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        run(config, level, flash=flash, ready=ready)
    except KeyboardInterrupt:
        pass
    except SimulationError as error:
        raise DeviceError(
            f"the simulation of {config.name} died: {error}",
            "this is a bug of the hardware or of this program: report it with the lines above",
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)
