"""A limit on epsilon that holds whatever is chosen by earlier results: a Rényi filter.

An accountant that composes noise, sampling rates and steps fixed ahead proves nothing where a driver chooses each by the models it has
seen, and neither does the best order of Rényi divergence, looked up afterwards: the choice of the order is one more choice by the results.
A limit over all runs therefore has orders a_1, ..., a_k and parts w_1, ..., w_k of delta, adding up to 1, which follow from the limit
(E, d) alone:

1. Order a has the budget B(a, p) = E - log((a - 1) / a) + (log p + log a) / (a - 1): what is within Rényi divergence B(a, p) at order a is
   (E, p)-differentially private (Balle et al., AISTATS 2020, theorem 21).
2. Let mechanisms be chosen one after the other, each by all results so far, and let the interaction end before the first one with which the
   sum of their divergences of order a, which are functions of those results, would exceed B. The whole has at most divergence B at order a
   (Feldman and Zrnic, NeurIPS 2021, theorem 3.1), so that its transcript is (E, p)-differentially private.
3. A release is allowed while at least one order i stays within B(a_i, w_i d). So at the end one of them has, the first of which is I. Let T
   be the transcript, and T_i the same up to the first release that was too much for order i, if there was one. Where I = i there was none,
   T = T_i, and T_i tells that it is so. For neighbours P, Q and every event S therefore
   P(T in S) = sum_i P(T_i in S, I = i) <= sum_i (e^E Q(T_i in S, I = i) + w_i d) = e^E Q(T in S) + d.

The first order is the one that is best for Gaussian mechanisms that use up the limit; those below it cost little delta and serve
mechanisms of little noise and a low sampling rate, whose divergence is small up to some order and explodes beyond.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from primia.privacy.accounting import ORDERS, rdp_at
from primia.privacy.spend import Spend

_PARTS = ((1.0, 1 / 2), (0.7, 1 / 6), (0.5, 1 / 6), (0.35, 1 / 6))
"""Orders, as parts of the first one's distance from 1, and their parts of delta."""


@dataclass(frozen=True)
class _Order:
    """One order of a filter with its part of delta."""

    order: float
    delta: float

    def epsilon(self, divergence: float) -> float:
        """Epsilon of what is within ``divergence`` (step 1, solved for E)."""
        return divergence + math.log1p(-1 / self.order) - (math.log(self.delta) + math.log(self.order)) / (self.order - 1)


def filtered_epsilon(spends: Iterable[Spend], limit: float, delta: float) -> float:
    """Epsilon at ``delta`` that the filter for ``limit`` counts for ``spends``; as long as it is at most ``limit``, that holds.

    Above ``limit`` it is no more than a sign that there is no room. 0 for no spends.
    """
    spends = tuple(spends)
    if not spends:
        return 0.0
    return max(0.0, min(order.epsilon(rdp_at(spends, order.order)) for order in _orders(limit, delta)))


def releases_within(release: Spend, limit: float, delta: float, earlier: Sequence[Spend] = ()) -> int:
    """How many releases like this one the filter would allow on top of ``earlier``."""
    return max(_room(order, release, limit, earlier) for order in _orders(limit, delta))


def _room(order: _Order, release: Spend, limit: float, earlier: Sequence[Spend]) -> int:
    left = limit - order.epsilon(rdp_at(earlier, order.order))
    each = rdp_at([release], order.order)
    return max(0, math.floor(left / each)) if math.isfinite(left) and math.isfinite(each) and each > 0 else 0


@lru_cache(maxsize=256)
def _orders(limit: float, delta: float) -> tuple[_Order, ...]:
    """A function of the limit alone: nothing that was spent, nor any result, may decide on orders."""
    best = max(ORDERS, key=lambda order: (limit - _Order(order, delta).epsilon(0.0)) / order)
    return tuple(_Order(_nearest(1 + part * (best - 1)), share * delta) for part, share in _PARTS)


def _nearest(order: float) -> float:
    return min(ORDERS, key=lambda known: abs(known - order))
