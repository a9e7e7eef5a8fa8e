"""``primia-ray report`` and ``primia-ray compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]) -> None:
    """Write a run's report.html anew, and show its tables.

    Example: primia-ray report runs/first
    """
    from rich.console import Console

    from primia.report.page import write_report
    from primia.report.results import RunResults
    from primia.report.tables import class_table, communication_table, metrics_table, round_table

    path = write_report(run)
    results = RunResults.read(run)
    console = Console()
    console.print(metrics_table(results.summary))
    console.print(class_table(results.summary))
    console.print(round_table(results.rounds, results.summary.best_round))
    console.print(communication_table(results.summary))
    console.print(f"wrote  {path}", markup=False, highlight=False, soft_wrap=True)
    console.print("next   primia-ray compare RUN...     put runs side by side", highlight=False, soft_wrap=True)


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs: federated, pooled, local, several seeds.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the comparison, as .csv, .json or .html.")] = None,
) -> None:
    """Put runs side by side: pooled, each site alone, federated; and say whether they are comparable.

    Example: primia-ray compare runs/pooled runs/local-a runs/federated --output comparison.html
    """
    from rich.console import Console

    from primia.report import comparison_output
    from primia.report.compare import compare as compare_runs

    if output:
        comparison_output.check_output(output)
    comparison = compare_runs(runs)
    console = Console()
    console.print(comparison_output.comparison_table(comparison))
    if output:
        comparison_output.write_comparison(comparison, output)
        console.print(f"wrote  {output}", markup=False, highlight=False, soft_wrap=True)
