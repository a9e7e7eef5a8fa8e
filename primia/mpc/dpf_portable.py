"""The DPF's loops for any processor: one call of OpenSSL's AES for a whole level of all comparisons."""

from __future__ import annotations

from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from primia.mpc.dpf_layout import LEAF_BITS

_ONE = np.uint64(1)


class PortableBackend:
    """AES through ``cryptography``; see :class:`primia.mpc.dpf.Backend`."""

    name = "portable"

    def evaluate(self, key: bytes, roots: Any, x: Any, correction: Any, leaf: Any, flags: Any, first: int, last: int, out: Any) -> None:
        """See :class:`primia.mpc.dpf.Backend`."""
        part = slice(first, last)
        depth, points, states = len(correction) + 1, x[part].astype(np.uint64), roots[part].copy()
        parities, before = np.zeros(last - first, np.uint64), np.zeros(last - first, np.uint64)
        for level in range(depth):
            taken = _bit(points, LEAF_BITS + depth - 1 - level)
            parities ^= (taken ^ before) & states[:, 0] & _ONE
            if level < depth - 1:
                word = correction[level, part].copy()
                word[:, 0] ^= taken & _flag(flags, level, part)
            else:
                word = np.where(taken[:, None] == 1, leaf[1, part], leaf[0, part])
            states = _child(key, states, taken) ^ _kept(word, states)
            before = taken
        out[part] = (parities ^ _leaf_parity(states, points)).astype(np.uint8)

    def generate(self, key: bytes, roots: Any, alpha: Any, first: int, last: int, correction: Any, leaf: Any, flags: Any) -> None:
        """See :class:`primia.mpc.dpf.Backend`."""
        part = slice(first, last)
        depth, points = len(correction) + 1, alpha[part].astype(np.uint64)
        states = [roots[party, part].copy() for party in range(2)]
        for level in range(depth):
            bit = _bit(points, LEAF_BITS + depth - 1 - level)
            children = [[_child(key, state, np.full_like(bit, side)) for side in range(2)] for state in states]
            sums = [children[0][side] ^ children[1][side] for side in range(2)]
            if level == depth - 1:
                leaf[:, part] = sums
                break
            word = np.where(bit[:, None] == 1, sums[0], sums[1])
            left, right = (sums[0][:, 0] & _ONE) ^ bit ^ _ONE, (sums[1][:, 0] & _ONE) ^ bit
            word[:, 0] = (word[:, 0] & ~_ONE) | left
            correction[level, part] = word
            flags[level >> 3, part] |= ((left ^ right) << np.uint64(level & 7)).astype(np.uint8)
            word[:, 0] ^= (left ^ right) & bit
            states = [
                np.where(bit[:, None] == 1, children[party][1], children[party][0]) ^ _kept(word, states[party]) for party in range(2)
            ]
        index = np.arange(first, last)
        leaf[_bit(points, LEAF_BITS).astype(np.intp), index, _bit(points, 6).astype(np.intp)] ^= _ONE << (points & np.uint64(63))


def _bit(points: NDArray[np.uint64], place: int) -> NDArray[np.uint64]:
    return (points >> np.uint64(place)) & _ONE


def _flag(flags: Any, level: int, part: slice) -> NDArray[np.uint64]:
    return _bit(flags[level >> 3, part].astype(np.uint64), level & 7)


def _child(key: bytes, states: NDArray[np.uint64], side: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The child of each state on ``side``: AES_k(x) xor x, x being the state with ``side`` as its lowest bit."""
    inputs = states.copy()
    inputs[:, 0] = (inputs[:, 0] & ~_ONE) | side
    # ECB is what is wanted: a fixed permutation on independent blocks.
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    encrypted: Any = np.frombuffer(encryptor.update(inputs.tobytes()), np.uint64).reshape(inputs.shape)
    children: NDArray[np.uint64] = encrypted ^ inputs
    return children


def _kept(word: NDArray[np.uint64], states: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """``word`` where the lowest bit of the state is one, else zero."""
    kept: NDArray[np.uint64] = word & (np.uint64(0) - (states[:, :1] & _ONE))
    return kept


def _leaf_parity(states: NDArray[np.uint64], points: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Parity of the leaf's bits up to the point or, where the last step went right, of those beyond it."""
    mask = np.uint64(2**64 - 1) >> (np.uint64(63) - (points & np.uint64(63)))
    upper = np.uint64(0) - _bit(points, 6)
    prefix = (states[:, 0] & (mask | upper)) ^ (states[:, 1] & mask & upper)
    rest = (states[:, 0] ^ states[:, 1]) & (np.uint64(0) - _bit(points, LEAF_BITS))
    parity: NDArray[np.uint64] = np.bitwise_count(prefix ^ rest).astype(np.uint64) & _ONE
    return parity
