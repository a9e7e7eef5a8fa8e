"""What is known of a sweep's trials: one row each in ``sweep.parquet``, written anew whenever a trial begins or ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from primia.config.fields import keys
from primia.errors import RunError
from primia.files import atomic_path
from primia.untrusted.documents import validated
from primia.untrusted.files import Unusable, printable
from primia.untrusted.tables import read_table

Value = bool | int | float | str
"""A searched setting's value, of the setting's own type."""

Count = Annotated[int, Field(ge=0, le=10**9)]
Bytes = Annotated[int, Field(ge=0, lt=2**62)]
Seconds = Annotated[float, Field(ge=0.0, le=1e12)]
Amount = Annotated[float, Field(ge=0.0, le=1e30)]
Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
Number = Annotated[float, Field(ge=-1e30, le=1e30)]
Mcc = Annotated[float, Field(ge=-1.0 - 1e-6, le=1.0 + 1e-6)]
Name = Annotated[str, Field(max_length=1000)]

_PREFIX = "param."
_FOLDER = re.compile(r"trials/\d{4,9}(-from-\d{3,9}(-\d{1,9})?)?", re.ASCII)
TRIAL_LIMIT = 100_000
_VALUE_LIMIT = 5_000_000
"""Rows and values of the largest table that is read."""


class State(StrEnum):
    """How far a trial has come. ``running`` in the file of a sweep that is over: it was interrupted, and can be gone on with."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    ``parameters``: by ``section.key``, those that had an effect. ``folder``: of its run, within the sweep's. ``value``: best validation MCC
    so far; None before the first validation. ``second``: the second objective. ``curve``: (round, validation MCC) of each validation.
    ``seconds``: of training, validation and test. ``bytes``: moved between driver and sites. ``epsilon``: spent in this trial, by site.
    ``cause``: why it failed, or what it continues.
    """

    number: int
    state: State
    parameters: Mapping[str, Value]
    folder: str
    value: float | None = None
    second: float | None = None
    rounds: int = 0
    planned_rounds: int = 0
    best_round: int = 0
    seconds: float = 0.0
    bytes: int = 0
    curve: Sequence[tuple[int, float]] = ()
    epsilon: Mapping[str, float] = field(default_factory=dict)
    cause: str = ""


class _Part(BaseModel):
    """A part of a run's summary; what a record does not hold is passed over."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Validation(_Part):
    mcc: Mcc | None


class _Communication(_Part):
    up_bytes: Bytes
    down_bytes: Bytes


class _SitePrivacy(_Part):
    epsilon: Amount


class _Privacy(_Part):
    sites: dict[Name, _SitePrivacy]


class _Federation(_Part):
    rounds: Count


class _Config(_Part):
    federation: _Federation


class _Summary(_Part):
    validation: _Validation
    best_round: Count
    rounds: Count
    timing: dict[str, Seconds]
    communication: _Communication
    privacy: _Privacy
    config: _Config


@dataclass(frozen=True)
class Told:
    """What a trial says of itself; ``percent`` of its rounds are done, 0 where it failed, so that no rung counts it.

    ``is_spent``: it could not begin, since sites had no privacy left for it.
    """

    record: TrialRecord
    percent: float
    is_over: bool = False
    is_spent: bool = False


def with_summary(record: TrialRecord, summary: Mapping[str, Any], second: str) -> TrialRecord:
    """A record with what its run's ``summary.json`` says: best model, bytes, epsilon, and the second objective.

    Raises:
        RunError: it does not say that.
    """
    try:
        told: _Summary = validated(_Summary, summary)
    except Unusable as error:
        raise RunError(f"the summary of trial {record.number} cannot be read ({error}); was {record.folder} changed by hand?") from None
    moved = told.communication.up_bytes + told.communication.down_bytes
    epsilon = {name: site.epsilon for name, site in told.privacy.sites.items()}
    return replace(
        record,
        value=told.validation.mcc,
        second=second_objective(second, moved, epsilon),
        best_round=told.best_round,
        rounds=told.rounds,
        planned_rounds=told.config.federation.rounds,
        seconds=sum(told.timing.get(phase, 0.0) for phase in ("training", "validation", "test")),
        bytes=moved,
        epsilon=epsilon,
    )


def second_objective(kind: str, moved: int, epsilon: Mapping[str, float]) -> float | None:
    """What ``search.second_objective`` names, of a trial that has moved so many bytes and spent that at each site."""
    return {"none": None, "bytes": float(moved), "epsilon": max(epsilon.values(), default=None)}[kind]


def best_of(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The trial with the best value among those trained to the end, the first of several; where there is none, among all that have one."""
    valued = [record for record in records if record.value is not None and record.state is not State.FAILED]
    complete = [record for record in valued if record.state is State.COMPLETE]
    return max(complete or valued, key=lambda record: (value_first(record), -record.number), default=None)


def undominated(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Complete trials than which none has both a higher value and a smaller second objective, the cheapest first."""
    complete = [record for record in records if record.state is State.COMPLETE and None not in (record.value, record.second)]
    front: list[TrialRecord] = []
    for record in sorted(complete, key=lambda record: (record.second, -value_first(record), record.number)):
        if not front or value_first(record) > value_first(front[-1]):
            front.append(record)
    return front


def value_first(record: TrialRecord) -> float:
    """For sorting: the value, below all others where there is none."""
    return -2.0 if record.value is None else record.value


_SCHEMA = {
    "trial": pa.int64(),
    "state": pa.string(),
    "value": pa.float64(),
    "second": pa.float64(),
    "best_round": pa.int64(),
    "rounds": pa.int64(),
    "planned_rounds": pa.int64(),
    "seconds": pa.float64(),
    "bytes": pa.int64(),
    "cause": pa.string(),
    "folder": pa.string(),
    "curve": pa.list_(pa.struct([("round", pa.int64()), ("mcc", pa.float64())])),
    "epsilon": pa.map_(pa.string(), pa.float64()),
}


def write_records(records: Iterable[TrialRecord], path: Path) -> None:
    """Write one row a trial, atomically; parameters are columns ``param.section.key``, null where one had no effect."""
    ordered = sorted(records, key=lambda record: record.number)
    rows = [_row(record) for record in ordered]
    names = list(dict.fromkeys(name for record in ordered for name in record.parameters))
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in _SCHEMA.items()}
    columns |= {_PREFIX + name: pa.array([record.parameters.get(name) for record in ordered]) for name in names}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Point(_Strict):
    round: Count
    mcc: Mcc


class _Row(_Strict):
    """A row of the table as it is written."""

    trial: Count
    state: Annotated[State, Field(strict=False)]
    value: Mcc | None
    second: Amount | None
    best_round: Count
    rounds: Count
    planned_rounds: Count
    seconds: Seconds
    bytes: Annotated[int, Field(ge=0, lt=2**63)]
    cause: str
    folder: str
    curve: list[_Point]
    epsilon: dict[Name, Amount]
    parameters: dict[str, bool | Whole | Number | Name]


def read_records(path: Path) -> list[TrialRecord]:
    """The trials in the order of their numbers.

    Raises:
        RunError: the file is missing or is none of a sweep.
    """
    try:
        table = read_table(path, types=_SCHEMA, rows=TRIAL_LIMIT, values=_VALUE_LIMIT)
        _check_columns(table.column_names)
        batches = table.to_batches(max_chunksize=1000)
        records = [_record(row) for batch in batches for row in batch.to_pylist(maps_as_pydicts="strict")]
    except FileNotFoundError:
        raise RunError(f"{path.parent} is not a sweep: it has no {path.name}") from None
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise RunError(f"{path} cannot be read: {printable(error)}") from None
    return sorted(records, key=lambda record: record.number)


def _check_columns(names: Sequence[str]) -> None:
    known = {*_SCHEMA, *(_PREFIX + key for key in keys())}
    if unknown := set(names) - known:
        raise Unusable(f"column {printable(min(unknown), 60)} is none of a sweep")


def _row(record: TrialRecord) -> dict[str, object]:
    return {
        "trial": record.number,
        "state": str(record.state),
        "value": record.value,
        "second": record.second,
        "best_round": record.best_round,
        "rounds": record.rounds,
        "planned_rounds": record.planned_rounds,
        "seconds": record.seconds,
        "bytes": record.bytes,
        "cause": record.cause,
        "folder": record.folder,
        "curve": [{"round": round_, "mcc": mcc} for round_, mcc in record.curve],
        "epsilon": list(record.epsilon.items()),
    }


def _record(row: Mapping[str, object]) -> TrialRecord:
    parameters = {name.removeprefix(_PREFIX): value for name, value in row.items() if name.startswith(_PREFIX) and value is not None}
    fields: _Row = validated(_Row, {**{name: row[name] for name in _SCHEMA}, "parameters": parameters})
    if not _FOLDER.fullmatch(fields.folder):
        # A sweep folder may come from somebody else, and what lies there may be removed.
        raise Unusable(f"trial {fields.trial} has no run folder of this sweep: {fields.folder}")
    plain = {name: getattr(fields, name) for name in _SCHEMA if name not in ("trial", "curve")}
    curve = tuple((point.round, point.mcc) for point in fields.curve)
    return TrialRecord(number=fields.trial, parameters=fields.parameters, curve=curve, **plain)
