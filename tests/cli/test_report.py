from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from primia.cli.report import compare, report
from primia.errors import ConfigError, RunError

make_run = runpy.run_path(str(Path(__file__).parents[1] / "report" / "conftest.py"))["make_run"]

app = typer.Typer()
app.command()(report)
app.command()(compare)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "80"})


def test_report_writes_the_page_and_prints_its_path_and_the_tables(tmp_path):
    folder = make_run(tmp_path / "first")
    result = run("report", folder)
    assert result.exit_code == 0
    assert (folder / "report.html").is_file()
    assert str(folder / "report.html") in result.stdout.replace("\n", "")
    for said in ("hospital-c (worst)", "precision", "validation by round", "communication"):
        assert said in result.stdout


def test_report_is_rewritten(tmp_path):
    folder = make_run(tmp_path / "first")
    (folder / "report.html").write_text("old")
    run("report", folder)
    assert (folder / "report.html").read_text() != "old"


def test_compare_prints_the_verdict_and_writes_the_file(tmp_path):
    runs = [make_run(tmp_path / "fed"), make_run(tmp_path / "pooled", mode="pooled")]
    result = run("compare", *runs, "--output", tmp_path / "c.csv")
    assert result.exit_code == 0
    assert "federated equals pooled" in result.stdout
    assert (tmp_path / "c.csv").read_text().count("\n") == 3


@pytest.mark.parametrize("command", ["report", "compare"])
def test_an_unfinished_run_is_one_clear_error(tmp_path, command):
    folder = make_run(tmp_path / "first")
    (folder / "summary.json").unlink()
    result = run(command, folder)
    assert isinstance(result.exception, RunError)
    assert "not finished" in str(result.exception)
    assert "\n" not in str(result.exception)


def test_an_unknown_format_is_refused_before_any_reading(tmp_path):
    result = run("compare", tmp_path / "missing", "--output", tmp_path / "c.docx")
    assert isinstance(result.exception, ConfigError)


def test_importing_the_command_is_light():
    code = "import sys, primia.cli.report; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "typer" in loaded
    assert not {"matplotlib", "pyarrow", "numpy", "torch", "jinja2"} & set(loaded)
