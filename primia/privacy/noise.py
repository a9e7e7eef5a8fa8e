"""Gaussian noise and random choices from a cryptographic generator, drawn where the data are.

What protects must not be predictable: noise and sampling come from AES-256 in counter mode under a key of the operating
system's, never from torch's or numpy's generators, whose state follows from their output or from a seed that the driver knows.

Noise is added to integers (see :mod:`primia.privacy.grid`), and it is a Gaussian real number rounded to the nearest integer. Since
rint(x + n) = x + rint(n) for an integer x, such a release is a function of x + n alone: it is the Gaussian mechanism followed by
post-processing, and whatever is proven of that, with or without sampling, holds of it. No low bits betray x, as they do where noise
in floating point is added to a sum in floating point (Mironov, CCS 2012; Haney et al., 2022): every integer is the outcome of every
input. Canonne, Kamath and Steinke (2020) draw from a Gaussian restricted to the integers instead, whose amplification by sampling
the accountants here do not know.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cached_property, lru_cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numba import njit
from numpy.typing import NDArray

from primia.privacy.grid import LARGEST_DEVIATION

KEY_BYTES = 32

_CHUNK = 2**14
_BLOCK_BYTES = 16
_WORD_BITS = 64

# A pair of words: 24 bits choose a bin, one is the sign, 39 are the place in the bin, 64 decide on acceptance.
_CHOICE_BITS = 24
_GUIDE_BITS = 12
_PLACE_BITS = 39
_DEVIATION_BINS = 16.0
_SMALLEST_DEVIATION = 1e-3
_REACH = 12.5
_MARGIN = 1e-11
_SMALLEST_MARGIN = 2.0**-60
_DIGITS = 100
_REJECTED, _ACCEPTED, _UNDECIDED = 0, 1, 2


class SecureGenerator:
    """A stream of random numbers that nobody can foretell; with a ``key`` of 32 bytes a repeatable one, for tests only."""

    def __init__(self, key: bytes | None = None) -> None:
        cipher = Cipher(algorithms.AES(os.urandom(KEY_BYTES) if key is None else key), modes.CTR(bytes(_BLOCK_BYTES)))
        self._encryptor = cipher.encryptor()
        self._zeros = memoryview(bytes(8 * _CHUNK))
        self._buffer = np.empty(8 * _CHUNK + _BLOCK_BYTES, np.uint8)  # update_into wants room for a block more than it writes

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return uniform 64-bit words ``(count,)``."""
        words = np.empty(count, np.uint64)
        for first in range(0, count, _CHUNK):
            part = words[first : first + _CHUNK]
            part[:] = self._next(len(part))
        return words

    def rounded_gaussian(self, count: int, deviation: float) -> NDArray[np.int64]:
        """Return draws ``(count,)`` of a Gaussian of this standard deviation, rounded to integers.

        The distribution is exact, not within a tolerance, up to 12.5 deviations; beyond lies 7e-36, which is never drawn. By rejection:
        a bin of 1/16 to 1/32 of a deviation is chosen by integer weights, a place in it uniformly, and kept with a probability that
        is proportional to the density. The comparison is made in float64, with a margin far above its rounding; the few that fall
        into the margin are decided with as many further random bits and digits as it takes.

        Raises:
            ValueError: the deviation is not 0, and below 0.001 or above ``LARGEST_DEVIATION``.
        """
        if deviation == 0.0:
            return np.zeros(count, np.int64)
        proposal = _proposal(deviation)
        noise = np.empty(count, np.int64)
        done = 0
        while done < count:
            missing = count - done
            words = self._next(2 * min(_CHUNK // 2, missing + missing // 16 + 8))
            done += self._accepted(words, proposal, noise[done:])
        return noise

    def _next(self, count: int) -> NDArray[np.uint64]:
        """Return the stream's next words, at most ``_CHUNK``, in a buffer that the next call overwrites."""
        self._encryptor.update_into(self._zeros[: 8 * count], self._buffer.data)
        return self._buffer[: 8 * count].view(np.uint64)

    def _accepted(self, words: NDArray[np.uint64], proposal: _Proposal, into: NDArray[np.int64]) -> int:
        """Fill ``into`` from pairs of words; how many draws were accepted."""
        done, position = 0, 0
        while position < len(words) and done < len(into):
            more, position, undecided = _draw(words, position, into[done:], *proposal.tables)
            done += more
            if undecided:
                first, second = int(words[position - 2]), int(words[position - 1])
                words = words.copy()  # further words overwrite the buffer
                if self._decided(first, second, proposal):
                    into[done] = proposal.rounded(first)
                    done += 1
        return done

    def _decided(self, first: int, second: int, proposal: _Proposal) -> bool:
        """Compare what float64 could not tell apart, with random bits beyond those of the two words."""
        place, threshold, bits = first & (2**_PLACE_BITS - 1), second, 0
        while True:
            low, high = proposal.chance(first, place, bits)
            with localcontext() as context:
                context.prec = _DIGITS + bits
                scale = Decimal(2) ** (_WORD_BITS + bits)
                if Decimal(threshold + 1) <= low * scale:
                    return True
                if Decimal(threshold) >= high * scale:
                    return False
            more, further = (int(word) for word in self.words(2))
            place, threshold, bits = place << _WORD_BITS | more, threshold << _WORD_BITS | further, bits + _WORD_BITS


@dataclass(frozen=True, eq=False)
class _Proposal:
    """What a rounded Gaussian of one standard deviation is drawn by.

    The half line is cut into bins ``[A w, (A + 1) w)``, w a power of two. Bin A is proposed with probability ``weights[A]`` / 2^24, the
    rest proposes nothing; x, uniform in the bin, is accepted with probability ``scale`` exp(-x^2 / 2 s^2) / ``weights[A]``, which is at
    most 1. So x has the density of the half Gaussian. ``sure``: words below it are accepted wherever in the bin x lies.
    """

    deviation: float
    width_bits: int
    scale: float
    weights: NDArray[np.int64]
    ends: NDArray[np.int64]
    sure: NDArray[np.uint64]

    @cached_property
    def tables(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64], NDArray[np.float64], int, float]:
        """What the compiled loop takes."""
        unit = 2.0 ** (self.width_bits - _PLACE_BITS) / self.deviation
        guide = np.searchsorted(self.ends, np.arange(2**_GUIDE_BITS) << (_CHOICE_BITS - _GUIDE_BITS), side="right")
        return guide, self.ends, self.sure, self.scale / self.weights, self.width_bits, unit

    def bin_of(self, word: int) -> int:
        """Return the bin that a word chooses."""
        return int(np.searchsorted(self.ends, word >> (_WORD_BITS - _CHOICE_BITS), side="right"))

    def rounded(self, word: int) -> int:
        """Return the draw that a word stands for."""
        x = (self.bin_of(word) << _PLACE_BITS) + (word & (2**_PLACE_BITS - 1))
        shift = _PLACE_BITS - self.width_bits
        magnitude: int = ((x >> (shift - 1)) + 1) >> 1
        return -magnitude if word >> _PLACE_BITS & 1 else magnitude

    def chance(self, word: int, place: int, bits: int) -> tuple[Decimal, Decimal]:
        """Return bounds of the probability of acceptance over the places that share these ``39 + bits`` bits of x."""
        chosen = self.bin_of(word)
        with localcontext() as context:
            context.prec = _DIGITS + bits
            step = Decimal(2) ** (self.width_bits - _PLACE_BITS - bits)
            near = (chosen << (_PLACE_BITS + bits)) + place
            high, low = (self._density((near + ahead) * step, chosen) for ahead in (0, 1))
            slack = Decimal(10) ** (10 - context.prec)
            return low * (1 - slack), high * (1 + slack)

    def _density(self, x: Decimal, chosen: int) -> Decimal:
        ratio = x / Decimal(self.deviation)
        return Decimal(self.scale) / int(self.weights[chosen]) * (-ratio * ratio / 2).exp()


@lru_cache(maxsize=64)
def _proposal(deviation: float) -> _Proposal:
    if not _SMALLEST_DEVIATION <= deviation <= LARGEST_DEVIATION:
        raise ValueError(f"a deviation of {deviation:g} steps: from {_SMALLEST_DEVIATION:g} to {LARGEST_DEVIATION:g} can be drawn")
    width_bits = int(np.floor(np.log2(deviation / _DEVIATION_BINS)))
    edges = np.arange(int(np.ceil(_REACH * deviation / 2.0**width_bits)) + 1) * 2.0**width_bits
    densities = np.exp(-np.square(edges / deviation) / 2)
    bins = len(edges) - 1
    scale = float((2**_CHOICE_BITS - 2 * bins) / densities[:-1].sum())
    weights = np.floor(scale * densities[:-1] * (1 + _MARGIN)).astype(np.int64) + 1  # no chance of acceptance is above 1
    ends = np.cumsum(weights)
    sure = np.floor(scale * densities[1:] / weights * (1 - _MARGIN) * 2.0**_WORD_BITS).astype(np.uint64)
    return _Proposal(deviation, width_bits, scale, weights, ends, sure)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _draw(
    words: NDArray[np.uint64],
    position: int,
    noise: NDArray[np.int64],
    guide: NDArray[np.int64],
    ends: NDArray[np.int64],
    sure: NDArray[np.uint64],
    chances: NDArray[np.float64],
    width_bits: int,
    unit: float,
) -> tuple[int, int, bool]:
    """Fill ``noise`` from pairs of ``words``; (accepted, next position, whether the last pair is undecided)."""
    done = 0
    shift = _PLACE_BITS - width_bits
    total = ends[-1]
    while position + 1 < len(words) and done < len(noise):
        first, second = words[position], words[position + 1]
        position += 2
        choice = np.int64(first >> np.uint64(_WORD_BITS - _CHOICE_BITS))
        if choice >= total:
            continue
        low = np.int64(guide[choice >> (_CHOICE_BITS - _GUIDE_BITS)])
        while ends[low] <= choice:
            low += 1
        x = (np.int64(low) << _PLACE_BITS) | np.int64(first & np.uint64(2**_PLACE_BITS - 1))
        if second >= sure[low]:
            ratio = x * unit
            chance = chances[low] * np.exp(-0.5 * ratio * ratio)
            threshold = np.float64(second) * 2.0**-_WORD_BITS
            margin = _MARGIN * chance + _SMALLEST_MARGIN
            if threshold >= chance + margin:
                continue
            if threshold > chance - margin:
                return done, position, True
        magnitude = ((x >> (shift - 1)) + 1) >> 1
        noise[done] = -magnitude if first & np.uint64(1 << _PLACE_BITS) else magnitude
        done += 1
    return done, position, False
