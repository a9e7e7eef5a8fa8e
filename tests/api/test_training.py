"""A run folder that a stranger made is gone on with, or refused with one line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from primia.api.training import _open
from primia.config.settings import Settings
from primia.errors import RunError
from primia.federation.run_folder import RunFolder

DATA: Any = SimpleNamespace(fingerprint="f")


@pytest.mark.parametrize(
    "summary", ["{}", '{"status": []}', '{"status": 1}', '{"status": null}', '{"status": "\\n\\u001b[2J"}', "[]", "[" * 100_000, '"x"']
)
def test_a_summary_that_does_not_say_how_the_run_ended_is_one_clear_error(tmp_path: Path, summary: str) -> None:
    folder = RunFolder.create(tmp_path / "run", Settings(), "f")
    folder.summary.write_text(summary)
    with pytest.raises(RunError, match=r"summary\.json cannot be read") as caught:
        _open(folder.path, DATA)
    assert str(caught.value).isprintable()


def test_a_run_that_was_ended_early_goes_on_and_a_finished_one_does_not(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", Settings(), "f")
    assert _open(folder.path, DATA) == folder
    folder.write_summary({"status": "pruned"})
    assert _open(folder.path, DATA) == folder
    folder.write_summary({"status": "finished"})
    with pytest.raises(RunError, match="is finished; see it with"):
        _open(folder.path, DATA)
