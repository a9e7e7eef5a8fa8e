"""One trial: a federation with the trial's settings, trained like any other, that tells how far it is after each validation."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag
from time import time

from primia.config.settings import Settings
from primia.data.prepare import FederatedData
from primia.errors import BudgetSpent, PrimiaError, RunError
from primia.federation.data import new_data
from primia.federation.driver.checkpoint import Checkpoints
from primia.federation.driver.hosts import RayHosts
from primia.federation.driver.run import run_federation
from primia.federation.events import Event, RoundFinished, RunFinished
from primia.federation.run_spec import RunSetup
from primia.files import copy_private, own_folder
from primia.runs.folder import RunFolder
from primia.runs.rounds import ALL_SITES, read_rounds
from primia.search.plan import Assignment, SweepPlan
from primia.search.records import State, Told, TrialRecord, with_summary
from primia.search.tensorboard import write_trial

_PRUNED = "the search ended this trial early (search.scheduler, search.time_limit or search.target)"


class TrialRun:
    """Iterate over :meth:`told` for as long as the trial shall go on, then call :meth:`end`.

    What an earlier part of the sweep left is told again before the trial goes on, so that searcher and scheduler come to know it. Not to a
    population, which would have it saved for others, when only the last rounds are still there to be saved.
    """

    def __init__(self, plan: SweepPlan, assignment: Assignment, make_hosts: type[RayHosts] = RayHosts) -> None:
        self._make_hosts = make_hosts
        self._plan = plan
        self._assignment = assignment
        self._ending = ""
        self._live: Iterator[Told] | None = None
        number, earlier = assignment.number, assignment.record
        place, cause = (earlier.folder, earlier.cause) if earlier else (plan.folder.place(number), "")
        self._record = TrialRecord(number, State.RUNNING, dict(assignment.parameters), place, cause=cause)

    @property
    def record(self) -> TrialRecord:
        """What is known so far."""
        return self._record

    @property
    def folder(self) -> RunFolder:
        """The trial's run folder."""
        return RunFolder(self._plan.path / self._record.folder)

    def told(self) -> Iterator[Told]:
        """How far the trial is, after each validation; the last one ``is_over``. A failure is told as well, never raised."""
        earlier = self._assignment.record
        if earlier and earlier.state is State.PRUNED and not self.folder.summary.exists():
            self._ending = _PRUNED  # the sweep was killed before the trial's process could end it
        elif earlier and earlier.state is not State.RUNNING:
            yield from _repeated(earlier, with_curve=self._tells_again)
            return
        try:
            self._live = self._trained()
            yield from self._live
        except Exception as error:
            yield self._failed(error)

    def end(self, *, prune: bool) -> None:
        """End a trial that is not over: with ``prune`` at once and for good, with its best model so far; else as if it were interrupted."""
        if self._live is None:
            return
        if prune:
            self._ending = _PRUNED
            with suppress(Exception):  # what cannot be written any more leaves an unfinished run, which can be gone on with
                for _ in self._live:
                    pass
        self._live.close()  # type: ignore[attr-defined]
        self._live = None

    def branch(self, origin: TrialRecord, saved: Path) -> None:
        """Go on from what another trial has saved, with this trial's settings and in a new run folder: population based training."""
        why = f"goes on from trial {origin.number} after round {origin.rounds}"
        place = self._plan.folder.new_place(self._record.number, origin.rounds)
        self._record = replace(self._record, folder=place, cause=f"{origin.cause}; {why}" if origin.cause else why)
        settings = self._settings()
        made = RunFolder.create(self.folder.path, settings, self._data(settings).fingerprint)
        own_folder(made.checkpoints)
        for checkpoint in (saved / made.checkpoints.name).iterdir():
            copy_private(checkpoint, made.checkpoints / checkpoint.name)
        for file in (made.history, made.facts):
            copy_private(saved / file.name, file)

    def rejoin(self, saved: TrialRecord) -> None:
        """Go on in the run folder that this trial had when it was saved, which may be one that it branched into."""
        self._record = replace(self._record, folder=saved.folder, cause=saved.cause)

    def save(self, to: Path) -> None:
        """Copy the last round's checkpoint, the rounds so far, and the sites' facts.

        Raises:
            RunError: the checkpoint, which is written in the background, does not come.
        """
        run = self.folder
        Checkpoints(run.checkpoints, 1).copy(self._record.rounds, to / run.checkpoints.name)
        for file in (run.history, run.facts):
            copy_private(file, to / file.name)

    def _trained(self) -> Iterator[Told]:
        settings, plan = self._settings(), self._plan
        self._record = replace(self._record, planned_rounds=settings.federation.rounds)
        data = self._data(settings)
        folder = self._opened(settings, data.fingerprint)
        yield from self._earlier_rounds(folder, settings.federation.rounds)
        if folder.summary.exists():
            if folder.status() != "pruned":
                yield self._finished(folder.read_summary())
                return
            folder.reopen()
        setup = RunSetup.of(
            settings, data, folder.path,
            started_at=time(), device=plan.device, account=plan.account, identities=plan.space.base.run.output / ".identity",
        )  # fmt: skip
        actors = plan.actors or plan.own_actors(settings)
        hosts = self._make_hosts(replace(actors, replica=self._assignment.replica), settings.federation.round_deadline, Flag())
        try:
            for event in run_federation(setup, hosts, lambda: self._ending):
                if told := self._heard(event):
                    yield told
        finally:
            hosts.close(setup.charter_id)

    @property
    def _tells_again(self) -> bool:
        return self._plan.space.base.search.scheduler != "pbt"

    def _settings(self) -> Settings:
        return self._plan.settings(Path(self._record.folder).name, self._record.parameters)

    def _data(self, settings: Settings) -> FederatedData:
        return self._plan.data or new_data(settings)

    def _opened(self, settings: Settings, fingerprint: str) -> RunFolder:
        """The run folder: made anew, unless it is there whole.

        Raises:
            RunError: it is of other images.
        """
        folder = self.folder
        if not (folder.config.is_file() and folder.data.is_file()):
            folder.remove()
            return RunFolder.create(folder.path, settings, fingerprint)
        if folder.fingerprint() != fingerprint:
            raise RunError(f"cannot go on with {folder.path}: the images have changed since it was started; start a new sweep")
        return folder

    def _earlier_rounds(self, folder: RunFolder, rounds: int) -> Iterator[Told]:
        """What is checkpointed, told again."""
        done = Checkpoints(folder.checkpoints, 1).rounds()
        if not done or not folder.history.exists():
            return
        rows = [row for row in read_rounds(folder.history).to_pylist() if row["site"] == ALL_SITES and row["round"] <= done[-1]]
        for row in sorted(rows, key=lambda row: row["round"]):
            self._count(row["round"], rounds, row["seconds"] or 0.0, row["validation_mcc"])
            if row["validation_mcc"] is not None and row["round"] < rounds and self._tells_again:
                yield self._so_far()

    def _heard(self, event: Event) -> Told | None:
        if isinstance(event, RoundFinished):
            mcc = float(str(event.validation["mcc"])) if event.validation else None
            self._count(event.round, event.rounds, event.seconds, mcc)
            # What the last round tells goes with the end of the run.
            return self._so_far() if event.validation and event.round < event.rounds else None
        if isinstance(event, RunFinished):
            return self._finished(event.summary)
        return None

    def _count(self, round_: int, rounds: int, seconds: float, mcc: float | None) -> None:
        record = replace(self._record, rounds=round_, planned_rounds=rounds, seconds=self._record.seconds + seconds)
        if mcc is not None:
            before = (point for point in record.curve if point[0] < round_)  # a damaged checkpoint makes a round come again
            record = replace(record, curve=(*before, (round_, mcc)))
            if record.value is None or mcc > record.value:
                record = replace(record, value=mcc, best_round=round_)
        self._record = record

    def _so_far(self) -> Told:
        return Told(self._record, 100 * self._record.rounds / self._record.planned_rounds)

    def _finished(self, summary: Mapping[str, object]) -> Told:
        state = State.PRUNED if summary["status"] == "pruned" else State.COMPLETE
        self._record = with_summary(replace(self._record, state=state), summary, self._plan.space.base.search.second_objective)
        write_trial(self.folder.tensorboard, self._record.parameters, self._record.value)
        return Told(self._record, _percent(self._record), is_over=True)

    def _failed(self, error: Exception) -> Told:
        expected = isinstance(error, PrimiaError)
        cause = str(error) if expected else f"{type(error).__name__}: {error}"
        if not expected:
            with suppress(OSError), self.folder.logging() as logger:
                logger.error("%s", traceback.format_exc())
            cause += f"; traceback in {self._record.folder}/{self.folder.log.name}"
        record = replace(self._record, state=State.FAILED, cause=cause)
        if self.folder.tensorboard.exists():
            write_trial(self.folder.tensorboard, record.parameters, None)
        return Told(record, 0.0, is_over=True, is_spent=isinstance(error, BudgetSpent))


def _repeated(record: TrialRecord, *, with_curve: bool) -> Iterator[Told]:
    """A trial that is over, as it was told: what its last round told went with the end, and a pruned one ended with what it told last."""
    before = len(record.curve) - 1 if record.state is State.PRUNED else sum(round_ < record.planned_rounds for round_, _ in record.curve)
    for told in range(1, before + 1) if with_curve else ():
        so_far, round_ = record.curve[:told], record.curve[told - 1][0]
        best_round, best = max(so_far, key=lambda point: point[1])
        yield Told(
            replace(record, state=State.RUNNING, value=best, best_round=best_round, curve=so_far, rounds=round_),
            100 * round_ / record.planned_rounds,
        )
    yield Told(record, _percent(record), is_over=True)


def _percent(record: TrialRecord) -> float:
    """How much of a trial that is over was done, as schedulers count it."""
    done = {State.COMPLETE: 100.0, State.PRUNED: 100 * record.rounds / max(1, record.planned_rounds)}
    return done.get(record.state, 0.0)
