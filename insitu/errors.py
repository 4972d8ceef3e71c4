"""Errors that a user can do something about: each names its cause and the next step."""

__all__ = [
    "BuildError",
    "DeviceError",
    "FileError",
    "FitError",
    "ImageError",
    "InputError",
    "InsituError",
    "ModelError",
    "NetworkError",
    "PortError",
    "ProgramError",
    "SimulatorError",
    "SizeError",
]


class InsituError(Exception):
    """What went wrong and what to do about it; the command line ends with `status`.

    Parameters
    ----------
    cause : str
        What is wrong, with the offending value, file or layer. No full stop.
    next_step : str
        What the user can do. No full stop.
    """

    status = 2

    def __init__(self, cause: str, next_step: str):
        super().__init__(cause, next_step)
        self.cause = cause
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.cause}. Next: {self.next_step}."


class FileError(InsituError):
    """A file is missing or cannot be read or written."""


class ModelError(InsituError):
    """A model file is damaged, or holds what cannot be imported."""


class NetworkError(InsituError):
    """A network file is damaged, incomplete or inconsistent."""


class ImageError(InsituError):
    """An image is damaged, or made for other hardware or another version."""


class InputError(InsituError):
    """Inputs or labels have the wrong shape, type or range, or their file is damaged."""


class FitError(InsituError):
    """A network does not fit a configuration."""


class SizeError(FitError):
    """A network takes more coefficient memory than a configuration has."""


class BuildError(InsituError):
    """A bitstream cannot be built: no such board, a tool missing, too large, too slow."""


class PortError(InsituError):
    """A serial port cannot be opened."""


class ProgramError(InsituError):
    """A board cannot be programmed: no tool, no bitstream, no board."""


class SimulatorError(InsituError):
    """The simulator of a configuration cannot be built."""


class DeviceError(InsituError):
    """A device did not answer as it should: the result is wrong, not the input."""

    status = 1
