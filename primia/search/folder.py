"""The sweep folder: one ``.ini`` in, one folder out, with a run folder for each trial."""

from __future__ import annotations

import itertools
import json
import secrets
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from primia.config.reader import dump_config
from primia.config.settings import SearchSettings, Settings
from primia.data.closed import refuse_box
from primia.errors import RunError
from primia.files import atomic_text, own_folder, private_folder
from primia.runs.folder import ResultFolder, read_json, unreadable
from primia.search.records import Amount, Count, Mcc, Name, Seconds, TrialRecord, read_records, write_records
from primia.untrusted.documents import validated
from primia.untrusted.files import Unusable

_RUNNING = "running"


class SweepPrivacy(BaseModel):
    """What all trials together have cost each site."""

    unit: Name
    delta: dict[Name, Annotated[float, Field(ge=0.0, le=1.0)]]
    accountant: Name
    sites: dict[Name, Amount]
    trials: Count
    unstated: tuple[Count, ...] = ()
    sentence: str


class SweepSummary(BaseModel):
    """``sweep.json``; the defaults are those of a sweep that has not ended. Fields that later versions add are ignored.

    ``wall_seconds``: of all parts that have ended. ``part_started``: when the last part began, which may be under way.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    status: str = _RUNNING
    name: str = ""
    reason: str = ""
    best: Count | None = None
    value: Mcc | None = None
    front: tuple[Count, ...] = ()
    given: Count | None = None
    wall_seconds: Seconds = 0.0
    training_seconds: Seconds | None = None
    started: str = ""
    part_started: AwareDatetime | None = None
    max_epsilon: Amount | None = None
    privacy: SweepPrivacy | None = None
    versions: dict[str, str] = {}

    @property
    def is_running(self) -> bool:
        """Whether its last part has not ended, or was killed."""
        return self.status == _RUNNING


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
    def known(self) -> Path:
        """The points that were known before the first trial."""
        return self.path / "known.json"

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

    @property
    def train_command(self) -> str:
        """The command line that trains by :attr:`best`."""
        return f"primia-ray train --config {shlex.quote(str(self.best))}"

    @property
    def resume_command(self) -> str:
        """The command line that goes on with it."""
        return f"primia-ray tune --resume {shlex.quote(str(self.path))}"

    def place(self, number: int) -> str:
        """Where a trial's run folder is first made, within the sweep's."""
        return f"{self.trials.name}/{number:04d}"

    def new_place(self, number: int, round_: int) -> str:
        """Where it goes on when it has taken over another trial's model of that round; such a folder is never used twice."""
        place = f"{self.place(number)}-from-{round_:03d}"
        places = itertools.chain([place], (f"{place}-{again}" for again in itertools.count(2)))
        return next(each for each in places if not (self.path / each).exists())

    @classmethod
    def create(cls, path: Path, settings: Settings, fingerprint: str, known: str = "[]") -> SweepFolder:
        """Make a new sweep folder, without a trial; ``known``: what :attr:`known` shall hold.

        Raises:
            RunError: it exists already, or cannot be written.
            ConsentError: it would lie in a site box.
        """
        refuse_box(path)
        folder = cls(path)
        if path.exists():
            raise RunError(f"{path} exists already; give another --name, or go on with it: {folder.resume_command}")
        try:
            private_folder(path)
            own_folder(folder.trials)
        except OSError as error:
            raise RunError(f"cannot make sweep folder {path}: {error.strerror}; give another --output") from None
        atomic_text(folder.config, dump_config(settings))
        atomic_text(folder.data, json.dumps({"fingerprint": fingerprint, "id": secrets.token_hex(4)}))
        atomic_text(folder.known, known)
        folder.write_records([])  # at last: with it the folder is one that can be gone on with
        return folder

    @classmethod
    def open(cls, path: Path) -> SweepFolder:
        """An existing sweep.

        Raises:
            RunError: it is missing, or is not one.
            ConsentError: it lies in a site box.
        """
        refuse_box(path)
        folder = cls(path)
        if not folder.config.is_file() or not folder.table.is_file():
            raise RunError(f"{path} is not a sweep folder: it has no {folder.config.name} or no {folder.table.name}")
        folder.check()
        return folder

    def identity(self) -> str:
        """What makes the random choices of its trials' sites its own; empty for a sweep of a version that gave it none."""
        try:
            return str(read_json(self.data).get("id", ""))
        except FileNotFoundError:
            return ""

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
        """Write ``sweep.json`` as that of a sweep that runs, without the results of earlier parts; the seconds that these took.

        Raises:
            RunError: the earlier one cannot be read.
        """
        now, known = datetime.now(UTC), self.result()
        earlier_s = known.wall_seconds + self._killed_seconds(known)
        self.write_summary(
            {
                "name": known.name or self.path.name,
                "status": _RUNNING,
                "given": 1 if search.try_given else None,
                "started": known.started or now.isoformat(timespec="seconds"),
                "part_started": now.isoformat(),
                "wall_seconds": earlier_s,
            }
        )
        return earlier_s

    def read_summary(self) -> dict[str, object]:
        """``sweep.json``; empty where the sweep has not got so far.

        Raises:
            RunError: it cannot be read.
        """
        try:
            return read_json(self.summary)
        except FileNotFoundError:
            return {}

    def result(self) -> SweepSummary:
        """As :meth:`read_summary`, and each value is of its type."""
        try:
            summary: SweepSummary = validated(SweepSummary, self.read_summary())
            return summary
        except Unusable as error:
            raise unreadable(self.summary, str(error)) from None

    def _killed_seconds(self, known: SweepSummary) -> float:
        """Of a part that was killed, and could not write how long it took: up to the last trial that it saw begin or end."""
        if not known.is_running or known.part_started is None:
            return 0.0
        return max(0.0, self.table.stat().st_mtime - known.part_started.timestamp())
