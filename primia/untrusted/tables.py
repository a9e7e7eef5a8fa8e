"""Tables from strangers: Parquet files whose columns, rows and texts are checked before they take memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


def read_table(
    path: Path,
    columns: Sequence[str] | None = None,
    types: Mapping[str, pa.DataType] | None = None,
    *,
    filled: Sequence[str] = (),
    rows: int | None = None,
    values: int | None = None,
) -> pa.Table:
    """A Parquet file, or some of its columns; those in ``types`` must be there, and of their type.

    ``filled``: columns that have a value in each row. ``rows``, ``values`` (of all columns together): the most that it may have. Texts
    within lists and maps stay dictionaries.

    Raises:
        OSError: it is missing or not readable.
        Unusable: a link or a device, no Parquet file, or one that would take too much memory.
    """
    data = read_file(path, FILE_LIMIT)
    try:
        texts = _check_size(pq.ParquetFile(pa.BufferReader(data)), types or {}, rows or VALUE_LIMIT, values or VALUE_LIMIT)
        table = _table(data, columns, texts)
    except Unusable:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
        raise Unusable(printable(error) or type(error).__name__) from None
    for name in filled:
        if table.column(name).null_count:
            raise Unusable(f"column {name} has rows without a value")
    return table


def _table(data: bytes, columns: Sequence[str] | None, texts: Sequence[str]) -> pa.Table:
    # Texts stay dictionaries until their lengths are known: a short file can repeat a long one many times.
    file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
    table = file.read(columns=None if columns is None else list(columns), use_threads=False)
    for place, field in enumerate(table.schema):
        _check_texts(table.column(place), field.name)
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.string()))
    table.validate(full=True)
    return table


def _check_size(file: pq.ParquetFile, types: Mapping[str, pa.DataType], rows: int, values: int) -> list[str]:
    """Check what the file says of its size and columns; where its texts are."""
    metadata, schema = file.metadata, file.schema_arrow
    if metadata.num_columns > COLUMN_LIMIT or metadata.num_rows > rows or metadata.num_rows * max(1, metadata.num_columns) > values:
        raise Unusable(f"{metadata.num_rows} rows of {metadata.num_columns} columns are too many")
    chunks = [metadata.row_group(group).column(place) for group in range(metadata.num_row_groups) for place in range(metadata.num_columns)]
    if sum(chunk.num_values for chunk in chunks) > values or sum(chunk.total_uncompressed_size for chunk in chunks) > _BYTES_LIMIT:
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
    return [place for leaf in map(file.schema.column, range(metadata.num_columns)) if (place := _place_of_texts(leaf))]


def _place_of_texts(leaf: pq.ColumnSchema) -> str:
    """The path of a column of texts, or of texts within lists and maps; empty for numbers."""
    if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" or (leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type != "STRING"):
        raise Unusable(f"column {printable(leaf.path, 60)} holds bytes")
    return str(leaf.path) if leaf.physical_type == "BYTE_ARRAY" else ""


def _check_texts(column: pa.ChunkedArray, name: str) -> None:
    total = 0
    for texts in (found for chunk in column.chunks for found in _dictionaries(chunk)):
        longest = max((len(text.encode()) for text in texts.dictionary.to_pylist() if text is not None), default=0)
        total += longest * len(texts)
        if longest > TEXT_LIMIT or total > _BYTES_LIMIT:
            raise Unusable(f"column {printable(name, 60)} holds texts that are too long")


def _dictionaries(array: pa.Array) -> Iterator[pa.DictionaryArray]:
    """Arrays of texts in an array, and in the lists, maps and structures in it."""
    if pa.types.is_dictionary(array.type):
        yield array
    elif pa.types.is_struct(array.type):
        for place in range(array.type.num_fields):
            yield from _dictionaries(array.field(place))
    elif pa.types.is_map(array.type):
        yield from _dictionaries(array.keys)
        yield from _dictionaries(array.items)
    elif pa.types.is_nested(array.type):
        yield from _dictionaries(array.values)
