"""The shard: decoded images of one site and split in a memory-mapped Arrow IPC file.

Columns ``image`` (fixed-size binary, C·H·W bytes), ``label`` (int32), ``patient`` and ``source``
(strings) lie in one record batch, so the images are one contiguous block that is mapped, never read
into memory as a whole. What the pixels are is in the schema's metadata.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from primia.errors import DataError

FORMAT = "primia-shard"
VERSION = 1


class Dataset(Protocol):
    """What a learner needs of images and labels."""

    def __len__(self) -> int: ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class indices ``(n,)``."""
        ...

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images ``(k, C, H, W)`` at ``indices``, as a fresh writable array."""
        ...


@dataclass(frozen=True)
class ShardHeader:
    """What the pixels of a shard are; ``fingerprint`` names the content and settings it was packed from."""

    site: str
    split: str
    classes: tuple[str, ...]
    channels: int
    image_size: int
    synthetic: bool
    fingerprint: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.channels, self.image_size, self.image_size


class Shard:
    """A memory-mapped shard, read-only; opening touches no pixel. A :class:`Dataset`."""

    def __init__(self, path: Path, header: ShardHeader, table: pa.RecordBatch):
        self.path = path
        self.header = header
        self.site = header.site
        self.split = header.split
        self.classes = header.classes
        self.channels = header.channels
        self.image_size = header.image_size
        self.synthetic = header.synthetic
        self.images: NDArray[np.uint8] = _pixels(table, header.image_shape)
        self.labels: NDArray[np.int64] = table.column("label").to_numpy().astype(np.int64)
        self._table = table

    @classmethod
    def open(cls, path: Path) -> Shard:
        """Map the shard at ``path``; :class:`DataError` if it is missing, cut short or no shard."""
        try:
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
                header = _header(path, reader.schema)
                batches = reader.num_record_batches
                table = reader.get_batch(0) if batches == 1 else None
        except FileNotFoundError:
            raise DataError(f"{path}: no such shard; pack the data again (primia-ray data pack)") from None
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: cut short or not a shard ({_one_line(error)}); delete it and pack the data again") from None
        if table is None:
            raise DataError(f"{path}: has {batches} record batches where a shard has one; delete it and pack the data again")
        return cls(path, header, table)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def patients(self) -> list[str]:
        """Patient of each image."""
        return [str(patient) for patient in self._table.column("patient").to_pylist()]

    @cached_property
    def sources(self) -> list[str]:
        """File, relative to its data folder, or entry that each image came from."""
        return [str(source) for source in self._table.column("source").to_pylist()]

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images ``(k, C, H, W)`` at ``indices``, as a fresh writable array."""
        return np.take(self.images, indices, axis=0)

    def class_counts(self) -> NDArray[np.int64]:
        """Images of each class, ``(len(classes),)``."""
        return np.bincount(self.labels, minlength=len(self.classes))


class JoinedDataset:
    """Several datasets as one, in the order given; copies nothing."""

    def __init__(self, parts: Sequence[Dataset]):
        self._parts = tuple(parts)
        self._starts = np.cumsum([0, *map(len, self._parts)])
        self.labels: NDArray[np.int64] = np.concatenate([part.labels for part in self._parts])

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images ``(k, C, H, W)`` at ``indices``, as a fresh writable array."""
        owners = np.searchsorted(self._starts, indices, side="right") - 1
        pieces = [self._parts[owner].gather(indices[owners == owner] - self._starts[owner]) for owner in np.unique(owners)]
        order = np.argsort(owners, kind="stable")
        images = np.empty((len(indices), *pieces[0].shape[1:]), dtype=np.uint8)
        images[order] = np.concatenate(pieces)
        return images


@dataclass(frozen=True)
class Row:
    """One image on its way into a shard."""

    image: NDArray[np.uint8]
    label: int
    patient: str
    source: str


def write_shard(path: Path, header: ShardHeader, rows: Iterable[Row]) -> int:
    """Write ``rows`` to ``path`` and return their number; nothing is left there on failure.

    Pixels go through a scratch file beside ``path``, so memory does not grow with the shard. Raises
    :class:`DataError` if there is no row, or on a full or unwritable disk.
    """
    labels: list[int] = []
    patients: list[str] = []
    sources: list[str] = []
    with disk_errors(path), tempfile.TemporaryFile(dir=path.parent) as scratch:
        for row in rows:
            scratch.write(np.ascontiguousarray(row.image).reshape(header.image_shape).data)
            labels.append(row.label)
            patients.append(row.patient)
            sources.append(row.source)
        if not labels:
            raise DataError(f"{path}: no image can be read for site {header.site!r} in {header.split}; add some or leave the folder out")
        scratch.flush()
        pixels = np.memmap(scratch, dtype=np.uint8, mode="r")
        _write_table(path, header, pixels, labels, patients, sources)
    return len(labels)


def _write_table(
    path: Path, header: ShardHeader, pixels: NDArray[np.uint8], labels: list[int], patients: list[str], sources: list[str]
) -> None:
    width = header.channels * header.image_size**2
    image = pa.Array.from_buffers(pa.binary(width), len(labels), [None, pa.py_buffer(pixels)])
    columns = [image, pa.array(labels, pa.int32()), pa.array(patients, pa.string()), pa.array(sources, pa.string())]
    batch = pa.record_batch(columns, names=["image", "label", "patient", "source"])
    schema = batch.schema.with_metadata({"format": FORMAT, "version": str(VERSION), "header": json.dumps(asdict(header))})
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            with pa.ipc.new_file(file, schema) as writer:
                writer.write_batch(pa.record_batch(batch.columns, schema=schema))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into a :class:`DataError` that names ``path``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or _one_line(error)
        raise DataError(f"{path}: cannot be written ({reason}); free or choose another place") from error


def _header(path: Path, schema: pa.Schema) -> ShardHeader:
    metadata = schema.metadata or {}
    if metadata.get(b"format") != FORMAT.encode():
        raise DataError(f"{path}: an Arrow file, but no shard; pack the data with primia-ray data pack")
    if metadata[b"version"] != str(VERSION).encode():
        raise DataError(f"{path}: shard format {metadata[b'version'].decode()}, this version reads {VERSION}; pack the data again")
    fields = json.loads(metadata[b"header"])
    return ShardHeader(**{**fields, "classes": tuple(fields["classes"])})


def _pixels(table: pa.RecordBatch, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    buffer = table.column("image").buffers()[1]
    return np.frombuffer(buffer, dtype=np.uint8, count=table.num_rows * int(np.prod(shape))).reshape(-1, *shape)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
