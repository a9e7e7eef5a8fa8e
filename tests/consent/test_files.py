from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from primia.consent.files import check_mode, check_no_links, locked, read_json, write_json, write_private
from primia.errors import ConsentError
from primia.files import keep_private


def test_private_files_are_closed_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "a", "ä")
        write_json(tmp_path / "b", {"x": 1})
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert (tmp_path / "a").read_text(encoding="utf-8") == "ä" and read_json(tmp_path / "b") == {"x": 1}


@pytest.mark.parametrize(
    ("first", "second", "together"), [(False, False, False), (False, True, False), (True, False, False), (True, True, True)]
)
def test_one_writer_or_many_readers(tmp_path: Path, first: bool, second: bool, together: bool) -> None:
    entered = Event()

    def enter() -> None:
        with locked(tmp_path, shared=second):
            entered.set()

    with ThreadPoolExecutor(1) as pool:
        with locked(tmp_path, shared=first):
            pool.submit(enter)
            assert entered.wait(2.0 if together else 0.1) is together
        assert entered.wait(2.0)


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(ConsentError, match="cannot be locked"), locked(tmp_path / "nowhere"):
        pass


def test_damaged_files_are_named(tmp_path: Path) -> None:
    assert read_json(tmp_path / "a", missing={}) == {}
    for content, words in (
        (None, "missing from the site box"),
        ("{", "cannot be read"),
        ("[]", r"cannot be read \(it is no JSON object\)"),
    ):
        if content is not None:
            (tmp_path / "a").write_text(content)
        with pytest.raises(ConsentError, match=f"a: {words}"):
            read_json(tmp_path / "a")


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o610, 0o602])
def test_any_right_of_others_is_too_much(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys"
    path.write_text("")
    path.chmod(0o600)
    check_mode(path, "private keys", "chmod 600 it")
    path.chmod(mode)
    with pytest.raises(ConsentError, match=f"private keys with mode {mode:04o}, others may read it; chmod 600 it"):
        check_mode(path, "private keys", "chmod 600 it")


def test_links_are_found_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    check_no_links(tmp_path)
    for target in (tmp_path / "outside", tmp_path / "nowhere"):
        link = tmp_path / "a" / "b" / "link"
        link.symlink_to(target)
        with pytest.raises(ConsentError, match="a/b/link: a symbolic link"):
            check_no_links(tmp_path)
        link.unlink()


def test_a_tree_is_closed_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o755)
    (tmp_path / "a" / "b").write_text("")
    keep_private(tmp_path)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")] == [0o700, 0o700, 0o600]
