"""``primia-ray infer``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from primia.inference.predictions import Prediction, Predictions

_DEFAULT_OUTPUT = Path("predictions.csv")
_NAMED = 10


def infer(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[Path, typer.Option(help="Flat folder of images, class folders, or one image.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=f"File to write: .csv, .json or .parquet. [default: {_DEFAULT_OUTPUT}]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file where it exists.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the network together.")] = 32,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else; a file is written only with --output.")
    ] = False,
) -> None:
    """Predict the class of images with a run's model.

    Images in class folders named as the model's classes are scored as well.

    An image that cannot be read is named, the rest go on.

    Example: primia-ray infer runs/first --data new_images/ --output predictions.csv
    """
    from rich.console import Console

    from primia import api

    if as_json:
        from primia.inference.output import to_json

        predictions = api.infer(run, data, output=output, overwrite=overwrite, batch_size=batch_size)
        typer.echo(to_json(predictions), nl=False)
        return
    console, target = Console(), output or _DEFAULT_OUTPUT
    with _progress(console) as show:
        predictions = api.infer(run, data, output=target, overwrite=overwrite, batch_size=batch_size, on_progress=show)
    _show(console, predictions)
    _show_next(console, predictions, run, data, target)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("loading the model", total=None)
        yield lambda done, total: bars.update(task, description="predicting", completed=done, total=total)


def _show(console: Console, predictions: Predictions) -> None:
    from primia.report import format as fmt
    from primia.report.summary import Metrics

    summary = predictions.summary()
    if summary["synthetic"]:
        console.print("The model was trained on synthetic images: it knows nothing of patients.", style="yellow")
    failed = [f"{summary[key]:,} {what}" for key, what in (("unreadable", "unreadable"), ("out_of_range", "out of range")) if summary[key]]
    console.print(", ".join([f"{fmt.plural(len(predictions), 'image')}: {summary['ok']:,} predicted", *failed]), highlight=False)
    console.print(_class_table(predictions))
    if predictions.evaluation:
        metrics = Metrics.model_validate(predictions.evaluation.metrics(predictions.classes))
        scores = (
            f"accuracy {fmt.percent(metrics.accuracy)}, balanced {fmt.percent(metrics.balanced_accuracy)}, MCC {fmt.score(metrics.mcc)}"
        )
        console.print(f"{scores}, over the {fmt.plural(metrics.images, 'image')} predicted", highlight=False)
    _show_failures(console, predictions.failures)


def _class_table(predictions: Predictions) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from primia.report import format as fmt

    named = [row.predicted for row in predictions.rows if row.predicted]
    truth = [row.truth for row in predictions.rows if row.predicted]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", overflow="fold")
    for heading in ("predicted", "share", *(["truth"] if predictions.has_truth else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in predictions.classes:
        count = named.count(name)
        true = [fmt.count(truth.count(name))] if predictions.has_truth else []
        table.add_row(Text(name), fmt.count(count), fmt.percent(count / len(named) if named else None), *true)
    return table


def _show_failures(console: Console, failures: Sequence[Prediction]) -> None:
    for row in failures[:_NAMED]:
        console.print(f"{row.status}: {row.file} ({row.reason})", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if len(failures) > _NAMED:
        console.print(f"... and {len(failures) - _NAMED:,} more without a prediction", style="yellow", highlight=False)


def _show_next(console: Console, predictions: Predictions, run: Path, data: Path, target: Path) -> None:
    from primia.inference.output import output_files

    names = ("predictions", "summary")
    lines = [f"{name:<12}{file}" for name, file in zip(names, output_files(target), strict=False)]
    if predictions.has_truth:
        skip = " --on-bad-image skip" if predictions.failures else ""
        command = f"primia-ray evaluate {quote(str(run))} --data {quote(str(data))}{skip}     precision and recall of each class"
    else:
        command = f"primia-ray evaluate {quote(str(run))} --data DIR     how often it is right, on labelled images"
    for line in (*lines, f"{'next':<12}{command}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
