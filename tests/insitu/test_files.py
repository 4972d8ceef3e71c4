"""Where files are written: whole, and in the place of nothing but files."""

from __future__ import annotations

import io
import os
import stat
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from insitu.errors import FileError, InputError
from insitu.files import check_writable, parse_arrays, write_file


def write(path: Path, data: bytes) -> None:
    check_writable(path, "report")
    write_file(path, data, "report")


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write(path, b"one")
    write(path, b"two")
    assert path.read_bytes() == b"two"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("there", [True, False])
def test_what_a_link_names_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    link.symlink_to("folder/target")
    if there:
        target.write_bytes(b"stale")
    write(link, b"new")
    assert link.is_symlink()
    assert not target.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_link_into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "missing" / "target")
    with pytest.raises(FileError, match=r"there is no folder .*missing"):
        check_writable(link, "report")
    with pytest.raises(FileError, match="cannot be written"):
        write_file(link, b"new", "report")


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe, b"through")
    reader.join(timeout=10)
    assert read == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_to(tmp_path: Path) -> None:
    control, terminal = os.openpty()
    link = tmp_path / "link"
    link.symlink_to(os.ttyname(terminal))
    write(link, b"shown")
    os.set_blocking(control, False)
    assert os.read(control, 10) == b"shown"
    assert link.is_symlink()
    os.close(terminal)
    os.close(control)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for writing in (lambda: check_writable(tmp_path, "report"), lambda: write(tmp_path, b"new")):
        with pytest.raises(FileError, match="is a folder"):
            writing()
    with pytest.raises(FileError, match="cannot be written: Is a directory"):
        write_file(tmp_path, b"new", "report")


def archive(members: dict[str, bytes]) -> bytes:
    """A zip file."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return made.getvalue()


def saved(array: np.ndarray) -> bytes:
    """As an .npy file."""
    made = io.BytesIO()
    np.save(made, array)
    return made.getvalue()


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        ({"a.npy": saved(np.arange(3)).replace(b"(3,)", b"(3,(")}, "an array that cannot be"),
        ({"a.npy": saved(np.arange(3)), "b.npy": b"no array"}, "'b' in it is no array"),
        ({"a.npy": saved(np.arange(3)), "notes.txt": b"text"}, "'notes.txt' in it is no array"),
        ({"a.npy": saved(np.arange(3))[:-1]}, "truncated, corrupt"),
    ],
)
def test_what_holds_no_array_is_named(members: dict[str, bytes], cause: str) -> None:
    with pytest.raises(InputError, match=f"inputs x.npz .*{cause}"):
        parse_arrays(archive(members), "inputs x.npz", InputError, "save them again")


def test_any_wrong_byte_is_an_error_or_other_arrays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = archive({"a.npy": saved(rng.random((3, 4))), "b.npy": saved(np.arange(5))})
    for _ in range(2000):
        wrong = bytearray(whole)
        wrong[rng.integers(len(whole))] ^= rng.integers(1, 256)
        try:
            found = parse_arrays(bytes(wrong), "inputs x.npz", InputError, "save them again")
        except InputError:
            continue
        assert all(isinstance(one, np.ndarray) for one in found.values())
