"""Gaussian noise and random choices from a cryptographic generator, drawn where the data are.

What protects must not be predictable: noise and sampling come from AES-256 in counter mode under a key of the operating
system's, never from torch's or numpy's generators, whose state follows from their output or from a seed that the driver knows.
"""

from __future__ import annotations

import math
import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numba import njit
from numpy.typing import NDArray
from scipy.special import ndtri

KEY_BYTES = 32

_CHUNK = 2**14
_DRAWS = 4
_BLOCK_BYTES = 16
_LN_2 = np.float32(math.log(2))
_ANGLE = np.float32(math.pi / 2 / 2**30)
_MANTISSA = np.int32(0x7FFFFF)
_ONE = np.int32(0x3F800000)
_SQRT_2 = np.float32(math.sqrt(2))


class SecureGenerator:
    """A stream of random numbers that nobody can foretell; with a ``key`` of 32 bytes a repeatable one, for tests only."""

    def __init__(self, key: bytes | None = None) -> None:
        cipher = Cipher(algorithms.AES(os.urandom(KEY_BYTES) if key is None else key), modes.CTR(bytes(_BLOCK_BYTES)))
        self._encryptor = cipher.encryptor()
        self._zeros = memoryview(bytes(4 * _CHUNK))
        self._buffer = np.empty(4 * _CHUNK + _BLOCK_BYTES, np.uint8)

    def words(self, count: int) -> NDArray[np.uint64]:
        """Uniform 64-bit words, ``(count,)``."""
        words = np.empty(count, np.uint64)
        step = _CHUNK // 2
        for first in range(0, count, step):
            part = words[first : first + step]
            part[:] = self._bytes(part.nbytes).view(np.uint64)
        return words

    def gaussian(self, count: int, deviation: float) -> NDArray[np.float32]:
        """Independent draws ``(count,)`` of mean 0 and the given standard deviation.

        Each is half the sum of four Box-Muller draws of this deviation, summed in float64 and rounded once. The gaps between
        floating-point numbers betray a single draw: the low bits of a noised value fit only some of the values before noise
        (Mironov, CCS 2012). A sum of four has so many preimages, about 2^(24 * 7) here, that they cannot be searched (Holohan and
        Braghin, 2021, section 5.1; Opacus's secure mode does the same). A factor after the sum other than a power of two would leave out up
        to a fifth of all float32 values, and a sum in float32 would round to even in two cases of three. A draw's radius has 32 bits, so
        one lies within 6.7 deviations, the sum within 13.3.
        """
        noise = np.zeros(count + count % 2, np.float32)
        radii = np.empty(_CHUNK // 2, np.float32)
        for first in range(0, len(noise), _CHUNK):
            part = noise[first : first + _CHUNK]
            wide = np.zeros(len(part))
            for _ in range(_DRAWS):
                _add_box_muller(self._bytes(part.nbytes).view(np.uint32), wide, radii, np.float32(deviation))
            part[:] = wide * 0.5
        return noise[:count]

    def fine_gaussian(self, count: int, deviation: float) -> NDArray[np.float64]:
        """Independent draws ``(count,)`` of mean 0 and the given deviation, to be rounded to integers; for a few numbers.

        One bit of a word is the sign, 63 bits are the probability of the tail, which the normal distribution's quantile turns into
        a draw. Up to 7 deviations (beyond lies 3e-12) quantiles of neighbouring words are at most 6e-9 deviations apart: rounded to
        integers, of which a deviation holds up to 1e8, no value is left out and low bits are uniform. A draw lies within 9.2 deviations.
        """
        words = self.words(count)
        tails = ((words >> np.uint64(1)).astype(np.float64) + 0.5) * 2.0**-64
        signs = np.where(words & np.uint64(1), deviation, -deviation)
        draws: NDArray[np.float64] = signs * ndtri(tails)
        return draws

    def _bytes(self, nbytes: int) -> NDArray[np.uint8]:
        """The stream's next bytes, at most four times the chunk, in a buffer that the next call overwrites."""
        self._encryptor.update_into(self._zeros[:nbytes], self._buffer.data)
        return self._buffer[:nbytes]


@njit(nogil=True, cache=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _add_box_muller(bits: NDArray[np.uint32], total: NDArray[np.float64], radii: NDArray[np.float32], deviation: np.float32) -> None:
    """Add normal draws of the given deviation to ``total`` ``(2k,)`` from as many random words; ``radii`` ``(>= k,)`` is scratch.

    Box and Muller (1958): radius sqrt(-2 ln u) and a uniform angle. Logarithm, sine and cosine are the polynomials of Cephes
    (Moshier), errors below 2e-7: loops of arithmetic alone run in vector registers, twice as fast as torch's functions.
    """
    half = len(total) // 2
    patterns = radii.view(np.int32)
    for i in range(half):
        radii[i] = np.float32(bits[i] >> np.uint32(1)) + np.float32(0.5)
    for i in range(half):
        exponent = np.float32((patterns[i] >> 23) - 127 - 31)
        patterns[i] = (patterns[i] & _MANTISSA) | _ONE
        above = radii[i] > _SQRT_2
        x = (radii[i] * np.float32(0.5) if above else radii[i]) - np.float32(1)
        exponent += np.float32(1) if above else np.float32(0)
        y = np.float32(7.0376836292e-2)
        y = y * x + np.float32(-1.1514610310e-1)
        y = y * x + np.float32(1.1676998740e-1)
        y = y * x + np.float32(-1.2420140846e-1)
        y = y * x + np.float32(1.4249322787e-1)
        y = y * x + np.float32(-1.6668057665e-1)
        y = y * x + np.float32(2.0000714765e-1)
        y = y * x + np.float32(-2.4999993993e-1)
        y = y * x + np.float32(3.3333331174e-1)
        square = x * x
        logarithm = x + (y * x * square - np.float32(0.5) * square) + exponent * _LN_2
        radii[i] = deviation * np.sqrt(max(np.float32(-2) * logarithm, np.float32(0)))
    for i in range(half):
        # 30 bits choose the angle within a quarter around 0, two more bits the quarter: by a sign and a swap.
        word = np.int32(bits[half + i])
        x = np.float32(np.int32(word << np.int32(2)) >> np.int32(2)) * _ANGLE
        square = x * x
        sine = ((np.float32(-1.9515295891e-4) * square + np.float32(8.3321608736e-3)) * square - np.float32(1.6666654611e-1)) * square
        sine = sine * x + x
        cosine = (np.float32(2.443315711809948e-5) * square - np.float32(1.388731625493765e-3)) * square
        cosine = (cosine + np.float32(4.166664568298827e-2)) * square * square - np.float32(0.5) * square + np.float32(1)
        cosine = cosine if word < 0 else -cosine
        swap = (word & np.int32(0x40000000)) != 0
        r = np.float64(radii[i])
        total[i] += np.float64(sine if swap else cosine) * r
        total[half + i] += np.float64(cosine if swap else sine) * r
