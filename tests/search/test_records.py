from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from primia.errors import RunError
from primia.search.records import State, TrialRecord, best_of, read_records, undominated, with_summary, write_records

FULL = TrialRecord(
    number=2,
    state=State.COMPLETE,
    parameters={
        "training.learning_rate": 1e-5,
        "training.batch_size": 8,
        "training.optimizer": "sgd",
        "training.class_weights": False,
        "training.momentum": 0.0,
    },
    folder="trials/0002",
    value=-0.25,
    second=3.5,
    rounds=4,
    planned_rounds=25,
    best_round=3,
    seconds=1.5,
    bytes=2**40,
    curve=((1, -0.5), (3, -0.25)),
    epsilon={"site-1": 0.5, "site-2": 1.25},
    cause="goes on from trial 1 after round 1",
)
BARE = TrialRecord(1, State.RUNNING, {"training.optimizer": "adam"}, "trials/0001")
SUMMARY: dict[str, Any] = {
    "validation": {"mcc": 0.75},
    "best_round": 3,
    "rounds": 5,
    "timing": {"total": 99.0, "start": 50.0, "training": 4.0, "validation": 2.0},
    "communication": {"up_bytes": 100, "down_bytes": 50},
    "privacy": {"sites": {"a": {"epsilon": 1.5}, "b": {"epsilon": 2.5}}},
    "config": {"federation": {"rounds": 8}},
}


def valued(number: int, value: float | None, second: float | None = None, state: State = State.COMPLETE) -> TrialRecord:
    return replace(BARE, number=number, state=state, value=value, second=second)


def test_records_come_back_as_they_were_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write_records([FULL, BARE], tmp_path / "sweep.parquet")
    read = read_records(tmp_path / "sweep.parquet")
    assert read == [BARE, FULL]
    kinds = {name: type(value) for name, value in read[1].parameters.items()}
    assert kinds == {name: type(value) for name, value in FULL.parameters.items()}


def test_others_read_the_table_by_column(tmp_path: Path) -> None:
    write_records([BARE, FULL], tmp_path / "sweep.parquet")
    table = pq.read_table(tmp_path / "sweep.parquet").to_pydict()
    assert table["trial"] == [1, 2] and table["state"] == ["running", "complete"] and table["value"] == [None, -0.25]
    assert table["param.training.optimizer"] == ["adam", "sgd"]
    assert table["param.training.class_weights"] == [None, False], "no effect, and no, are not the same"


def test_a_sweep_without_a_trial_has_an_empty_table(tmp_path: Path) -> None:
    write_records([], tmp_path / "sweep.parquet")
    assert read_records(tmp_path / "sweep.parquet") == []


@pytest.mark.parametrize("content", ["cut", "other", "state"])
def test_what_is_no_table_of_a_sweep_is_one_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "sweep.parquet"
    write_records([BARE, FULL], path)
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif content == "other":
        pq.write_table(pa.table({"round": [1, 2]}), path)
    else:
        table = pq.read_table(path)
        pq.write_table(table.set_column(table.schema.get_field_index("state"), "state", pa.array(["complete", "lost"])), path)
    with pytest.raises(RunError, match=r"sweep\.parquet cannot be read: ") as caught:
        read_records(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", ["", "../victim", "/tmp/victim", "trials/../../victim", "trials/0001/..", "trials/0001\n"])
def test_a_trial_lies_within_its_sweep(tmp_path: Path, folder: str) -> None:
    """A resumed sweep removes what is left of a folder that is not whole."""
    path = tmp_path / "sweep.parquet"
    write_records([replace(BARE, folder=folder)], path)
    with pytest.raises(RunError, match="trial 1 has no run folder of this sweep"):
        read_records(path)
    write_records([replace(BARE, folder="trials/0001-from-012")], path)
    assert read_records(path)


def test_a_missing_table_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a sweep: it has no sweep\.parquet"):
        read_records(tmp_path / "sweep.parquet")


@pytest.mark.parametrize(("objective", "second"), [("none", None), ("bytes", 150.0), ("epsilon", 2.5)])
def test_a_summary_gives_value_bytes_epsilon_and_the_second_objective(objective: str, second: float | None) -> None:
    record = with_summary(replace(BARE, curve=((3, 0.75),), seconds=1000.0), SUMMARY, objective)
    assert record == replace(
        BARE,
        curve=((3, 0.75),),
        value=0.75,
        second=second,
        best_round=3,
        rounds=5,
        planned_rounds=8,
        seconds=6.0,
        bytes=150,
        epsilon={"a": 1.5, "b": 2.5},
    )


def test_without_privacy_there_is_no_epsilon_to_compare() -> None:
    record = with_summary(BARE, SUMMARY | {"privacy": {"sites": {}}}, "epsilon")
    assert (record.epsilon, record.second) == ({}, None)


def test_the_best_is_one_that_was_trained_to_the_end_the_first_of_equals() -> None:
    records = [valued(1, 0.2), valued(2, 0.5), valued(3, 0.5), valued(4, 0.9, state=State.PRUNED), valued(5, 0.8, state=State.FAILED)]
    best = best_of(reversed(records))
    assert best is not None and best.number == 2


def test_where_none_was_trained_to_the_end_the_best_is_among_all_that_have_a_value() -> None:
    records = [valued(1, 0.9, state=State.FAILED), valued(2, -0.5, state=State.PRUNED), valued(3, -0.2, state=State.RUNNING)]
    best = best_of(records)
    assert best is not None and best.number == 3
    assert best_of([valued(1, None), valued(2, None, state=State.RUNNING), valued(3, 1.0, state=State.FAILED)]) is None
    assert best_of([]) is None


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    records = [
        valued(1, 0.9, 10.0),
        valued(2, 0.5, 2.0),
        valued(3, 0.4, 3.0),  # dearer and worse than 2
        valued(4, 0.5, 2.0),  # equals 2, which came first
        valued(5, 0.9, 9.0),  # cheaper than 1
        valued(6, 0.1, 1.0),
        valued(7, 1.0, 0.5, State.PRUNED),
        valued(8, None, 0.1),
        valued(9, 1.0, None),
    ]
    assert [record.number for record in undominated(records)] == [6, 2, 5]
    assert undominated([]) == []


def replaced(path: Path, name: str, column: object) -> None:
    """Put another column in place of one, or beside all."""
    table, column = pq.read_table(path), column if isinstance(column, pa.Array) else pa.array(column)
    place = table.schema.get_field_index(name)
    pq.write_table(table.append_column(name, column) if place < 0 else table.set_column(place, name, column), path)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("trial", [float("inf")]),
        ("trial", [2**62]),
        ("trial", [-1]),
        ("value", ["a"]),
        ("value", [float("nan")]),
        ("value", [1.5]),
        ("second", [float("inf")]),
        ("rounds", ["x"]),
        ("planned_rounds", pa.nulls(1, pa.int64())),
        ("seconds", pa.nulls(1, pa.float64())),
        ("seconds", [float("nan")]),
        ("bytes", [-(2**60)]),
        ("cause", [{"a": 1}]),
        ("cause", pa.nulls(1)),
        ("curve", [[{"round": "x", "mcc": "y"}]]),
        ("curve", pa.array([None], pa.list_(pa.struct([("round", pa.int64()), ("mcc", pa.float64())])))),
        ("epsilon", [5]),
        ("epsilon", pa.array([[("a", float("nan"))]], pa.map_(pa.string(), pa.float64()))),
        ("epsilon", pa.array([[("a", 1.0), ("a", 2.0)]], pa.map_(pa.string(), pa.float64()))),
        ("param.training.momentum", [[1, 2]]),
        ("param.training.momentum", [{"a": 1}]),
        ("param.training.momentum", [float("inf")]),
        ("param.__class__", ["a"]),
        ("param.training.lack", [1.0]),
        ("other", ["a"]),
    ],
)
def test_columns_of_odd_types_and_values_are_one_clear_error(tmp_path: Path, name: str, column: object) -> None:
    path = tmp_path / "sweep.parquet"
    write_records([FULL], path)
    assert read_records(path) == [FULL]
    replaced(path, name, column)
    with pytest.raises(RunError, match=r"sweep\.parquet cannot be read: ") as caught:
        read_records(path)
    assert str(caught.value).isprintable()


def test_a_short_file_of_very_many_trials_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    path = tmp_path / "sweep.parquet"
    write_records([FULL], path)
    pq.write_table(pa.table({field.name: pa.nulls(200_000, field.type) for field in pq.read_schema(path)}), path)
    with pytest.raises(RunError, match=r"200000 rows of .* columns are too many"):
        read_records(path)


@pytest.mark.parametrize(
    "change",
    [
        {"validation": None},
        {"validation": {"mcc": "high"}},
        {"rounds": -1},
        {"timing": {"training": float("nan")}},
        {"communication": {"up_bytes": 1}},
        {"privacy": {"sites": {"a": {"epsilon": "x"}}}},
        {"config": []},
    ],
)
def test_a_summary_of_odd_types_is_one_clear_error(change: dict[str, object]) -> None:
    with pytest.raises(RunError, match=r"the summary of trial 1 cannot be read \(.*was trials/0001 changed by hand"):
        with_summary(BARE, {**SUMMARY, **change}, "epsilon")
