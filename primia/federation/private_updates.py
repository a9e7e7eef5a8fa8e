"""The stage that protects whole sites; a module of its own, since noise takes a compiler that other runs need not load."""

from __future__ import annotations

from dataclasses import replace

from primia.errors import PrivacyError
from primia.federation.update import GlobalModel, Update
from primia.privacy.noise import SecureGenerator
from primia.privacy.updates import clip_update, noise_sum


class PrivateUpdates:
    """Differential privacy of whole sites (McMahan et al., ICLR 2018): a site clips its update, the driver noises the sum.

    The noised sum is divided by the number of ``sites``, whoever delivered: dividing by those who did would make the mean change by more
    than the clip with one site more. Clipped updates are whole multiples of the grid's step, and so of the smaller step of the
    ring of secure aggregation (:func:`primia.federation.encoding.ring_step`), which adds them unchanged.
    """

    def __init__(self, clip: float, sites: int, noise_multiplier: float = 0.0, generator: SecureGenerator | None = None) -> None:
        self._clip = clip
        self._sites = sites
        self._noise_multiplier = noise_multiplier
        self._generator = generator

    def encode(self, update: Update, start: GlobalModel) -> Update:
        """Clip in place to the grid.

        Raises:
            PrivacyError: the model has BatchNorm statistics, which nothing bounds.
        """
        if len(update.buffers):
            raise PrivacyError("privacy.unit = site does not protect BatchNorm's statistics; set model.normalisation = group or weight")
        return replace(update, parameters=clip_update(update.parameters, self._clip, self._sites))

    def decode(self, total: Update, start: GlobalModel) -> Update:
        """Add noise in place, and make the number of sites the weight to divide by."""
        if self._generator is None:
            raise AssertionError("the driver's half has a generator")
        noisy = noise_sum(total.parameters, self._noise_multiplier, self._clip, self._sites, self._generator)
        return replace(total, parameters=noisy, weight=float(self._sites))
