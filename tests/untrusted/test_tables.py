from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from primia.untrusted import tables
from primia.untrusted.files import Unusable
from primia.untrusted.tables import read_table

TABLE = pa.table({"round": pa.array([1, 2]), "site": pa.array(["a", None]), "curve": pa.array([[{"r": 1}], None])})


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a")
    assert read_table(tmp_path / "a").equals(TABLE)
    assert read_table(tmp_path / "a", ["site"], {"site": pa.string()}).column_names == ["site"]


@pytest.mark.parametrize(("types", "said"), [({"site": pa.int64()}, "type string, not int64"), ({"mcc": pa.float64()}, "no column mcc")])
def test_columns_of_other_types_are_refused(tmp_path: Path, types: dict[str, pa.DataType], said: str) -> None:
    pq.write_table(TABLE, tmp_path / "a")
    with pytest.raises(Unusable, match=said):
        read_table(tmp_path / "a", types=types)


def test_a_short_file_that_stands_for_much_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"a": pa.array([0]).take(pa.array([0] * 3_000_000))}), tmp_path / "rows", compression="zstd")
    assert (tmp_path / "rows").stat().st_size < 20_000
    monkeypatch.setattr(tables, "VALUE_LIMIT", 1_000_000)
    with pytest.raises(Unusable, match="too many"):
        read_table(tmp_path / "rows")


@pytest.mark.parametrize("store_schema", [True, False], ids=["dictionaries", "texts"])
@pytest.mark.parametrize("length", [10_000, 100_000])
def test_one_text_that_stands_in_many_rows_is_refused_before_it_is_unpacked(tmp_path: Path, length: int, store_schema: bool) -> None:
    # Made from a dictionary: the column as it reads is 9 or 90 GB of text.
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(900_000, np.int32)), pa.array(["x" * length]))
    pq.write_table(pa.table({"a": column}), tmp_path / "texts", store_schema=store_schema)
    assert (tmp_path / "texts").stat().st_size < 200_000
    with pytest.raises(Unusable, match="texts that are too long"):
        read_table(tmp_path / "texts")


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"PAR1" * 10)
    with pytest.raises(Unusable):
        read_table(tmp_path / "a")


@pytest.mark.parametrize("kind", ["map", "list", "structure"])
def test_one_text_that_stands_in_many_lists_and_maps_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(tables, "_BYTES_LIMIT", 100_000)
    texts = pa.array(["x" * 15_000] * 5)
    ends = pa.array(range(len(texts) + 1), pa.int32())
    column = {
        "map": lambda: pa.MapArray.from_arrays(ends, texts, pa.array(range(len(texts)))),
        "list": lambda: pa.ListArray.from_arrays(ends, texts),
        "structure": lambda: pa.StructArray.from_arrays([texts], ["a"]),
    }[kind]()
    pq.write_table(pa.table({"a": pa.concat_arrays([column, column])}), tmp_path / "texts")
    assert (tmp_path / "texts").stat().st_size < 10_000
    with pytest.raises(Unusable, match="texts that are too long"):
        read_table(tmp_path / "texts")


def test_texts_in_maps_are_read_and_bytes_are_not(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([[("b", 1.0)], []], pa.map_(pa.string(), pa.float64()))}), tmp_path / "a")
    assert read_table(tmp_path / "a").to_pylist(maps_as_pydicts="strict") == [{"a": {"b": 1.0}}, {"a": {}}]
    for column in (pa.array([b"ab"], pa.binary(2)), pa.array([[b"ab"]]), pa.array([b"ab"])):
        pq.write_table(pa.table({"a": column}), tmp_path / "b")
        with pytest.raises(Unusable, match="column a"):
            read_table(tmp_path / "b")


def test_a_limit_may_be_lower(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a")
    assert read_table(tmp_path / "a", rows=2, values=6).num_rows == 2
    for limits in ({"rows": 1}, {"values": 5}):
        with pytest.raises(Unusable, match="too many"):
            read_table(tmp_path / "a", **limits)
