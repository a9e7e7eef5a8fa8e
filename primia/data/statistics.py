"""Pixel statistics from exact integer sums, so that pooling over sites loses nothing."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from primia.data.shard import Dataset

_CHUNK = 512


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel, pixels being 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class PixelSums:
    """Number of pixels, and for each channel the sums of their uint8 values and of the squares; exact integers."""

    count: int
    total: tuple[int, ...]
    squares: tuple[int, ...]

    @classmethod
    def zero(cls, channels: int) -> PixelSums:
        """Sums over no image."""
        return cls(0, (0,) * channels, (0,) * channels)

    def __add__(self, other: PixelSums) -> PixelSums:
        return PixelSums(
            self.count + other.count,
            tuple(a + b for a, b in zip(self.total, other.total, strict=True)),
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )

    def normalisation(self) -> Normalisation:
        """Mean and standard deviation of all pixels; a constant channel gets deviation 1."""
        means = [total / self.count for total in self.total]
        # n * sum(x^2) - sum(x)^2 in integers: nothing cancels.
        variances = [(self.count * squares - total * total) / self.count**2 for total, squares in zip(self.total, self.squares, strict=True)]
        return Normalisation(tuple(mean / 255 for mean in means), tuple(sqrt(variance) / 255 or 1.0 for variance in variances))


def pixel_sums(data: Dataset) -> PixelSums:
    """Sums over all images of ``data``."""
    count, total, squares = 0, 0, 0
    for first in range(0, len(data), _CHUNK):
        images = data.gather(np.arange(first, min(first + _CHUNK, len(data)))).astype(np.int64)
        count += images.size // images.shape[1]
        total = total + images.sum(axis=(0, 2, 3))
        squares = squares + (images * images).sum(axis=(0, 2, 3))
    return PixelSums(count, tuple(int(value) for value in np.atleast_1d(total)), tuple(int(value) for value in np.atleast_1d(squares)))
