from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from primia.errors import RunError
from primia.runs.rounds import SCHEMA, History, HistoryRow, write_history


def rows(round_: int) -> list[HistoryRow]:
    return [HistoryRow(round_, "a", samples=3, validation_mcc=0.5), HistoryRow(round_, "b", status="its actor died")]


def test_rows_are_written_and_read_up_to_a_round(tmp_path: Path) -> None:
    path = tmp_path / "rounds.parquet"
    history = History()
    for round_ in (1, 2, 3):
        history.add(rows(round_))
        write_history(history.table(), path)
    resumed = History.read(path, last_round=2)
    resumed.add(rows(3))
    write_history(resumed.table(), path)
    table = pq.read_table(path).to_pydict()
    assert table["round"] == [1, 1, 2, 2, 3, 3]
    assert table["status"][-1] == "its actor died"
    assert table["validation_mcc"] == [0.5, None] * 3


def test_a_missing_file_is_an_empty_history(tmp_path: Path) -> None:
    path = tmp_path / "rounds.parquet"
    write_history(History.read(path, 5).table(), path)
    assert pq.read_table(path).num_rows == 0


@pytest.mark.parametrize("name", ["round", "site", "status", "up_bytes"])
def test_rows_without_round_or_site_are_one_clear_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "rounds.parquet"
    table = pa.Table.from_pylist([asdict(HistoryRow(1, "a"))], schema=SCHEMA)
    place = SCHEMA.get_field_index(name)
    pq.write_table(table.set_column(place, name, pa.nulls(1, SCHEMA.field(place).type)), path)
    with pytest.raises(RunError, match=rf"rounds\.parquet cannot be read \(column {name} has rows without a value"):
        History.read(path, 1)
