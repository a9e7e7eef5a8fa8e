"""Ray Tune's side of the search: which trial comes next, and what earlier parts of the sweep left of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray.tune.search import Searcher

from primia.search.records import State, TrialRecord
from primia.search.tune.study import SweepStudy
from primia.search.tune.trainable import ASSIGNMENT, MCC, TOLD


class SweepSearcher(Searcher):
    """Gives out numbers from 1 on: first the trials on record, then new ones; and the replica that fewest trials use.

    It keeps no state for Ray to save: what a resumed sweep needs is on record.
    """

    def __init__(self, study: SweepStudy, records: Sequence[TrialRecord], trials: int, replicas: int) -> None:
        super().__init__(metric=MCC, mode="max")
        self._study = study
        self._records = {record.number: record for record in records}
        self._trials = trials
        self._given = 0
        self._numbers: dict[str, int] = {}
        self._used: dict[str, int] = {}
        self._replicas = range(replicas)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]  # the base class forgets FINISHED
        """The next trial's :class:`~primia.search.plan.Assignment` as a mapping."""
        number = self._given + 1
        parameters = self._parameters(number)
        if parameters is None:
            return Searcher.FINISHED
        self._given = self._numbers[trial_id] = number
        used = list(self._used.values())
        replica = self._used[trial_id] = min(self._replicas, key=used.count)
        record = self._records.get(number)
        return {ASSIGNMENT: {"number": number, "replica": replica, "parameters": parameters, "record": record}}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Nothing: the end of a trial tells all."""

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Free the trial's replica, and learn what became of it; one that ends without being over was ended by the scheduler."""
        self._used.pop(trial_id, None)
        told = (result or {}).get(TOLD)
        if error or told is None:
            record = TrialRecord(self._numbers[trial_id], State.FAILED, {}, "")
        else:
            record = told.record if told.is_over else replace(told.record, state=State.PRUNED)
        self._study.learn(record)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing to save."""

    def _parameters(self, number: int) -> Mapping[str, Any] | None:
        if number > self._trials:
            return None
        if record := self._records.get(number):
            self._study.recall(number, record.parameters)
            return record.parameters
        return self._study.suggest(number)
