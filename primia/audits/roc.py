"""How well scores tell members from others: the curve, its area with an interval, and the corner that matters for privacy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primia.data.randomness import stream

Scores = NDArray[np.float64]

FALSE_POSITIVE_RATES = (0.01, 0.001)
"""Where Carlini et al. (IEEE S&P 2022, section III) read attacks: few accusations, and those right."""

_RESAMPLES = 1000
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, eq=False)
class Roc:
    """Rates ``(n,)`` from (0, 0) to (1, 1) as the threshold falls."""

    false_positive_rate: Scores
    true_positive_rate: Scores

    @classmethod
    def of(cls, members: Scores, others: Scores) -> Roc:
        """The curve of "score at or above the threshold means member", a point for each distinct score."""
        thresholds = np.unique(np.concatenate([members, others]))[::-1]
        return cls(*(np.concatenate([[0.0], _share_at_or_above(scores, thresholds)]) for scores in (others, members)))

    def true_positives_at(self, false_positive_rate: float) -> float:
        """The largest true-positive rate at no more than this false-positive rate."""
        return float(self.true_positive_rate[self.false_positive_rate <= false_positive_rate].max())


def area(members: Scores, others: Scores) -> float:
    """P(a member's score is above another's) + P(equal) / 2, the area under the curve; 0.5 is chance."""
    ordered = np.sort(others)
    below, not_above = np.searchsorted(ordered, members, side="left"), np.searchsorted(ordered, members, side="right")
    return float((below + not_above).mean() / (2 * len(others)))


def area_interval(members: Scores, others: Scores, seed: int) -> tuple[float, float]:
    """95 % interval of the area by the percentile bootstrap (Efron and Tibshirani 1993, chapter 13), images resampled in both groups."""
    rng = stream(seed, "bootstrap")
    areas = [area(rng.choice(members, len(members)), rng.choice(others, len(others))) for _ in range(_RESAMPLES)]
    low, high = np.percentile(areas, _INTERVAL)
    return float(low), float(high)


def _share_at_or_above(scores: Scores, thresholds: Scores) -> Scores:
    below = np.searchsorted(np.sort(scores), thresholds, side="left")
    share: Scores = 1.0 - below / len(scores)
    return share
