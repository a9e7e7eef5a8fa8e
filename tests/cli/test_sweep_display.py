from __future__ import annotations

import io
from dataclasses import replace

import pytest

from primia.cli.sweep_display import SweepDisplay, settings_line
from primia.cli.terminal import Terminal
from primia.search.records import State, TrialRecord
from primia.search.tune.callback import SweepProgress

DONE = TrialRecord(
    1, State.COMPLETE, {"training.learning_rate": 0.0123456, "training.class_weights": True, "training.batch_size": 8}, "trials/0001",
    value=0.5, rounds=4, planned_rounds=4, seconds=75.0,
)  # fmt: skip


def trial(number: int, value: float | None, state: State = State.COMPLETE, **others: object) -> TrialRecord:
    return replace(DONE, number=number, state=state, value=value, **others)  # type: ignore[arg-type]


def progress(*records: TrialRecord, trials: int = 10, elapsed: float = 100.0, limit: float | None = None) -> SweepProgress:
    return SweepProgress({record.number: record for record in records}, trials, elapsed, limit)


def shown(*steps: SweepProgress, width: int = 200, terminal: bool = False) -> str:
    """All that was written; on a terminal without what moves the cursor."""
    console = Terminal(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, record=True)
    with SweepDisplay(console) as display:
        for step in steps:
            display.show(step)
    return console.export_text() if not terminal else console.file.getvalue()  # type: ignore[attr-defined]


def test_a_trial_is_one_line_once_it_is_over() -> None:
    running = trial(1, 0.1, State.RUNNING, rounds=1)
    text = shown(progress(), progress(running), progress(trial(1, 0.5)), progress(trial(1, 0.5)), progress(trial(1, 0.5), trial(2, 0.25)))
    heading, *lines = text.splitlines()
    assert heading.split() == ["trial", "val.", "MCC", "rounds", "time", "settings"]
    assert [line.split() for line in lines] == [
        f"1/10 0.500 4/4 1 min 15 s {settings_line(DONE.parameters)} *".split(),
        f"2/10 0.250 4/4 1 min 15 s {settings_line(DONE.parameters)}".split(),
    ]


def test_columns_stand_below_their_headings() -> None:
    heading, line = shown(progress(), progress(trial(7, 0.5))).splitlines()
    for name, value in (("trial", "7/10"), ("MCC", "0.500"), ("rounds", "4/4"), ("time", "15 s")):
        assert heading.index(name) - 1 <= line.index(value) + len(value) <= heading.index(name) + len(name) + 1
    assert heading.index("settings") == line.index("learning_rate")


def test_settings_are_short_and_without_their_sections() -> None:
    assert settings_line(DONE.parameters) == "learning_rate = 0.01235, class_weights = yes, batch_size = 8"
    assert settings_line({"training.class_weights": False, "training.optimizer": "sgd"}) == "class_weights = no, optimizer = sgd"
    assert settings_line({}) == "as given"


def test_a_star_marks_each_trial_that_is_the_best_so_far() -> None:
    values = [0.1, 0.3, 0.2, 0.3, 0.4]
    made = [trial(number, value) for number, value in enumerate(values, 1)]
    text = shown(progress(), *(progress(*made[:count]) for count in range(1, 6)))
    assert [line.endswith("*") for line in text.splitlines()[1:]] == [True, True, False, False, True]


def test_a_pruned_trial_is_no_best_and_says_so() -> None:
    text = shown(progress(), progress(trial(1, 0.9, State.PRUNED, rounds=2), trial(2, 0.5)))
    first, second = text.splitlines()[1:]
    assert first.endswith("(pruned)") and "2/4" in first
    assert second.endswith("*")


def test_a_failed_trial_says_why_instead_of_its_settings() -> None:
    failed = trial(1, None, State.FAILED, rounds=0, planned_rounds=0, seconds=0.5, cause="the loss is [nan]; lower training.learning_rate")
    (line,) = shown(progress(), progress(failed)).splitlines()[1:]
    assert line.endswith("failed: the loss is [nan]; lower training.learning_rate") and "learning_rate = " not in line
    assert line.split()[:3] == ["1/10", "–", "0/?"]


def test_a_long_line_is_left_to_the_terminal() -> None:
    """So that it can be copied, and found by grep."""
    assert len(shown(progress(), progress(trial(1, 0.5)), width=40).splitlines()) == 2


def test_what_a_resumed_sweep_knew_is_not_listed_again_but_has_to_be_beaten() -> None:
    known = [trial(1, 0.5), trial(2, 0.1, State.PRUNED)]
    text = shown(progress(*known), progress(*known, trial(3, 0.4)), progress(*known, trial(3, 0.4), trial(4, 0.6)))
    assert [(line.split()[0], line.endswith("*")) for line in text.splitlines()[1:]] == [("3/10", False), ("4/10", True)]


def test_a_file_gets_no_status_line() -> None:
    assert "trials" not in shown(progress(), progress(trial(1, 0.5, State.RUNNING)))


def last_status(*steps: SweepProgress) -> str:
    return [line for line in shown(*steps, terminal=True).splitlines() if " trials  ·  " in line][-1]


def test_a_terminal_shows_those_at_work_and_how_far_it_is() -> None:
    made = [trial(1, 0.5), trial(2, 0.2, State.PRUNED), trial(3, None, State.FAILED), trial(4, 0.6, State.RUNNING, rounds=3)]
    text = shown(progress(), progress(*made), terminal=True)
    assert f"4/10       0.600      3/4 1 min 15 s   {settings_line(DONE.parameters)}" in text
    status = last_status(progress(), progress(*made))
    assert "3 of 10 trials  ·  1 pruned  ·  1 failed  ·  best so far 0.500  ·  1 min 40 s  ·  about " in status


def test_of_many_at_work_some_are_counted() -> None:
    text = shown(progress(*(trial(number, 0.1, State.RUNNING) for number in range(1, 12)), trials=20), terminal=True)
    assert "8/20" in text and "9/20" not in text and "and 3 more at work" in text
    assert "more at work" not in shown(progress(*(trial(number, 0.1, State.RUNNING) for number in range(1, 9))), terminal=True)


@pytest.mark.parametrize(
    ("elapsed", "limit", "left"),
    [
        (100.0, None, "about 6 min 40 s left"),
        (100.0, 160.0, "about 1 min 00 s left"),
        (100.0, 5000.0, "about 6 min 40 s left"),
        (200.0, 160.0, "about 0.0 s left"),
    ],
)
def test_the_time_left_follows_from_trials_that_have_ended_and_the_limit(elapsed: float, limit: float | None, left: str) -> None:
    """Two of ten are done in 100 s."""
    status = last_status(progress(), progress(trial(1, 0.5), trial(2, 0.2), elapsed=elapsed, limit=limit))
    assert status.rstrip().endswith(left)


def test_before_a_trial_has_ended_nobody_knows_the_time_left() -> None:
    """Nor do trials of an earlier part of the sweep tell it."""
    known = [trial(1, 0.5), trial(2, 0.2)]
    assert "left" not in shown(progress(*known), progress(*known, elapsed=500.0), terminal=True)
    assert last_status(progress(*known), progress(*known, trial(3, 0.1), elapsed=10.0)).rstrip().endswith("about 1 min 10 s left")


def test_packing_is_shown_on_a_terminal_alone() -> None:
    for terminal in (True, False):
        console = Terminal(file=io.StringIO(), width=100, force_terminal=terminal, color_system=None)
        with SweepDisplay(console) as display:
            display.pack("site-1", 1200, 5000)
        assert ("site-1  1,200 of 5,000" in console.file.getvalue()) == terminal  # type: ignore[attr-defined]
