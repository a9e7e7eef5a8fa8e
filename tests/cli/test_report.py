from __future__ import annotations

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from primia.cli.report import compare, report
from primia.config.settings import SearchSettings
from primia.errors import ConfigError, RunError
from primia.search.folder import SweepFolder

make_run = runpy.run_path(str(Path(__file__).parents[1] / "report" / "conftest.py"))["make_run"]
sweeps = runpy.run_path(str(Path(__file__).parents[1] / "search" / "sweeps.py"))

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


def test_a_sweeps_page_is_written_and_its_best_trials_are_shown(tmp_path):
    folder = sweeps["make_sweep"](tmp_path / "sweep")
    result = run("report", folder)
    assert result.exit_code == 0
    assert "best settings" in (folder / "report.html").read_text()
    said = result.stdout.replace("\n", "")
    assert f"wrote  {folder / 'report.html'}" in said
    assert "The best is trial 5" in said
    assert f"next   primia-ray train --config {folder / 'best.ini'}" in said
    numbers = [line.split()[0] for line in result.stdout.splitlines() if " complete " in line]
    assert len(numbers) == 10
    assert numbers[0] == "5"
    assert "and 10 more trials on the page" in said


def test_the_table_of_a_sweep_has_what_was_varied_and_the_second_objective(tmp_path):
    made = {number: replace(record, second=3.25) for number, record in sweeps["records"](6).items()}
    folder = sweeps["make_sweep"](tmp_path / "sweep", made, search="second_objective = epsilon\nscheduler = none\n")
    result = CliRunner().invoke(app, ["report", str(folder)], env={"COLUMNS": "250"})
    assert "epsilon" in result.stdout
    assert result.stdout.count("3.25") == 6
    assert "batch_size 64" in result.stdout
    assert "rounds 25" not in result.stdout
    assert "more trial" not in result.stdout


def test_a_sweep_that_is_under_way_can_be_reported(tmp_path):
    failed = replace(sweeps["records"](1)[1], number=2, state="failed", value=None, curve=(), cause="[/red] at hospital-b: no memory")
    folder = sweeps["make_sweep"](tmp_path / "sweep", sweeps["records"](1) | {2: failed}, finished=False)
    result = run("report", folder)
    assert result.exit_code == 0
    assert "Not finished" in result.stdout
    assert "[/red] at hospital-b" in result.stdout
    assert "next" not in result.stdout


def test_the_best_ini_of_an_earlier_part_is_not_what_is_next(tmp_path):
    folder = sweeps["make_sweep"](tmp_path / "sweep")
    assert "next   primia-ray train" in run("report", folder).stdout
    SweepFolder(folder).begin(SearchSettings())
    assert "next" not in run("report", folder).stdout


def test_files_that_there_are_are_named(tmp_path):
    folder = sweeps["make_sweep"](tmp_path / "sweep", sweeps["records"](1))
    assert "sweep.log" not in run("report", folder).stdout
    (folder / "sweep.log").write_text("it began")
    assert {"sweep.parquet", "sweep.json", "best.ini", "sweep.log"} <= set(run("report", folder).stdout.split())


def test_a_sweep_without_its_settings_is_one_clear_error(tmp_path):
    folder = sweeps["make_sweep"](tmp_path / "sweep")
    (folder / "config.ini").unlink()
    result = run("report", folder)
    assert isinstance(result.exception, RunError)
    assert "config.ini" in str(result.exception)


def test_compare_prints_the_verdict_and_writes_the_file(tmp_path):
    runs = [make_run(tmp_path / "fed"), make_run(tmp_path / "pooled", mode="pooled")]
    result = run("compare", *runs, "--output", tmp_path / "c.csv")
    assert result.exit_code == 0
    assert "federated equals pooled" in result.stdout
    assert (tmp_path / "c.csv").read_text().count("\n") == 3


def test_a_comparison_replaces_no_file_unasked(tmp_path):
    folder, output = make_run(tmp_path / "fed"), tmp_path / "c.csv"
    output.write_text("precious")
    result = run("compare", folder, "--output", output)
    assert isinstance(result.exception, RunError)
    assert output.read_text() == "precious"
    assert run("compare", folder, "--output", output, "--overwrite").exit_code == 0
    assert output.read_text() != "precious"


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
