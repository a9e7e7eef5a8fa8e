"""A limit that holds against a driver that chooses noise, sampling and steps by what it has seen."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from primia.privacy.accounting import ORDERS, epsilon, rdp_at
from primia.privacy.filter import _orders, filtered_epsilon, releases_within
from primia.privacy.spend import Spend

LIMITS = [(0.5, 1e-5), (1.0, 1e-6), (3.0, 1e-5), (8.0, 1e-5), (20.0, 1e-3)]


def adversary(seed: int) -> Iterator[Spend]:
    """Releases of every kind, each a (pseudorandom) function of those before."""
    draw = np.random.default_rng(seed)
    while True:
        noise, rate = draw.choice([0.6, 1.0, 2.0, 5.0, 20.0]), draw.choice([0.005, 0.02, 0.1, 0.5, 1.0])
        yield Spend(float(noise), float(rate), int(math.exp(draw.uniform(0, 6))))


def allowed(limit: float, delta: float, seed: int) -> list[Spend]:
    """What a site lets through of 30 requests; after each refusal the driver asks for less."""
    history: list[Spend] = []
    requests = adversary(seed)
    for _ in range(30):
        request = next(requests)
        for divisor in (1, 10, 100):
            smaller = Spend(request.noise_multiplier, request.sample_rate, max(1, request.steps // divisor))
            if filtered_epsilon([*history, smaller], limit, delta) <= limit:
                history.append(smaller)
                break
    return history


@pytest.mark.parametrize(("limit", "delta"), LIMITS)
def test_an_adaptive_adversary_never_exceeds_the_limit(limit: float, delta: float) -> None:
    """Of the orders that were fixed ahead one stays within the divergence that converts to the limit with its part of delta."""
    history = allowed(limit, delta, seed=round(limit * 10))
    orders = _orders(limit, delta)
    assert sum(order.delta for order in orders) == pytest.approx(delta)
    budgets = [limit - math.log1p(-1 / each.order) + (math.log(each.delta) + math.log(each.order)) / (each.order - 1) for each in orders]
    assert any(rdp_at(history, each.order) <= budget * (1 + 1e-9) for each, budget in zip(orders, budgets, strict=True))
    assert history and epsilon(history, delta, "rdp") <= limit


@pytest.mark.parametrize(("limit", "delta"), LIMITS)
def test_orders_are_fixed_before_anything_is_spent(limit: float, delta: float) -> None:
    """An order that is looked up afterwards would let this history through; it is the choice that a filter may not make."""
    orders = {each.order for each in _orders(limit, delta)}
    assert orders < set(ORDERS) and len(orders) == 4
    for spend in (Spend(5.0, 1.0, 1), Spend(0.9, 0.01, 1), Spend(2.0, 0.05, 1)):
        most = releases_within(spend, limit, delta)
        within = [Spend(spend.noise_multiplier, spend.sample_rate, most)] if most else []
        beyond = [Spend(spend.noise_multiplier, spend.sample_rate, most + 1)]
        assert filtered_epsilon(within, limit, delta) <= limit < filtered_epsilon(beyond, limit, delta)
    small = Spend(90.0, 1.0, 1)
    afterwards = [Spend(90.0, 1.0, releases_within(small, limit, delta) + 1)]
    assert epsilon(afterwards, delta, "rdp") <= limit < filtered_epsilon(afterwards, limit, delta)
    assert releases_within(small, limit, delta, afterwards) == 0


def test_what_the_filter_costs() -> None:
    """Against numerical composition of a run that was fixed ahead: about a sixth, and no cliff where noise is small."""
    for spend, delta in ((Spend(2.67, 0.42, 100), 1e-5), (Spend(1.15, 0.0256, 1000), 1e-5), (Spend(0.716, 0.0064, 1500), 1e-6)):
        exact = epsilon([spend], delta, "prv")
        limit = next(limit for limit in np.arange(exact, 3 * exact, exact / 100) if filtered_epsilon([spend], limit, delta) <= limit)
        assert 1.0 < limit / exact < 1.4


def test_nothing_costs_nothing_and_more_costs_more() -> None:
    assert filtered_epsilon([], 1.0, 1e-5) == 0.0
    assert filtered_epsilon([Spend(1e4, 0.001, 1)], 1.0, 0.999) >= 0.0
    assert filtered_epsilon([Spend(1e-3, 0.5, 10)], 1.0, 1e-5) > 1.0
    one, two = (filtered_epsilon([Spend(1.0, 0.1, steps)], 8.0, 1e-5) for steps in (10, 20))
    assert 0 < one < two
    assert releases_within(Spend(1e-3, 0.5, 1), 1.0, 1e-5) == 0
