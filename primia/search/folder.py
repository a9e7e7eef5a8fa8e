"""The sweep folder: one ``.ini`` in, one folder out, with a run folder for each trial."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from primia.config.reader import dump_config
from primia.config.settings import SearchSettings, Settings
from primia.errors import RunError
from primia.federation.run_folder import ResultFolder
from primia.files import atomic_text
from primia.search.records import TrialRecord, read_records, write_records


@dataclass(frozen=True)
class SweepFolder(ResultFolder):
    """Paths of a sweep, and the few files that are written whole. Where each trial has images of its own, its fingerprint is empty."""

    @property
    def table(self) -> Path:
        """A row for each trial."""
        return self.path / "sweep.parquet"

    @property
    def best(self) -> Path:
        """Settings of the best trial, for ``primia-ray train --config``."""
        return self.path / "best.ini"

    @property
    def summary(self) -> Path:
        """The sweep's own results: best trial, time, privacy spent."""
        return self.path / "sweep.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        """What happened, with tracebacks."""
        return self.path / "sweep.log"

    @property
    def trials(self) -> Path:
        """A run folder for each trial."""
        return self.path / "trials"

    @property
    def sites(self) -> Path:
        """What sites without a box keep over all trials: their privacy ledgers."""
        return self.path / "sites"

    def place(self, number: int) -> str:
        """Where a trial's run folder is first made, within the sweep's."""
        return f"{self.trials.name}/{number:04d}"

    @classmethod
    def create(cls, path: Path, settings: Settings, fingerprint: str) -> SweepFolder:
        """Make a new sweep folder, without a trial.

        Raises:
            RunError: it exists already, or cannot be written.
        """
        if path.exists():
            raise RunError(f"{path} exists already; give another --name, or go on with it: primia-ray tune --resume {path}")
        folder = cls(path)
        try:
            folder.trials.mkdir(parents=True)
        except OSError as error:
            raise RunError(f"cannot make sweep folder {path}: {error.strerror}; give another --output") from None
        atomic_text(folder.config, dump_config(settings))
        atomic_text(folder.data, json.dumps({"fingerprint": fingerprint}))
        folder.write_records([])
        return folder

    @classmethod
    def open(cls, path: Path) -> SweepFolder:
        """An existing sweep.

        Raises:
            RunError: it is missing, or is not one.
        """
        folder = cls(path)
        if not folder.config.is_file() or not folder.table.is_file():
            raise RunError(f"{path} is not a sweep folder: it has no {folder.config.name} or no {folder.table.name}")
        return folder

    @staticmethod
    def is_sweep(path: Path) -> bool:
        """Whether a folder is a sweep's rather than a run's."""
        return SweepFolder(path).table.is_file()

    def records(self) -> list[TrialRecord]:
        """All trials so far."""
        return read_records(self.table)

    def write_records(self, records: Iterable[TrialRecord]) -> None:
        """Write ``sweep.parquet`` anew."""
        write_records(records, self.table)

    def begin(self, search: SearchSettings) -> float:
        """Write ``sweep.json`` as that of a sweep that runs; the seconds that its earlier parts took."""
        started = {"name": self.path.name, "started": datetime.now(UTC).isoformat(timespec="seconds"), "wall_seconds": 0.0}
        known = started | self.read_summary()
        self.write_summary(known | {"status": "running", "given": 1 if search.try_given else None})
        return float(str(known["wall_seconds"]))

    def read_summary(self) -> dict[str, object]:
        """``sweep.json``; empty where the sweep has not got so far."""
        try:
            document: dict[str, object] = json.loads(self.summary.read_text())
        except FileNotFoundError:
            return {}
        return document
