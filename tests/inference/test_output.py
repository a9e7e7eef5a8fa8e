from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from primia.errors import ConfigError, RunError
from primia.inference.images import InferenceImages
from primia.inference.output import check_output, output_files, read_table, to_json, write_predictions
from primia.inference.predictions import Failure, Predictions

COLUMNS = ["file", "status", "reason", "predicted", "p_a", "p_b,c"]


def make(*, with_truth: bool) -> Predictions:
    names = ('x "1".png', "y.png", "z.png")
    labels = np.array([0, 1, 1]) if with_truth else None
    images = InferenceImages(Path("root"), names, labels, tuple(map(Path, names)), channels=1, image_size=8)
    logits = np.array([[2.0, 0.0], [np.nan, np.nan], [np.inf, 0.0]], dtype=np.float32)
    return Predictions.from_logits(images, ("a", "b,c"), logits, {1: Failure("unreadable", "cut, short")})


@pytest.fixture(params=[False, True], ids=["without truth", "with truth"])
def predictions(request: pytest.FixtureRequest) -> Predictions:
    return make(with_truth=request.param)


def columns(predictions: Predictions) -> list[str]:
    return COLUMNS + ["truth"] * predictions.has_truth


def test_csv_has_empty_cells_for_what_is_missing(predictions: Predictions, tmp_path: Path) -> None:
    write_predictions(predictions, tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        header, first, second, third = csv.reader(file)
    assert header == columns(predictions)
    assert first[:4] == ['x "1".png', "ok", "", "a"] and float(first[4]) == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert second[:6] == ["y.png", "unreadable", "cut, short", "", "", ""]
    assert third[:6] == ["z.png", "out of range", "the model's output is not a finite number", "", "", ""]
    assert first[6:] == ["a"] * predictions.has_truth


@pytest.mark.parametrize("name", ["p.csv", "p.json", "p.parquet"])
def test_names_that_are_formulas_are_none_in_a_spreadsheet_and_are_read_back(tmp_path: Path, name: str) -> None:
    classes = ("=HYPERLINK(1)", "7", "'@x", "a;=1+1")
    names = ("=cmd|' /C calc'!A0.png", "+1.png", "-1.png", "@a.png", "\t=1.png", "'a.png", 'a;=1,"b".png')
    images = InferenceImages(Path("root"), names, np.arange(7) % 4, tuple(map(Path, names)), channels=1, image_size=8)
    logits = np.eye(4, dtype=np.float32)[np.arange(7) % 4]
    made = Predictions.from_logits(images, classes, logits, {6: Failure("unreadable", "-1")})
    write_predictions(made, tmp_path / name)
    rows = read_table(tmp_path / name)
    assert [row["file"] for row in rows] == list(names)
    assert [row["predicted"] for row in rows] == [row.predicted for row in made.rows]
    assert [row["truth"] for row in rows] == [row.truth for row in made.rows]
    assert rows[6]["reason"] == "-1" and rows[0]["reason"] is None
    assert [tuple(rows[0][f"p_{label}"] for label in classes)] == [made.rows[0].probabilities]
    if name.endswith(".csv"):
        for cells in csv.reader((tmp_path / name).open(newline="", encoding="utf-8")):
            assert not [cell for cell in cells if cell.startswith(tuple("=+-@\t"))]
        assert '"a;=1+1"' in (tmp_path / name).read_text(), "whoever takes semicolons for commas sees one cell"


def test_json_holds_summary_and_rows_and_never_nan(predictions: Predictions, tmp_path: Path) -> None:
    write_predictions(predictions, tmp_path / "p.json")
    text = (tmp_path / "p.json").read_text()
    assert text == to_json(predictions) and "NaN" not in text and "Infinity" not in text
    document = json.loads(text)
    assert document["summary"] == predictions.summary()
    assert [list(row) for row in document["predictions"]] == [columns(predictions)] * 3
    assert document["predictions"][1]["p_a"] is None and document["predictions"][0]["reason"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


def test_parquet_is_typed_and_has_nulls(predictions: Predictions, tmp_path: Path) -> None:
    write_predictions(predictions, tmp_path / "p.PARQUET")
    table = pq.read_table(tmp_path / "p.PARQUET")
    assert table.column_names == columns(predictions)
    assert {str(field.type) for field in table.schema if field.name.startswith("p_")} == {"double"}
    assert table.column("p_a").null_count == 2 and table.column("predicted").to_pylist() == ["a", None, None]


@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
def test_the_summary_lies_beside_a_table(predictions: Predictions, tmp_path: Path, name: str) -> None:
    write_predictions(predictions, tmp_path / name)
    assert json.loads((tmp_path / "p.summary.json").read_text()) == predictions.summary()
    assert sorted(tmp_path.iterdir()) == sorted(output_files(tmp_path / name)), "nothing temporary is left"


@pytest.mark.parametrize("name", ["p.xlsx", "p", "csv"])
def test_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"name it \.csv, \.json or \.parquet"):
        check_output(tmp_path / name)
    with pytest.raises(ConfigError, match=r"name it \.csv, \.json or \.parquet"):
        write_predictions(make(with_truth=False), tmp_path / name)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no folder .*absent; make it"):
        check_output(tmp_path / "absent" / "p.csv")


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    check_output(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("old")
    with pytest.raises(RunError, match=r"p\.csv exists; .*--overwrite"):
        check_output(tmp_path / "p.csv")
    check_output(tmp_path / "p.csv", overwrite=True)
    write_predictions(make(with_truth=False), tmp_path / "p.csv")
    with pytest.raises(RunError, match=r"p\.summary\.json exists"):
        check_output(tmp_path / "p.parquet")


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "p.json").mkdir()
    with pytest.raises(RunError, match=r"p\.json: it is a folder"):
        check_output(tmp_path / "p.json", overwrite=True)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(RunError, match=r"cannot write .*p\.csv: Permission denied; give another --output"):
        check_output(tmp_path / "p.csv")


def test_a_name_that_no_disk_takes(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"File name too long"):
        check_output(tmp_path / ("p" * 300 + ".csv"))
