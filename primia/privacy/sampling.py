"""Which images a step sees: units drawn independently of one another, by a generator that only the site knows.

A unit is what is protected: an image, or a patient. It contributes up to ``views`` images to a step, whose gradients are
averaged before the unit is clipped: augmented copies of one image (De et al., 2022, section 3.3), or several images of a patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primia.privacy.noise import SecureGenerator

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Units:
    """The units of a dataset: for each the indices of the images that it can show, and how many of them it shows at most."""

    members: tuple[Index, ...]
    views: int

    @classmethod
    def images(cls, count: int, views: int = 1) -> Units:
        """Each of ``count`` images is a unit and shows itself ``views`` times."""
        return cls(tuple(np.full(views, image, np.int64) for image in range(count)), views)

    @classmethod
    def grouped(cls, names: Sequence[str], views: int = 1) -> Units:
        """The images of one name, say a patient's, are a unit, of which at most ``views`` are shown at a time."""
        _, unit = np.unique(np.asarray(names), return_inverse=True)
        order = np.argsort(unit, kind="stable").astype(np.int64)
        return cls(tuple(np.split(order, np.cumsum(np.bincount(unit))[:-1])), views)

    def __len__(self) -> int:
        return len(self.members)


@dataclass(frozen=True, eq=False)
class Batch:
    """Images ``index`` ``(k,)`` and the unit ``owner`` ``(k,)`` of each, counted from 0 to ``units - 1`` without a gap.

    An owner of ``units`` marks images that only fill the batch up.
    """

    index: Index
    owner: Index
    units: int


def poisson_sample(units: Units, sample_rate: float, generator: SecureGenerator) -> list[Index]:
    """The images shown by each drawn unit; every unit is drawn with probability ``sample_rate``, independently.

    The list may be empty. Its length is secret as the draws are: it must not leave the site.
    """
    if sample_rate >= 1.0:
        drawn = np.arange(len(units))
    else:
        drawn = np.flatnonzero(generator.words(len(units)) < np.uint64(sample_rate * 2.0**64))
    return [_shown(units.members[unit], units.views, generator) for unit in drawn]


def micro_batches(shown: Sequence[Index], size: int) -> Iterator[Batch]:
    """Cut a sample into batches of exactly ``size`` images, filled up with copies where units are missing.

    A unit is never divided. All batches are of one size since the rounding of a unit's gradient follows from it.

    Raises:
        ValueError: a unit shows more than ``size`` images.
    """
    part: list[Index] = []
    images = 0
    for index in shown:
        if len(index) > size:
            raise ValueError(f"a unit of {len(index)} images does not fit into a batch of {size}")
        if images + len(index) > size:
            yield _batch(part, size)
            part, images = [], 0
        part.append(index)
        images += len(index)
    if part:
        yield _batch(part, size)


def _shown(members: Index, views: int, generator: SecureGenerator) -> Index:
    """All of ``members``, or ``views`` of them, each choice being as likely."""
    if len(members) <= views:
        return members
    return members[np.argsort(generator.words(len(members)))[:views]]


def _batch(part: Sequence[Index], size: int) -> Batch:
    index, owner = np.concatenate(part), np.repeat(np.arange(len(part)), [len(index) for index in part])
    missing = size - len(index)
    return Batch(np.pad(index, (0, missing), mode="edge"), np.pad(owner, (0, missing), constant_values=len(part)), len(part))
