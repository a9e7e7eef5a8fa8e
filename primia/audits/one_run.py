"""An audit of a run's differential privacy in one further, small run: its own mechanism on its own images, with canaries among them.

What the accountant states is held against what guessing the canaries proves (see :mod:`primia.audits.one_run_bound`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from primia.audits.canaries import (
    CanaryLearner,
    GradientCanaries,
    LikelihoodRatios,
    log_likelihood_ratio,
    score_images,
    score_updates,
    toss,
    with_canaries,
)
from primia.audits.one_run_bound import OneRunBound, one_run_bound, refuted_epsilon
from primia.audits.roc import Scores
from primia.audits.subject import Stated, Subject
from primia.data.randomness import stream
from primia.data.shard import Dataset, JoinedDataset, Shard
from primia.models.flat import FlatSpec
from primia.privacy.accounting import epsilon
from primia.privacy.mechanism import Mechanism
from primia.privacy.noise import SecureGenerator
from primia.privacy.sampling import Index, Units
from primia.privacy.updates import clip_update, noise_sum
from primia.training.images import normalise_, unit_images
from primia.training.learner import LocalWork

GRADIENTS, IMAGES, UPDATES = "worst-case gradients", "odd images", "worst-case updates"

_CONFIDENCE = 0.95
_STRENGTH = 10.0
_SHOWN = 2
"""Images of a canary that is a patient."""

_FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
_REHEARSALS = 5

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class OneRunAudit:
    """What is stated of the mechanism's first ``steps`` (rounds, for sites), and what each kind of canary proves of them.

    ``bounds`` hold together with 95 % confidence.
    """

    stated: Stated
    steps: int
    epsilon: float
    bounds: dict[str, OneRunBound]

    @property
    def proven(self) -> OneRunBound:
        """The largest bound."""
        return max(self.bounds.values(), key=lambda bound: bound.epsilon)

    @property
    def ceiling(self) -> float:
        """What would be proven if every guess of the proving kind were right."""
        best = self.proven
        return refuted_epsilon(best.canaries, best.guesses, best.guesses, delta=best.delta, confidence=best.confidence)

    @property
    def is_refuted(self) -> bool:
        """Whether more is proven than is stated."""
        return self.proven.epsilon > self.epsilon


def audit_in_one_run(subject: Subject, stated: Stated, *, canaries: int, most_steps: int, seed: int, on_progress: Progress) -> OneRunAudit:
    """Run the mechanism that ``stated`` names for at most so many steps, with so many canaries of each kind, and guess them."""
    steps = min(stated.steps, most_steps)
    audit = _audit_updates if stated.unit == "site" else _audit_training
    bounds = audit(subject, stated, steps, canaries, seed, on_progress)
    return OneRunAudit(stated, steps, epsilon([stated.mechanism.spend(steps)], stated.delta, stated.accountant), bounds)


def _audit_updates(subject: Subject, stated: Stated, steps: int, count: int, seed: int, on_progress: Progress) -> dict[str, OneRunBound]:
    """Canaries that are sites, clipped and noised as updates are."""
    mechanism, generator = stated.mechanism, SecureGenerator()
    parameters = FlatSpec.of(subject.best_model).parameter_count
    canaries = GradientCanaries.spread(min(count, parameters), parameters, _STRENGTH * mechanism.clip, seed)
    included = toss(len(canaries), seed)
    sites = max(mechanism.units, len(canaries))
    scores = score_updates(
        canaries,
        included,
        mechanism,
        parameters=parameters,
        rounds=steps,
        clip=lambda update: clip_update(update, mechanism.clip, sites),
        noise=lambda total: noise_sum(total, mechanism.noise_multiplier, mechanism.clip, sites, generator),
    )
    on_progress(steps, steps)
    return {UPDATES: _judge(scores, included, stated, steps, seed, kinds=1)}


def _audit_training(subject: Subject, stated: Stated, steps: int, count: int, seed: int, on_progress: Progress) -> dict[str, OneRunBound]:
    """Canaries among a site's images or patients, through the private learner."""
    mechanism, settings = stated.mechanism, subject.settings
    shard = subject.shard_of(stated.site)
    shown = _SHOWN if stated.unit == "patient" else 1
    odd = OddImages(shard, len(subject.card.classes), seed)
    images = min(count, len(odd) // shown)
    data = JoinedDataset([shard, odd])
    parameters = FlatSpec.of(subject.best_model).parameter_count
    gradients = GradientCanaries.spread(min(count, parameters), parameters, _STRENGTH * mechanism.clip, seed)
    there, image_there = toss(len(gradients), seed), toss(images, seed + 1)

    ratios, total = LikelihoodRatios(gradients, mechanism), torch.zeros(parameters, dtype=torch.float64)
    done = 0

    def see(noised: Tensor) -> None:
        nonlocal done
        ratios.see(noised)
        total.add_(noised)
        done += 1
        on_progress(done, steps)

    privacy = settings.privacy
    learner = CanaryLearner(subject.learner_spec(), physical_batch=privacy.physical_batch, canaries=gradients, seen=see)
    first = subject.first_model()
    learner.load(learner.flat.parameters(first), learner.flat.buffers(first))
    members = [np.arange(shown * canary, shown * (canary + 1)) for canary in range(images)]
    units = with_canaries(_units(shard, stated), len(shard), [_copied(members[canary], stated) for canary in np.flatnonzero(image_there)])
    units = with_canaries(units, len(data), list(np.flatnonzero(there)[:, None]))
    learner.protect(units, mechanism)
    learner.train(data, LocalWork(stated.site, 1, 1, 0, steps, subject.card.normalisation))

    judged = partial(_judge, stated=stated, steps=steps, seed=seed, kinds=2)
    found = {GRADIENTS: judged(ratios.scores, there)}
    if images:
        learner.load(learner.flat.parameters(first), learner.flat.buffers(first))
        losses = partial(_losses, learner)
        found[IMAGES] = judged(score_images(learner.model, losses, _shown(odd, members, subject), total.float()), image_there)
    return found


class OddImages:
    """A dataset's images as their negatives, under a class that they are not of; a :class:`~primia.data.shard.Dataset`."""

    def __init__(self, of: Dataset, classes: int, seed: int) -> None:
        self._of = of
        shifts = stream(seed, "canary classes").integers(1, max(2, classes), len(of))
        self.labels: NDArray[np.int64] = (of.labels + shifts) % classes

    def __len__(self) -> int:
        return len(self._of)

    def gather(self, indices: Index) -> NDArray[np.uint8]:
        """The images ``(k, C, H, W)`` at ``indices``."""
        return 255 - self._of.gather(indices)


def rehearsed_guesses(mechanism: Mechanism, steps: int, canaries: int, delta: float, confidence: float, seed: int) -> int:
    """How many canaries to guess: what proves most where the mechanism is as stated, in rehearsals on numbers that are nobody's."""
    rng = stream(seed, "rehearsals")
    proven = np.zeros(len(_FRACTIONS))
    counts = [max(1, round(fraction * canaries)) for fraction in _FRACTIONS]
    for _ in range(_REHEARSALS):
        included = rng.random(canaries) < 0.5
        scores = np.zeros(canaries)
        for _ in range(steps):
            drawn = included & (rng.random(canaries) < mechanism.sample_rate)
            scores += log_likelihood_ratio(drawn + mechanism.noise_multiplier * rng.standard_normal(canaries), mechanism)
        proven += [one_run_bound(scores, included, guesses=count, delta=delta, confidence=confidence).epsilon for count in counts]
    return counts[int(np.argmax(proven))]


def _judge(scores: Scores, included: NDArray[np.bool_], stated: Stated, steps: int, seed: int, kinds: int) -> OneRunBound:
    confidence = 1.0 - (1.0 - _CONFIDENCE) / kinds
    guesses = rehearsed_guesses(stated.mechanism, steps, len(scores), stated.delta, confidence, seed)
    return one_run_bound(scores, included, guesses=guesses, delta=stated.delta, confidence=confidence)


def _units(shard: Shard, stated: Stated) -> Units:
    if stated.unit == "patient":
        return Units.grouped(shard.patients, stated.views)
    return Units.images(len(shard), stated.views)


def _copied(index: Index, stated: Stated) -> Index:
    """A canary that is an image shows itself as often as others do."""
    return index if stated.unit == "patient" else np.repeat(index, stated.views)


def _shown(odd: OddImages, members: list[Index], subject: Subject) -> Iterator[tuple[Tensor, Tensor]]:
    for index in members:
        images = normalise_(unit_images(odd, index, torch.device("cpu")), subject.card.normalisation)
        yield images, torch.from_numpy(odd.labels[index])


def _losses(learner: CanaryLearner, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(learner.model(images), labels, label_smoothing=learner.spec.training.label_smoothing, reduction="none")
