"""A folder of shards, ``train|validation|test/<site>.arrow``: written whole or not at all, and read back."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from primia.data.catalogue import SPLITS, Catalogue, digest
from primia.data.closed import refuse_box
from primia.data.decode import BadImage
from primia.data.shard import Row, Shard, ShardHeader, disk_errors, write_shard
from primia.errors import DataError
from primia.files import atomic_text, keep_private, own_folder, private_folder
from primia.untrusted.documents import parse_object, validated
from primia.untrusted.files import read_file

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

NOTES_FILE = "notes.json"
CHUNK = 64
NAMED = 5
"""Bad images named in an error."""


@dataclass(frozen=True)
class PackNotes:
    """How many shards were written, and what a user should know of how they came about."""

    shards: int
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def pack(catalogue: Catalogue, output: Path, on_bad_image: Literal["error", "skip"], progress: Progress | None = None) -> PackNotes:
    """Decode every image of ``catalogue`` that has a split, into a new folder ``output``.

    Nothing is at ``output`` before all is written. With ``error``, images that cannot be read are counted and
    named in one :class:`DataError`; with ``skip`` they are left out and named in the notes.
    """
    fingerprint = catalogue.content()
    groups = {place: rows for place, rows in catalogue.groups().items() if place[1]}
    bad: list[BadImage] = []
    report = _counter(progress, sum(map(len, groups.values())))
    with new_folder(output) as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        for (site, split), indices in groups.items():
            own_folder(folder / split)
            header = ShardHeader(site, split, catalogue.classes, catalogue.channels, catalogue.image_size, catalogue.synthetic, fingerprint)
            write_shard(folder / split / _shard_name(site), header, _rows(catalogue, indices, pool, bad, report))
        if bad and on_bad_image == "error":
            raise _too_bad(bad)
        notes = PackNotes(len(groups), tuple(f"{image.path} ({image.reason})" for image in bad), tuple(dict.fromkeys(catalogue.warnings)))
        atomic_text(folder / NOTES_FILE, json.dumps(asdict(notes), indent=1))
    return notes


def read_shards(root: Path) -> list[Shard]:
    """All shards of a packed folder, by split and site; :class:`DataError` if one is broken or they do not agree.

    :class:`ConsentError` where the folder lies in a site box, or a shard does or comes from one.
    """
    refuse_box(root)
    shards = [Shard.open(path) for split in SPLITS for path in sorted((root / split).glob("[!.]*.arrow"))]
    for shard in shards:
        if (shard.split, shard.site) != (shard.path.parent.name, shard.path.stem):
            raise DataError(f"{shard.path}: was packed as {shard.split}/{shard.site}.arrow; give it that name again")
        if _kind(shard) != _kind(shards[0]):
            raise DataError(f"{shard.path}: classes, channels or image size differ from those of {shards[0].path}; pack them together")
    if not shards:
        raise DataError(f"{root}: no packed shards here, train|validation|test/<site>.arrow; pack some (primia-ray data pack)")
    notes = read_notes(root)
    if notes.shards not in (0, len(shards)):
        raise DataError(f"{root}: {len(shards)} of {notes.shards} shards are here; pack again, or delete {NOTES_FILE} if that is meant")
    return shards


def read_notes(root: Path) -> PackNotes:
    """Notes of a packed folder; empty ones, with 0 shards, where it has none."""
    path = root / NOTES_FILE
    if not path.is_file():
        return PackNotes(0)
    refuse_box(path)
    try:
        notes: PackNotes = validated(_NOTES, parse_object(read_file(path, follow=True)))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); pack the data again, or delete this file") from None
    return notes


_NOTES = TypeAdapter(PackNotes)


def packed_catalogue(root: Path) -> Catalogue:
    """A packed folder as a catalogue, so that it can be split, shown or packed like any source."""
    shards = read_shards(root)
    places = [(shard, row) for shard in shards for row in range(len(shard))]

    def read(index: int) -> NDArray[np.uint8]:
        shard, row = places[index]
        image: NDArray[np.uint8] = shard.images[row]
        return image

    return Catalogue(
        name=str(root),
        classes=shards[0].classes,
        labels=np.concatenate([shard.labels for shard in shards]),
        patients=[patient for shard in shards for patient in shard.patients],
        sources=[source for shard in shards for source in shard.sources],
        sites=[shard.site for shard, _ in places],
        splits=[shard.split for shard, _ in places],
        read=read,
        channels=shards[0].channels,
        image_size=shards[0].image_size,
        fingerprint=shards_fingerprint(shards),
        synthetic=shards[0].synthetic,
        warnings=read_notes(root).warnings,
    )


def packed_fingerprint(catalogue: Catalogue) -> str:
    """What :func:`shards_fingerprint` gives of the shards that :func:`pack` makes of a catalogue."""
    content = catalogue.content()
    places = {(split, site) for site, split in catalogue.groups() if split}
    ordered = sorted(places, key=lambda place: (SPLITS.index(place[0]), _shard_name(place[1])))
    return digest((split, site, content) for split, site in ordered)


def clear_broken(folder: Path) -> None:
    """Remove what is left of a folder of shards, such as a damaged one; one that was never packed stays.

    Raises:
        DataError: there is something in it that :func:`pack` does not write.
    """
    if not folder.exists():
        return
    foreign = [path for path in folder.rglob("*") if not _is_packed_part(path.relative_to(folder), path)]
    if foreign or not folder.is_dir():
        raise DataError(f"{foreign[0] if foreign else folder}: is no part of packed shards, which belong here; move it away")
    shutil.rmtree(folder, ignore_errors=True)


def shards_fingerprint(shards: Sequence[Shard]) -> str:
    """One hash for what a set of shards was packed from."""
    return digest((shard.split, shard.site, shard.header.fingerprint) for shard in shards)


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A scratch folder that becomes ``output`` if all goes well and vanishes if not; nobody else can read what is in it.

    Raises :class:`ConsentError` if ``output`` lies in a site box, :class:`DataError` if it exists and is not empty, or on a full or
    unwritable disk.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output}: exists and is not empty; choose another output folder or remove it")
    refuse_box(output)
    scratch = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    with disk_errors(output):
        try:
            private_folder(scratch.parent)
            own_folder(scratch)
            yield scratch
            keep_private(scratch)
            scratch.replace(output)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    done = 0

    def count(images: int) -> None:
        nonlocal done
        done += images
        if progress:
            progress("packing images", done, total)

    return count


def _rows(
    catalogue: Catalogue, indices: Sequence[int], pool: ThreadPoolExecutor, bad: list[BadImage], report: Callable[[int], None]
) -> Iterator[Row]:
    def attempt(index: int) -> NDArray[np.uint8] | BadImage:
        try:
            return catalogue.read(index)
        except BadImage as error:
            return error

    for start in range(0, len(indices), CHUNK):
        chunk = indices[start : start + CHUNK]
        for index, image in zip(chunk, pool.map(attempt, chunk), strict=True):
            if isinstance(image, BadImage):
                bad.append(image)
            else:
                yield Row(image, int(catalogue.labels[index]), catalogue.patients[index], catalogue.sources[index])
        report(len(chunk))


def _too_bad(bad: Sequence[BadImage]) -> DataError:
    named = "; ".join(f"{image.path} ({image.reason})" for image in bad[:NAMED])
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return DataError(f"{len(bad)} image(s) cannot be read: {named}{more}. Mend or remove them, or skip them with data.on_bad_image = skip")


def _shard_name(site: str) -> str:
    return f"{site}.arrow"


def _is_packed_part(name: Path, path: Path) -> bool:
    """Whether :func:`pack` writes something like this into a folder of shards."""
    if path.is_symlink():
        return False
    if path.is_dir():
        return str(name) in SPLITS
    return str(name) == NOTES_FILE or (len(name.parts) == 2 and name.suffix == ".arrow")


def _kind(shard: Shard) -> tuple[object, ...]:
    return shard.classes, shard.channels, shard.image_size, shard.synthetic
