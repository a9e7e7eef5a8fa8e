"""Ray Tune's side of the search, with a study that only takes notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from ray.tune.search import Searcher

from primia.search.records import State, Told, TrialRecord, Value
from primia.search.tune.searcher import SweepSearcher
from primia.search.tune.trainable import ASSIGNMENT, TOLD

DONE = TrialRecord(1, State.COMPLETE, {"a.b": 1}, "trials/0001", value=0.5)


@dataclass
class Notes:
    """A study; ``most`` is how many points it has."""

    most: int = 99
    recalled: list[tuple[int, Mapping[str, Value]]] = field(default_factory=list)
    learnt: list[TrialRecord] = field(default_factory=list)

    def suggest(self, number: int) -> dict[str, Value] | None:
        return {"a.b": 100 + number} if number <= self.most else None

    def recall(self, number: int, values: Mapping[str, Value]) -> None:
        self.recalled.append((number, values))

    def learn(self, record: TrialRecord) -> None:
        self.learnt.append(record)


def searcher(notes: Notes, records: list[TrialRecord] | None = None, trials: int = 3, replicas: int = 1) -> SweepSearcher:
    return SweepSearcher(notes, records or [], trials, replicas)  # type: ignore[arg-type]


def given(suggested: dict[str, Any] | str) -> dict[str, Any]:
    assert isinstance(suggested, dict)
    assignment: dict[str, Any] = suggested[ASSIGNMENT]
    return assignment


def test_trials_are_numbered_from_one_on_and_end() -> None:
    search = searcher(Notes())
    assert [given(search.suggest(name)) for name in "abc"] == [
        {"number": number, "replica": 0, "parameters": {"a.b": 100 + number}, "record": None} for number in (1, 2, 3)
    ]
    assert search.suggest("d") == search.suggest("e") == Searcher.FINISHED


def test_it_ends_where_the_study_has_no_more() -> None:
    search = searcher(Notes(most=1))
    assert given(search.suggest("a"))["number"] == 1
    assert search.suggest("b") == Searcher.FINISHED


def test_trials_on_record_come_first_and_the_study_knows_of_them() -> None:
    notes = Notes()
    running = replace(DONE, number=2, state=State.RUNNING, parameters={"a.b": 2})
    search = searcher(notes, [running, DONE])
    assignments = [given(search.suggest(name)) for name in "abc"]
    assert [each["record"] for each in assignments] == [DONE, running, None]
    assert [each["parameters"] for each in assignments] == [{"a.b": 1}, {"a.b": 2}, {"a.b": 103}]
    assert notes.recalled == [(1, DONE.parameters), (2, running.parameters)]


def test_fewer_trials_than_on_record_are_those_first_ones() -> None:
    search = searcher(Notes(), [DONE, replace(DONE, number=2)], trials=1)
    assert given(search.suggest("a"))["record"] == DONE
    assert search.suggest("b") == Searcher.FINISHED


def test_replicas_are_shared_out_evenly_and_freed() -> None:
    search = searcher(Notes(), trials=99, replicas=3)
    assert [given(search.suggest(name))["replica"] for name in "abcdef"] == [0, 1, 2, 0, 1, 2]
    for name in "bec":
        search.on_trial_complete(name, {TOLD: Told(DONE, 100, is_over=True)})
    assert [given(search.suggest(name))["replica"] for name in "ghi"] == [1, 1, 2]


@pytest.mark.parametrize("state", [State.COMPLETE, State.PRUNED, State.FAILED])
def test_the_study_learns_what_a_trial_that_is_over_says(state: State) -> None:
    notes = Notes()
    search = searcher(notes)
    search.suggest("a")
    over = replace(DONE, state=state)
    search.on_trial_result("a", {TOLD: Told(replace(DONE, state=State.RUNNING), 50)})
    assert not notes.learnt
    search.on_trial_complete("a", {TOLD: Told(over, 100, is_over=True)})
    assert notes.learnt == [over]


def test_a_trial_that_ends_without_being_over_was_pruned() -> None:
    notes = Notes()
    search = searcher(notes)
    search.suggest("a")
    search.on_trial_complete("a", {TOLD: Told(replace(DONE, state=State.RUNNING), 50)})
    assert notes.learnt == [replace(DONE, state=State.PRUNED)]


@pytest.mark.parametrize("result", [None, {}, {TOLD: Told(replace(DONE, state=State.RUNNING), 50)}])
def test_a_trial_whose_process_died_has_failed(result: dict[str, Any] | None) -> None:
    notes = Notes()
    search = searcher(notes)
    search.suggest("a")
    search.suggest("b")
    search.on_trial_complete("b", result, error=True)
    assert [(each.number, each.state, each.value) for each in notes.learnt] == [(2, State.FAILED, None)]
