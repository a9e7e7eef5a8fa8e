"""What crosses a site's border in a round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class GlobalModel:
    """The federation's model as two flat vectors; ``round`` is the round that made it (0: the initial one)."""

    round: int
    parameters: Vector
    buffers: Vector

    @property
    def nbytes(self) -> int:
        """Bytes that a site downloads."""
        return self.parameters.nbytes + self.buffers.nbytes


@dataclass(frozen=True)
class Update:
    """A site's contribution, or a sum of contributions.

    ``parameters``: change of the parameters since the global model. ``buffers``: BatchNorm statistics.
    ``weight``: what it counts in the average. After the worker half of the stages both vectors are linear
    in what is averaged, so that adding updates is all that an aggregator ever does with them.
    """

    parameters: Vector
    buffers: Vector
    weight: float

    @property
    def nbytes(self) -> int:
        """Bytes that a site uploads."""
        return self.parameters.nbytes + self.buffers.nbytes


class UpdateSum:
    """Running sum of updates, in the order in which they are added; owns its memory."""

    def __init__(self) -> None:
        self._total: Update | None = None

    def add(self, update: Update) -> None:
        """Add one update; the first one is copied where it is read-only, else taken over."""
        if self._total is None:
            self._total = Update(_owned(update.parameters), _owned(update.buffers), update.weight)
            return
        total = self._total
        np.add(total.parameters, update.parameters, out=total.parameters)
        np.add(total.buffers, update.buffers, out=total.buffers)
        self._total = Update(total.parameters, total.buffers, total.weight + update.weight)

    @property
    def total(self) -> Update | None:
        """The sum, or None where nothing was added."""
        return self._total


def _owned(vector: Vector) -> Vector:
    return vector if vector.flags.writeable else vector.copy()
