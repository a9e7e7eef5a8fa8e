"""What each seed of a batch stands for: every random array of the protocol is expanded from one of them, by stage and purpose."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from primia.mpc.aes import SEED_BYTES, expand, ring_elements
from primia.mpc.dpf import roots_from_seed
from primia.mpc.messages import Role
from primia.mpc.ring import Ring, dtype_of, mask_of


class Purpose(IntEnum):
    """Streams of a seed."""

    ROOTS = 0
    TABLE = 1
    CHECK = 2
    WIRE_MASK = 3
    OUTPUT_SHARE = 4
    LINEAR_MASK = 5
    VALUE_MASK = 6
    POOL_MASK = 7
    TREE_KEY = 8
    WEIGHT_MASK = 9


@dataclass(frozen=True)
class Seeds:
    """One party's randomness for one batch, in a ring of ``bits`` bits."""

    seed: bytes
    bits: int

    def ring(self, stage: int, purpose: Purpose, shape: tuple[int, ...], bits: int | None = None) -> Ring:
        """Uniform ring elements, of all ``bits`` bits or of fewer."""
        mask = mask_of(self.bits)
        values = ring_elements(self.seed, stage, purpose, shape, mask.dtype)
        kept = self.bits if bits is None else bits
        return values if kept == 8 * mask.itemsize else np.bitwise_and(values, mask.dtype.type(2**kept - 1), out=values)

    def roots(self, stage: int, party: Role, count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """Roots of the comparison keys, and the free bits; see :func:`primia.mpc.dpf.roots_from_seed`."""
        return roots_from_seed(self.seed, stage, Purpose.ROOTS, int(party), count)

    def table(self, stage: int, entries: int, count: int) -> tuple[Ring, NDArray[np.uint8]]:
        """The data owner's shares of the table (1 + entries, count) and of the range check (2, count)."""
        check = expand(self.seed, stage, Purpose.CHECK, 2 * count).reshape(2, count)
        dtype = dtype_of(self.bits)
        return ring_elements(self.seed, stage, Purpose.TABLE, (1 + entries, count), dtype), check


def tree_key(public: bytes, stage: int) -> bytes:
    """The AES key of a stage's comparison trees, from the batch's public seed."""
    return expand(public, stage, Purpose.TREE_KEY, SEED_BYTES).tobytes()


def as_array(seed: bytes) -> NDArray[np.uint8]:
    """A seed as it travels."""
    return np.frombuffer(seed, np.uint8).copy()


def as_seed(array: NDArray[Any]) -> bytes:
    """The seed that travelled."""
    return array.tobytes()
