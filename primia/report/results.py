"""A finished run folder, read: its summary, its rounds, and the fingerprint of its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from primia.data.closed import refuse_box
from primia.errors import RunError
from primia.report.summary import RunSummary
from primia.untrusted.documents import read_object, validated
from primia.untrusted.files import printable
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

_ROW_LIMIT = 1_000_000


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
    """What a run folder holds for a report."""

    path: Path
    summary: RunSummary
    rounds: tuple[RoundResult, ...]
    fingerprint: str | None

    @classmethod
    def read(cls, path: Path) -> RunResults:
        """Read a finished run.

        Raises:
            RunError: the folder is missing, is no run folder, is not finished, or holds a file that cannot be read.
            ConsentError: it lies in a site box.
        """
        refuse_box(path)
        return cls(path, _read_summary(path), _read_rounds(path / "rounds.parquet"), _read_fingerprint(path / "data.json"))

    @property
    def steps(self) -> int:
        """Optimisation steps of all sites in all rounds."""
        return sum(round_.steps for round_ in self.rounds)


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


def _read_rounds(file: Path) -> tuple[RoundResult, ...]:
    try:
        rows = read_table(file, list(_COLUMNS), _COLUMNS, filled=("round", "site", "status"), rows=_ROW_LIMIT).to_pylist()
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({printable(error)}); was the run folder copied whole?") from None
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
        for row in sorted(rows, key=lambda row: int(row["round"]))
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
