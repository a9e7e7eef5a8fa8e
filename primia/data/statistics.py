"""Mean and standard deviation of pixels as exact integer sums, so that sites' sums add up to the pooled statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primia.data.shard import Dataset
from primia.untrusted.files import Unusable

CHUNK = 256


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel, pixels being 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class PixelSums:
    """Pixels a channel, and for each channel the sum of their values (0 to 255) and of the squares; exact."""

    count: int
    total: tuple[int, ...]
    squares: tuple[int, ...]

    @classmethod
    def zero(cls, channels: int) -> PixelSums:
        """Sums over no image."""
        return cls(0, (0,) * channels, (0,) * channels)

    @classmethod
    def of(cls, images: NDArray[np.uint8]) -> PixelSums:
        """Sums over images ``(k, C, H, W)``."""
        total = images.sum(axis=(0, 2, 3), dtype=np.int64)
        squares = np.square(images, dtype=np.uint16).sum(axis=(0, 2, 3), dtype=np.int64)
        return cls(images.size // images.shape[1], tuple(total.tolist()), tuple(squares.tolist()))

    def __add__(self, other: PixelSums) -> PixelSums:
        return PixelSums(self.count + other.count, _add(self.total, other.total), _add(self.squares, other.squares))

    def check(self, channels: int, *, exact: bool) -> None:
        """Raise :class:`Unusable` where these are no sums over ``channels``, or, if they are ``exact``, over no pixels of 0 to 255."""
        if not len(self.total) == len(self.squares) == channels:
            raise Unusable(f"pixel sums are not of {channels} channels")
        if exact and not (self.count > 0 and all(map(self._can_be, self.total, self.squares))):
            raise Unusable("no pixels have such sums")

    def _can_be(self, total: int, squares: int) -> bool:
        return 0 <= total <= 255 * self.count and total**2 <= self.count * squares and squares <= 255 * total

    def normalisation(self) -> Normalisation:
        """Mean and population standard deviation, the latter at least one grey value, so that constant images can be divided by it."""
        mean = tuple(total / self.count / 255 for total in self.total)
        # In integers n·Σx² - (Σx)² loses nothing to cancellation.
        variance = ((self.count * square - total**2) / self.count**2 for total, square in zip(self.total, self.squares, strict=True))
        return Normalisation(mean, tuple(max(1.0, math.sqrt(value)) / 255 for value in variance))


def pixel_sums(data: Dataset) -> PixelSums:
    """Sums over all pixels of ``data``, read a chunk at a time."""
    starts = range(0, len(data), CHUNK)
    chunks = (data.gather(np.arange(start, min(start + CHUNK, len(data)))) for start in starts)
    first, *rest = (PixelSums.of(chunk) for chunk in chunks)
    return sum(rest, start=first)


def _add(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(left, right, strict=True))
