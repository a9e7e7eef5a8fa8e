"""Which random choices the sites of a run make: those of no other run, unless it repeats one.

Two runs whose sites drew the same batches and augmentations, one site apart, would differ by exactly that site's update. So what sites
draw follows from the run's identity as well as from its seed. Initial weights, the split of the images and the sites of a round follow from
seeds alone: they tell nothing of a site.
"""

from __future__ import annotations

import hashlib

from primia.config.settings import RunSettings


def draws_of(settings: RunSettings, own: str) -> str:
    """The identity that sites' choices follow from: ``own``, that of the run to be repeated, or none where there is no federation."""
    if settings.mode != "federated":
        return ""  # one learner, all of whose images are in one place: there is no other site to subtract
    return settings.repeat or own


def site_seed(settings: RunSettings, draws: str) -> int:
    """Seed of all that sites draw."""
    if not draws:
        return settings.seed
    return int.from_bytes(hashlib.sha256(f"sites/{settings.seed}/{draws}".encode()).digest()[:8]) >> 1
