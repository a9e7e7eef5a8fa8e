"""Numbers of a guarantee in words: rounded to the side that claims less."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal


def number(value: float) -> str:
    """Three significant digits; whole numbers stay whole."""
    return str(int(value)) if value == int(value) else f"{value:.3g}"


def lower(value: float) -> str:
    """A lower bound, rounded down to three significant digits."""
    if value <= 0 or not math.isfinite(value):
        return number(value)
    return _rounded(value, ROUND_FLOOR)


def upper(value: float) -> str:
    """An upper bound, rounded up to three significant digits."""
    if value <= 0 or not math.isfinite(value):
        return number(value) if math.isfinite(value) else "infinite"
    return _rounded(value, ROUND_CEILING)


def span(values: Sequence[float], rounded: Callable[[float], str] = number) -> str:
    """The least and the largest."""
    low, high = map(rounded, (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def bound(epsilons: Sequence[float], deltas: Sequence[float]) -> str:
    """The largest epsilon of several sites, and all their deltas: the one with the largest epsilon may have the smaller delta."""
    return f"epsilon {'at most' if len(epsilons) > 1 else '='} {upper(max(epsilons))} at delta = {span(deltas, upper)}"


def _rounded(value: float, side: str) -> str:
    # From the shortest decimal that is this number: 1e-5 stays what it is, though the nearest binary number lies above it.
    return f"{float(Context(prec=3, rounding=side).create_decimal(Decimal(repr(value)))):.3g}"
