from __future__ import annotations

import os
from pathlib import Path

import pytest

from primia.errors import DataError
from primia.federation.site import log as module
from primia.federation.site.log import LogEntry, SiteLog


def bug() -> Exception:
    try:
        raise ZeroDivisionError("of\nall things")
    except ZeroDivisionError as error:
        return error


def test_the_last_error_is_read_back_with_its_traceback(tmp_path: Path) -> None:
    log = SiteLog(tmp_path / "errors.log")
    assert log.last() is None and log.size == 0
    log.write("train of round 2", bug())
    entry = log.last()
    assert entry is not None and (entry.asked, entry.words) == ("train of round 2", "ZeroDivisionError: of all things")
    assert entry.traceback.startswith("Traceback") and "  File " in entry.traceback
    size = log.size
    log.write("facts", DataError("x: 61 images are not 60"))
    assert log.last() == LogEntry("facts", "x: 61 images are not 60") and log.size > size
    assert "of all things" in log.path.read_text(), "nothing is overwritten"


def test_nobody_else_reads_it_and_no_link_is_followed(tmp_path: Path) -> None:
    log = SiteLog(tmp_path / "errors.log")
    log.write("facts", bug())
    assert log.path.stat().st_mode & 0o777 == 0o600
    other = tmp_path / "other"
    other.write_text("")
    linked = SiteLog(tmp_path / "linked.log")
    linked.path.symlink_to(other)
    linked.write("facts", bug())
    assert other.read_text() == ""


def test_a_log_that_cannot_be_written_raises_nothing(tmp_path: Path) -> None:
    SiteLog(tmp_path / "missing" / "errors.log").write("facts", bug())


def test_old_errors_go_and_long_ones_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can call a site can make errors."""
    monkeypatch.setattr(module, "_LARGEST", 100_000)
    log = SiteLog(tmp_path / "errors.log")
    for number in range(50):
        log.write("facts", ValueError(f"{number} " + 50_000 * "x"))
    assert {path.name for path in tmp_path.iterdir()} == {"errors.log", "errors.log.1"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 300_000
    entry = log.last()
    assert entry is not None and entry.words.startswith("ValueError: 49 ") and len(entry.words) < 3000
    assert (tmp_path / "errors.log.1").stat().st_mode & 0o777 == 0o600


def test_of_a_file_of_any_size_the_end_is_read(tmp_path: Path) -> None:
    log = SiteLog(tmp_path / "errors.log")
    with log.path.open("wb") as file:
        file.truncate(2**40)
    assert log.last() is None or len(str(log.last())) < 2**20
    log.path.unlink()
    os.mkfifo(log.path)
    assert log.last() is None, "nothing is waited for"
