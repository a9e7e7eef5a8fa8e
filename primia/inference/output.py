"""Predictions as a file: CSV, JSON or Parquet, by the name's ending."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

from primia.data.closed import refuse_box
from primia.errors import ConfigError, RunError
from primia.files import atomic_path, atomic_text, check_free, scratch_file
from primia.inference.predictions import Prediction, Predictions
from primia.untrusted.shown import from_cell, write_csv

Cells = dict[str, str | float | None]


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Raise, before any work, what would keep :func:`write_predictions` from writing ``path``.

    Raises:
        ConfigError: the name ends in none of .csv, .json, .parquet.
        RunError: its folder is missing or cannot be written to, or a file would be overwritten without ``overwrite``.
        ConsentError: it would lie in a site box.
    """
    _writer(path)
    refuse_box(path)
    try:
        for file in output_files(path):
            check_free(file, overwrite=overwrite)
        with scratch_file(path.parent):
            pass
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; give another --output") from None


def output_files(path: Path) -> tuple[Path, ...]:
    """What :func:`write_predictions` writes: ``path``, and the summary beside it where that is not in it."""
    return (path,) if path.suffix.lower() == ".json" else (path, path.with_suffix(".summary.json"))


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write a row an image to ``path``, and for CSV and Parquet the summary to ``<name>.summary.json``; each whole or not at all.

    Columns: file, status, reason, predicted, ``p_<class>`` for every class, and truth where it is known.

    Raises:
        ConfigError: the name ends in none of .csv, .json, .parquet.
        RunError: a file cannot be written.
    """
    write = _writer(path)
    for summary in output_files(path)[1:]:
        atomic_text(summary, _json(predictions.summary()))
    write(predictions, path)


def read_table(path: Path) -> list[Cells]:
    """The rows that :func:`write_predictions` wrote, with None for what is missing."""
    if path.suffix.lower() == ".json":
        rows: list[Cells] = json.loads(path.read_text(encoding="utf-8"))["predictions"]
        return rows
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    import pyarrow.parquet as pq

    rows = pq.read_table(path).to_pylist()
    return rows


def _read_csv(path: Path) -> list[Cells]:
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    names = [from_cell(name) for name in header]
    return [{name: _read_cell(name, value) for name, value in zip(names, row, strict=True)} for row in rows]


def _read_cell(column: str, value: str) -> str | float | None:
    """Scores are numbers; all else is text, a class called 7 too."""
    if not value:
        return None
    return float(value) if column.startswith("p_") else from_cell(value)


def to_json(predictions: Predictions) -> str:
    """One document: ``summary``, and under ``predictions`` the rows, with null for what is missing."""
    return _json({"summary": predictions.summary(), "predictions": _table(predictions)})


def _json(document: object) -> str:
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _write_json(predictions: Predictions, path: Path) -> None:
    atomic_text(path, to_json(predictions))


def _write_csv(predictions: Predictions, path: Path) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        write_csv(file, _columns(predictions), _table(predictions))


def _write_parquet(predictions: Predictions, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _columns(predictions)
    schema = pa.schema([(name, pa.float64() if name.startswith("p_") else pa.string()) for name in columns])
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(_table(predictions), schema=schema), temporary)


_WRITERS: dict[str, Callable[[Predictions, Path], None]] = {".csv": _write_csv, ".json": _write_json, ".parquet": _write_parquet}


def _writer(path: Path) -> Callable[[Predictions, Path], None]:
    try:
        return _WRITERS[path.suffix.lower()]
    except KeyError:
        raise ConfigError(f"cannot write {path}: name it .csv, .json or .parquet") from None


def _columns(predictions: Predictions) -> list[str]:
    scores = [f"p_{name}" for name in predictions.classes]
    return ["file", "status", "reason", "predicted", *scores, *(["truth"] if predictions.has_truth else [])]


def _table(predictions: Predictions) -> list[Cells]:
    return [_cells(row, predictions.classes, with_truth=predictions.has_truth) for row in predictions.rows]


def _cells(row: Prediction, classes: tuple[str, ...], *, with_truth: bool) -> Cells:
    scores = row.probabilities or (None,) * len(classes)
    return {
        "file": row.file,
        "status": row.status,
        "reason": row.reason,
        "predicted": row.predicted,
        **{f"p_{name}": score for name, score in zip(classes, scores, strict=True)},
        **({"truth": row.truth} if with_truth else {}),
    }
