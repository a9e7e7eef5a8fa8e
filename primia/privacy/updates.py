"""Differential privacy of whole sites: updates are clipped at the sites, their sum is noised (McMahan et al., ICLR 2018).

Neighbours differ by one site that takes part or not, and every site is counted in every round: sample rate 1, no amplification.
Sites must count equally: weighted by their sizes, the largest would add more to the sum than ``clip``.

Clipped updates lie on an integer grid (:mod:`primia.privacy.grid`), on which float32 adds them without rounding, in any order and
in the ring of secure aggregation as well. So the sum changes by at most ``clip`` with one site more, exactly, and noise is drawn on the
same grid.
"""

from __future__ import annotations

import math

import numpy as np

from primia.models.flat import Vector
from primia.privacy.grid import SLACK, grid_step
from primia.privacy.noise import SecureGenerator

_CHUNK = 2**16


def clip_update(update: Vector, clip: float, sites: int) -> Vector:
    """Scale ``update`` ``(d,)`` in place to an L2 norm of at most ``clip``, and truncate it to the grid for sums of ``sites``.

    One that is not finite becomes zero. Truncation is towards zero, so no entry becomes larger.
    """
    step = grid_step(clip, sites)
    norm = math.sqrt(sum(float(np.square(update[at : at + _CHUNK], dtype=np.float64).sum()) for at in range(0, len(update), _CHUNK)))
    if not math.isfinite(norm):
        update[:] = 0.0
        return update
    factor = np.float32(min(1.0, clip / (norm * (1 + SLACK)) if norm else 1.0) / step)
    for at in range(0, len(update), _CHUNK):
        part = update[at : at + _CHUNK]
        np.trunc(np.multiply(part, factor, out=part), out=part)
        part *= np.float32(step)
    return update


def noise_sum(total: Vector, noise_multiplier: float, clip: float, sites: int, generator: SecureGenerator) -> Vector:
    """Add to the sum of clipped updates ``(d,)``, in place, rounded Gaussian noise on their grid.

    Its standard deviation is ``noise_multiplier * clip``. What lies off the grid, which no clipped update does, is rounded to it.
    """
    step = grid_step(clip, sites)
    noise = generator.rounded_gaussian(len(total), noise_multiplier * clip / step)
    for at in range(0, len(total), _CHUNK):
        part = total[at : at + _CHUNK]
        part[:] = (np.rint(part.astype(np.float64) / step) + noise[at : at + _CHUNK]) * step
    return total
