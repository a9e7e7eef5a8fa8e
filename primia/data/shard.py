"""The shard: decoded images of one site and split in a memory-mapped Arrow IPC file.

Columns ``image`` (fixed-size binary, C·H·W bytes), ``label`` (int32), ``patient`` and ``source``
(strings) lie in one record batch, so the images are one contiguous block that is mapped, never read
into memory as a whole. What the pixels are is in the schema's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from primia.data.closed import HOW, box_around
from primia.errors import ConsentError, DataError, RunError
from primia.files import atomic_path, scratch_file
from primia.untrusted.arrow import check_mappable
from primia.untrusted.documents import parse_object, validated
from primia.untrusted.files import Unusable, printable

FORMAT = "primia-shard"
VERSION = 1

Name = Annotated[str, Field(min_length=1, max_length=255)]
CLASS_LIMIT = 1_000
SIZE_LIMIT = 2048
"""Classes of a model, and pixels of an image's edge, that files may ask for."""

_BOX = b"box"
"""Key of the schema's metadata that marks the private half of a site box; it holds the site and its owner."""


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

    site: Name
    split: Annotated[str, Field(pattern="^(train|validation|test)$")]
    classes: Annotated[tuple[Name, ...], Field(min_length=1, max_length=CLASS_LIMIT)]
    channels: Annotated[int, Field(ge=1, le=4)]
    image_size: Annotated[int, Field(ge=1, le=SIZE_LIMIT)]
    synthetic: bool
    fingerprint: Annotated[str, Field(max_length=255)]

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
    def open(cls, path: Path, *, box: Path | None = None) -> Shard:
        """Map the shard at ``path``; ``box``: the site box that it lies in, given by the site's own gate once that has admitted the caller.

        Raises:
            DataError: it is missing, cut short or no shard.
            ConsentError: it lies in a site box, or was taken from one, and no gate gives it; or it lies elsewhere than the gate says.
        """
        _check_box(path, box)
        try:
            check_mappable(path)
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
                _check_mark(path, reader.schema, box)
                header = _header(path, reader.schema)
                table = reader.get_batch(0)
                _check_rows(table, header)
        except FileNotFoundError:
            raise DataError(f"{path}: no such shard; pack the data again (primia-ray data pack)") from None
        except (OSError, pa.ArrowException, ValueError, MemoryError) as error:
            raise DataError(f"{path}: cut short or not a shard ({printable(error)}); delete it and pack the data again") from None
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
    with disk_errors(path), scratch_file(path.parent) as scratch:
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


def write_marked(path: Path, shard: Shard, owner: str) -> None:
    """Write a copy of ``shard`` that is marked as the private half of a site box: general commands refuse it wherever it lies.

    Raises:
        DataError: a full or unwritable disk.
    """
    batch = shard._table
    mark = json.dumps({"site": shard.site, "owner": owner})
    _write_batch(path, batch.replace_schema_metadata({**batch.schema.metadata, _BOX: mark}))


def _write_table(
    path: Path, header: ShardHeader, pixels: NDArray[np.uint8], labels: list[int], patients: list[str], sources: list[str]
) -> None:
    width = header.channels * header.image_size**2
    image = pa.Array.from_buffers(pa.binary(width), len(labels), [None, pa.py_buffer(pixels)])
    columns = [image, pa.array(labels, pa.int32()), pa.array(patients, pa.string()), pa.array(sources, pa.string())]
    batch = pa.record_batch(columns, names=["image", "label", "patient", "source"])
    metadata = {"format": FORMAT, "version": str(VERSION), "header": json.dumps(asdict(header))}
    _write_batch(path, batch.replace_schema_metadata(metadata))


def _write_batch(path: Path, batch: pa.RecordBatch) -> None:
    with disk_errors(path), atomic_path(path) as temporary, temporary.open("wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into a :class:`DataError` that names ``path``."""
    try:
        yield
    except (OSError, RunError) as error:
        cause = error.__cause__ if isinstance(error, RunError) else error
        reason = getattr(cause, "strerror", None) or printable(cause)
        raise DataError(f"{path}: cannot be written ({reason}); free or choose another place") from error


def _check_box(path: Path, box: Path | None) -> None:
    around = box_around(path)
    if around and box is None:
        raise ConsentError(f"{path}: lies in the site box {around}, which only its site opens; {HOW}")
    if box is not None and (around is None or not around.samefile(box)):
        raise ConsentError(f"{path}: does not lie in the site box {box}; restore the box from a backup, or make it again")


def _check_mark(path: Path, schema: pa.Schema, box: Path | None) -> None:
    mark = (schema.metadata or {}).get(_BOX)
    if mark is None or box is not None:
        return
    try:
        owner = parse_object(mark)
        whose = f"of site {printable(owner['site'], 60)!r} ({printable(owner['owner'], 60)})"
    except (ValueError, KeyError):
        whose = "of some site"
    raise ConsentError(f"{path}: belongs to the site box {whose}, and only that site opens it; {HOW}")


def _header(path: Path, schema: pa.Schema) -> ShardHeader:
    metadata = schema.metadata or {}
    if metadata.get(b"format") != FORMAT.encode():
        raise DataError(f"{path}: an Arrow file, but no shard; pack the data with primia-ray data pack")
    version = printable(metadata.get(b"version", b"").decode("utf-8", "replace"), 20)
    if version != str(VERSION):
        raise DataError(f"{path}: shard format {version}, this version reads {VERSION}; pack the data again")
    header: ShardHeader = validated(_HEADER, parse_object(metadata.get(b"header", b"")))
    return header


_HEADER = TypeAdapter(ShardHeader)


def _check_rows(table: pa.RecordBatch, header: ShardHeader) -> None:
    """Raise :class:`Unusable` unless the columns are those that :func:`write_shard` writes, and hold what they should."""
    width = header.channels * header.image_size**2
    for name, kind in {"image": pa.binary(width), "label": pa.int32(), "patient": pa.string(), "source": pa.string()}.items():
        place = table.schema.get_field_index(name)
        if place < 0 or table.schema.field(place).type != kind:
            raise Unusable(f"it has no column {name} of type {kind}")
        if table.column(place).null_count:
            raise Unusable(f"column {name} has gaps")
    table.validate(full=True)
    labels = table.column("label").to_numpy()
    if not len(labels) or labels.min() < 0 or labels.max() >= len(header.classes):
        raise Unusable("it has no rows, or a label that is no class")


def _pixels(table: pa.RecordBatch, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    buffer = table.column("image").buffers()[1]
    return np.frombuffer(buffer, dtype=np.uint8, count=table.num_rows * int(np.prod(shape))).reshape(-1, *shape)
