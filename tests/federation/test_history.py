from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from primia.federation.history import History, HistoryRow, write_history


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
