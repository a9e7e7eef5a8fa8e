"""The probability delta of a guarantee: what it is where nobody says, and what is too much."""

from __future__ import annotations

import math

from primia.errors import DeltaTooLarge

_LARGEST_DEFAULT = 1e-5
_EXPONENT = -1.1


def default_delta(units: int) -> float:
    """Delta for a site of so many ``units`` where none is given: min(1e-5, 1 / units^1.1)."""
    return min(_LARGEST_DEFAULT, math.pow(max(units, 1), _EXPONENT))


def check_delta(delta: float | None, units: int, *, unit: str, where: str) -> None:
    """Demand a ``delta`` below 1 / units: publishing one unit at random, in full, has a delta of 1 / units.

    Raises:
        DeltaTooLarge: it is not.
    """
    if delta is not None and delta * units >= 1.0:
        raise DeltaTooLarge(
            f"delta = {delta:g} {where}, with {units} {_PLURAL[unit]}, allows to publish one of them in full; set a delta well below "
            f"1 / {units} = {1 / units:.3g}, for example {default_delta(units):.2g}"
        )


_PLURAL = {"image": "training images", "patient": "patients", "site": "training sites"}
