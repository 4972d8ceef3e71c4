"""Reading and writing whole files, so that no error leaves half of one behind."""

import contextlib
import os
import tempfile
from pathlib import Path

from insitu.errors import FileError

__all__ = ["read_file", "write_file"]


def read_file(path: str | Path, what: str) -> bytes:
    """The contents of a file.

    Parameters
    ----------
    path : path
    what : str
        What the file should be, for the message: "image", "network", ...

    Raises
    ------
    FileError
        If there is no such file or it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise FileError(f"{what} {path} does not exist", "check the path") from None
    except IsADirectoryError:
        raise FileError(f"{what} {path} is a folder", "name a file in it") from None
    except OSError as error:
        raise FileError(
            f"{what} {path} cannot be read: {error.strerror}", "check the file's permissions"
        ) from None


def write_file(path: str | Path, data: bytes, what: str) -> None:
    """Write a file whole or not at all; an existing file is replaced only at the end.

    Raises
    ------
    FileError
        If it cannot be written; what was there before is untouched.
    """
    path = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except OSError as error:
        raise FileError(
            f"{what} {path} cannot be written: {error.strerror}",
            "check that the folder exists, is writable and has space left",
        ) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
