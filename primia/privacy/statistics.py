"""Mean and standard deviation of pixels without a look at the data, or with a noisy one that is accounted for.

Noisy statistics are one release of the Gaussian mechanism at sample rate 1. A unit (an image; or a patient, as the mean over all
images of the patient) adds one vector: 1, and for each channel the mean m and the mean square s of its pixels, less a half. Pixels
lie in 0..1, so m and s do, each entry less a half has magnitude at most 1/2, and with C channels the vector's L2 norm is at most
sqrt(1 + 2C/4). A unit that is there or not changes the sum by that much: :func:`sensitivity`. Rounding towards zero to fixed point
makes no entry larger.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from primia.data.shard import Dataset
from primia.data.statistics import Normalisation
from primia.privacy.noise import SecureGenerator
from primia.privacy.sampling import Units

FRACTION_BITS = 20
"""Of the fixed-point integers in which sums are given, so that they can be added in a ring."""

_MIDDLE = 0.5
_PUBLIC_DEVIATION = 0.25
_SMALLEST_DEVIATION = 0.05
_CHUNK = 256


def public_normalisation(channels: int) -> Normalisation:
    """Constants that need no data: mean 0.5 and standard deviation 0.25."""
    return Normalisation((_MIDDLE,) * channels, (_PUBLIC_DEVIATION,) * channels)


def sensitivity(channels: int) -> float:
    """The largest L2 norm of what one unit adds to the sums."""
    return math.sqrt(1 + channels / 2)


def noisy_sums(data: Dataset, units: Units, noise_multiplier: float, generator: SecureGenerator) -> NDArray[np.int64]:
    """Noised sums ``(1 + 2 C,)`` of count, means less 1/2 and mean squares less 1/2, times 2 ** ``FRACTION_BITS``.

    The noise has standard deviation ``noise_multiplier`` times the sensitivity. It is a Gaussian rounded to the integers, and the sums are
    whole: this is the Gaussian mechanism, rounded. Costs ``Spend(noise_multiplier, 1.0, 1)``. ``units`` name all images of a
    unit, whatever their number of views.
    """
    moments = _image_moments(data)
    scale = 2.0**FRACTION_BITS
    sums = np.sum([np.trunc(moments[members].mean(0) * scale) for members in units.members], axis=0)
    deviation = noise_multiplier * sensitivity(moments.shape[1] // 2)
    total: NDArray[np.int64] = sums.astype(np.int64) + generator.rounded_gaussian(len(sums), deviation * scale)
    return total


def normalisation_of(sums: NDArray[np.int64]) -> Normalisation:
    """Mean and standard deviation from noised sums, which may be those of several sites added up.

    What noise can spoil is kept within bounds: the count is at least 1, means lie in 0..1, deviations are at least 0.05.
    """
    values = sums / 2.0**FRACTION_BITS
    means, squares = np.split(values[1:] / max(1.0, values[0]) + _MIDDLE, 2)
    means = np.clip(means, 0.0, 1.0)
    deviations = np.sqrt(np.maximum(squares - means**2, _SMALLEST_DEVIATION**2))
    return Normalisation(tuple(means.tolist()), tuple(np.minimum(deviations, 0.5).tolist()))


def _image_moments(data: Dataset) -> NDArray[np.float64]:
    """Rows ``(n, 1 + 2 C)``: 1, each channel's mean less 1/2, its mean square less 1/2."""
    parts = [_moments(data.gather(np.arange(first, min(first + _CHUNK, len(data))))) for first in range(0, len(data), _CHUNK)]
    return np.concatenate(parts)


def _moments(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    means = images.mean((2, 3), dtype=np.float64) / 255
    squares = np.square(images, dtype=np.uint16).mean((2, 3), dtype=np.float64) / 255**2
    return np.concatenate((np.ones((len(images), 1)), means - _MIDDLE, squares - _MIDDLE), axis=1)
