"""Watches a sweep from the process that runs it: keeps the record, tells the audience, and says when it is enough."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from ray.tune import Callback, Stopper

from primia.config.settings import SearchSettings
from primia.errors import PrimiaError
from primia.runs.folder import RunFolder, file_logger
from primia.search.folder import SweepFolder
from primia.search.records import State, Told, TrialRecord
from primia.search.tune.trainable import ASSIGNMENT, TOLD


@dataclass(frozen=True)
class SweepProgress:
    """A sweep under way: what is known of its trials, how many there will be, and the seconds since it was started or resumed."""

    records: Mapping[int, TrialRecord]
    trials: int
    elapsed_s: float
    time_limit_s: float | None


OnProgress = Callable[[SweepProgress], None]


_SPENT = 3
"""Trials in a row that cannot begin for want of privacy, after which none is thought to."""


class SweepWatch(Callback):
    """Hears of all trials. A record of a trial that is over does not change any more."""

    def __init__(self, folder: SweepFolder, search: SearchSettings, records: Mapping[int, TrialRecord], on_progress: OnProgress) -> None:
        self.records = dict(records)
        self.enough = Enough(search)
        self._folder = folder
        self._search = search
        self._on_progress = on_progress
        self._begun = monotonic()
        self._over_before = {number for number, record in records.items() if record.state is not State.RUNNING}
        self._known_to_begin = set(self._over_before)
        self._reports = ThreadPoolExecutor(1, "reports")
        self._unreported: list[RunFolder] = []
        self._closing = ExitStack()
        self._log = self._closing.enter_context(file_logger(folder.log))

    def close(self) -> None:
        """Wait for the reports that are being written, and close the log."""
        self._reports.shutdown()
        self._closing.close()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins; one of a population may have been paused, and goes on."""
        if _number(trial) not in self._known_to_begin:
            self._begin(trial)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A trial has validated, or is over."""
        told: Told = result[TOLD]
        known = self.records.get(told.record.number)
        self._put(told.record)
        if known and known.folder != told.record.folder:
            self._folder.write_records(self.records.values())
            self._log.info("trial %s %s: %s", told.record.number, told.record.cause, told.record.parameters)
        self.enough.hear(told)
        self._report_ended()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is over, or the scheduler has ended it."""
        number = _number(trial)
        if number in self._over_before:
            return
        record = self.records.get(number) or self._begin(trial)
        if record.state is State.RUNNING:
            self._put(replace(record, state=State.PRUNED))
            self.enough.hear_end()
        self._tell(self.records[number])
        self._unreported.append(RunFolder(self._folder.path / self.records[number].folder))
        self._report_ended()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died, and again when it was started anew."""
        record = self.records.get(_number(trial)) or self._begin(trial)
        self._put(replace(record, state=State.FAILED, cause="its process died; see memory, and the log of its run"))
        self._tell(self.records[record.number])

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Ray has looked around."""
        self._on_progress(SweepProgress(self.records, self._search.trials, monotonic() - self._begun, self._search.time_limit))

    def _begin(self, trial: Any) -> TrialRecord:
        """Write down that a trial begins; one whose process dies at once never began for Ray."""
        number, parameters = _number(trial), dict(trial.config[ASSIGNMENT]["parameters"])
        self._known_to_begin.add(number)
        self._log.info("trial %s begins: %s", number, parameters)
        if number not in self.records:
            self._put(TrialRecord(number, State.RUNNING, parameters, self._folder.place(number)))
            self._folder.write_records(self.records.values())
        return self.records[number]

    def _tell(self, record: TrialRecord) -> None:
        """Write down that a trial is over."""
        self._folder.write_records(self.records.values())
        level = logging.ERROR if record.state is State.FAILED else logging.INFO
        told = f", validation MCC {record.value:.4f}" if record.value is not None else ""
        cause = f": {record.cause}" if record.cause else ""
        self._log.log(level, "trial %s %s after round %s%s%s", record.number, record.state, record.rounds, told, cause)

    def _report_ended(self) -> None:
        """Write reports of trials that are over while others train; one that the scheduler ended has its results a moment later."""
        for run in [run for run in self._unreported if run.summary.exists()]:
            self._unreported.remove(run)
            self._reports.submit(write_trial_report, run.path)

    def _put(self, record: TrialRecord) -> None:
        known = self.records.get(record.number)
        if known is None or known.state is State.RUNNING:
            self.records[record.number] = record


class Enough(Stopper):
    """Ends a sweep before its last trial; ``reason`` says why, empty as long as it goes on.

    One trial that cannot begin for want of privacy may have been a dear one; several in a row say that it is spent.
    """

    def __init__(self, search: SearchSettings) -> None:
        self.reason = ""
        self._spent = 0
        self._search = search
        self._begun = monotonic()
        self._failure: BaseException | None = None

    def unless_up(self, wait: Callable[[], object]) -> None:
        """End the sweep if ``wait``, called in a thread of its own, raises."""
        executor = ThreadPoolExecutor(1, "start")
        executor.submit(wait).add_done_callback(self._note)
        executor.shutdown(wait=False)

    def raise_failure(self) -> None:
        """Raise what was raised, where the sweep ended for that."""
        if self._failure:
            raise self._failure

    def _note(self, done: Future[object]) -> None:
        self._failure = done.exception()  # and not the future itself, since Ray pickles who may end a sweep

    def hear(self, told: Told) -> None:
        """Look at what a trial tells."""
        target, value = self._search.target, told.record.value
        if target is not None and value is not None and value >= target:
            self.reason = f"trial {told.record.number} has reached search.target = {target:g}"
        if told.is_over:
            self.hear_end(told.record.cause if told.is_spent else "")

    def hear_end(self, spent: str = "") -> None:
        """A trial has ended; ``spent``: why it could not begin, where it lacked privacy."""
        self._spent = self._spent + 1 if spent else 0
        if self._spent == _SPENT:
            self.reason = f"privacy is spent: the last {_SPENT} trials could not begin: {spent}"

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Never one trial alone."""
        return False

    def stop_all(self) -> bool:
        """Whether to end."""
        limit = self._search.time_limit
        if not self.reason and limit and monotonic() - self._begun > limit:
            self.reason = f"search.time_limit = {limit:g} s is over"
        return bool(self.reason or self._failure)


def _number(trial: Any) -> int:
    """By its name: under population based training its configuration may be another trial's."""
    return int(str(trial).rpartition("-")[2])


def write_trial_report(run: Path) -> None:
    """Write the report of a trial that has results, unless it has one of these."""
    from primia.report.page import write_report  # here: matplotlib takes a while to load

    summary, report = RunFolder(run).summary, run / "report.html"
    if summary.exists() and not (report.exists() and report.stat().st_mtime >= summary.stat().st_mtime):
        with suppress(PrimiaError):  # who asks for it by hand is told what is wrong
            write_report(run)
