"""``primia-ray config``."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from primia.cli.config import app
from primia.config.reader import dump_config, load_config
from primia.config.reference import reference_markdown
from primia.config.settings import Settings
from primia.errors import ConfigError, RunError


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_show_prints_the_resolved_settings(tmp_path: Path) -> None:
    path = tmp_path / "x.ini"
    path.write_text("[run]\nseed = 4\n")
    assert run("show", "--config", str(path), "--set", "training.batch_size=8").stdout == dump_config(
        load_config(path, ["training.batch_size=8"])
    )


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.ini"
    path.write_text(run("show").stdout)
    assert load_config(path) == Settings()


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ((), "ok: federated run: convnet on the demo images at 64 pixels, 15 rounds of 1 epoch, into a new folder in runs\n"),
        (
            ("run.mode=local", "run.site=a", "run.name=x", "data.source=folder", "data.path=scans", "federation.sync_every_n_batch=5"),
            "ok: local run of site a: convnet on images in scans at 64 pixels, 15 rounds of 5 batches, into runs/x\n",
        ),
        (
            ("run.mode=pooled", "federation.rounds=1", "federation.local_epochs=2"),
            "ok: pooled run: convnet on the demo images at 64 pixels, ",
        ),
    ],
)
def test_check_says_what_would_run(sets: tuple[str, ...], said: str) -> None:
    result = run("check", *(word for text in sets for word in ("--set", text)))
    assert result.exit_code == 0
    assert result.stdout.startswith(said)
    assert result.stderr == ""


def test_check_says_what_would_be_searched() -> None:
    searched = ("--set", "search.training.batch_size=choice(8, 16)")
    assert run("check", *searched).stdout.endswith("in runs; a search over 1 setting, 20 trials by tpe with asha\n")
    unhurried = ("--set", "search.scheduler=none", "--set", "search.algorithm=grid", "--set", "search.trials=1")
    assert run("check", *searched, *unhurried).stdout.endswith("; a search over 1 setting, 1 trial by grid\n")


def test_check_fails_on_a_fault_of_the_space() -> None:
    error = run("check", "--set", "search.training.optimizer=choice(adam, lamb)").exception
    assert isinstance(error, ConfigError)
    assert "lamb is not allowed" in str(error)


def test_check_warns_on_stderr() -> None:
    result = run("check", "--set", "training.momentum=0.5")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: training.momentum = 0.5 has no effect")


def test_check_fails_on_a_fault() -> None:
    assert isinstance(run("check", "--set", "run.mode=none").exception, ConfigError)


def test_reference_to_stdout_and_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.md"
    assert run("reference").stdout == reference_markdown()
    assert run("reference", "--output", str(path)).stdout == f"wrote {path}\n"
    assert path.read_text(encoding="utf-8") == reference_markdown()


def test_reference_into_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    error = run("reference", "--output", str(tmp_path / "none" / "x.md")).exception
    assert isinstance(error, RunError)
    assert str(error).startswith(f"cannot write {tmp_path / 'none' / 'x.md'}: No such file")
