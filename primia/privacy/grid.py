"""The integers on which clipped contributions are added and noise is drawn: multiples of a step near the clipping norm / 2^20.

A contribution x of L2 norm at most the clipping norm C is scaled to steps and truncated towards zero, which makes no entry larger:
so its integers have an L2 norm of at most C / step, exactly. Integers of all units are added without rounding, whatever their
order. So one unit more changes the sum by a vector of norm at most C / step, which is all that the Gaussian mechanism asks for, and
the noise is drawn on the same integers (:mod:`primia.privacy.noise`).
"""

from __future__ import annotations

from math import ceil, frexp, log2

GRID_BITS = 20
EXACT_BITS = 24
"""Whole numbers of up to this many bits are exact in float32, and so are their sums while these stay below."""

LARGEST_DEVIATION = 2.0**40

SLACK = 2.0**-20
"""By how much more than its norm a vector is scaled down: above the roundings of a norm summed in float64, of factor and product."""


def grid_step(clip: float, summands: int = 1) -> float:
    """Return the step of the grid for a clipping norm: a power of two, at least ``clip`` * 2^-21.

    Sums of up to ``summands`` contributions are exact in float32, in any order: an entry has at most clip / step <= 2^21 steps, a sum
    of 8 of them at most 2^24. For more summands the step is larger.
    """
    _, exponent = frexp(clip)  # clip < 2^exponent
    return float(2.0 ** (exponent - 1 - GRID_BITS + max(0, ceil(log2(summands)) - (EXACT_BITS - GRID_BITS - 1))))
