"""Reading and writing whole files, so that no error leaves half of one behind."""

import contextlib
import io
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from insitu.errors import FileError, InsituError

__all__ = ["check_writable", "is_special", "parse_arrays", "read_arrays", "read_file", "write_file"]


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


def read_arrays(
    path: str | Path, what: str, error: type[InsituError], next_step: str
) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; nothing in it is executed.

    Parameters
    ----------
    path : path
    what : str
        What the file should be, for the message.
    error : type
        What to raise for a damaged file, with `next_step`.
    next_step : str

    Raises
    ------
    FileError
        If the file cannot be read.
    InsituError
        `error`, if it is not an undamaged .npz archive.
    """
    return parse_arrays(read_file(path, what), f"{what} {path}", error, next_step)


def parse_arrays(
    data: bytes, source: str, error: type[InsituError], next_step: str
) -> dict[str, NDArray[Any]]:
    """The arrays in the bytes of an .npz file; as `read_arrays`."""
    if not data.startswith((b"PK", b"\x93NUMPY")):  # NumPy would take it for a pickle.
        raise error(f"{source} is truncated, corrupt or not an .npz archive", next_step)
    try:
        archive = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(archive, np.lib.npyio.NpzFile):
            with archive:
                arrays = {key: archive[key] for key in archive}
            others = [key for key, value in arrays.items() if not isinstance(value, np.ndarray)]
            if not others:
                return arrays
            fault = f"is corrupt: {others[0]!r} in it is no array"
        else:
            fault = "is a single array, not an .npz archive"
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, KeyError) as reason:
        fault = f"is truncated, corrupt or not an .npz archive: {reason}"
    except (MemoryError, SyntaxError, TypeError, NotImplementedError, RuntimeError, TokenError):
        fault = "is corrupt: it holds an array that cannot be"
    raise error(f"{source} {fault}", next_step)


def is_special(path: Path) -> bool:
    """Whether there is something that no file may take the place of: a pipe, a device."""
    return path.exists() and not path.is_file()


def check_writable(path: str | Path, what: str) -> None:
    """Check that a file can be written, before the work whose result goes there.

    Raises
    ------
    FileError
        If its folder does not exist or takes no files.
    """
    path = Path(path)
    if path.is_dir():
        raise FileError(f"{what} {path} is a folder", "name a file in it")
    if is_special(path):
        return
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise FileError(
            f"{what} {path} cannot be written: there is no folder {folder}",
            f"make it: mkdir -p {folder}",
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FileError(
            f"{what} {path} cannot be written: {error.strerror}",
            "choose another folder, or change its permissions",
        ) from None


def write_file(path: str | Path, data: bytes, what: str) -> None:
    """Write a file whole or not at all; an existing file is replaced only at the end.

    What a symbolic link names is written in its place; what is no regular file, a pipe or a
    device, is written to.

    Raises
    ------
    FileError
        If it cannot be written; a file that was there before is untouched.
    """
    path = Path(path)
    temporary = None
    try:
        if is_special(path):
            path.write_bytes(data)
            return
        target = Path(os.path.realpath(path))
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(target)
    except OSError as error:
        raise FileError(
            f"{what} {path} cannot be written: {error.strerror}",
            "check that the folder exists, is writable and has space left",
        ) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
