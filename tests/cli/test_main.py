"""The entry: help, version, errors as one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import NoReturn

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

import primia
from primia.cli import main as entry
from primia.errors import ConfigError, DataError, PrimiaError

HEAVY = ("torch", "torchvision", "ray", "numpy", "pandas", "pyarrow", "matplotlib", "scipy", "torchmetrics", "pydantic")


def verbs() -> list[tuple[str, str]]:
    """Path and help of every command."""

    def walk(path: str, command: object) -> Iterator[tuple[str, str]]:
        children = getattr(command, "commands", None)
        if children is None:
            yield path, getattr(command, "help", None) or ""
        for name, child in (children or {}).items():
            yield from walk(f"{path} {name}".strip(), child)

    return list(walk("", get_command(entry.app)))


def app_raising(error: BaseException) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> NoReturn:
        raise error

    return app


def exit_code(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int | str | None:
    monkeypatch.setattr(entry, "app", app_raising(error))
    monkeypatch.setattr(sys, "argv", ["primia-ray"])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return ended.value.code


def test_help_lists_the_verbs() -> None:
    result = CliRunner().invoke(entry.app, ["--help"])
    assert result.exit_code == 0
    for verb in ("train", "evaluate", "infer", "compare", "report", "data", "party", "config"):
        assert f" {verb} " in result.stdout


@pytest.mark.parametrize(("path", "text"), verbs(), ids=lambda value: value[:20])
def test_every_verb_shows_an_example(path: str, text: str) -> None:
    assert f"Example: primia-ray {path}" in text


def test_version() -> None:
    assert CliRunner().invoke(entry.app, ["--version"]).stdout == f"primia-ray {primia.__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from primia.cli.main import app\n"
        "try: app(['--help'])\n"
        f"finally: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.strip() == "[]"


@pytest.mark.parametrize("error", [ConfigError("no [b]such[/b] thing"), DataError("no images"), PrimiaError("else")])
def test_a_project_error_is_one_line_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: PrimiaError
) -> None:
    assert exit_code(monkeypatch, error) == error.exit_code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_ctrl_c_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(monkeypatch, KeyboardInterrupt()) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "app", app_raising(ZeroDivisionError()))
    monkeypatch.setattr(sys, "argv", ["primia-ray"])
    with pytest.raises(ZeroDivisionError):
        entry.main()


def test_the_installed_command_reports_a_bad_setting() -> None:
    command = [sys.executable, "-m", "primia.cli.main", "config", "check", "--set", "training.optimizer=rmsprop"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == ConfigError.exit_code
    assert result.stderr == "error: --set training.optimizer=rmsprop: must be one of sgd, adam, adamw\n"
    assert result.stdout == ""
