"""Shows a run while it runs: a line a round in a growing table, and a bar with the time left on a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import TaskID
from rich.text import Text

from primia.cli.terminal import Terminal, bars

if TYPE_CHECKING:
    from primia.federation.events import Event, Notice, RoundFinished, RoundStarted, RunFinished, RunStarted, SiteLeftOut

_SITE_COLUMNS = 4
_NAME_WIDTH = 12


class TrainingDisplay:
    """Give it every event of a run; a context manager."""

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._progress = bars(console, elapsed=True)
        self._packing: dict[str, TaskID] = {}
        self._rounds: TaskID | None = None
        self._sites: TaskID | None = None
        self._columns: tuple[str, ...] = ()
        self._seen_traceback = False
        self._told: set[tuple[str, str]] = set()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def pack(self, what: str, done: int, total: int) -> None:
        """Images packed so far."""
        if what not in self._packing:
            self._packing[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._packing[what], completed=done, total=total, visible=done < total)

    def show(self, event: Event) -> None:
        """One event."""
        handler = getattr(self, f"_{type(event).__name__}", None)
        if handler:
            handler(event)

    def _RunStarted(self, event: RunStarted) -> None:  # noqa: N802 - named after the event
        sites = len(event.training_sites)
        what = f", {sites} training site{'s' * (sites > 1)}, {event.steps} optimiser steps a round, {event.parameters:,} parameters"
        later = f"; going on after round {event.done}" if event.done else ""
        self._console.print(Text.assemble((f"{event.rounds} rounds", "bold"), what, later))
        self._rounds = self._progress.add_task("rounds", total=event.rounds, completed=event.done)
        self._sites = self._progress.add_task("sites", total=sites)

    def _RoundStarted(self, event: RoundStarted) -> None:  # noqa: N802
        if self._sites is not None:
            self._progress.reset(self._sites, total=len(event.sites), description=f"round {event.round}, sites")

    def _SiteFinished(self, event: object) -> None:  # noqa: N802
        if self._sites is not None:
            self._progress.advance(self._sites)

    def _SiteLeftOut(self, event: SiteLeftOut) -> None:  # noqa: N802
        if (event.site, event.reason) in self._told:
            return  # each round has its kind in run.log and rounds.parquet
        self._told.add((event.site, event.reason))
        first = bool(event.traceback) and not self._seen_traceback
        style, level = ("red", "ERROR") if first else ("yellow", "warning")
        when = f"round {event.round}, " if event.round else ""
        self._console.say(Text.assemble((level, style), f" {when}site {event.site}: {event.reason}"))
        if first:
            self._seen_traceback = True
            for line in event.traceback.rstrip().split("\n"):
                self._console.say(line)

    def _RoundFinished(self, event: RoundFinished) -> None:  # noqa: N802
        if self._rounds is not None:
            self._progress.advance(self._rounds)
        if event.validation is None:
            return
        columns = tuple(sorted(event.site_validation)) if len(event.site_validation) <= _SITE_COLUMNS else ()
        if not self._columns or columns != self._columns[1:]:
            self._columns = ("", *columns)
            self._console.say(_header(columns), "dim")
        self._console.say(_row(event, columns), "bold" if event.is_best else "")

    def _RunFinished(self, event: RunFinished) -> None:  # noqa: N802
        if event.status == "interrupted":
            hint = f"go on with: primia-ray train --resume {event.folder}"
            self._console.say(Text.assemble(("interrupted", "yellow"), f" after round {event.summary['rounds']}; {hint}"))

    def _Notice(self, event: Notice) -> None:  # noqa: N802
        style = {"info": "cyan", "warning": "yellow", "error": "red"}[event.level]
        self._console.say(event.text, style)


def _short(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else "…" + name[-(_NAME_WIDTH - 1) :]


def _header(sites: tuple[str, ...]) -> str:
    names = "".join(f"{_short(name):>{_NAME_WIDTH + 1}}" for name in sites) or f"{'worst site':>{_NAME_WIDTH + 1}}"
    return f"{'round':>7} {'loss':>8} {'val. MCC':>9}{names} {'time':>8}"


def _row(event: RoundFinished, sites: tuple[str, ...]) -> str:
    scores = {name: float(str(metrics["mcc"])) for name, metrics in event.site_validation.items()}
    shown = [f"{scores[name]:.3f}" for name in sites] or [f"{min(scores.values()):.3f}" if scores else "-"]
    cells = "".join(f"{score:>{_NAME_WIDTH + 1}}" for score in shown)
    mcc = float(str((event.validation or {})["mcc"]))
    loss = "-" if event.train_loss is None else f"{event.train_loss:.4f}"
    star = " *" if event.is_best else ""
    return f"{event.round:>3}/{event.rounds:<3} {loss:>8} {mcc:>9.3f}{cells} {event.seconds:>6.1f} s{star}"
