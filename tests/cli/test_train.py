from __future__ import annotations

import io
import runpy
from pathlib import Path

import pytest

from primia.api import Run
from primia.cli.terminal import Terminal
from primia.cli.train import _show_result as show_result
from primia.cli.train import read_settings
from primia.config.reader import dump_config
from primia.config.settings import Settings
from primia.errors import ConfigError
from primia.runs.folder import RunFolder

make_run = runpy.run_path(str(Path(__file__).parents[1] / "report" / "conftest.py"))["make_run"]


def settings(
    *overrides: str, config: Path | None = None, data: Path | None = None, resume: Path | None = None
) -> tuple[Settings | None, str]:
    console = Terminal(file=io.StringIO(), width=200, color_system=None)
    read = read_settings(console, config, data, list(overrides), RunFolder(resume) if resume else None)
    return read, console.file.getvalue()  # type: ignore[attr-defined]


def test_without_anything_it_is_the_demonstration() -> None:
    assert settings() == (Settings(), "")


def test_data_makes_the_demonstration_a_folder_run() -> None:
    read, _ = settings(data=Path("images"))
    assert read is not None and (read.data.source, read.data.path) == ("folder", Path("images"))


def test_data_is_the_root_of_a_source_that_the_file_names(tmp_path: Path) -> None:
    file = tmp_path / "x.ini"
    file.write_text("[data]\nsource = mnist\n")
    read, _ = settings(config=file, data=Path("images"))
    assert read is not None and (read.data.source, read.data.path) == ("mnist", Path("images"))


def test_a_key_without_effect_is_a_warning() -> None:
    _, text = settings("training.momentum=0.5")
    assert text.startswith("warning") and "training.momentum" in text


def test_a_resume_takes_the_run_as_it_was_or_compares_with_it(tmp_path: Path) -> None:
    assert settings(resume=tmp_path) == (None, "")
    (tmp_path / "config.ini").write_text(dump_config(Settings.model_validate({"training": {"batch_size": 5}})))
    read, _ = settings("run.seed=4", resume=tmp_path)
    assert read is not None and (read.training.batch_size, read.run.seed) == (5, 4)
    read, _ = settings(data=Path("images"), resume=tmp_path)
    assert read is not None and (read.training.batch_size, read.data.path) == (5, Path("images"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["run.name=second"], "--name cannot be given with --resume: what is resumed stays in "),
        (["run.seed=4", "run.name=second", "run.output=out"], "--name and --output cannot be given with --resume: "),
    ],
)
def test_a_resume_stays_in_its_folder(tmp_path: Path, overrides: list[str], said: str) -> None:
    (tmp_path / "config.ini").write_text(dump_config(Settings()))
    with pytest.raises(ConfigError, match=said):
        settings(*overrides, resume=tmp_path)


def test_what_is_next_can_be_pasted_into_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "my [bold]run")
    monkeypatch.chdir(tmp_path)
    console = Terminal(file=io.StringIO(), width=200, color_system=None)
    show_result(console, Run(run))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "run folder  my [bold]run" in text
    assert "primia-ray evaluate 'my [bold]run' --data DIR" in text and "primia-ray audit 'my [bold]run' " in text


def test_a_wrong_flag_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"run.mode"):
        settings("run.mode=alone")
