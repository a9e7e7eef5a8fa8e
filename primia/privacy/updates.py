"""Differential privacy of whole sites: updates are clipped at the sites, their sum is noised (McMahan et al., ICLR 2018).

Neighbours differ by one site that takes part or not, and every site is counted in every round: sample rate 1, no amplification.
Sites must count equally: weighted by their sizes, the largest would add more to the sum than ``clip``.
"""

from __future__ import annotations

import math

import numpy as np

from primia.models.flat import Vector
from primia.privacy.noise import SecureGenerator

_CHUNK = 2**20


def clip_update(update: Vector, clip: float) -> Vector:
    """Scale ``update`` ``(d,)`` in place to an L2 norm of at most ``clip``; one that is not finite becomes zero.

    The norm is summed in float64, and aims a millionth below ``clip``, so that rounding to float32 does not lift it above.
    """
    norm = math.sqrt(sum(float(np.square(update[at : at + _CHUNK], dtype=np.float64).sum()) for at in range(0, len(update), _CHUNK)))
    if not math.isfinite(norm):
        update[:] = 0.0
    elif norm > clip * (1 - 1e-6):
        np.multiply(update, np.float32(clip * (1 - 1e-6) / norm), out=update)
    return update


def noise_sum(total: Vector, noise_multiplier: float, clip: float, generator: SecureGenerator) -> Vector:
    """Add to the sum of clipped updates ``(d,)``, in place, noise of standard deviation ``noise_multiplier * clip``."""
    return np.add(total, generator.gaussian(len(total), noise_multiplier * clip), out=total)
