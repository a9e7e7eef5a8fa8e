"""``primia-ray tune``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from primia.cli.config import ConfigOption, SetOption
from primia.cli.train import read_settings, relative

if TYPE_CHECKING:
    from rich.console import Console

    from primia.api import Sweep
    from primia.api.search import SweepStart


def tune(
    config: ConfigOption = None,
    trials: Annotated[int | None, typer.Option(help="Federations to train.")] = None,
    data: Annotated[Path | None, typer.Option(help="Image folder, folder of packed shards or of site boxes, or MNIST's root.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for sweeps; runs where it is not given.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep's folder.")] = None,
    sets: SetOption = None,
    max_concurrent: Annotated[int | None, typer.Option(help="Trials at the same time.")] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds after which the sweep ends.")] = None,
    target: Annotated[float | None, typer.Option(help="Validation MCC at which the sweep ends.")] = None,
    warm_start: Annotated[
        list[Path] | None, typer.Option(help="An earlier sweep, whose results are used, or an .ini to try first; repeatable.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Folder of a sweep to go on with.")] = None,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster; without it a local one.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Start TensorBoard on the trials while the sweep runs.")] = False,
    dashboard: Annotated[bool, typer.Option(help="Ray's dashboard, on a local cluster.")] = True,
) -> None:
    """Search for settings of the whole federation: each trial is a federation, trained and validated like any other.

    The space stands in the section search of the .ini file. Without one it searches a small space over the built-in demonstration.

    Example: primia-ray tune --config configs/pneumonia-resnet18.ini --data chest_xray --trials 30 --name first
    """
    from rich.console import Console

    from primia import api
    from primia.cli.sweep_display import SweepDisplay
    from primia.search.tensorboard import TensorBoard

    limits = {"trials": trials, "max_concurrent": max_concurrent, "time_limit": time_limit, "target": target}
    flags = {f"search.{key}": value for key, value in limits.items()} | {"run.output": output, "run.name": name}
    if warm_start:
        flags["search.warm_start"] = ", ".join(f'"{path}"' for path in warm_start)
    overrides = [*(sets or []), *(f"{key}={value}" for key, value in flags.items() if value is not None)]
    console = Console()
    settings = read_settings(console, config, data, overrides, resume)
    started_in: list[Path] = []
    with ExitStack() as stack, SweepDisplay(console) as display:

        def start(started: SweepStart) -> None:
            started_in.append(started.folder)
            _show_places(console, started)
            if tensorboard:
                console.print(f"tensorboard {stack.enter_context(TensorBoard(started.folder)).url}", soft_wrap=True, highlight=False)

        try:
            sweep = api.tune(
                settings, resume=resume, address=address, dashboard=dashboard,
                on_start=start, on_progress=display.show, on_pack=display.pack,
            )  # fmt: skip
        except KeyboardInterrupt:
            if started_in:
                console.print(f"[yellow]interrupted[/]; go on with: primia-ray tune --resume {relative(started_in[0])}", soft_wrap=True)
            raise
    _show_result(console, sweep)


def _show_places(console: Console, started: SweepStart) -> None:
    """Where to look while the sweep runs."""
    from primia.report import format as fmt
    from primia.search.tensorboard import view_command

    search, path = started.space.base.search, relative(started.folder)
    how = {"none": "", "pbt": ", as one population that exchanges settings (pbt)"}.get(
        search.scheduler, f", {search.scheduler} ends trials early"
    )
    lines = [f"[bold]{search.trials} trials[/] by {search.algorithm} over {fmt.plural(len(started.space.names), 'setting')}{how}"]
    lines += [f"[cyan]{escape(notice)}[/]" for notice in started.notices]
    lines += [f"sweep       {escape(path)}", f"watch       {escape(view_command(started.folder))}     or start with --tensorboard"]
    if url := started.cluster.dashboard_url:
        lines.append(f"dashboard   {url}" + (f"     it asks for the token in {started.cluster.token}" if started.cluster.token else ""))
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def _show_result(console: Console, sweep: Sweep) -> None:
    from primia.cli.report import trial_table
    from primia.search.folder import SweepFolder
    from primia.search.page import SweepResults

    folder = SweepFolder(sweep.path)
    summary, path = sweep.summary, escape(relative(sweep.path))
    # What is drawn, and the noise, are secret under differential privacy.
    again = "train it again, which spends privacy again" if folder.settings().privacy.is_on else "train it again, to the same value"
    console.print()
    console.print(trial_table(SweepResults.read(folder)))
    if summary["reason"]:
        console.print(f"[yellow]stopped[/]     {escape(summary['reason'])}", soft_wrap=True)
    if summary["privacy"]:
        console.print(f"privacy     {summary['privacy']['sentence']}", soft_wrap=True, highlight=False)
    for line in (
        f"sweep       {path}",
        f"report      {path}/report.html     all trials in {path}/sweep.parquet",
        f"best        {path}/best.ini",
        f"next        primia-ray train --config {path}/best.ini     {again}",
        f"            primia-ray tune --resume {path} --trials N     go on with more trials",
    ):
        console.print(line, soft_wrap=True, highlight=False)
