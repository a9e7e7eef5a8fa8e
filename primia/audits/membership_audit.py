"""Whether it shows which images the model was trained on: three attacks, and what each proves about epsilon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from primia.audits.bound import EpsilonBound, epsilon_lower_bound
from primia.audits.membership import confidences, likelihood_ratio, loss_threshold, outlier_score
from primia.audits.roc import FALSE_POSITIVE_RATES, Roc, Scores, area, area_interval
from primia.audits.shadows import train_shadows
from primia.audits.subject import Budget, Subject
from primia.data.shard import JoinedDataset

LOSS_THRESHOLD, ONLINE, OFFLINE = "loss threshold", "LiRA, online", "LiRA, offline"

_CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class MembershipAttack:
    """One attack: its curve, the area under it with a 95 % interval, rates at few false accusations, and what it proves."""

    name: str
    roc: Roc
    area: float
    interval: tuple[float, float]
    true_positives_at: dict[float, float]
    bound: EpsilonBound


@dataclass(frozen=True, eq=False)
class MembershipAudit:
    """All attacks on the run's model; ``budget``: what its accountant says, None where it has none."""

    attacks: tuple[MembershipAttack, ...]
    members: int
    others: int
    shadows: int
    epochs: int
    budget: Budget | None

    @property
    def proven(self) -> EpsilonBound:
        """The largest bound. All attacks' bounds hold together with 95 % confidence, so the choice costs nothing."""
        return max((attack.bound for attack in self.attacks), key=lambda bound: bound.epsilon)


def attack_membership(
    subject: Subject, *, shadows: int, seed: int, threads: int, on_progress: Callable[[int, int], None]
) -> MembershipAudit:
    """Attack the run's best model by its loss, and with an even number of shadow models (0: none) by likelihood ratios."""
    members, others = subject.members, subject.others
    pool = JoinedDataset([members, others])
    confidence = confidences(subject.best_model, pool, subject.card.normalisation)
    scores = {LOSS_THRESHOLD: loss_threshold(confidence)}
    if shadows:
        scores |= _ratios(subject, pool, confidence, shadows, seed, threads, on_progress)
    delta = subject.budget.delta if subject.budget else 1.0 / len(members)
    confidence_each = 1.0 - (1.0 - _CONFIDENCE) / len(scores)
    attacks = [_judge(name, score[: len(members)], score[len(members) :], delta, confidence_each, seed) for name, score in scores.items()]
    return MembershipAudit(tuple(attacks), len(members), len(others), shadows, subject.epochs, subject.budget)


def _ratios(
    subject: Subject,
    pool: JoinedDataset,
    confidence: Scores,
    shadows: int,
    seed: int,
    threads: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, Scores]:
    device = "cuda" if torch.cuda.is_available() and subject.settings.resources.device != "cpu" else "cpu"
    known = train_shadows(
        replace(subject.learner_spec(), device=device),
        pool,
        subject.card.normalisation,
        shadows=shadows,
        epochs=subject.epochs,
        seed=seed,
        threads=threads,
        on_progress=on_progress,
    )
    return {ONLINE: likelihood_ratio(confidence, known), OFFLINE: outlier_score(confidence, known)}


def _judge(name: str, members: Scores, others: Scores, delta: float, confidence: float, seed: int) -> MembershipAttack:
    roc = Roc.of(members, others)
    return MembershipAttack(
        name,
        roc,
        area(members, others),
        area_interval(members, others, seed),
        {rate: roc.true_positives_at(rate) for rate in FALSE_POSITIVE_RATES},
        epsilon_lower_bound(members, others, delta=delta, seed=seed, confidence=confidence),
    )
