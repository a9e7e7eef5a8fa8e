"""What a search takes over from earlier sweeps and from files, and how it keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from primia.config.reader import load_config
from primia.errors import RunError
from primia.search.folder import SweepFolder
from primia.search.records import State, TrialRecord
from primia.search.space.space import Space
from primia.search.tune.warm_start import Known, dump_known, known_from_start, read_known

MOMENTUM, DECAY = "training.momentum", "training.weight_decay"
LINE = {DECAY: "uniform(0, 1)"}


def space(texts: Mapping[str, str], *overrides: str) -> Space:
    return Space.of(load_config(None, [*(f"search.{key}={text}" for key, text in texts.items()), *overrides]))


def sweep(path: Path, of: Space, records: Iterable[TrialRecord]) -> Path:
    SweepFolder.create(path, of.base, "f").write_records(records)
    return path


def line_of(number: int, decay: float, state: State = State.COMPLETE) -> TrialRecord:
    return TrialRecord(number, state, {DECAY: decay}, f"trials/{number:04d}", value=decay, rounds=3)


def test_of_an_earlier_sweep_only_finished_points_of_this_space_count(tmp_path: Path) -> None:
    states = {1: State.COMPLETE, 2: State.PRUNED, 3: State.FAILED, 4: State.RUNNING, 5: State.COMPLETE}
    made = [line_of(number, number / 10, state) for number, state in states.items()]
    before = sweep(tmp_path / "before", space(LINE), made)
    known, notices = known_from_start(space({DECAY: "uniform(0, 0.3)"}, f"search.warm_start={before}"))
    assert known == [Known({DECAY: 0.1}, (0.1,))] and notices == [f"1 of 2 finished trials of {before} are known from the start"]


def test_two_objectives_need_both_of_an_earlier_sweep(tmp_path: Path) -> None:
    """Whatever the earlier one had for a second objective, what counts is that of this search."""
    private = ("privacy.unit=image", "privacy.noise_multiplier=1", "privacy.validation=public")
    made = [replace(line_of(1, 0.1), bytes=7), replace(line_of(2, 0.2), second=7.0, bytes=70, epsilon={"a": 3.5, "b": 2.0})]
    before = sweep(tmp_path / "before", space(LINE), made)
    for objective, options, expected in (
        ("bytes", (), [Known({DECAY: 0.1}, (0.1, 7.0)), Known({DECAY: 0.2}, (0.2, 70.0))]),
        ("epsilon", private, [Known({DECAY: 0.2}, (0.2, 3.5))]),
    ):
        both = (f"search.second_objective={objective}", "search.scheduler=none", f"search.warm_start={before}")
        assert known_from_start(space(LINE, *both, *options))[0] == expected


def test_an_earlier_sweep_under_other_conditions_is_said(tmp_path: Path) -> None:
    before = sweep(
        tmp_path / "before", space(LINE, "federation.rounds=7", "run.seed=5", "search.trials=99", "training.weight_decay=0.3"), []
    )
    _, notices = known_from_start(space(LINE, f"search.warm_start={before}"))
    (said,) = [notice for notice in notices if "had other settings, so its results may not compare" in notice]
    assert "federation.rounds: 7 -> " in said
    assert not any(name in said for name in ("search.trials", "training.weight_decay", "run.")), "those do not matter"


@pytest.mark.parametrize(("name", "said"), [("nowhere", "there is no .*nowhere; give an"), ("a run", "a run is not a sweep folder")])
def test_a_warm_start_that_is_neither_sweep_nor_file_is_told(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "a run").mkdir()
    (tmp_path / "a run" / "config.ini").touch()
    with pytest.raises(RunError, match=said):
        known_from_start(space(LINE, f'search.warm_start="{tmp_path / name}"'))


def test_known_good_settings_are_points_to_try_and_others_are_named(tmp_path: Path) -> None:
    good, outside = tmp_path / "good.ini", tmp_path / "outside.ini"
    for path, momentum in ((good, "0.375"), (outside, "0.95")):
        path.write_text(f"[training]\noptimizer = sgd\nmomentum = {momentum}\n")
    line = space({MOMENTUM: "uniform(0, 0.9)"}, "training.optimizer=sgd", f"search.warm_start={outside}, {good}")
    known, notices = known_from_start(line)
    assert known == [Known({MOMENTUM: 0.375})]
    assert notices == [f"{outside} is not tried: its settings lie outside the space", f"{good} is among the first that are tried"]


def test_what_was_known_is_kept_as_far_as_it_is_of_this_space(tmp_path: Path) -> None:
    known = [Known({DECAY: 0.25}, (0.5,)), Known({DECAY: 0.5})]
    others = [Known({DECAY: 2.0}), Known({"run.output": "elsewhere"}), Known({DECAY: 0.25}, (0.5, 3.0))]
    (tmp_path / "known.json").write_text(dump_known([*known, *others]))
    assert read_known(tmp_path / "known.json", space(LINE)) == known


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[3]",
        '[{"objectives": []}]',
        '[{"parameters": [1], "objectives": []}]',
        '[{"parameters": {}, "objectives": ["x", null]}]',
    ],
)
def test_what_was_known_and_cannot_be_read_is_one_clear_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "known.json").write_text(content)
    with pytest.raises(RunError, match=r"known\.json cannot be read \(") as caught:
        read_known(tmp_path / "known.json", space(LINE))
    assert "\n" not in str(caught.value)
