"""The comparison stages of a layer, walked in the same order by every party."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from primia.mpc.program import TABLE_ENTRIES, Layer
from primia.mpc.ring import Ring, window_parts


class Stage(NamedTuple):
    """One comparison of many values; ``base`` and ``values`` are flat.

    For a maximum m = base + [values >= 0] * values, with ``values`` a difference; for ReLU ``base`` is empty.
    """

    number: int
    kind: str
    bits: int
    base: Ring
    values: Ring

    @property
    def entries(self) -> int:
        """Of the table that a value's output is chosen from."""
        return TABLE_ENTRIES[self.kind]

    @property
    def size(self) -> int:
        """Comparisons."""
        return self.values.size


Walk = Generator[Stage, Ring, Ring]
"""Yields stages, is sent the flat output of each, and returns the layer's output map."""


def walk(layer: Layer, values: Ring, mask: Ring) -> Walk:
    """The stages of ``layer`` on ``values`` (C, B, H, W), each reduced by ``mask`` (2^kept - 1): masked values or their masks alike."""
    number = 0
    if layer.pool:
        for axis in (3, 2):
            parts = window_parts(values, layer.pool, axis)
            while len(parts) > 1:
                pairs = len(parts) // 2
                base, other = np.stack(parts[:pairs]), np.stack(parts[pairs : 2 * pairs])
                difference = np.bitwise_and(other - base, mask)
                largest = yield Stage(number, "max", layer.pool_bits, base.reshape(-1), difference.reshape(-1))
                parts = [*largest.reshape(base.shape), *parts[2 * pairs :]]
                number += 1
            values = np.ascontiguousarray(parts[0])
    output = yield Stage(number, "relu", layer.comparison_bits, values[:0].reshape(-1), values.reshape(-1))
    return output.reshape(values.shape)
