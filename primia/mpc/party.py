"""What model owner and data owner do alike in a comparison stage."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from primia.mpc.dpf import Backend, evaluate
from primia.mpc.keys import BatchKeys
from primia.mpc.messages import Role
from primia.mpc.program import DIGEST_BYTES
from primia.mpc.ring import Ring, packed_bytes
from primia.mpc.seeds import tree_key
from primia.mpc.select import check_mask, choose, low_bits, sign_shares
from primia.mpc.stages import Stage
from primia.mpc.workers import Workers

Roots = tuple[NDArray[np.uint64], NDArray[np.uint8]]
"""A party's roots of a stage's comparison keys, and its free bits; see :func:`primia.mpc.dpf.roots_from_seed`."""


class ComparingParty:
    """One of the two parties that compare; the model owner is the first, which adds public values."""

    def __init__(self, role: Role, workers: Workers, aes: Backend) -> None:
        self.role = role
        self.workers = workers
        self._aes = aes

    def sign_share(self, stage: Stage, number: int, roots: Roots, public: bytes, keys: BatchKeys) -> NDArray[np.uint8]:
        """This party's xor share of u for every comparison of the stage."""
        states, free = roots
        comparison = keys.comparison(number, stage.bits, stage.size)
        bits = evaluate(tree_key(public, number), states, low_bits(stage.values, stage.bits), comparison, self.workers, self._aes)
        return sign_shares(bits, free, stage.values if self.role is Role.MODEL_OWNER else None, stage.bits, stage.size)

    def output_share(self, stage: Stage, kept: int, opened: NDArray[np.uint8], table: Ring, check: NDArray[np.uint8]) -> tuple[Ring, bytes]:
        """This party's share of the stage's masked output, and the digest of its share of the range check."""
        share, in_range = np.empty_like(stage.values), np.empty(stage.size, np.uint8)
        first, lift, mask = self.role is Role.MODEL_OWNER, stage.kind == "relu", check_mask(kept, stage.bits)

        def work(begin: int, end: int) -> None:
            part = slice(begin, end)
            arguments = (stage.values[part], stage.base[part], opened[part], table[:, part], check[:, part])
            choose(*arguments, first, lift, kept, stage.bits, mask, share[part], in_range[part])

        self.workers.ranges(stage.size, work)
        return share, blake2b(in_range.data, digest_size=DIGEST_BYTES).digest()


def pack_bits(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Eight bits a byte."""
    return np.packbits(bits, bitorder="little")


def unpack_bits(data: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The bits that :func:`pack_bits` was given."""
    return np.unpackbits(data, count=count, bitorder="little")


def packed_shape(count: int, bits: int) -> tuple[Any, tuple[int, ...]]:
    """Dtype and shape of packed elements."""
    return np.uint8, (packed_bytes(count, bits),)


def bits_shape(count: int) -> tuple[Any, tuple[int, ...]]:
    """Dtype and shape of packed bits."""
    return np.uint8, (-(-count // 8),)
