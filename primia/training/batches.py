"""Which images make up a batch: a pure function of seed, site and step, so that a resumed run goes on just where it was."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from primia.data.randomness import stream


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches of one pass over ``images``."""
    return -(-images // batch_size)


def batches(images: int, batch_size: int, *, seed: int, site: str, first_step: int, steps: int) -> Iterator[NDArray[np.int64]]:
    """Indices of the batches of steps ``first_step`` to ``first_step + steps - 1``.

    Epoch e is a permutation keyed by (seed, site, e), cut into ceil(images / batch_size) parts whose sizes differ by at
    most one: there is no tiny last batch, which BatchNorm could not bear.
    """
    per_epoch = steps_per_epoch(images, batch_size)
    step, end = first_step, first_step + steps
    while step < end:
        epoch, first = divmod(step, per_epoch)
        order = stream(seed, "batches", site, epoch).permutation(images)
        last = min(per_epoch, first + end - step)
        yield from np.array_split(order, per_epoch)[first:last]
        step += last - first
