from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from primia.errors import RunError
from primia.files import atomic_bytes, atomic_path, atomic_text, atomic_vectors


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


def test_vectors_come_back_whatever_their_layout(tmp_path: Path) -> None:
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    written = {"across": whole.T, "every other": whole[:, ::2], "scalar": np.array(7, np.int64), "none": whole[:0]}
    atomic_vectors(tmp_path / "v.safetensors", written)
    read = load_file(tmp_path / "v.safetensors")
    assert read.keys() == written.keys() and names(tmp_path) == ["v.safetensors"]
    for name, value in written.items():
        np.testing.assert_array_equal(read[name], value, strict=True)


def test_vectors_can_be_read_by_those_who_can_read_the_rest(tmp_path: Path) -> None:
    atomic_text(tmp_path / "a.txt", "a")
    atomic_vectors(tmp_path / "v.safetensors", {})
    assert (tmp_path / "v.safetensors").stat().st_mode == (tmp_path / "a.txt").stat().st_mode


@pytest.mark.parametrize("place", ["absent/a.txt", "file/a.txt"])
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*a\.txt"):
        atomic_text(tmp_path / place, "x")
