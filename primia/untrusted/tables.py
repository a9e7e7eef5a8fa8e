"""Tables from strangers: Parquet files whose columns, rows and texts are checked before they take memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from primia.untrusted.files import Unusable, printable, read_file

FILE_LIMIT = 256 * 2**20
VALUE_LIMIT = 50_000_000
"""Values of all columns together."""
TEXT_LIMIT = 20_000
"""Bytes of the longest text."""
COLUMN_LIMIT = 2_000
_BYTES_LIMIT = 2**30


def read_table(path: Path, columns: Sequence[str] | None = None, types: Mapping[str, pa.DataType] | None = None) -> pa.Table:
    """A Parquet file, or some of its columns; those in ``types`` must be there, and of their type.

    Raises:
        OSError: it is missing or not readable.
        Unusable: a link or a device, no Parquet file, or one that would take too much memory.
    """
    data = read_file(path, FILE_LIMIT)
    try:
        return _table(data, columns, types or {})
    except Unusable:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
        raise Unusable(printable(error) or type(error).__name__) from None


def _table(data: bytes, columns: Sequence[str] | None, types: Mapping[str, pa.DataType]) -> pa.Table:
    texts = _check_size(pq.ParquetFile(pa.BufferReader(data)), types)
    # Texts stay dictionaries until their lengths are known: a short file can repeat a long one many times.
    file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
    table = file.read(columns=None if columns is None else list(columns), use_threads=False)
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, _texts(table.column(place), field.name))
    table.validate(full=True)
    return table


def _check_size(file: pq.ParquetFile, types: Mapping[str, pa.DataType]) -> list[str]:
    """Check what the file says of its size and columns; the names of its columns of texts."""
    metadata, schema = file.metadata, file.schema_arrow
    if metadata.num_columns > COLUMN_LIMIT or metadata.num_rows * max(1, metadata.num_columns) > VALUE_LIMIT:
        raise Unusable(f"{metadata.num_rows} rows of {metadata.num_columns} columns are too many")
    chunks = [metadata.row_group(group).column(place) for group in range(metadata.num_row_groups) for place in range(metadata.num_columns)]
    if sum(chunk.num_values for chunk in chunks) > VALUE_LIMIT or sum(chunk.total_uncompressed_size for chunk in chunks) > _BYTES_LIMIT:
        raise Unusable("its columns are too large")
    if len(set(schema.names)) < len(schema.names):
        raise Unusable("two columns have one name")
    for name, kind in types.items():
        if name not in schema.names:
            raise Unusable(f"it has no column {name}")
        found = schema.field(name).type
        if not (found.equals(kind) or pa.types.is_null(found)):
            raise Unusable(f"column {name} is of type {printable(found, 60)}, not {kind}")
    for field in schema:
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type) or pa.types.is_large_string(field.type):
            raise Unusable(f"column {printable(field.name, 60)} is of type {field.type}")
    return [field.name for field in schema if pa.types.is_string(field.type)]


def _texts(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    total = 0
    for chunk in column.chunks:
        longest = max((len(text.encode()) for text in chunk.dictionary.to_pylist() if text is not None), default=0)
        total += longest * len(chunk)
        if longest > TEXT_LIMIT or total > _BYTES_LIMIT:
            raise Unusable(f"column {printable(name, 60)} holds texts that are too long")
    return column.cast(pa.string())
