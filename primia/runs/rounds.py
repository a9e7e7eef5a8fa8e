"""``rounds.parquet``: a row per round and site, and one row with site ``all`` a round."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from primia.errors import RunError
from primia.files import atomic_path
from primia.untrusted.files import printable
from primia.untrusted.tables import read_table

ALL_SITES = "all"

_TYPES = {"int": pa.int64(), "str": pa.string(), "float": pa.float64(), "int | None": pa.int64(), "float | None": pa.float64()}


@dataclass(frozen=True)
class HistoryRow:
    """One site's round; ``status`` is ``ok`` or why it was left out; losses are means over images.

    ``learning_rate``: at the start of the round, by the settings. ``seconds``: of a site the wall time until the driver had its answer, of
    ``all`` the whole round's. ``epsilon``: what the site has spent so far.

    What only the sum over sites tells (secure aggregation) is in the row ``all``.
    """

    round: int
    site: str
    status: str = "ok"
    samples: int | None = None
    steps: int | None = None
    train_loss: float | None = None
    learning_rate: float | None = None
    seconds: float | None = None
    epsilon: float | None = None
    up_bytes: int = 0
    down_bytes: int = 0
    validation_mcc: float | None = None
    validation_accuracy: float | None = None
    validation_loss: float | None = None


_FILLED = ("round", "site", "status", "up_bytes", "down_bytes")
SCHEMA = pa.schema([(field.name, _TYPES[str(field.type)]) for field in fields(HistoryRow)])


class History:
    """All rows of a run so far, as one Arrow table without chunks: many small ones would cost far more than their rows."""

    def __init__(self, table: pa.Table | None = None) -> None:
        self._table = SCHEMA.empty_table() if table is None else table

    @classmethod
    def read(cls, path: Path, last_round: int) -> History:
        """Rows up to ``last_round`` of an earlier part of the run; empty where the file is missing."""
        if not path.exists():
            return cls()
        table = read_rounds(path)
        return cls(table.filter(pc.less_equal(table.column("round"), last_round)).combine_chunks())

    def add(self, rows: Iterable[HistoryRow]) -> None:
        """Append one round's rows."""
        new = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
        self._table = pa.concat_tables([self._table, new]).combine_chunks()

    def table(self) -> pa.Table:
        """All rows; it does not change when rounds are added."""
        return self._table


def read_rounds(path: Path) -> pa.Table:
    """All rows of a file, which a stranger may have made.

    Raises:
        RunError: it cannot be read.
    """
    try:
        types = {field.name: field.type for field in SCHEMA}
        return read_table(path, types=types, filled=_FILLED).select(SCHEMA.names).cast(SCHEMA)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({printable(error)}); was the run folder copied whole?") from None


def write_history(table: pa.Table, path: Path) -> None:
    """Write rows, atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
