from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from primia.cli.commands import Commands
from primia.errors import ConsentError

app = Commands()


@app.command()
def several(
    paths: Annotated[list[Path], typer.Argument()],
    other: Annotated[Path | None, typer.Option()] = None,
    default: Path = Path("box") / "default",
) -> None:
    typer.echo("ran")


@app.command(boxes=["path"])
def owners(path: Path, other: Annotated[Path | None, typer.Option()] = None) -> None:
    """What an owner does."""
    typer.echo("ran")


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "box.json").write_text(json.dumps({"format": "primia-site-box"}))
    return tmp_path / "box"


@pytest.mark.parametrize(
    "line",
    [
        ["several", "box/a", "--default", "b"],
        ["several", "a", "box", "--default", "b"],
        ["several", "a", "--other", "box/a", "--default", "b"],
        ["several", "a"],
        ["owners", "box", "--other", "box/a"],
    ],
)
def test_no_path_in_a_box_is_given_to_a_command(box: Path, line: list[str]) -> None:
    result = CliRunner().invoke(app, line)
    assert isinstance(result.exception, ConsentError) and "ran" not in result.output


@pytest.mark.parametrize("line", [["several", "a", "c", "--default", "b"], ["owners", "box"], ["owners", "box", "--other", "c"]])
def test_other_paths_are(box: Path, line: list[str]) -> None:
    assert CliRunner().invoke(app, line).output == "ran\n"


def test_help_is_the_functions_own() -> None:
    assert "What an owner does." in CliRunner().invoke(app, ["owners", "--help"]).output
    assert owners.__name__ == "owners" and not hasattr(owners, "__wrapped__")
