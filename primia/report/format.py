"""How numbers are written in tables and pages; ``None`` is always a dash."""

from __future__ import annotations

from collections.abc import Sequence

MISSING = "–"
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def score(value: float | None) -> str:
    """An MCC or ROC-AUC, three decimals."""
    return MISSING if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A fraction as per cent, one decimal."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def loss(value: float | None) -> str:
    """A loss, four decimals."""
    return MISSING if value is None else f"{value:.4f}"


def rate(value: float | None) -> str:
    """A learning rate, three significant digits."""
    return MISSING if value is None else f"{value:.3g}"


def count(value: int | None) -> str:
    """A whole number with thousands separated."""
    return MISSING if value is None else f"{value:,}"


def size(value_bytes: int | None) -> str:
    """Bytes in decimal units."""
    if value_bytes is None:
        return MISSING
    return next((f"{value_bytes / unit:.1f} {name}" for unit, name in _SIZES if value_bytes >= unit), f"{value_bytes} B")


def duration(value_s: float | None) -> str:
    """Seconds as a person says them."""
    if value_s is None:
        return MISSING
    if value_s < 60:
        return f"{value_s:.1f} s"
    minutes, seconds = divmod(round(value_s), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def plural(number: int, noun: str) -> str:
    """``1 site``, ``3 sites``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listing(names: Sequence[str]) -> str:
    """``a, b and c``."""
    *head, last = names
    return f"{', '.join(head)} and {last}" if head else last
