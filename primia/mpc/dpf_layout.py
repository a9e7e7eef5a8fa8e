"""How keys of many comparisons lie in memory: level by level, so that each level is one stream."""

from __future__ import annotations

LEAF_BITS = 7
"""The last bits of the input choose a bit of a 128-bit leaf word instead of a further level."""

PAD = 64
"""Comparisons are padded to a multiple of this, the largest bundle that a kernel works on."""

SMALLEST_BITS = LEAF_BITS + 1
LARGEST_BITS = 32


def padded(count: int) -> int:
    """``count`` rounded up to whole bundles."""
    return -(-count // PAD) * PAD


def key_shapes(bits: int, count: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Shapes of correction words (uint64), leaf words (uint64) and flags (uint8) for ``count`` comparisons of ``bits`` bits."""
    inner, size = bits - LEAF_BITS - 1, padded(count)
    return (inner, size, 2), (2, size, 2), (-(-inner // 8), size)


def key_bytes(bits: int, count: int) -> int:
    """Bytes of the keys that both parties hold."""
    correction, leaf, flags = key_shapes(bits, count)
    return 8 * (correction[0] * correction[1] * 2 + leaf[0] * leaf[1] * 2) + flags[0] * flags[1]
