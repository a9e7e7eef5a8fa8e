"""Real numbers as ring elements: scaled by a power of two and rounded, negative ones as their complement."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from primia.errors import ProtocolError

NARROW_BITS = 30
"""A sum of clipped values stays below 2^30, and the rounding of up to 2^30 sites below twice that: it cannot wrap at 2^31."""

WIDE_SCALE = 2.0**20
_WIDE_LIMIT = 2.0**33
"""Scaled values stay exact in float64, and the sum over 1,024 sites does not wrap."""

_PIECE = 2**15
_ZEROS = memoryview(bytes(4 * _PIECE))


def encode_narrow(values: NDArray[np.float32], scale: float, limit: float, key: bytes, out: NDArray[np.uint32]) -> int:
    """Write ``values`` into ``out`` modulo 2^32; how many were beyond ``limit`` and are clipped to it.

    ``scale`` is a power of two, so scaling is exact. Rounding is stochastic: up with a probability equal to the fraction, which makes
    the sum over sites and rounds unbiased; the draws are AES-CTR under ``key`` (16 bytes), so that the same key gives the same vector.
    """
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    draws = np.empty(4 * _PIECE + 16, np.uint8)
    bound, clipped = np.float32(limit * scale), 0
    for first in range(0, len(values), _PIECE):
        scaled = values[first : first + _PIECE] * np.float32(scale)
        beyond = np.abs(scaled) > bound
        if beyond.any():
            clipped += int(np.count_nonzero(beyond))
            np.clip(scaled, -bound, bound, out=scaled)
        stream.update_into(_ZEROS[: 4 * len(scaled)], draws.data)
        uniform = (draws[: 4 * len(scaled)].view(np.uint32) >> 8).astype(np.float32)
        uniform *= np.float32(2.0**-24)
        whole = np.floor(scaled)
        scaled -= whole
        integers = whole.astype(np.int32)
        integers += scaled > uniform
        out[first : first + _PIECE] = integers.view(np.uint32)
    return clipped


def decode_narrow(elements: NDArray[np.uint32], scale: float) -> NDArray[np.float32]:
    """Inverse of :func:`encode_narrow` for a sum."""
    decoded = elements.view(np.int32).astype(np.float32)
    decoded *= np.float32(1.0 / scale)
    return decoded


def encode_wide(values: NDArray[np.float32] | NDArray[np.float64], what: str) -> NDArray[np.uint64]:
    """``values`` modulo 2^64 in steps of 2^-20, rounded to nearest.

    Raises:
        ProtocolError: a value is not finite, or so large that a sum could wrap; ``what`` names them.
    """
    scaled = np.rint(np.asarray(values, np.float64) * WIDE_SCALE)
    if not (np.abs(scaled) < _WIDE_LIMIT * WIDE_SCALE).all():
        raise ProtocolError(f"{what} out of range: not finite, or beyond {_WIDE_LIMIT:.0e}")
    return scaled.astype(np.int64).view(np.uint64)


def decode_wide(elements: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Inverse of :func:`encode_wide` for a sum."""
    decoded: NDArray[np.float64] = elements.view(np.int64) / WIDE_SCALE
    return decoded
