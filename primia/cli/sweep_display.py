"""Shows a sweep while it runs: a line for each trial that is over; below, on a terminal, those at work, the best, and the time left."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Group
from rich.live import Live
from rich.text import Text

from primia.cli.terminal import Terminal
from primia.report import format as fmt
from primia.search.records import State, TrialRecord, Value, best_of
from primia.search.report.importance import text_of

if TYPE_CHECKING:
    from primia.search.tune.callback import SweepProgress

_STYLES = {State.COMPLETE: "", State.PRUNED: "dim", State.FAILED: "red", State.RUNNING: "cyan"}
_RUNNING_LINES = 8


class SweepDisplay:
    """Give it every :class:`~primia.search.tune.callback.SweepProgress`; a context manager."""

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self._shown: set[int] = set()
        self._at_first: int | None = None
        self._best: float | None = None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def pack(self, what: str, done: int, total: int) -> None:
        """Images packed so far."""
        if self._live:
            self._live.update(Text(f"{what}  {done:,} of {total:,}" if done < total else ""), refresh=True)

    def show(self, progress: SweepProgress) -> None:
        """How far the sweep is."""
        over = [record for record in progress.records.values() if record.state is not State.RUNNING]
        if self._at_first is None:
            self._at_first = len(over)
            self._shown = {record.number for record in over}
            self._best = _value(best_of(over))
            self._console.say(f"{'trial':>9} {'val. MCC':>9} {'rounds':>8} {'time':>10}   settings", "dim")
        for record in over:
            if record.number not in self._shown:
                self._shown.add(record.number)
                self._print(record, progress.trials)
        if self._live:
            self._live.update(Group(*self._running(progress), self._status(progress, len(over))), refresh=True)

    def _print(self, record: TrialRecord, trials: int) -> None:
        is_best = record.state is State.COMPLETE and record.value is not None and (self._best is None or record.value > self._best)
        if is_best:
            self._best = record.value
        text = Text(_line(record, trials) + (" *" if is_best else ""), style="bold" if is_best else _STYLES[record.state])
        self._console.say(text)

    def _running(self, progress: SweepProgress) -> list[Text]:
        running = [record for record in progress.records.values() if record.state is State.RUNNING]
        lines = [Text(_line(record, progress.trials), style=_STYLES[State.RUNNING]) for record in running[:_RUNNING_LINES]]
        more = len(running) - len(lines)
        return [*lines, *([Text(f"{'':>9} and {more} more at work", style="dim")] if more > 0 else [])]

    def _status(self, progress: SweepProgress, over: int) -> Text:
        counts = {state: sum(record.state is state for record in progress.records.values()) for state in State}
        best = _value(best_of(progress.records.values()))
        parts = [f"{over} of {progress.trials} trials", f"{counts[State.PRUNED]} pruned"]
        parts += [f"{counts[State.FAILED]} failed"] if counts[State.FAILED] else []
        parts += [f"best so far {fmt.score(best)}", fmt.duration(progress.elapsed_s), _left(progress, over, self._at_first or 0)]
        return Text("  ·  ".join(part for part in parts if part), style="bold")


def settings_line(parameters: Mapping[str, Value]) -> str:
    """Drawn settings in one line, without their sections."""
    return ", ".join(f"{key.partition('.')[2]} = {text_of(value)}" for key, value in parameters.items()) or "as given"


def _line(record: TrialRecord, trials: int) -> str:
    rounds = f"{record.rounds}/{record.planned_rounds or '?'}"
    told = settings_line(record.parameters) if record.state is not State.FAILED else f"failed: {record.cause}"
    suffix = "  (pruned)" if record.state is State.PRUNED else ""
    return f"{record.number:>4}/{trials:<4} {fmt.score(record.value):>9} {rounds:>8} {fmt.duration(record.seconds):>10}   {told}{suffix}"


def _value(record: TrialRecord | None) -> float | None:
    return record.value if record else None


def _left(progress: SweepProgress, over: int, at_first: int) -> str:
    """From the trials that have ended since the sweep was started or resumed; empty before the first one."""
    ended = over - at_first
    if not ended:
        return ""
    left = progress.elapsed_s / ended * max(0, progress.trials - over)
    if progress.time_limit_s:
        left = min(left, max(0.0, progress.time_limit_s - progress.elapsed_s))
    return f"about {fmt.duration(left)} left"
