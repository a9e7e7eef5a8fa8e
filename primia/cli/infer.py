"""``primia-ray infer``."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from primia.cli.config import SetOption
from primia.cli.inference_display import job_progress, show_agreement, show_costs, show_summary, transfer_progress
from primia.cli.terminal import Terminal

if TYPE_CHECKING:
    from primia.api import EncryptedOptions

_BATCH_SIZE = 32
_DEFAULT_OUTPUT = Path("predictions.csv")


def infer(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[Path | None, typer.Option(help="Flat folder of images, class folders, or one image.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=f"File to write: .csv, .json or .parquet. [default: {_DEFAULT_OUTPUT}]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file where it exists.")] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images that go through the network together, in the clear. [default: 32]")
    ] = None,
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
    from primia import api
    from primia.errors import ConfigError

    console = Terminal()
    options = api.EncryptedOptions(calibration, keys, resume, address, tuple(sets or ()))
    if preprocess:
        _prepare(console, run, preprocess, keys, options)
        return
    if data is None:
        raise ConfigError("no images: give them with --data DIR")
    if not encrypted and (keys or resume or address or calibration or check):
        raise ConfigError("--keys, --resume, --address, --calibration and --check are of encrypted inference; add --encrypted")
    if encrypted and batch_size:
        raise ConfigError("--batch-size is of inference in the clear; encrypted batches follow from the size of their keys")
    if as_json and check:
        raise ConfigError("--check prints, and --json prints nothing else; leave one out")
    if as_json:
        _json(run, data, output, overwrite, batch_size, options if encrypted else None)
        return
    target = output or _DEFAULT_OUTPUT
    if not encrypted:
        with transfer_progress(console) as show:
            predictions = api.infer(run, data, output=target, overwrite=overwrite, batch_size=batch_size or _BATCH_SIZE, on_progress=show)
        summary: dict[str, Any] = predictions.summary()
    else:
        with job_progress(console) as on_event:
            summary = api.infer_encrypted(run, data, output=target, overwrite=overwrite, options=options, on_event=on_event)
    show_summary(console, summary)
    if encrypted:
        show_costs(console, summary["encrypted"])
    if check:
        show_agreement(console, api.agreement(run, data, target))
    _show_next(console, summary, run, data, target)


def _prepare(console: Terminal, run: Path, images: int, keys: Path | None, options: EncryptedOptions) -> None:
    from primia import api

    folder = keys or run / "keys"
    with job_progress(console) as on_event:
        summary = api.prepare_keys(run, images, keys=folder, options=options, on_event=on_event)
    console.print(f"keys for {summary['keys']:,} images in {summary['seconds']:.1f} s, each to be used once")
    command = f"primia-ray infer {quote(str(run))} --data DIR --encrypted --keys {quote(str(folder))}"
    for line in (f"{'keys':<12}{folder}", f"{'next':<12}{command}"):
        console.say(line)


def _json(run: Path, data: Path, output: Path | None, overwrite: bool, batch_size: int | None, options: EncryptedOptions | None) -> None:
    import json
    import tempfile

    from primia import api
    from primia.inference.output import to_json

    if options is None:
        typer.echo(to_json(api.infer(run, data, output=output, overwrite=overwrite, batch_size=batch_size or _BATCH_SIZE)), nl=False)
        return
    with tempfile.TemporaryDirectory(prefix="primia-") as folder:
        target = output or Path(folder) / "predictions.json"
        summary = api.infer_encrypted(run, data, output=target, overwrite=overwrite, options=options)
        document = json.loads(target.read_text()) if target.suffix == ".json" else {"summary": summary}
    typer.echo(json.dumps(document, indent=1))


def _show_next(console: Terminal, summary: dict[str, Any], run: Path, data: Path, target: Path) -> None:
    from primia.inference.output import output_files

    names = ("predictions", "summary")
    lines = [f"{name:<12}{file}" for name, file in zip(names, output_files(target), strict=False)]
    if summary["metrics"]:
        skip = " --on-bad-image skip" if summary["failures"] else ""
        command = f"primia-ray evaluate {quote(str(run))} --data {quote(str(data))}{skip}     precision and recall of each class"
    else:
        command = f"primia-ray evaluate {quote(str(run))} --data DIR     how often it is right, on labelled images"
    for line in (*lines, f"{'next':<12}{command}"):
        console.say(line)
