"""``primia-ray infer``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from primia.cli.config import SetOption

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from primia.api import EncryptedOptions

_DEFAULT_OUTPUT = Path("predictions.csv")
_NAMED = 10


def infer(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[Path | None, typer.Option(help="Flat folder of images, class folders, or one image.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=f"File to write: .csv, .json or .parquet. [default: {_DEFAULT_OUTPUT}]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file where it exists.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the network together, in the clear.")] = 32,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else; a file is written only with --output.")
    ] = False,
    encrypted: Annotated[bool, typer.Option("--encrypted", help="By function secret sharing, as a Ray job of three parties.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Predict in the clear as well, and say how far both agree.")] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Images of the model owner's own that fix the ranges of values. [default: the run's validation images]"),
    ] = None,
    preprocess: Annotated[int, typer.Option(min=0, help="Make keys for so many images ahead of time, into --keys, and end.")] = 0,
    keys: Annotated[Path | None, typer.Option(help="Folder of keys that were made ahead of time.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an encrypted inference that broke off.")] = False,
    address: Annotated[str | None, typer.Option(help="Job API of a running Ray cluster, http://HOST:8265; without it a local one.")] = None,
    sets: SetOption = None,
) -> None:
    """Predict the class of images with a run's model, in the clear or under encryption.

    Images in class folders named as the model's classes are scored as well.

    An image that cannot be read is named, the rest go on.

    Example: primia-ray infer runs/first --data new_images/ --encrypted --check
    """
    from rich.console import Console

    from primia import api
    from primia.errors import ConfigError

    console = Console()
    options = api.EncryptedOptions(calibration, keys, resume, address, tuple(sets or ()))
    if preprocess:
        _prepare(console, run, preprocess, keys, options)
        return
    if data is None:
        raise ConfigError("no images: give them with --data DIR")
    if not encrypted and (keys or resume or address or calibration or check):
        raise ConfigError("--keys, --resume, --address, --calibration and --check are of encrypted inference; add --encrypted")
    if as_json:
        _json(run, data, output, overwrite, batch_size, options if encrypted else None)
        return
    target = output or _DEFAULT_OUTPUT
    if not encrypted:
        with _progress(console) as show:
            predictions = api.infer(run, data, output=target, overwrite=overwrite, batch_size=batch_size, on_progress=show)
        summary: dict[str, Any] = predictions.summary()
    else:
        with _job_progress(console) as on_event:
            summary = api.infer_encrypted(run, data, output=target, overwrite=overwrite, options=options, on_event=on_event)
    _show(console, summary)
    if encrypted:
        _show_costs(console, summary["encrypted"])
    if check:
        _show_agreement(console, api.agreement(run, data, target))
    _show_next(console, summary, run, data, target)


def _prepare(console: Console, run: Path, images: int, keys: Path | None, options: EncryptedOptions) -> None:
    from primia import api

    folder = keys or run / "keys"
    with _job_progress(console) as on_event:
        summary = api.prepare_keys(run, images, keys=folder, options=options, on_event=on_event)
    console.print(f"keys for {summary['keys']:,} images in {summary['seconds']:.1f} s, each to be used once", highlight=False)
    command = f"primia-ray infer {quote(str(run))} --data DIR --encrypted --keys {quote(str(folder))}"
    for line in (f"{'keys':<12}{folder}", f"{'next':<12}{command}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _json(run: Path, data: Path, output: Path | None, overwrite: bool, batch_size: int, options: EncryptedOptions | None) -> None:
    import json
    import tempfile

    from primia import api
    from primia.inference.output import to_json

    if options is None:
        typer.echo(to_json(api.infer(run, data, output=output, overwrite=overwrite, batch_size=batch_size)), nl=False)
        return
    with tempfile.TemporaryDirectory(prefix="primia-") as folder:
        target = output or Path(folder) / "predictions.json"
        summary = api.infer_encrypted(run, data, output=target, overwrite=overwrite, options=options)
        document = json.loads(target.read_text()) if target.suffix == ".json" else {"summary": summary}
    typer.echo(json.dumps(document, indent=1))


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("loading the model", total=None)
        yield lambda done, total: bars.update(task, description="predicting", completed=done, total=total)


@contextmanager
def _job_progress(console: Console) -> Iterator[Callable[[dict[str, Any]], None]]:
    with _progress(console) as show:

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "plan":
                _show_plan(console, event["plan"])
            elif event["event"] == "progress":
                show(event["done"], event["total"])

        yield on_event


def _show_plan(console: Console, plan: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=f"plan: ring of {plan['ring_bits']} bits, AES {plan['aes']}", title_justify="left"
    )
    table.add_column("layer", overflow="fold")
    for heading in ("output", "weight bits", "ReLU bits", "max bits"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in plan["layers"]:
        widths = [str(layer[key] or "-") for key in ("weight_bits", "comparison_bits", "pool_bits")]
        table.add_row(Text(layer["name"]), " x ".join(map(str, layer["shape"])), *widths)
    console.print(table)
    console.print(
        f"an image: {plan['comparisons']:,} comparisons, {plan['exchanges']} exchanges, {_size(plan['key_bytes'])} of keys, "
        f"{_size(plan['online_bytes'])} online; expected {plan['expected_preprocessing_core_s']:.2f} s of keys and "
        f"{plan['expected_online_core_s']:.2f} s online on one core",
        highlight=False,
        soft_wrap=True,
    )
    found = plan["calibration"]
    if found["images"]:
        console.print(
            f"calibration: {found['same_class']} of {found['images']} images get the class that the model gives in the clear, "
            f"largest error of a logit {found['largest_error']:.4f}",
            highlight=False,
            soft_wrap=True,
        )


def _show(console: Console, summary: dict[str, Any]) -> None:
    from primia.report import format as fmt
    from primia.report.summary import Metrics

    if summary["synthetic"]:
        console.print("The model was trained on synthetic images: it knows nothing of patients.", style="yellow")
    failed = [f"{summary[key]:,} {what}" for key, what in (("unreadable", "unreadable"), ("out_of_range", "out of range")) if summary[key]]
    console.print(", ".join([f"{fmt.plural(summary['images'], 'image')}: {summary['ok']:,} predicted", *failed]), highlight=False)
    metrics = Metrics.model_validate(summary["metrics"]) if summary["metrics"] else None
    console.print(_class_table(summary["predicted"], metrics))
    if metrics:
        scores = (
            f"accuracy {fmt.percent(metrics.accuracy)}, balanced {fmt.percent(metrics.balanced_accuracy)}, MCC {fmt.score(metrics.mcc)}"
        )
        console.print(f"{scores}, over the {fmt.plural(metrics.images, 'image')} predicted", highlight=False)
    _show_failures(console, summary["failures"])


def _class_table(predicted: dict[str, int], metrics: Any) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from primia.report import format as fmt

    total = sum(predicted.values())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", overflow="fold")
    for heading in ("predicted", "share", *(["truth"] if metrics else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, count in predicted.items():
        true = [fmt.count(metrics.per_class[name].support)] if metrics else []
        table.add_row(Text(name), fmt.count(count), fmt.percent(count / total if total else None), *true)
    return table


def _show_failures(console: Console, failures: Sequence[dict[str, str]]) -> None:
    for row in failures[:_NAMED]:
        line = f"{row['status']}: {row['file']} ({row['reason']})"
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if len(failures) > _NAMED:
        console.print(f"... and {len(failures) - _NAMED:,} more without a prediction", style="yellow", highlight=False)


def _show_costs(console: Console, costs: dict[str, Any]) -> None:
    together = f"batches of {costs['batch_images']}" if costs["batch_images"] > 1 else "one image a batch"
    console.print(
        f"encrypted, {together}: keys {costs['preprocessing_s_per_batch']:.2f} s and online {costs['online_s_per_batch']:.2f} s a batch, "
        f"{costs['exchanges_per_batch']} exchanges, {_size(costs['online_bytes_per_image'])} online and "
        f"{_size(costs['key_bytes_per_image'])} of keys an image",
        highlight=False,
        soft_wrap=True,
    )


def _show_agreement(console: Console, found: dict[str, Any]) -> None:
    console.print(
        f"check: {found['same_class']:,} of {found['images']:,} images get the class that the model gives in the clear, "
        f"largest difference of a probability {found['largest_difference']:.4f}",
        highlight=False,
        soft_wrap=True,
    )


def _show_next(console: Console, summary: dict[str, Any], run: Path, data: Path, target: Path) -> None:
    from primia.inference.output import output_files

    names = ("predictions", "summary")
    lines = [f"{name:<12}{file}" for name, file in zip(names, output_files(target), strict=False)]
    if summary["metrics"]:
        skip = " --on-bad-image skip" if summary["failures"] else ""
        command = f"primia-ray evaluate {quote(str(run))} --data {quote(str(data))}{skip}     precision and recall of each class"
    else:
        command = f"primia-ray evaluate {quote(str(run))} --data DIR     how often it is right, on labelled images"
    for line in (*lines, f"{'next':<12}{command}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _size(count: float) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
