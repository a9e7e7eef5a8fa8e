from __future__ import annotations

import errno
from pathlib import Path

import pytest

from primia.errors import RunError
from primia.files import atomic_bytes, atomic_path, atomic_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    atomic_text(tmp_path / "a.txt", "Größe")
    atomic_bytes(tmp_path / "b.bin", memoryview(b"\x00\x01"))
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "Größe" and (tmp_path / "b.bin").read_bytes() == b"\x00\x01"
    assert names(tmp_path) == ["a.txt", "b.bin"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == tmp_path
    assert path.read_text() == "new"


def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == ["a.txt"] and path.read_text() == "old"


def test_a_full_disk_is_said_with_file_and_reason(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*a\.txt: No space left on device"), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


@pytest.mark.parametrize("place", ["absent/a.txt", "file/a.txt"])
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*a\.txt"):
        atomic_text(tmp_path / place, "x")
