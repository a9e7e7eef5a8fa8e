"""``primia-ray report`` and ``primia-ray compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primia.cli.terminal import Terminal

if TYPE_CHECKING:
    from rich.table import Table

    from primia.search.report.page import SweepResults


TRIAL_LIMIT = 10
"""Trials of a sweep that the terminal shows."""


def report(path: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, or of a sweep, finished or not.")]) -> None:
    """Write report.html of a run or a sweep anew, and show its tables.

    Example: primia-ray report runs/first
    """
    from primia.search.folder import SweepFolder

    if SweepFolder.is_sweep(path):
        _report_sweep(path)
    else:
        _report_run(path)


def _report_run(run: Path) -> None:
    from primia.report.page import write_report
    from primia.report.tables import class_table, communication_table, metrics_table, round_table
    from primia.runs.results import RunResults

    path = write_report(run)
    results = RunResults.read(run)
    console = Terminal()
    console.print(metrics_table(results.summary))
    console.print(class_table(results.summary))
    console.print(round_table(results.rounds, results.summary.best_round, results.hidden_rounds))
    console.print(communication_table(results.summary))
    _say_written(console, path)
    console.say("next   primia-ray compare RUN...     put runs side by side")


def _report_sweep(path: Path) -> None:
    from primia.search.folder import SweepFolder
    from primia.search.report.page import SweepResults, headline, status, write_sweep_report

    page = write_sweep_report(path)
    folder = SweepFolder(path)
    sweep = SweepResults.read(folder)
    console = Terminal()
    console.print(headline(sweep))
    if sweep.summary.status != "complete":
        console.print(status(sweep.summary))
    console.print(trial_table(sweep))
    _say_written(console, page)
    files = {
        folder.table: "a row for each trial",
        folder.summary: "the result",
        folder.best: "settings of the best trial",
        folder.log: "what happened, with tracebacks",
    }
    for file, what in files.items():
        if file.is_file():
            console.say(f"       {file.name:<14} {what}")
    if command := sweep.command or sweep.evaluate_command:
        console.say(f"next   {command}")


def trial_table(sweep: SweepResults, limit: int = TRIAL_LIMIT) -> Table:
    """The best trials of a sweep, with the parameters that have taken several values; causes of failures below their trials.

    Where no trial has a value, all parameters are shown.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from primia.report import format as fmt
    from primia.search.report.importance import text_of, varied_parameters
    from primia.search.report.page import state_text

    varied = [parameter.name for parameter in varied_parameters(sweep.records, sweep.settings.search.space)]
    varied = varied or list(dict.fromkeys(name for record in sweep.records for name in record.parameters))
    second = sweep.settings.search.second_objective
    table = Table(box=box.SIMPLE_HEAD, title="trials, best first", title_justify="left", title_style="bold", pad_edge=False)
    for heading in ("trial", "state", "MCC", *([second] if second != "none" else []), "rounds", "time"):
        table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
    table.add_column("settings")
    for record in sweep.ranked[:limit]:
        settings = ", ".join(f"{name.split('.')[1]} {text_of(record.parameters[name])}" for name in varied if name in record.parameters)
        cells = [str(record.number), state_text(record, sweep.summary), fmt.score(record.value)]
        cells += [sweep.second_text(record.second)] if second != "none" else []
        cells += [str(record.rounds), fmt.duration(record.seconds)]
        lines = [Text(settings), *([Text(record.cause, style="dim")] if record.cause else [])]
        table.add_row(*cells, Group(*lines), style="bold" if record is sweep.best else "")
    if len(sweep.records) > limit:
        table.caption, table.caption_justify = f"and {fmt.plural(len(sweep.records) - limit, 'more trial')} on the page", "left"
    return table


def _say_written(console: Terminal, path: Path) -> None:
    console.say(f"wrote  {path}")


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs: federated, pooled, local, several seeds.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the comparison, as .csv, .json or .html.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file where it exists.")] = False,
) -> None:
    """Put runs side by side: pooled, each site alone, federated; and say whether they are comparable.

    Example: primia-ray compare runs/pooled runs/local-a runs/federated --output comparison.html
    """
    from primia.report import comparison_output
    from primia.report.compare import compare as compare_runs

    if output:
        comparison_output.check_output(output, overwrite=overwrite)
    comparison = compare_runs(runs)
    console = Terminal()
    console.print(comparison_output.comparison_table(comparison))
    if output:
        comparison_output.write_comparison(comparison, output)
        _say_written(console, output)
