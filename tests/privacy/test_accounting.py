"""Epsilon against a second implementation, and the noise that keeps to a budget."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from primia.config.settings import LEAST_NOISE
from primia.errors import PrivacyError
from primia.privacy.accounting import calibrate, epsilon, history_epsilon, rounds_within
from primia.privacy.noise import _REACH
from primia.privacy.spend import Spend

# Made by experiments/benchmarks/accounting.py --table with Google's dp-accounting 0.6.0: the history of (noise multiplier, sample
# rate, steps), delta, epsilon by privacy loss distributions and by RDP.
TABLE: list[tuple[list[tuple[float, float, int]], float, float, float]] = [
    ([(1.0, 0.01, 1000)], 1e-05, 1.8282, 2.1014),
    ([(1.0, 0.01, 10000)], 1e-05, 6.1877, 6.7128),
    ([(0.5, 0.01, 100)], 1e-05, 6.4762, 8.0341),
    ([(0.5, 0.001, 1000)], 1e-05, 3.2389, 4.3821),
    ([(0.5, 0.1, 10)], 0.0001, 9.9401, 12.116),
    ([(0.6, 0.05, 50)], 0.0001, 7.2234, 8.789),
    ([(0.7, 0.02, 300)], 1e-05, 5.4351, 6.3868),
    ([(0.8, 0.004, 2000)], 1e-05, 1.6632, 2.2025),
    ([(1.1, 0.0043, 14000)], 1e-05, 2.3967, 2.6129),
    ([(1.2, 0.1, 60)], 0.001, 2.5938, 3.0992),
    ([(1.5, 0.02, 2000)], 0.0001, 2.4425, 2.7126),
    ([(2.0, 0.1, 500)], 0.0001, 4.8213, 5.322),
    ([(2.0, 0.4, 50)], 0.001, 5.3405, 6.0645),
    ([(3.0, 0.05, 3000)], 0.0001, 3.56, 3.9192),
    ([(4.0, 0.25, 400)], 0.0001, 5.1185, 5.619),
    ([(10.0, 0.1, 1000)], 1e-05, 1.209, 1.3197),
    ([(0.9, 0.3, 15)], 0.001, 6.7222, 7.9932),
    ([(5.0, 0.9, 30)], 0.0001, 3.7672, 4.1403),
    ([(8.0, 0.03, 50000)], 1e-05, 3.5934, 3.8883),
    ([(1.3, 0.064, 469)], 0.001, 4.2781, 4.8899),
    ([(1.0, 1.0, 1)], 1e-05, 4.3772, 4.7285),
    ([(2.0, 1.0, 20)], 0.0001, 10.231, 11.103),
    ([(10.0, 1.0, 1)], 1e-05, 0.34067, 0.37529),
    ([(20.0, 1.0, 100)], 0.001, 1.3523, 1.5461),
    ([(0.5, 1.0, 1)], 1e-05, 9.9973, 10.726),
    ([(10.0, 1.0, 1), (1.0, 0.02, 500)], 0.0001, 2.3337, 2.6886),
    ([(0.8, 0.05, 100), (1.5, 0.1, 200), (4.0, 1.0, 2)], 0.0001, 6.6604, 7.5885),
]


def spends_of(history: list[tuple[float, float, int]]) -> list[Spend]:
    return [Spend(*spend) for spend in history]


@pytest.mark.parametrize(("history", "delta", "pld", "rdp"), TABLE)
def test_within_a_hundredth_of_dp_accounting(history: list[tuple[float, float, int]], delta: float, pld: float, rdp: float) -> None:
    assert epsilon(spends_of(history), delta, "prv") == pytest.approx(pld, rel=0.01)
    assert epsilon(spends_of(history), delta, "rdp") == pytest.approx(rdp, rel=0.01)


def test_prv_is_an_upper_bound_and_below_rdp() -> None:
    for history, delta, pld, _ in TABLE[:5]:
        assert pld * (1 - 1e-3) < epsilon(spends_of(history), delta, "prv") < epsilon(spends_of(history), delta, "rdp")


def test_a_plain_gaussian_mechanism_is_exact() -> None:
    """Balle and Wang, 2018, theorem 8: delta from epsilon is the delta given."""
    value, sigma = epsilon([Spend(2.0, 1.0, 1)], 1e-5, "prv"), 2.0

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    delta = phi(1 / (2 * sigma) - value * sigma) - math.exp(value) * phi(-1 / (2 * sigma) - value * sigma)
    assert delta == pytest.approx(1e-5, rel=1e-6)


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_a_history_counts_the_same_in_any_order_and_division(accountant: str) -> None:
    whole = epsilon([Spend(1.0, 0.01, 100), Spend(5.0, 1.0, 1)], 1e-4, accountant)
    parts = [Spend(1.0, 0.01, 60), Spend(5.0, 1.0, 1), Spend(1.0, 0.01, 40), Spend(0.3, 0.5, 0)]
    assert epsilon(parts, 1e-4, accountant) == whole
    assert epsilon([], 1e-4, accountant) == 0.0
    assert epsilon([Spend(1.0, 0.01, 101), Spend(5.0, 1.0, 1)], 1e-4, accountant) > whole


@pytest.mark.parametrize(
    "spend",
    [
        Spend(0.1, 0.5, 1000),  # far beyond the grid
        Spend(0.05, 1.0, 10),
        Spend(0.3, 0.01, 100_000),
        Spend(50.0, 1e-5, 10),  # next to nothing
        Spend(1.0, 0.5, 1),
        Spend(0.01, 0.01, 1),
    ],
)
def test_where_opacus_has_no_grid_the_bound_still_holds(spend: Spend) -> None:
    prv, rdp = (epsilon([spend], 1e-5, accountant) for accountant in ("prv", "rdp"))
    assert 0 <= prv <= rdp


@pytest.mark.parametrize(
    ("rate", "steps", "target", "accountant"),
    [
        (0.05, 200, 2.0, "prv"),
        (0.05, 200, 2.0, "rdp"),
        (1.0, 10, 5.0, "prv"),
        (1.0, 10, 5.0, "rdp"),
        (0.1, 50, 8.0, "rdp"),
        (1.0, 1, 0.01, "prv"),
    ],
)
def test_calibrated_noise_keeps_to_the_target_and_no_less_would(rate: float, steps: int, target: float, accountant: str) -> None:
    noise = calibrate([Spend(0.0, rate, steps)], target, 1e-4, accountant)
    assert float(f"{noise:.3g}") == noise
    less = noise - 10 ** (math.floor(math.log10(noise)) - 2)
    assert epsilon([Spend(noise, rate, steps)], 1e-4, accountant) <= target < epsilon([Spend(less, rate, steps)], 1e-4, accountant)


def test_earlier_spends_leave_less() -> None:
    planned, earlier = [Spend(0.0, 0.05, 200)], [Spend(1.5, 0.05, 100), Spend(10.0, 1.0, 1)]
    fresh, after = calibrate(planned, 3.0, 1e-4, "rdp"), calibrate(planned, 3.0, 1e-4, "rdp", earlier=earlier)
    assert after > fresh and epsilon([Spend(after, 0.05, 200), *earlier], 1e-4, "rdp") <= 3.0


def test_a_tiny_need_takes_the_smallest_noise_that_is_allowed() -> None:
    """Noise ends at 12.5 deviations; with less of it a neighbour's sum would reach where this one's cannot."""
    assert calibrate([Spend(0.0, 1e-9, 1)], 50.0, 1e-2, "rdp") == LEAST_NOISE
    beyond = float(ndtr(1 / LEAST_NOISE - _REACH))
    assert beyond * 1_000_000 < 1e-12, "a million steps stay below the smallest delta that is allowed"


def test_a_target_that_is_spent_already_names_one_that_can_be_met() -> None:
    planned, earlier = [Spend(0.0, 0.05, 200)], [Spend(1.0, 0.05, 400)]
    with pytest.raises(PrivacyError, match=r"^privacy\.target_epsilon = 1 cannot be met .* before the first of 20 rounds; set ") as caught:
        calibrate(planned, 1.0, 1e-4, "rdp", earlier=earlier, rounds=20)
    possible = float(str(caught.value).split("set privacy.target_epsilon = ")[1].split(",")[0])
    assert calibrate(planned, possible, 1e-4, "rdp", earlier=earlier) <= 2.0


def test_rounds_that_fit() -> None:
    per_round, earlier = Spend(1.0, 0.02, 50), [Spend(1.0, 0.02, 100)]
    rounds = rounds_within(per_round, 3.0, 1e-4, "rdp", earlier)
    spent = [epsilon([*earlier, Spend(1.0, 0.02, 50 * number)], 1e-4, "rdp") for number in (rounds, rounds + 1)]
    assert spent[0] <= 3.0 < spent[1]
    assert rounds_within(per_round, 0.1, 1e-4, "rdp", earlier) == 0


def test_a_history_of_many_mechanisms_is_bounded_by_renyi_divergence() -> None:
    """Few are composed numerically; equal ones count as one, however often they are there."""
    few = [Spend(1.0 + noise / 10, 0.02, 50) for noise in range(2)] * 9
    assert history_epsilon(few, 1e-4, "prv") == epsilon(few, 1e-4, "prv") < epsilon(few, 1e-4, "rdp")
    many = [Spend(1.0 + noise / 10, 0.02, 50) for noise in range(5)]
    assert history_epsilon(many, 1e-4, "prv") == epsilon(many, 1e-4, "rdp")
    assert history_epsilon(many, 1e-4, "prv", most=5) == epsilon(many, 1e-4, "prv") < epsilon(many, 1e-4, "rdp")
    assert history_epsilon(many, 1e-4, "rdp", most=5) == epsilon(many, 1e-4, "rdp")
    assert history_epsilon([], 1e-4, "prv") == 0.0


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_epsilon_is_never_negative(accountant: str) -> None:
    """At a large delta conversions of a small loss come out below 0."""
    draw = np.random.default_rng(1)
    for delta in (1e-9, 0.3, 0.9, 0.999):
        noise, rate, steps = 10 ** draw.uniform(0, 3), 10 ** draw.uniform(-3, -0.5), 10 ** draw.uniform(0, 2)
        spend = Spend(float(noise), float(rate), int(steps))
        for spends in ([spend], [replace(spend, sample_rate=1.0)], []):
            assert epsilon(spends, delta, accountant) >= 0.0 and history_epsilon(spends, delta, accountant) >= 0.0
