"""Comparison with a public value by function secret sharing: a DPF with a one-bit output and prefix parity.

For a secret alpha the dealer makes a key for each of two parties; from its key and a public x each computes one bit, and the two
bits add up (xor) to [alpha <= x]. A key is a random root (a party's own, lowest bit 0 or 1) and correction words (the same for
both). Boyle, Gilboa, Ishai, CCS 2016, section 3.2, with early termination at 128-bit leaves; the prefix sum along one path follows
AriaNN (arXiv 2006.04593) and Boyle et al. (eprint 2020/1392). One AES call a level, on the chosen child only.

The tree's generator is G(s, c) = AES_k(s|c) xor (s|c), s|c being the seed with c as its lowest bit (Matyas-Meyer-Oseas with a fixed
key, Guo et al., eprint 2019/074). The key is public, random, and fresh for every stage of every batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from primia.mpc.aes import expand
from primia.mpc.blocks import widest
from primia.mpc.dpf_layout import LARGEST_BITS, SMALLEST_BITS, key_shapes, padded
from primia.mpc.dpf_native import NativeBackend
from primia.mpc.dpf_portable import PortableBackend
from primia.mpc.workers import Workers


class Backend(Protocol):
    """Two implementations that agree bit for bit. Arrays as in :func:`key_shapes`; ``first`` and ``last`` are multiples of ``PAD``."""

    @property
    def name(self) -> str:
        """For reports."""
        ...

    def evaluate(self, key: bytes, roots: Any, x: Any, correction: Any, leaf: Any, flags: Any, first: int, last: int, out: Any) -> None:
        """Write the party's bits for comparisons ``first`` to ``last`` into ``out`` (uint8)."""
        ...

    def generate(self, key: bytes, roots: Any, alpha: Any, first: int, last: int, correction: Any, leaf: Any, flags: Any) -> None:
        """Write the keys of comparisons ``first`` to ``last``; the output arrays are zero before."""
        ...


@dataclass(frozen=True, eq=False)
class ComparisonKeys:
    """The part of the keys that is the same for both parties: shapes as :func:`key_shapes`."""

    correction: NDArray[np.uint64]
    leaf: NDArray[np.uint64]
    flags: NDArray[np.uint8]


@cache
def backend(name: Literal["auto", "native", "portable"] = "auto") -> Backend:
    """The backend of that name; ``auto``: vector AES where this processor has it."""
    if name == "portable" or (name == "auto" and not widest()):
        return PortableBackend()
    return NativeBackend(widest())


def roots_from_seed(seed: bytes, stage: int, purpose: int, party: int, count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """A party's roots (padded, 2), lowest bit ``party``; and the random bits (padded,) that stood there, free for another use."""
    roots = expand(seed, stage, purpose, 16 * padded(count)).view(np.uint64).reshape(-1, 2)
    bits = (roots[:, 0] & np.uint64(1)).astype(np.uint8)
    roots[:, 0] ^= bits ^ np.uint64(party)
    return roots, bits


def generate(key: bytes, roots: NDArray[np.uint64], alpha: NDArray[np.uint32], bits: int, workers: Workers, aes: Backend) -> ComparisonKeys:
    """Keys of [alpha <= x] for all x below 2^bits.

    Args:
        key: the generator's public AES key.
        roots: of both parties, (2, padded, 2).
        alpha: (padded,), below 2^bits.
    """
    _check(bits)
    shapes = key_shapes(bits, alpha.size)
    keys = ComparisonKeys(np.zeros(shapes[0], np.uint64), np.zeros(shapes[1], np.uint64), np.zeros(shapes[2], np.uint8))
    workers.ranges(alpha.size, lambda first, last: aes.generate(key, roots, alpha, first, last, keys.correction, keys.leaf, keys.flags))
    return keys


def evaluate(
    key: bytes, roots: NDArray[np.uint64], x: NDArray[np.uint32], keys: ComparisonKeys, workers: Workers, aes: Backend
) -> NDArray[np.uint8]:
    """A party's xor share (padded,) of [alpha <= x] for ``x`` (padded,)."""
    out = np.empty(x.size, np.uint8)
    workers.ranges(x.size, lambda first, last: aes.evaluate(key, roots, x, keys.correction, keys.leaf, keys.flags, first, last, out))
    return out


def _check(bits: int) -> None:
    if not SMALLEST_BITS <= bits <= LARGEST_BITS:
        raise ValueError(f"comparisons are of {SMALLEST_BITS} to {LARGEST_BITS} bits, not {bits}")
