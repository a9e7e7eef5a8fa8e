from __future__ import annotations

from pathlib import Path

import pytest

from primia.config.settings import Settings
from primia.errors import RunError
from primia.runs.folder import RunFolder


def test_settings_and_fingerprint_come_back(tmp_path: Path) -> None:
    settings = Settings.model_validate({"training": {"batch_size": 3}, "run": {"seed": 9, "output": tmp_path / "a"}})
    RunFolder.create(tmp_path / "a" / "run", settings, "f00d")
    folder = RunFolder.open(tmp_path / "a" / "run")
    assert folder.settings() == settings
    assert folder.fingerprint() == "f00d"


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(RunError, match=r"exists already.*--resume"):
        RunFolder.create(tmp_path / "run", Settings(), "f")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot make run folder .*Not a directory"):
        RunFolder.create(tmp_path / "file" / "run", Settings(), "f")


def test_what_is_no_run_or_not_finished_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        RunFolder.open(tmp_path)
    folder = RunFolder.create(tmp_path / "run", Settings(), "f")
    with pytest.raises(RunError, match=r"not finished; primia-ray train --resume"):
        folder.read_summary()
    folder.write_summary({"rounds": 3})
    assert folder.read_summary() == {"rounds": 3}


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_a_damaged_summary_is_one_line(tmp_path: Path, text: str) -> None:
    folder = RunFolder.create(tmp_path / "run", Settings(), "f")
    folder.summary.write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"^.*summary\.json cannot be read \(.*\); was it changed by hand\? Put it back as it was$"):
        folder.read_summary()


@pytest.mark.parametrize("text", [None, "", "{}", "[1]"])
def test_a_folder_that_does_not_tell_its_images_is_one_line(tmp_path: Path, text: str | None) -> None:
    folder = RunFolder.create(tmp_path / "run", Settings(), "f")
    folder.data.unlink()
    if text is not None:
        folder.data.write_text(text)
    for told in (folder.fingerprint, folder.identity):
        with pytest.raises(RunError, match=r"^.*data\.json (cannot be read \(.*\)|that tells its (fingerprint|id)); was .*$"):
            told()


def test_a_number_that_is_not_finite_never_reaches_the_summary(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", Settings(), "f")
    with pytest.raises(ValueError, match="Out of range float"):
        folder.write_summary({"mcc": float("nan")})
    assert not folder.summary.exists()


def test_the_log_goes_on_after_a_resume(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", Settings(), "f")
    for text in ("first", "second"):
        with folder.logging() as logger:
            logger.info(text)
    assert [line.split()[-1] for line in folder.log.read_text().splitlines()] == ["first", "second"]


def test_a_folder_that_was_moved_lies_where_it_is_now(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "a" / "run", Settings.model_validate({"run": {"output": tmp_path / "a"}}), "f")
    (tmp_path / "a").rename(tmp_path / "b")
    assert RunFolder.open(tmp_path / "b" / "run").settings().run.output == tmp_path / "b"
