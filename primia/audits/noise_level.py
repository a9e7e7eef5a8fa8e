"""The noise of differential privacy that the attacks are tried against: the run's own, or a stated one where it has none."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from primia.audits.subject import Subject
from primia.privacy.accounting import Spend, calibrate

USUAL_EPSILON = 8.0
"""The epsilon of the noise that is tried on a run without differential privacy: the weak end of what is published."""


@dataclass(frozen=True)
class NoiseLevel:
    """``multiplier``: standard deviation over ``clip``. ``epsilon``: what it gives the smallest site over the whole run, where known."""

    multiplier: float
    clip: float
    epsilon: float | None
    of_run: bool


def noise_level(subject: Subject) -> NoiseLevel:
    """The run's noise, as its settings or its accountant state it; for a run without any, that of epsilon 8."""
    privacy = subject.settings.privacy
    private = privacy.unit != "none"
    budget = subject.budget
    if private and privacy.noise_multiplier:
        return NoiseLevel(privacy.noise_multiplier, privacy.clip, budget.epsilon if budget else None, True)
    epsilon = (privacy.target_epsilon if private else None) or USUAL_EPSILON
    return NoiseLevel(_multiplier(subject, epsilon), privacy.clip, epsilon, private)


def _multiplier(subject: Subject, epsilon: float) -> float:
    """The noise of DP-SGD at the smallest site, where one image weighs most; delta is one over its images."""
    images = min(subject.site_images)
    batch = min(subject.settings.training.batch_size, images)
    steps = subject.epochs * ceil(images / batch)
    return calibrate([Spend(1.0, batch / images, steps)], epsilon, 1.0 / images, "rdp")
