"""The DPF's inner loops on vector AES instructions: :mod:`primia.mpc.dpf` says what they compute.

Level by level over a tile of comparisons whose states lie in the first cache: the AES calls of a tile do not wait
for each other, so the processor overlaps them by itself.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from primia.mpc.aes import round_keys
from primia.mpc.blocks import (
    both,
    bundle,
    clear_lsb,
    flip_lsb,
    load,
    load_low,
    lsb,
    one_way,
    parity,
    shift_left,
    shift_right,
    spread_lsb,
    store,
    store_low,
    xor,
)
from primia.mpc.dpf_layout import LEAF_BITS

TILE = 256
_WAYS = 4


@njit(nogil=True, cache=True, inline="always")
def _child(state: Any, direction: Any, keys: Any) -> Any:
    return one_way(xor(clear_lsb(state), direction), keys)


@njit(nogil=True, cache=True)
def _evaluate(lanes: Any, keys: Any, roots: Any, x: Any, correction: Any, leaf: Any, flags: Any, first: int, last: int, out: Any) -> None:
    width = len(lanes) * len(lanes[0])
    padded = x.size
    depth = correction.size // (2 * padded) + 1
    states, parities = np.empty(2 * TILE, np.uint64), np.empty(2 * TILE, np.uint64)
    for tile in range(first, last, TILE):
        count = min(TILE, last - tile)
        for i in range(0, count, width):
            store(states, 2 * i, load(lanes, roots, 2 * (tile + i)))
            store(parities, 2 * i, xor(load(lanes, roots, 2 * (tile + i)), load(lanes, roots, 2 * (tile + i))))
        for level in range(depth):
            shift = LEAF_BITS + depth - 1 - level
            begin = level * padded + tile
            for i in range(0, count, width):
                state = load(lanes, states, 2 * i)
                point = shift_right(load_low(lanes, x, tile + i), shift)
                taken = lsb(point)
                turned = lsb(xor(point, shift_right(point, 1))) if level else taken
                store(parities, 2 * i, xor(load(lanes, parities, 2 * i), both(turned, state)))
                child = _child(state, taken, keys)
                if level < depth - 1:
                    flag = shift_right(load_low(lanes, flags, (level >> 3) * padded + tile + i), level & 7)
                    word = xor(load(lanes, correction, 2 * (begin + i)), both(taken, flag))
                else:
                    left, right = load(lanes, leaf, 2 * (tile + i)), load(lanes, leaf, 2 * (padded + tile + i))
                    word = xor(left, both(xor(left, right), spread_lsb(taken)))
                store(states, 2 * i, xor(child, both(word, spread_lsb(state))))
        for i in range(count):
            point = np.uint64(x[tile + i])
            low, high = states[2 * i], states[2 * i + 1]
            mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> (np.uint64(63) - (point & np.uint64(63)))
            upper = np.uint64(0) - ((point >> np.uint64(6)) & np.uint64(1))
            prefix = (low & (mask | upper)) ^ (high & mask & upper)
            rest = (low ^ high) & (np.uint64(0) - ((point >> np.uint64(LEAF_BITS)) & np.uint64(1)))
            out[tile + i] = np.uint8((parities[2 * i] & np.uint64(1)) ^ parity(prefix ^ rest))


@njit(nogil=True, cache=True)
def _generate(lanes: Any, keys: Any, roots: Any, alpha: Any, first: int, last: int, correction: Any, leaf: Any, flags: Any) -> None:
    width = len(lanes) * len(lanes[0])
    padded = alpha.size
    depth = correction.size // (2 * padded) + 1
    states, others = np.empty(2 * TILE, np.uint64), np.empty(2 * TILE, np.uint64)
    for tile in range(first, last, TILE):
        count = min(TILE, last - tile)
        for i in range(0, count, width):
            store(states, 2 * i, load(lanes, roots, 2 * (tile + i)))
            store(others, 2 * i, load(lanes, roots, 2 * (padded + tile + i)))
        for level in range(depth):
            shift = LEAF_BITS + depth - 1 - level
            begin = level * padded + tile
            for i in range(0, count, width):
                state, other = load(lanes, states, 2 * i), load(lanes, others, 2 * i)
                bit = lsb(shift_right(load_low(lanes, alpha, tile + i), shift))
                keep = spread_lsb(bit)
                base, base_other = clear_lsb(state), clear_lsb(other)
                left, right = one_way(base, keys), one_way(flip_lsb(base), keys)
                left_other, right_other = one_way(base_other, keys), one_way(flip_lsb(base_other), keys)
                sum_left, sum_right = xor(left, left_other), xor(right, right_other)
                if level == depth - 1:
                    store(leaf, 2 * (tile + i), sum_left)
                    store(leaf, 2 * (padded + tile + i), sum_right)
                    continue
                losing = clear_lsb(xor(sum_right, both(xor(sum_left, sum_right), keep)))
                flag_left, flag_right = flip_lsb(xor(lsb(sum_left), bit)), xor(lsb(sum_right), bit)
                word = xor(losing, flag_left)
                differ = xor(flag_left, flag_right)
                store(correction, 2 * (begin + i), word)
                place = (level >> 3) * padded + tile + i
                store_low(flags, place, xor(load_low(lanes, flags, place), shift_left(differ, level & 7)))
                word = xor(word, both(differ, bit))
                kept = xor(left, both(xor(left, right), keep))
                kept_other = xor(left_other, both(xor(left_other, right_other), keep))
                store(states, 2 * i, xor(kept, both(word, spread_lsb(state))))
                store(others, 2 * i, xor(kept_other, both(word, spread_lsb(other))))
        for i in range(count):
            point = np.uint64(alpha[tile + i])
            side = np.int64((point >> np.uint64(LEAF_BITS)) & np.uint64(1))
            half = np.int64((point >> np.uint64(6)) & np.uint64(1))
            leaf[2 * (side * padded + tile + i) + half] ^= np.uint64(1) << (point & np.uint64(63))


class NativeBackend:
    """AES-NI, or VAES with 256 or 512 bits, ``width`` blocks an instruction; see :class:`primia.mpc.dpf.Backend`."""

    def __init__(self, width: int) -> None:
        self.name = f"native, {128 * width} bits"
        self._width = width
        self._lanes = bundle(width, _WAYS)

    def evaluate(self, key: bytes, roots: Any, x: Any, correction: Any, leaf: Any, flags: Any, first: int, last: int, out: Any) -> None:
        """See :class:`primia.mpc.dpf.Backend`."""
        arrays = (roots.reshape(-1), x, correction.reshape(-1), leaf.reshape(-1), flags.reshape(-1))
        _evaluate(self._lanes, _keys(key, self._width), *arrays, first, last, out)

    def generate(self, key: bytes, roots: Any, alpha: Any, first: int, last: int, correction: Any, leaf: Any, flags: Any) -> None:
        """See :class:`primia.mpc.dpf.Backend`."""
        outputs = (correction.reshape(-1), leaf.reshape(-1), flags.reshape(-1))
        _generate(self._lanes, _keys(key, self._width), roots.reshape(-1), alpha, first, last, *outputs)


@lru_cache(64)
def _keys(key: bytes, width: int) -> NDArray[np.uint64]:
    """Round keys, each repeated for every block of a register."""
    return np.tile(round_keys(key), width).ravel()
