"""The unit in which privacy is spent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spend:
    """``steps`` releases of the Gaussian mechanism of this noise multiplier, each on a Poisson sample of this rate.

    A plain Gaussian mechanism, as for statistics or whole updates, is one that draws every unit: sample rate 1.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


@dataclass(frozen=True)
class Limit:
    """What epsilon over all runs may reach, who says so, and what to do where it is not enough.

    ``delta`` and ``unit``: what epsilon is meant at and for; None: those of the run, where whoever sets the limit also sets these.
    """

    epsilon: float
    whose: str
    remedy: str
    delta: float | None = None
    unit: str | None = None
