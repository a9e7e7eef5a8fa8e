"""What the sweep's own process keeps and decides, told by hand instead of by Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from primia.config.settings import SearchSettings, Settings
from primia.errors import ClusterError, ModelError
from primia.search.folder import SweepFolder
from primia.search.records import State, Told, TrialRecord, Value
from primia.search.tune import callback as watch
from primia.search.tune.callback import Enough, SweepProgress, SweepWatch
from primia.search.tune.trainable import ASSIGNMENT, TOLD, trial_name

VALUES: Mapping[str, Value] = {"training.momentum": 0.5}
MakeWatch = Callable[..., SweepWatch]


@dataclass
class Trial:
    """What Ray hands to a callback."""

    number: int
    parameters: Mapping[str, Value]

    @property
    def config(self) -> dict[str, Any]:
        return {ASSIGNMENT: {"number": self.number, "parameters": self.parameters}}

    def __str__(self) -> str:
        return trial_name(self.number)


ONE, TWO = Trial(1, VALUES), Trial(2, {"training.momentum": 0.25})
RECORD = TrialRecord(1, State.RUNNING, VALUES, "trials/0001", value=0.5, rounds=2, planned_rounds=4, curve=((1, 0.1), (2, 0.5)))


def told(record: TrialRecord = RECORD, is_over: bool = False, is_spent: bool = False) -> dict[str, Any]:
    return {TOLD: Told(record, 50, is_over, is_spent)}


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder.create(tmp_path / "sweep", Settings(), "f")


@pytest.fixture
def make_watch(folder: SweepFolder) -> Iterator[MakeWatch]:
    with ExitStack() as stack:

        def make(
            records: Mapping[int, TrialRecord] | None = None,
            heard: Callable[[SweepProgress], None] = lambda progress: None,
            **search: object,
        ) -> SweepWatch:
            return stack.enter_context(closing(SweepWatch(folder, SearchSettings.model_validate(search), records or {}, heard)))

        yield make


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The seconds that pass for the watch."""
    now = [1000.0]
    monkeypatch.setattr(watch, "monotonic", lambda: now[0])
    yield now


def test_a_trial_is_on_record_from_its_start_to_its_end(make_watch: MakeWatch, folder: SweepFolder) -> None:
    """Whenever the process is killed, the file knows of all trials that have begun."""
    watch = make_watch()
    watch.on_trial_start(0, [], ONE)
    assert folder.records() == [TrialRecord(1, State.RUNNING, VALUES, "trials/0001")]
    watch.on_trial_result(0, [], ONE, told())
    assert watch.records == {1: RECORD}
    over = replace(RECORD, state=State.COMPLETE, value=0.75, seconds=9.0)
    watch.on_trial_result(0, [], ONE, told(over, is_over=True))
    watch.on_trial_complete(0, [], ONE)
    watch.on_trial_start(0, [], TWO)
    assert folder.records() == [over, TrialRecord(2, State.RUNNING, TWO.parameters, "trials/0002")]


def test_the_log_tells_what_became_of_each_trial(make_watch: MakeWatch, folder: SweepFolder) -> None:
    watch = make_watch()
    watch.on_trial_start(0, [], ONE)
    watch.on_trial_result(0, [], ONE, told(replace(RECORD, state=State.FAILED, cause="the loss is not finite"), is_over=True))
    watch.on_trial_complete(0, [], ONE)
    begins, ends = folder.log.read_text().splitlines()
    assert "INFO trial 1 begins: {'training.momentum': 0.5}" in begins
    assert "ERROR trial 1 failed after round 2, validation MCC 0.5000: the loss" in ends and ends.endswith("the loss is not finite")


def test_a_trial_that_ends_without_being_over_was_pruned(make_watch: MakeWatch, folder: SweepFolder) -> None:
    watch = make_watch()
    watch.on_trial_start(0, [], ONE)
    watch.on_trial_result(0, [], ONE, told())
    watch.on_trial_complete(0, [], ONE)
    assert folder.records() == [replace(RECORD, state=State.PRUNED)]


def test_a_trial_whose_process_died_has_failed(make_watch: MakeWatch, folder: SweepFolder) -> None:
    watch = make_watch()
    watch.on_trial_start(0, [], ONE)
    watch.on_trial_result(0, [], ONE, told())
    watch.on_trial_error(0, [], ONE)
    (record,) = folder.records()
    assert (record.state, record.value, record.curve) == (State.FAILED, 0.5, RECORD.curve) and "process died" in record.cause


@pytest.mark.parametrize("state", [State.COMPLETE, State.PRUNED, State.FAILED])
def test_a_record_that_is_over_never_changes(make_watch: MakeWatch, folder: SweepFolder, state: State) -> None:
    """A resumed sweep tells of its trials again."""
    over = replace(RECORD, state=state, value=0.75)
    watch = make_watch({1: over})
    watch.on_trial_start(0, [], ONE)
    watch.on_trial_result(0, [], ONE, told())
    watch.on_trial_result(0, [], ONE, told(replace(over, value=0.9, state=State.COMPLETE), is_over=True))
    watch.on_trial_complete(0, [], ONE)
    watch.on_trial_error(0, [], ONE)
    assert folder.records() == [over]


def test_an_interrupted_trial_is_the_same_one_when_it_goes_on(make_watch: MakeWatch) -> None:
    """Its record, with its folder, is not made anew."""
    branched = replace(RECORD, folder="trials/0001-from-002")
    watch = make_watch({1: branched})
    watch.on_trial_start(0, [], ONE)
    assert watch.records == {1: branched}


def test_under_population_based_training_a_trial_is_known_by_its_name(make_watch: MakeWatch) -> None:
    """Its configuration may be another's."""

    class Exploited(Trial):
        def __str__(self) -> str:
            return trial_name(2)

    watch = make_watch()
    watch.on_trial_start(0, [], Exploited(1, VALUES))
    watch.on_trial_complete(0, [], Exploited(1, VALUES))
    assert [(number, record.number, record.state) for number, record in watch.records.items()] == [(2, 2, State.PRUNED)]


def test_the_audience_hears_how_far_it_is(make_watch: MakeWatch, clock: list[float]) -> None:
    heard: list[SweepProgress] = []
    watch = make_watch({1: RECORD}, heard.append, trials=7, time_limit=60)
    clock[0] += 12.5
    watch.on_step_end(0, [])
    assert heard == [SweepProgress({1: RECORD}, 7, 12.5, 60)]


def test_a_finished_trials_report_is_written_while_others_train(
    make_watch: MakeWatch, folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of one without results, nor a second time; one that cannot be written ends nothing."""
    written: list[str] = []

    def write_report(run: Path) -> None:
        written.append(run.name)
        if run.name == "0002":
            raise ModelError("the model is gone")
        (run / "report.html").touch()

    monkeypatch.setattr("primia.report.page.write_report", write_report)
    watch = make_watch()
    for trial in (ONE, TWO, Trial(3, VALUES)):
        watch.on_trial_start(0, [], trial)
        run = folder.path / folder.place(trial.number)
        run.mkdir()
        if trial.number < 3:
            (run / "summary.json").touch()
        watch.on_trial_complete(0, [], trial)
    watch.on_trial_complete(0, [], ONE)
    watch.close()
    assert written == ["0001", "0002"]


def test_a_report_of_earlier_results_is_written_again(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that was ended early, and then gone on with."""
    written: list[Path] = []
    monkeypatch.setattr("primia.report.page.write_report", written.append)
    run = folder.path / folder.place(1)
    run.mkdir()
    for name, seconds in (("summary.json", 100), ("report.html", 100)):
        (run / name).touch()
        os.utime(run / name, (seconds, seconds))
    watch.write_trial_report(run)
    assert not written
    os.utime(run / "summary.json", (200, 200))
    watch.write_trial_report(run)
    assert written == [run]


def test_a_sweep_whose_actors_do_not_start_ends_with_their_error() -> None:
    def wait() -> None:
        raise ClusterError("2 of 3 site actors did not start")

    enough = Enough(SearchSettings())
    enough.unless_up(wait)
    with pytest.raises(ClusterError, match="did not start"):
        enough.raise_failure()
    assert enough.stop_all() and enough.reason == "", "it is an error, not a reason to stop"


def test_as_long_as_actors_start_a_sweep_goes_on() -> None:
    up, enough = Event(), Enough(SearchSettings())
    enough.unless_up(up.wait)
    assert not enough.stop_all(), "nobody waits"
    up.set()
    enough.raise_failure()
    assert not enough.stop_all()


def test_without_limits_a_sweep_goes_on_to_its_last_trial(clock: list[float]) -> None:
    enough = Enough(SearchSettings())
    enough.hear(Told(replace(RECORD, value=1.0), 100, is_over=True))
    clock[0] += 1e9
    assert not enough.stop_all() and enough.reason == ""
    assert not enough("trial-1", {}), "no trial is ended by itself"


@pytest.mark.parametrize(("value", "ends"), [(None, False), (0.49, False), (0.5, True), (0.9, True)])
def test_it_ends_at_its_target(value: float | None, ends: bool) -> None:
    enough = Enough(SearchSettings(target=0.5))
    enough.hear(Told(replace(RECORD, number=4, value=value), 20))
    assert enough.stop_all() == ends
    assert enough.reason == ("trial 4 has reached search.target = 0.5" if ends else "")


def test_a_target_of_zero_is_one() -> None:
    enough = Enough(SearchSettings(target=0.0))
    enough.hear(Told(replace(RECORD, value=-0.1), 20))
    assert not enough.stop_all()
    enough.hear(Told(replace(RECORD, value=0.0), 20))
    assert enough.stop_all()


def test_it_ends_when_its_time_is_over(clock: list[float]) -> None:
    enough = Enough(SearchSettings(time_limit=60))
    clock[0] += 60
    assert not enough.stop_all()
    clock[0] += 0.1
    assert enough.stop_all() and enough.reason == "search.time_limit = 60 s is over"


def test_it_ends_when_privacy_is_spent(make_watch: MakeWatch) -> None:
    """One trial may have been too dear, and another one fits, whether or not it is pruned; three in a row are the end."""
    watch = make_watch()
    enough = watch.enough
    spent, fits = (replace(RECORD, state=state, cause="all of it") for state in (State.FAILED, State.COMPLETE))
    for is_spent in (True, True, False, True, True):
        enough.hear(Told(replace(RECORD), 20))
        enough.hear(Told(spent if is_spent else fits, 0, is_over=True, is_spent=is_spent))
        assert not enough.stop_all()
    watch.on_trial_start(0, [], ONE)
    watch.on_trial_complete(0, [], ONE)
    for _ in range(3):
        assert not enough.stop_all()
        enough.hear(Told(spent, 0, is_over=True, is_spent=True))
    assert enough.stop_all() and enough.reason == "privacy is spent: the last 3 trials could not begin: all of it"


def test_a_process_that_dies_before_its_trial_begins_fails_that_trial_alone(make_watch: MakeWatch, folder: SweepFolder) -> None:
    make_watch().on_trial_error(0, [], ONE)
    (record,) = folder.records()
    assert (record.number, record.state, record.parameters) == (1, State.FAILED, VALUES) and "process died" in record.cause


def test_a_resumed_sweep_says_nothing_again_of_what_is_over(make_watch: MakeWatch, folder: SweepFolder) -> None:
    over = replace(RECORD, state=State.COMPLETE)
    watch = make_watch({1: over})
    watch.on_trial_start(0, [], ONE)
    watch.on_trial_result(0, [], ONE, told())
    watch.on_trial_complete(0, [], ONE)
    assert watch.records == {1: over} and folder.log.read_text() == "" and folder.records() == []


def test_where_a_trial_goes_on_from_another_is_on_record_at_once(make_watch: MakeWatch, folder: SweepFolder) -> None:
    watch = make_watch()
    for _ in range(2):  # it was paused between
        watch.on_trial_start(0, [], ONE)
    watch.on_trial_result(0, [], ONE, told())
    heir = replace(RECORD, folder="trials/0001-from-002", cause="goes on from trial 2 after round 2", parameters=TWO.parameters)
    watch.on_trial_result(0, [], ONE, told(heir))
    assert folder.records() == [heir]
    begins, branches = folder.log.read_text().splitlines()
    assert "trial 1 begins: {'training.momentum': 0.5}" in begins
    assert branches.endswith("trial 1 goes on from trial 2 after round 2: {'training.momentum': 0.25}")


def test_a_trial_that_the_scheduler_ended_is_reported_once_it_has_results(
    make_watch: MakeWatch, folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[str] = []
    monkeypatch.setattr(watch, "write_trial_report", lambda path: reported.append(path.name))
    made = make_watch()
    made.on_trial_start(0, [], ONE)
    made.on_trial_result(0, [], ONE, told())
    made.on_trial_complete(0, [], ONE)
    (folder.path / "trials/0001").mkdir(parents=True)
    (folder.path / "trials/0001/summary.json").write_text("{}")
    for _ in range(2):
        made.on_trial_result(0, [], TWO, told(replace(RECORD, number=2)))
    made._reports.shutdown()
    assert reported == ["0001"]
