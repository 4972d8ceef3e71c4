"""Where files are written: whole, and in the place of nothing but files."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from insitu.errors import FileError
from insitu.files import check_writable, write_file


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
