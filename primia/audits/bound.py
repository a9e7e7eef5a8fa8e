"""What an attack proves about epsilon: a lower bound, to be held against the accountant's upper one.

Under (epsilon, delta)-differential privacy every test of membership has TPR <= exp(epsilon) FPR + delta, and the same for the
error rates of the opposite answer (Kairouz, Oh, Viswanath, ICML 2015, theorem 2.1). So rates that were seen, with the bounds
of Clopper and Pearson (Biometrika 1934) for what they may be by chance, give an epsilon that the run cannot be below (Jagielski,
Ullman, Oprea, NeurIPS 2020, section 3; Nasr et al., IEEE S&P 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from primia.audits.roc import Scores
from primia.data.randomness import stream

_LIMITS = 2
"""One-sided limits that hold at the same time: the lower one of TPR, the upper one of FPR."""

_THRESHOLDS = 200

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class EpsilonBound:
    """Epsilon is at least ``epsilon`` for this ``delta``, with ``confidence``; 0 where the attack proves nothing."""

    epsilon: float
    delta: float
    confidence: float
    threshold: float
    true_positive_rate: float
    false_positive_rate: float


def epsilon_lower_bound(members: Scores, others: Scores, *, delta: float, seed: int, confidence: float = 0.95) -> EpsilonBound:
    """The bound that "score at or above a threshold means member" proves.

    The threshold is chosen on a random half of the images and the bound measured on the other half, so that the
    choice does not flatter it. It takes the images for independent draws.
    """
    rng = stream(seed, "halves")
    (chosen_members, members), (chosen_others, others) = (_halves(rng.permutation(scores)) for scores in (members, others))
    error = 1.0 - confidence
    thresholds = np.quantile(np.concatenate([chosen_members, chosen_others]), np.linspace(0.0, 1.0, _THRESHOLDS))
    threshold = float(thresholds[np.argmax(_epsilons(chosen_members, chosen_others, thresholds, delta, error))])
    epsilon = float(_epsilons(members, others, np.array([threshold]), delta, error)[0])
    true_positives, false_positives = (float(np.mean(scores >= threshold)) for scores in (members, others))
    return EpsilonBound(epsilon, delta, confidence, threshold, true_positives, false_positives)


def lowest_rate(hits: Counts, trials: int, error: float) -> Scores:
    """Clopper and Pearson's lower limit of a rate; the rate is below it with probability ``error`` at most."""
    limit: Scores = np.where(hits == 0, 0.0, beta.ppf(error, np.maximum(hits, 1), trials - hits + 1))
    return limit


def highest_rate(hits: Counts, trials: int, error: float) -> Scores:
    """Their upper limit; the rate is above it with probability ``error`` at most."""
    return 1.0 - lowest_rate(trials - hits, trials, error)


def _epsilons(members: Scores, others: Scores, thresholds: Scores, delta: float, error: float) -> Scores:
    """The bound at each threshold: the better one of accusing above it and acquitting below it, never below 0."""
    true_positive = lowest_rate(_hits(members, thresholds), len(members), error / _LIMITS)
    false_positive = highest_rate(_hits(others, thresholds), len(others), error / _LIMITS)
    accusing = (true_positive - delta) / false_positive
    acquitting = (1.0 - false_positive - delta) / (1.0 - true_positive)
    bounds: Scores = np.log(np.maximum(1.0, np.maximum(accusing, acquitting)))
    return bounds


def _hits(scores: Scores, thresholds: Scores) -> Counts:
    hits: Counts = np.count_nonzero(scores[None] >= thresholds[:, None], axis=1)
    return hits


def _halves(scores: Scores) -> tuple[Scores, Scores]:
    half = len(scores) // 2
    return scores[:half], scores[half:]
