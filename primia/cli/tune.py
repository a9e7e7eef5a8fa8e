"""``primia-ray tune``."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from primia.cli.config import ConfigOption, SetOption
from primia.cli.terminal import Terminal
from primia.cli.train import read_settings, relative
from primia.errors import RunError

if TYPE_CHECKING:
    from primia.api.search import SweepStart
    from primia.search.folder import SweepFolder


def tune(
    config: ConfigOption = None,
    trials: Annotated[int | None, typer.Option(help="Federations to train.")] = None,
    data: Annotated[Path | None, typer.Option(help="Image folder, folder of packed shards or of site boxes, or MNIST's root.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for sweeps; runs where it is not given.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep's folder.")] = None,
    sets: SetOption = None,
    max_concurrent: Annotated[int | None, typer.Option(help="Trials at the same time.")] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds after which no trial goes on; starting and ending come on top.")] = None,
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
    from primia import api
    from primia.cli.sweep_display import SweepDisplay
    from primia.search.folder import SweepFolder
    from primia.search.tensorboard import TensorBoard

    limits = {"trials": trials, "max_concurrent": max_concurrent, "time_limit": time_limit, "target": target}
    flags = {f"search.{key}": value for key, value in limits.items()} | {"run.output": output, "run.name": name}
    if warm_start:
        flags["search.warm_start"] = ", ".join(f'"{path}"' for path in warm_start)
    overrides = [*(sets or []), *(f"{key}={value}" for key, value in flags.items() if value is not None)]
    console = Terminal()
    resumed = SweepFolder.open(resume) if resume else None
    settings = read_settings(console, config, data, overrides, resumed)
    started_in: list[Path] = []
    with ExitStack() as stack, SweepDisplay(console) as display, _answered_interrupt(console):

        def start(started: SweepStart) -> None:
            started_in.append(started.folder)
            url = stack.enter_context(TensorBoard(started.folder)).url if tensorboard else ""
            _show_places(console, started, url)

        try:
            sweep = api.tune(
                settings, resume=resume, address=address, dashboard=dashboard,
                on_start=start, on_progress=display.show, on_pack=display.pack,
            )  # fmt: skip
        except KeyboardInterrupt:
            if started_in:
                console.say(Text.assemble(("interrupted", "yellow"), f"; go on with: {_here(started_in[0]).resume_command}"))
            raise
    _show_result(console, sweep.path)


@contextmanager
def _answered_interrupt(console: Terminal) -> Iterator[None]:
    """Ctrl-C is answered at once, since what it stops takes a while to write; a second one ends that, too."""

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        console.print(Text.assemble(("stopping", "yellow"), ": results so far are written, what is under way can be gone on with ..."))
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _show_places(console: Terminal, started: SweepStart, tensorboard: str) -> None:
    """Where to look while the sweep runs; ``tensorboard``: its address, where it was started."""
    from primia.report import format as fmt
    from primia.search.tensorboard import view_command

    search, path = started.space.base.search, relative(started.folder)
    how = {"none": "", "pbt": ", as one population that exchanges settings (pbt)"}.get(
        search.scheduler, f", {search.scheduler} ends trials early"
    )
    what = f" by {search.algorithm} over {fmt.plural(len(started.space.names), 'setting')}{how}"
    console.say(Text.assemble((f"{search.trials} trials", "bold"), what))
    for notice in started.notices:
        console.say(notice, "cyan")
    how_to_look = f"watch       {view_command(started.folder)}     or start with --tensorboard"
    lines = [f"sweep       {path}", f"tensorboard {tensorboard}" if tensorboard else how_to_look]
    if url := started.cluster.dashboard_url:
        lines.append(f"dashboard   {url}" + (f"     it asks for the token in {started.cluster.token}" if started.cluster.token else ""))
    for line in lines:
        console.say(line)


def _show_result(console: Terminal, path: Path) -> None:
    """The trials, what the sweep came to, and what is next.

    Raises:
        RunError: no trial came to a result.
    """
    from primia.cli.report import trial_table
    from primia.report import format as fmt
    from primia.search.report.page import SweepResults

    folder = _here(path)
    sweep = SweepResults.read(folder)

    console.print()
    console.print(trial_table(sweep))
    if sweep.summary.reason:
        console.say(Text.assemble(("stopped", "yellow"), "     ", sweep.summary.reason))
    if sweep.summary.privacy:
        console.say(f"privacy     {sweep.summary.privacy.sentence}")
    console.say(f"sweep       {folder.path}")
    console.say(f"report      {folder.report}     all trials in {folder.table}")
    best, command = sweep.best, sweep.command or sweep.evaluate_command
    if command is None or best is None:
        raise RunError(f"no trial came to a result, so there is no {folder.best.name}; see {folder.log}")
    what = "the model to publish: training again spends again" if sweep.is_private else "train it again, to the same value"
    scores = f"validation MCC {fmt.score(best.value)}, which is optimistic, test MCC {fmt.score(sweep.test_mcc)}"
    console.say(f"best        {folder.best}     trial {best.number}: {scores}")
    console.say(f"next        {command}     {what}")
    console.say(f"            {folder.resume_command} --trials N     go on with more trials")


def _here(sweep: Path) -> SweepFolder:
    """A sweep's folder, by its path as it is typed from here."""
    from primia.search.folder import SweepFolder

    return SweepFolder(Path(relative(sweep)))
