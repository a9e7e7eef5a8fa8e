"""What is added up: a vector of integers modulo 2^32 (the bulk) and modulo 2^64 (few numbers that need room)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primia.errors import ProtocolError

_BLOCK = 2
"""Wide elements are padded to whole AES blocks, so that a stream of masks can be entered at either part."""


@dataclass(frozen=True)
class Layout:
    """Elements modulo 2^32 and modulo 2^64 of a vector."""

    narrow: int
    wide: int

    @property
    def wide_bytes(self) -> int:
        """Bytes of the wide part, with padding to a multiple of 16."""
        return 8 * (self.wide + self.wide % _BLOCK)

    @property
    def nbytes(self) -> int:
        """Bytes of a vector."""
        return self.wide_bytes + 4 * self.narrow


@dataclass(frozen=True, eq=False)
class RingVector:
    """A vector as one block of bytes, ``data`` (uint8): the wide part, then the narrow one."""

    layout: Layout
    data: NDArray[np.uint8]

    @classmethod
    def zeros(cls, layout: Layout) -> RingVector:
        """The neutral element."""
        return cls(layout, np.zeros(layout.nbytes, np.uint8))

    @property
    def narrow(self) -> NDArray[np.uint32]:
        """The elements modulo 2^32, a view."""
        return self.data[self.layout.wide_bytes :].view(np.uint32)

    @property
    def wide(self) -> NDArray[np.uint64]:
        """The elements modulo 2^64, a view without the padding."""
        return self.data[: 8 * self.layout.wide].view(np.uint64)

    @property
    def nbytes(self) -> int:
        """Bytes on the wire."""
        return self.data.nbytes

    def check(self, layout: Layout, sender: str) -> None:
        """Raise :class:`ProtocolError` unless this is a vector of ``layout``: nothing else can be said of a masked one."""
        if self.layout != layout or self.data.dtype != np.uint8 or self.data.shape != (layout.nbytes,):
            raise ProtocolError(
                f"{sender} sent a vector of {self.data.nbytes} bytes where {layout.nbytes} are due: another model or version?"
            )

    def owned(self) -> RingVector:
        """This vector, or a copy where its memory is read-only."""
        return self if self.data.flags.writeable else RingVector(self.layout, self.data.copy())

    def add_(self, other: RingVector) -> None:
        """Add ``other`` in place."""
        np.add(self.narrow, other.narrow, out=self.narrow)
        np.add(self.wide, other.wide, out=self.wide)
