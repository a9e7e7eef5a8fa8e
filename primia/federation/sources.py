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

from primia.data.shard import Dataset, JoinedDataset, Shard
from primia.data.statistics import PixelSums, pixel_sums
from primia.errors import ConsentError

BOX_CARD = "box.json"
"""The file that makes a folder a site box; as in :mod:`primia.federation.site_box`, which takes a while to load."""


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

    ``boxed``: the shards were named by the site's own box; any other shard that lies in a site box is refused.
    """

    def __init__(self, paths: Mapping[str, tuple[Path, ...]], *, boxed: bool, mock: bool) -> None:
        self._paths = paths
        self._boxed = boxed
        self._mock = mock
        self._data: dict[str, Dataset] = {}

    def has(self, split: str) -> bool:
        """Whether the site has images of a split."""
        return bool(self._paths.get(split))

    def check(self) -> None:
        """Raise :class:`ConsentError` where a shard may not be opened, before any is."""
        if not self._boxed:
            for path in chain.from_iterable(self._paths.values()):
                refuse_boxed(path)
        if self._mock:
            for split in self._paths:
                self.shards(split)

    def shards(self, split: str) -> list[Shard]:
        """The shards of a split; empty where the site has none.

        Raises:
            ConsentError: a shard lies in a site box that was not asked, or is no mock half where only those may be opened.
        """
        paths = self._paths.get(split, ())
        if not self._boxed:
            for path in paths:
                refuse_boxed(path)
        shards = [Shard.open(path) for path in paths]
        if self._mock:
            from primia.federation.mock import check_mock

            for shard in shards:
                check_mock(shard)
        return shards

    def dataset(self, split: str) -> Dataset:
        """The images of a split, mapped at the first call."""
        if split not in self._data:
            parts = self.shards(split)
            self._data[split] = parts[0] if len(parts) == 1 else JoinedDataset(parts)
        return self._data[split]

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


def refuse_boxed(path: Path) -> None:
    """Raise :class:`ConsentError` where ``path``, links resolved, lies in a site box: only the box itself opens it."""
    for folder in path.resolve().parents:
        if (folder / BOX_CARD).is_file():
            raise ConsentError(f"{path}: lies in the site box {folder}, whose owner was not asked; start the site's worker with its box")
