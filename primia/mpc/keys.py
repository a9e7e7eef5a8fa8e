"""Keys of a batch, once made: they are taken in order, and only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from primia.errors import KeyReuseError
from primia.mpc.aes import SEED_BYTES
from primia.mpc.dpf import ComparisonKeys
from primia.mpc.dpf_layout import key_shapes
from primia.mpc.messages import Kind, Message, Shapes, check

Keep = Callable[[Message], None]
"""Where preprocessing puts a batch's records, in the order in which the online phase takes them."""


BATCH_SHAPES: Shapes = ((np.uint8, (SEED_BYTES,)), (np.uint8, (SEED_BYTES,)))
"""What a batch begins with: the party's seed, and the public one of the comparison trees."""


class BatchKeys:
    """The records of one batch, read once from front to back."""

    def __init__(self, batch: int, records: Iterator[Message]) -> None:
        self.batch = batch
        self._records = records

    def take(self, kind: Kind, stage: int, shapes: Shapes) -> tuple[Any, ...]:
        """The next record's arrays, which must be just these.

        Raises:
            ProtocolError: keys of another plan, or cut short.
        """
        message = next(self._records, None)
        if message is None:
            raise KeyReuseError(f"the keys of batch {self.batch:016x} are used up or cut short; keys serve once, make fresh ones")
        check(message, "in the keys", kind, self.batch, stage, shapes)
        return message.arrays

    def comparison(self, stage: int, bits: int, count: int) -> ComparisonKeys:
        """Keys of one comparison stage."""
        return ComparisonKeys(*self.take(Kind.STAGE_KEYS, stage, stage_key_shapes(bits, count)))


def stage_key_shapes(bits: int, count: int) -> Shapes:
    """What a comparison stage's keys look like."""
    correction, leaf, flags = key_shapes(bits, count)
    return (np.uint64, correction), (np.uint64, leaf), (np.uint8, flags)


def correction_shapes(dtype: Any, entries: int, count: int) -> Shapes:
    """What the model owner's corrections of a stage look like."""
    return (dtype, (1 + entries, count)), (np.uint8, (2, count))
