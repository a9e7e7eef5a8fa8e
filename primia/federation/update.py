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

    def __iadd__(self, other: Update) -> Update:
        """The sum, in the memory of this one's vectors."""
        np.add(self.parameters, other.parameters, out=self.parameters)
        np.add(self.buffers, other.buffers, out=self.buffers)
        return Update(self.parameters, self.buffers, self.weight + other.weight)

    def owned(self) -> Update:
        """This one, or a copy where its memory is read-only."""
        return Update(_owned(self.parameters), _owned(self.buffers), self.weight)


def _owned(vector: Vector) -> Vector:
    return vector if vector.flags.writeable else vector.copy()
