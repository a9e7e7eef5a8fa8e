"""What happens to an update between a site's learner and the next global model.

A stage has a worker half, :meth:`Stage.encode`, run at the site on its own update, and a driver half,
:meth:`Stage.decode`, run on the sum over sites. Worker halves run in order, driver halves in reverse
order. What a site sends is linear, so the sum of encoded updates is all that the driver needs to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from primia.config.settings import Settings
from primia.federation.update import GlobalModel, Update
from primia.models.flat import FlatSpec


class Stage(Protocol):
    """A reversible step on updates."""

    def encode(self, update: Update, start: GlobalModel) -> Update:
        """At the site: one update, which the stage may overwrite, and the global model it started from."""
        ...

    def decode(self, total: Update, start: GlobalModel) -> Update:
        """At the driver: the sum of encoded updates."""
        ...


class BatchNormMoments:
    """Pools BatchNorm statistics exactly, with the between-site term in the variance.

    A site sends its mean's distance from the global mean, d = m - m0, and v + d^2. With weights w summing to
    one the pooled mean is m0 + sum(w d), the pooled variance sum(w (v + d^2)) - sum(w d)^2, which is the law
    of total variance. Taking m0 off first keeps float32 from cancelling where means are large.
    """

    def __init__(self, spec: FlatSpec) -> None:
        self._mean = spec.mean_mask
        self._variance = spec.variance_mask

    def encode(self, update: Update, start: GlobalModel) -> Update:
        """Replace mean by d and variance by v + d^2."""
        buffers = update.buffers.copy()
        shift = buffers[self._mean] - start.buffers[self._mean]
        buffers[self._variance] += shift * shift
        buffers[self._mean] = shift
        return replace(update, buffers=buffers)

    def decode(self, total: Update, start: GlobalModel) -> Update:
        """Recover mean and variance of the mixture; a variance never falls below zero by rounding."""
        buffers = total.buffers.copy()
        shift = buffers[self._mean]
        buffers[self._variance] = np.maximum(buffers[self._variance] - shift * shift, 0.0)
        buffers[self._mean] = start.buffers[self._mean] + shift
        return replace(total, buffers=buffers)


class WeightedMean:
    """Turns the sum into a mean: a site multiplies by its weight, the driver divides by the total weight."""

    def __init__(self, weighting: str) -> None:
        self._uniform = weighting == "uniform"

    def encode(self, update: Update, start: GlobalModel) -> Update:
        """Scale in place by the site's weight (its sample count, or 1)."""
        weight = 1.0 if self._uniform else update.weight
        np.multiply(update.parameters, np.float32(weight), out=update.parameters)
        return Update(update.parameters, update.buffers * np.float32(weight), weight)

    def decode(self, total: Update, start: GlobalModel) -> Update:
        """Divide in place by the weights' sum."""
        scale = np.float32(1.0 / total.weight)
        np.multiply(total.parameters, scale, out=total.parameters)
        return replace(total, buffers=total.buffers * scale, weight=1.0)


def build_stages(settings: Settings, spec: FlatSpec, sites: float, private: Stage | None = None) -> tuple[Stage, ...]:
    """The stages of a run, in the order of their worker halves.

    ``sites``: the number of training sites, where they are what is protected; ``private`` is the driver's half then.
    """
    stages: tuple[Stage, ...] = (BatchNormMoments(spec), WeightedMean(settings.federation.weighting))
    if settings.privacy.unit == "site":
        from primia.federation.private_updates import PrivateUpdates

        stages += (private or PrivateUpdates(settings.privacy.clip, round(sites)),)
    return stages


def encode(stages: Sequence[Stage], update: Update, start: GlobalModel) -> Update:
    """Apply all worker halves in order."""
    for stage in stages:
        update = stage.encode(update, start)
    return update


def decode(stages: Sequence[Stage], total: Update, start: GlobalModel) -> Update:
    """Apply all driver halves in reverse order."""
    for stage in reversed(stages):
        total = stage.decode(total, start)
    return total
