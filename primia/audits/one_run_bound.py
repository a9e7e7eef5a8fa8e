"""What one training run with many canaries proves about epsilon.

Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023. Each of m canaries is put into the data or left
out by a fair coin of its own; after the run r of the m coins are guessed. Under (epsilon, delta)-differential privacy with respect to
a canary that is there or not, the probability of v or more correct guesses is at most (theorem 5.2 and appendix D)

    P[W >= v] + 2 m delta max over i = 1 ... v of P[v - i <= W < v] / i,   W ~ Binomial(r, e^epsilon / (1 + e^epsilon)).

So every epsilon at which that is below 1 - confidence is refuted. The canaries need not be alike, nor the guesses independent. r must
not depend on the coins; which canaries are guessed may depend on all that the run releases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import binom

from primia.audits.roc import Scores

_PRECISION = 1e-6
_LARGEST_EPSILON = 700.0

Coins = NDArray[np.bool_]


@dataclass(frozen=True)
class OneRunBound:
    """Epsilon is at least ``epsilon`` for this ``delta``, with ``confidence``: ``correct`` of ``guesses`` on ``canaries`` were right."""

    epsilon: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int


def one_run_bound(scores: Scores, included: Coins, *, guesses: int, delta: float, confidence: float = 0.95) -> OneRunBound:
    """The bound that guessing proves: "there" for the highest half of ``guesses`` scores, "not there" for the lowest half.

    ``scores`` and ``included`` are of all canaries ``(m,)``; all between the two halves are left open. ``guesses`` is fixed beforehand.
    """
    if not 0 < guesses <= len(scores):
        raise ValueError(f"{guesses} guesses on {len(scores)} canaries")
    order = np.argsort(scores, kind="stable")
    negative = guesses // 2
    correct = int(np.count_nonzero(included[order[len(order) - (guesses - negative) :]]) + np.count_nonzero(~included[order[:negative]]))
    epsilon = refuted_epsilon(len(scores), guesses, correct, delta=delta, confidence=confidence)
    return OneRunBound(epsilon, delta, confidence, len(scores), guesses, correct)


def refuted_epsilon(canaries: int, guesses: int, correct: int, *, delta: float, confidence: float) -> float:
    """The largest epsilon that so many correct guesses refute, from below to a millionth; 0 where they refute none."""

    def is_refuted(epsilon: float) -> bool:
        return chance_of_correct(canaries, guesses, correct, epsilon=epsilon, delta=delta) < 1.0 - confidence

    if not is_refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while high < _LARGEST_EPSILON and is_refuted(high):
        low, high = high, 2.0 * high
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if is_refuted(middle) else (low, middle)
    return low


def chance_of_correct(canaries: int, guesses: int, correct: int, *, epsilon: float, delta: float) -> float:
    """At most how likely ``correct`` or more correct guesses are under (epsilon, delta)-differential privacy; the p-value."""
    accuracy = float(expit(epsilon))
    tail = float(binom.sf(correct - 1, guesses, accuracy))
    if not delta or not correct:
        return min(1.0, tail)
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, accuracy))
    steepest = float(np.max(below / np.arange(1, correct + 1)))
    return min(1.0, tail + 2.0 * canaries * delta * steepest)
