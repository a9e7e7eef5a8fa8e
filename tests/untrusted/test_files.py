from __future__ import annotations

import os
from pathlib import Path

import pytest

from primia.untrusted.files import DEPTH_LIMIT, Unusable, check_folder, printable, read_file


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_file(tmp_path / "a") == read_file(tmp_path / "a", 3) == read_file(tmp_path / "link", follow=True) == b"abc"


def test_what_is_no_file_of_its_own_is_refused_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(Unusable, match="a symbolic link"):
        read_file(tmp_path / "link")
    for name, follow in (("fifo", False), ("zero", True)):
        with pytest.raises(Unusable, match="no regular file"):
            read_file(tmp_path / name, follow=follow)
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 2**40)
    with pytest.raises(Unusable, match="more than 16777216"):
        read_file(tmp_path / "sparse")


@pytest.mark.parametrize("kind", ["link", "folder link", "fifo", "socket"])
def test_a_folder_holds_files_alone(tmp_path: Path, kind: str) -> None:
    inner = tmp_path / "run" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "c").write_text("c")
    check_folder(tmp_path / "run")
    if kind == "fifo":
        os.mkfifo(inner / "x")
    elif kind == "socket":
        import socket

        before = Path.cwd()
        os.chdir(inner)
        socket.socket(socket.AF_UNIX).bind("x")
        os.chdir(before)
    else:
        (inner / "x").symlink_to(tmp_path if kind == "folder link" else inner / "c")
    with pytest.raises(Unusable, match=r"a/b/x is (a symbolic link|neither)"):
        check_folder(tmp_path / "run")


def test_a_folder_that_the_user_names_may_be_a_link_and_none_may_be_too_deep(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "run")
    check_folder(tmp_path / "latest")
    (tmp_path / "run").joinpath(*["d"] * (DEPTH_LIMIT + 1)).mkdir(parents=True)
    with pytest.raises(Unusable, match="deep"):
        check_folder(tmp_path / "run")


def test_texts_of_others_are_shown_on_one_line() -> None:
    assert printable("a\nb\x1b[2J\udcff") == "a b\\x1b[2J\\udcff" and printable("x" * 20, 5) == "xxxxx ..."
