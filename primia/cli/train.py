"""``primia-ray train``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primia.cli.config import ConfigOption, SetOption
from primia.cli.terminal import Terminal
from primia.errors import ConfigError

if TYPE_CHECKING:
    from primia.api import Run
    from primia.config.settings import Settings
    from primia.runs.folder import ResultFolder

_PLACE = {"run.name": "--name", "run.output": "--output"}


def train(
    config: ConfigOption = None,
    data: Annotated[Path | None, typer.Option(help="Image folder, folder of packed shards or of site boxes, or MNIST's root.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for run folders; runs where it is not given.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run folder.")] = None,
    mode: Annotated[str | None, typer.Option(help="federated, pooled (all shards as one) or local (one site).")] = None,
    site: Annotated[str | None, typer.Option(help="The site that trains alone; implies --mode local.")] = None,
    sets: SetOption = None,
    on_bad_image: Annotated[str | None, typer.Option(help="error, or skip: unreadable images are named and counted.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Train on the mock halves of site boxes: no patient, no grant.")] = False,
    resume: Annotated[Path | None, typer.Option(help="Run folder of an interrupted run to go on with.")] = None,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster; without it a local one.")] = None,
) -> None:
    """Train a federation, or its pooled or local counterpart at equal optimisation steps.

    Without options it runs the built-in demonstration: three synthetic hospitals.

    Example: primia-ray train --config configs/pneumonia-resnet18.ini --data chest_xray --name first
    """
    from primia import api
    from primia.cli.progress import TrainingDisplay
    from primia.runs.folder import RunFolder

    flags = {"run.output": output, "run.name": name, "run.mode": mode or ("local" if site else None), "run.site": site}
    if dry_run:
        flags["run.dry_run"] = "yes"
    overrides = [f"{key}={value}" for key, value in (flags | {"data.on_bad_image": on_bad_image}).items() if value is not None]
    console = Terminal()
    resumed = RunFolder.open(resume) if resume else None
    settings = read_settings(console, config, data, [*(sets or []), *overrides], resumed)
    with TrainingDisplay(console) as display:
        run = api.train(settings, resume=resume, address=address, on_event=display.show, on_pack=display.pack)
    _show_result(console, run)


def read_settings(
    console: Terminal, config: Path | None, data: Path | None, overrides: list[str], resume: ResultFolder | None
) -> Settings | None:
    """Settings from file and flags; None where a run is resumed just as it was started.

    Raises:
        ConfigError: a setting is wrong, or would move what is resumed.
        ConsentError: what is written would lie in a site box.
    """
    from rich.text import Text

    from primia.config.reader import read_config
    from primia.data.closed import refuse_box

    keys = {each.partition("=")[0].strip() for each in overrides}
    if resume and (moved := [flag for key, flag in _PLACE.items() if key in keys]):
        raise ConfigError(f"{' and '.join(moved)} cannot be given with --resume: what is resumed stays in {resume.path}; leave it out")
    if resume and not (config or data or overrides):
        return None
    base = config or (resume.config if resume else None)
    given = [*([f"data.path={data}"] if data else []), *(["data.source=boxes"] if data and _holds_boxes(data) else []), *overrides]
    settings, warnings = read_config(base, given, follow=base is config)
    if data and settings.data.source == "demo":
        settings, warnings = read_config(base, [*given, "data.source=folder"], follow=base is config)
    for place in (settings.run.output, settings.data.cache):
        if place:
            refuse_box(place)
    for warning in warnings:
        console.say(Text.assemble(("warning", "yellow"), " ", warning))
    return settings


def _holds_boxes(data: Path) -> bool:
    return (data / "box.json").is_file() or next(data.glob("*/box.json"), None) is not None


def _show_result(console: Terminal, run: Run) -> None:
    from primia.report.tables import class_table, metrics_table
    from primia.runs.summary import RunSummary

    summary = run.summary
    console.print()
    console.print(metrics_table(summary))
    console.print(class_table(summary))
    path, typed = relative(run.path), shlex.quote(relative(run.path))
    console.say(f"privacy     {RunSummary.of(summary).privacy.in_short}")
    console.say(f"run folder  {path}")
    console.say(f"report      {path}/report.html")
    for line in _next_steps(run.settings, typed):
        console.say(line)


def _next_steps(settings: Settings, folder: str) -> list[str]:
    """What can be done with a finished run; boxes are not pooled, and a dry run has nothing to attack."""
    steps = [(f"evaluate {folder} --data DIR", "test it on other labelled images")]
    if settings.data.source != "boxes" and settings.run.mode == "federated":
        steps.append(("train --mode pooled", "compare with all data in one place"))
    if not settings.run.dry_run:
        steps.append((f"audit {folder}", "attack it, to see what the protection is worth"))
    return [f"{'' if number else 'next':12}primia-ray {command:40} {why}" for number, (command, why) in enumerate(steps)]


def relative(path: Path) -> str:
    """A path as it is typed from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
