"""What a source holds, in numbers: images by split, site and class, patients, sizes, pixel statistics."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from primia.data.catalogue import SPLITS, Catalogue
from primia.data.decode import BadImage
from primia.data.statistics import PixelSums


@dataclass(frozen=True)
class Group:
    """Images of one site and split: how many of each class, and of how many patients. ``""`` where the source makes no such choice."""

    split: str
    site: str
    counts: tuple[int, ...]
    patients: int


@dataclass(frozen=True)
class Pixels:
    """Exact sums of each site's pixels, and the files that could not be read."""

    sites: dict[str, PixelSums]
    bad: tuple[BadImage, ...]

    def pooled(self) -> PixelSums:
        """Sums over all sites."""
        first, *rest = self.sites.values()
        return sum(rest, start=first)


def groups(catalogue: Catalogue) -> list[Group]:
    """One entry a split and site, in the order train, validation, test and then by site."""
    found = []
    for (site, split), rows in catalogue.groups().items():
        counts = np.bincount(catalogue.labels[rows], minlength=len(catalogue.classes))
        patients = {catalogue.patients[row] for row in rows}
        found.append(Group(split, site, tuple(counts.tolist()), len(patients)))
    order = {split: place for place, split in enumerate(("", *SPLITS))}
    return sorted(found, key=lambda group: (order[group.split], group.site))


def pixels(catalogue: Catalogue) -> Pixels:
    """Decode every image once; memory does not grow with their number."""
    sums: dict[str, PixelSums] = {}
    bad: list[BadImage] = []
    for index, result in enumerate(_decoded(catalogue)):
        if isinstance(result, BadImage):
            bad.append(result)
        else:
            site = catalogue.sites[index]
            sums[site] = sums.get(site, PixelSums.zero(catalogue.channels)) + result
    return Pixels(sums, tuple(bad))


def file_sizes(root: Path, sources: Sequence[str]) -> list[tuple[int, int]]:
    """Distinct (width, height) of image files as they lie on disk, smallest first; unreadable ones are passed over."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sorted({size for size in pool.map(_size, (root / source for source in sources)) if size})


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.size
    except Exception:  # as in decode: whatever a broken file makes Pillow trip over
        return None


def _decoded(catalogue: Catalogue, chunk: int = 64) -> Iterator[PixelSums | BadImage]:
    def sums(index: int) -> PixelSums | BadImage:
        try:
            return PixelSums.of(catalogue.read(index)[None])
        except BadImage as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(catalogue), chunk):
            yield from pool.map(sums, range(start, min(start + chunk, len(catalogue))))
