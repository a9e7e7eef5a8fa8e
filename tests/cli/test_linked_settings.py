"""No command shows a line of a file that the settings of somebody's folder lead to by a link."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from primia.cli.main import app
from primia.errors import PrimiaError

SECRET = "patient 17 is Ada Lovelace"

COMMANDS = {
    "train": ["train", "--resume", "FOLDER"],
    "train with more": ["train", "--resume", "FOLDER", "--set", "run.seed=4"],
    "tune": ["tune", "--resume", "FOLDER"],
    "tune with more": ["tune", "--resume", "FOLDER", "--trials", "3"],
    "warm start": ["tune", "--warm-start", "FOLDER", "--set", "search.training.learning_rate=uniform(0.1, 1)"],
    "infer": ["infer", "FOLDER", "--data", "IMAGES", "--encrypted"],
    "model owner": ["party", "model-owner", "FOLDER", "--certificates", "FOLDER", "--session", "a"],
    "report": ["report", "FOLDER"],
    "audit": ["audit", "FOLDER"],
    "evaluate": ["evaluate", "FOLDER", "--data", "IMAGES"],
    "compare": ["compare", "FOLDER", "FOLDER"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_linked_settings_file_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    secret, folder, images = tmp_path / "secret.txt", tmp_path / "sent", tmp_path / "images"
    secret.write_text(SECRET)
    images.mkdir()
    folder.mkdir()
    (folder / "config.ini").symlink_to(secret)
    for name, text in (("data.json", '{"fingerprint": "f", "id": "0"}'), ("trials.parquet", ""), ("summary.json", "{}")):
        (folder / name).write_text(text)
    words: Any = {"FOLDER": str(folder), "IMAGES": str(images)}
    result = CliRunner().invoke(app, [words.get(word, word) for word in COMMANDS[command]])
    assert isinstance(result.exception, PrimiaError), result.exception
    assert "Ada" not in f"{result.output}{result.exception}"
