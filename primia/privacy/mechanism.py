"""What a step of DP-SGD does, as one value: what is clipped, sampled, noised and accounted for cannot then disagree."""

from __future__ import annotations

from dataclasses import dataclass

from primia.privacy.spend import Spend


@dataclass(frozen=True)
class Mechanism:
    """The Poisson-sampled Gaussian mechanism (Abadi et al., CCS 2016, algorithm 1) of a site.

    Each of ``units`` units is drawn with probability ``sample_rate``; the sum of their gradients, each clipped to L2 norm
    ``clip``, gets noise of standard deviation ``noise_multiplier * clip`` and is divided by the expected number of units, which
    is public, never by the drawn one. Neighbouring data sets differ by one unit that is there or not.
    """

    noise_multiplier: float
    clip: float
    sample_rate: float
    units: int

    @property
    def expected_units(self) -> float:
        """Units that a step draws on average: what its sum is divided by."""
        return self.sample_rate * self.units

    def spend(self, steps: int) -> Spend:
        """What ``steps`` steps cost."""
        return Spend(self.noise_multiplier, self.sample_rate, steps)
