"""What a source holds, before anything is decoded: one row an image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
CENTRAL = "central"
"""Name of the holder of validation or test images that belong to no site."""


@dataclass(frozen=True)
class Catalogue:
    """Images of one source as columns of equal length.

    ``sites`` and ``splits`` hold ``""`` where the source leaves the choice open. ``read`` gives one
    image, uint8 ``(C, H, W)``, or raises :class:`primia.data.decode.BadImage`. ``fingerprint``
    changes whenever an image does.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    patients: Sequence[str]
    sources: Sequence[str]
    sites: Sequence[str]
    splits: Sequence[str]
    read: Callable[[int], NDArray[np.uint8]]
    channels: int
    image_size: int
    fingerprint: str
    synthetic: bool = False
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def places(self) -> list[tuple[str, str]]:
        """Site and split of each image."""
        return list(zip(self.sites, self.splits, strict=True))

    def with_places(self, sites: Sequence[str], splits: Sequence[str]) -> Catalogue:
        """The same images at other sites and in other splits."""
        return replace(self, sites=sites, splits=splits)

    def groups(self) -> dict[tuple[str, str], list[int]]:
        """Indices of the images of each site and split that has any, in order of first appearance."""
        found: dict[tuple[str, str], list[int]] = {}
        for index, place in enumerate(self.places()):
            found.setdefault(place, []).append(index)
        return found

    def content(self) -> str:
        """Hash of everything that shards packed from this catalogue would hold."""
        columns = (self.sites, self.splits, self.labels.tolist(), self.patients, self.sources)
        return digest((self.fingerprint, self.classes, self.channels, self.image_size, *map(list, columns)))


def digest(parts: Iterable[object]) -> str:
    """A stable 16-digit hash of the texts of ``parts``."""
    state = hashlib.sha256()
    for part in parts:
        state.update(str(part).encode() + b"\0")
    return state.hexdigest()[:16]
