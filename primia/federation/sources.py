"""What a site's worker is started with: the owner's box, or shards that whoever starts the run has packed.

A source is given when a worker is started, and no later call can change it: what a driver sends names sites and splits, never files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from primia.data.closed import refuse_box
from primia.data.shard import Dataset, JoinedDataset, Shard
from primia.data.statistics import PixelSums, pixel_sums


@dataclass(frozen=True)
class PackedSite:
    """A site without a box: the paths of its shards, split by split. ``pooled`` is one that holds those of several sites."""

    name: str
    train: tuple[Path, ...] = ()
    validation: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()

    @property
    def shards(self) -> Mapping[str, tuple[Path, ...]]:
        """Paths by split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


@dataclass(frozen=True)
class BoxedSite:
    """A site with a box, which must be of that name; its shards, keys and grants are those in the box."""

    name: str
    box: Path


SiteSource = PackedSite | BoxedSite


class SiteImages:
    """One site's images, by split: the private halves, or the mock halves alone.

    ``box``: the site's own box, which named the shards; any other shard that lies in a site box, or was taken from one, is refused.
    """

    def __init__(self, paths: Mapping[str, tuple[Path, ...]], *, box: Path | None, mock: bool) -> None:
        self._paths = paths
        self._box = box
        self._mock = mock
        self._data: dict[str, Dataset] = {}

    def has(self, split: str) -> bool:
        """Whether the site has images of a split."""
        return bool(self._paths.get(split))

    def check(self) -> None:
        """Raise :class:`ConsentError` where a shard may not be opened, before any is."""
        if self._box is None:
            for path in chain.from_iterable(self._paths.values()):
                refuse_box(path)
        if self._mock:
            for split in self._paths:
                self.shards(split)

    def shards(self, split: str) -> list[Shard]:
        """The shards of a split; empty where the site has none.

        Raises:
            ConsentError: a shard lies in a site box that was not asked, or is no mock half where only those may be opened.
        """
        shards = [Shard.open(path, box=self._box) for path in self._paths.get(split, ())]
        if self._mock:
            from primia.consent.mock import check_mock

            for shard in shards:
                check_mock(shard)
        return shards

    def dataset(self, split: str) -> Dataset:
        """The images of a split, mapped at the first call."""
        if split not in self._data:
            parts = self.shards(split)
            self._data[split] = parts[0] if len(parts) == 1 else JoinedDataset(parts)
        return self._data[split]

    @cached_property
    def kinds(self) -> set[tuple[tuple[str, ...], int, int]]:
        """Classes, channels and pixels a side of the images, as the headers of all shards say."""
        headers = [shard.header for split in self._paths for shard in self.shards(split)]
        return {(header.classes, header.channels, header.image_size) for header in headers}

    def class_counts(self, split: str) -> NDArray[np.int64]:
        """Images of each class in a split that the site has."""
        counts: NDArray[np.int64] = np.sum([shard.class_counts() for shard in self.shards(split)], axis=0)
        return counts

    @cached_property
    def pixels(self) -> PixelSums:
        """Sums over all pixels of the training images."""
        return pixel_sums(self.dataset("train"))

    @cached_property
    def patients(self) -> list[str]:
        """The patient of each training image."""
        return [name for shard in self.shards("train") for name in shard.patients]
