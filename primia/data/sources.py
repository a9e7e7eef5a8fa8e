"""From settings to a catalogue: which images there are, whose they are, and how to read one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from primia.config.settings import DataSettings
from primia.data.catalogue import Catalogue, digest
from primia.data.closed import refuse_box
from primia.data.decode import decode
from primia.data.demo import demo_catalogue
from primia.data.layout import SYNTHETIC_FILE, FolderListing, ImageFile, is_packed, list_folder
from primia.data.mnist import mnist_catalogue
from primia.data.packed import packed_catalogue
from primia.data.patients import patient_ids
from primia.data.shard import CLASS_LIMIT
from primia.errors import ConfigError, DataError

MNIST_ROOT = Path("data/mnist")
"""Where MNIST is looked for, and fetched to, where no path is given."""


def open_source(settings: DataSettings) -> Catalogue:
    """The images that ``settings`` name. Decodes none of them; raises :class:`DataError` where they do not fit together."""
    size, channels = settings.image_size, settings.channels
    if settings.path:
        refuse_box(settings.path)
    if settings.source == "demo":
        catalogue = demo_catalogue(
            sites=settings.sites, images=settings.demo_images, image_size=size, channels=channels, seed=settings.split_seed
        )
    elif settings.source == "mnist":
        catalogue = mnist_catalogue(settings.path or MNIST_ROOT, image_size=size, channels=channels)
    else:
        return _from_path(settings)
    if settings.classes and settings.classes != catalogue.classes:
        raise ConfigError(f"data.classes: {catalogue.name} has the classes {', '.join(catalogue.classes)}; leave data.classes empty")
    return catalogue


def folder_catalogue(listing: FolderListing, *, image_size: int, channels: int, patient_pattern: str) -> Catalogue:
    """The images of a class folder tree."""
    numbers = {label: number for number, label in enumerate(listing.classes)}
    sources = [file.path.relative_to(listing.root).as_posix() for file in listing.files]
    patients = patient_ids(sources, patient_pattern)
    paths = [file.path for file in listing.files]

    def read(index: int) -> NDArray[np.uint8]:
        return decode(paths[index], channels=channels, image_size=image_size)

    return Catalogue(
        name=str(listing.root),
        classes=listing.classes,
        labels=np.array([numbers[file.label] for file in listing.files], dtype=np.int64),
        patients=patients,
        sources=sources,
        sites=[file.site for file in listing.files],
        splits=[file.split for file in listing.files],
        read=read,
        channels=channels,
        image_size=image_size,
        fingerprint=digest(f"{source} {_stamp(file)}" for source, file in zip(sources, listing.files, strict=True)),
        synthetic=(listing.root / SYNTHETIC_FILE).exists(),
        warnings=_unmatched(sources, patients, patient_pattern),
    )


def _from_path(settings: DataSettings) -> Catalogue:
    root = settings.path
    if root is None:
        raise ConfigError("data.source = folder needs data.path (or --data DIR)")
    if not is_packed(root):
        listing = list_folder(root, settings.classes)
        if len(listing.classes) > CLASS_LIMIT:
            raise DataError(f"{root}: {len(listing.classes)} folders of classes, {CLASS_LIMIT} are the most; are they those of patients?")
        return folder_catalogue(
            listing, image_size=settings.image_size, channels=settings.channels, patient_pattern=settings.patient_pattern
        )
    catalogue = packed_catalogue(root)
    check_fit(catalogue, settings.classes, settings.channels, settings.image_size)
    return catalogue


def check_fit(catalogue: Catalogue, classes: Sequence[str], channels: int, image_size: int) -> None:
    """:class:`DataError` if shards were packed for other classes (none: any), channels or size."""
    if (catalogue.channels, catalogue.image_size) != (channels, image_size):
        packed = f"packed with {catalogue.channels} channel(s) at {catalogue.image_size} pixels, not {channels} at {image_size}"
        remedy = f"set data.channels = {catalogue.channels} and data.image_size = {catalogue.image_size}, or pack the images again"
        raise DataError(f"{catalogue.name}: {packed}; {remedy}")
    if classes and tuple(classes) != catalogue.classes:
        theirs, ours = ", ".join(catalogue.classes), ", ".join(classes)
        raise DataError(f"{catalogue.name}: packed with the classes {theirs}, not {ours}; pack the images again")


def _stamp(file: ImageFile) -> str:
    try:
        status = file.path.stat()
    except OSError:
        return "unreadable"
    return f"{status.st_size} {status.st_mtime_ns}"


def _unmatched(sources: Sequence[str], patients: Sequence[str], pattern: str) -> tuple[str, ...]:
    alone = [source for source, patient in zip(sources, patients, strict=True) if source == patient]
    if pattern == "file" or not alone:
        return ()
    share = f"{len(alone)} of {len(sources)} files"
    return (f"data.patient_pattern = {pattern!r} does not fit {share}, the first being {alone[0]}; each counts as its own patient",)
