"""A finished run folder, read: its summary, its rounds, and the fingerprint of its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from primia.data.closed import refuse_box
from primia.errors import RunError
from primia.runs.summary import RunSummary
from primia.untrusted.documents import read_object, validated
from primia.untrusted.files import Unusable, printable
from primia.untrusted.tables import read_table

_ALL_SITES = "all"
_COLUMNS = {
    "round": pa.int64(),
    "site": pa.string(),
    "status": pa.string(),
    "steps": pa.int64(),
    "train_loss": pa.float64(),
    "learning_rate": pa.float64(),
    "seconds": pa.float64(),
    "validation_mcc": pa.float64(),
}

_BOUNDS = {
    "round": (0, 10**9),
    "steps": (0, 10**12),
    "train_loss": (-1e30, 1e30),
    "learning_rate": (0.0, 1e30),
    "seconds": (0.0, 1e12),
    "validation_mcc": (-1.0 - 1e-6, 1.0 + 1e-6),
}

_ROW_LIMIT, _VALUE_LIMIT = 5_000_000, 70_000_000
"""Rows of a million rounds of a few sites, and values in them."""
_SITE_LIMIT = 10_000

ROUND_LIMIT = 200
_KEPT_ROWS = 100_000
"""Rounds that are shown of a long run, as far as they have no more rows than that."""


@dataclass(frozen=True)
class SiteRound:
    """One site's part in a round; ``status`` is ``ok`` or why it was left out."""

    status: str
    train_loss: float | None
    validation_mcc: float | None


@dataclass(frozen=True)
class RoundResult:
    """One round over all sites; ``validation_mcc`` is None where the round was not validated; wall time in seconds."""

    round: int
    steps: int
    train_loss: float | None
    learning_rate: float | None
    seconds: float | None
    validation_mcc: float | None
    sites: Mapping[str, SiteRound]


@dataclass(frozen=True)
class RunResults:
    """What a run folder holds for a report.

    ``rounds``: of a long run those that are shown, spread evenly, the best among them; ``hidden_rounds`` are not. ``steps``: optimisation
    steps of all sites in all rounds.
    """

    path: Path
    summary: RunSummary
    rounds: tuple[RoundResult, ...]
    hidden_rounds: int
    steps: int
    fingerprint: str | None

    @classmethod
    def read(cls, path: Path) -> RunResults:
        """Read a finished run.

        Raises:
            RunError: the folder is missing, is no run folder, is not finished, or holds a file that cannot be read.
            ConsentError: it lies in a site box.
        """
        refuse_box(path)
        summary, table = _read_summary(path), _read_rounds(path / "rounds.parquet")
        whole = table.filter(pc.equal(table["site"], _ALL_SITES))
        shown = _shown(whole, summary.best_round, max(1, pc.count_distinct(table["site"]).as_py()))
        rounds = _rounds(table.filter(pc.is_in(table["round"], pa.array(shown))))
        steps = pc.sum(whole["steps"]).as_py() or 0
        return cls(path, summary, rounds, len(whole) - len(rounds), steps, _read_fingerprint(path / "data.json"))


def _read_summary(path: Path) -> RunSummary:
    if not path.is_dir():
        raise RunError(f"there is no run folder {path}; see what `ls {path.parent}` shows")
    file = path / "summary.json"
    if not file.is_file():
        if (path / "config.ini").is_file():
            raise RunError(f"{path} has no summary.json: the run is not finished; go on with: primia-ray train --resume {path}")
        raise RunError(f"{path} is not a run folder: it has neither config.ini nor summary.json")
    try:
        summary: RunSummary = validated(RunSummary, read_object(file))
        return summary
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({printable(error)}); was it changed by hand?") from None


def _read_rounds(file: Path) -> pa.Table:
    """The table, each of whose numbers is one that can be drawn."""
    filled = ("round", "site", "status")
    try:
        table = read_table(file, list(_COLUMNS), _COLUMNS, filled=filled, rows=_ROW_LIMIT, values=_VALUE_LIMIT)
        table = table.select(list(_COLUMNS)).cast(pa.schema(list(_COLUMNS.items())))
        _check_rounds(table)
        return table
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({printable(error)}); was the run folder copied whole?") from None


def _check_rounds(table: pa.Table) -> None:
    for name, (low, high) in _BOUNDS.items():
        inside = pc.and_(pc.greater_equal(table[name], low), pc.less_equal(table[name], high))
        if pc.all(inside).as_py() is False:  # None: there is no value
            raise Unusable(f"column {name} has values that are not from {low:g} to {high:g}")
    if pc.count_distinct(table["site"]).as_py() > _SITE_LIMIT:
        raise Unusable(f"it has more than {_SITE_LIMIT} sites")
    whole = table.filter(pc.equal(table["site"], _ALL_SITES))["round"]
    if pc.count_distinct(whole).as_py() < len(whole):
        raise Unusable("a round is there twice")


def _shown(whole: pa.Table, best: int, sites: int) -> NDArray[np.int64]:
    """Numbers of the rounds that are kept: evenly spread ones of all, and of those that were validated, and the best."""
    most = max(2, min(ROUND_LIMIT, _KEPT_ROWS // sites) // 2)
    validated = whole.filter(pc.is_valid(whole["validation_mcc"]))
    return np.unique([best, *_spread(whole["round"], most), *_spread(validated["round"], most)])


def _spread(rounds: pa.ChunkedArray, most: int) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = np.sort(rounds.to_numpy())
    places = np.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().astype(int)
    return np.take(numbers, np.unique(places))


def _rounds(table: pa.Table) -> tuple[RoundResult, ...]:
    rows = table.sort_by("round").to_pylist()
    sites: dict[int, dict[str, SiteRound]] = {}
    for row in rows:
        if row["site"] != _ALL_SITES:
            sites.setdefault(row["round"], {})[row["site"]] = SiteRound(row["status"], row["train_loss"], row["validation_mcc"])
    return tuple(
        RoundResult(
            row["round"],
            row["steps"] or 0,
            row["train_loss"],
            row["learning_rate"],
            row["seconds"],
            row["validation_mcc"],
            sites.get(row["round"], {}),
        )
        for row in rows
        if row["site"] == _ALL_SITES
    )


def _read_fingerprint(file: Path) -> str | None:
    """None for a folder without ``data.json``, as those made by hand are."""
    if not file.is_file():
        return None
    try:
        return str(read_object(file)["fingerprint"])
    except (OSError, ValueError, KeyError):
        raise RunError(f"{file} cannot be read; was the folder copied whole?") from None
