"""Which images make up a batch: a pure function of seed, site and step, so that a resumed run goes on just where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches of one pass over ``images``."""
    return -(-images // batch_size)


def batches(images: int, batch_size: int, *, seed: int, site: str, first_step: int, steps: int) -> Iterator[NDArray[np.int64]]:
    """Indices of the batches of steps ``first_step`` to ``first_step + steps - 1``.

    Epoch e is a permutation keyed by (seed, site, e), cut into ceil(images / batch_size) parts whose sizes differ by at
    most one: there is no tiny last batch, which BatchNorm could not bear.
    """
    per_epoch = steps_per_epoch(images, batch_size)
    epoch, parts = -1, []
    for step in range(first_step, first_step + steps):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            parts = np.array_split(_permutation(images, seed, site, epoch), per_epoch)
        yield parts[step % per_epoch]


def derived_seed(*parts: object) -> int:
    """A 64-bit seed from a stable hash of ``parts``."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _permutation(images: int, seed: int, site: str, epoch: int) -> NDArray[np.int64]:
    key = derived_seed("batches", seed, site, epoch)
    return np.random.Generator(np.random.Philox(key=key)).permutation(images)
