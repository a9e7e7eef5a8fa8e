from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest

from primia.audits.one_run_bound import OneRunBound, chance_of_correct, one_run_bound, refuted_epsilon
from primia.privacy.accounting import epsilon
from primia.privacy.spend import Spend


@lru_cache
def refuted(canaries: int, guesses: int, correct: int, delta: float) -> float:
    return refuted_epsilon(canaries, guesses, correct, delta=delta, confidence=0.95)


@pytest.mark.parametrize(
    "canaries, guesses, correct, delta, printed",
    [(1000, 100, 75, 1e-4, 0.673), (100_000, 1510, 1439, 1e-5, 2.675)],
)
def test_the_papers_own_numbers(canaries, guesses, correct, delta, printed):
    """Appendix D, page 46, and section 7, figure 11 (printed cut, not rounded)."""
    assert refuted(canaries, guesses, correct, delta) == pytest.approx(printed, abs=1e-3)


@pytest.mark.parametrize("guesses", [1, 10, 100])
def test_all_guesses_right_without_delta_is_a_power(guesses):
    """All right has probability (e^eps / (1 + e^eps))^r, which is 0.05 at eps = -ln(20^(1/r) - 1)."""
    by_hand = max(0.0, -math.log(20 ** (1 / guesses) - 1))
    assert refuted_epsilon(200, guesses, guesses, delta=0.0, confidence=0.95) == pytest.approx(by_hand, abs=1e-5)


def test_delta_adds_its_term():
    """Two guesses, both right, at epsilon 0: a quarter by chance, and the steepest step is max(1/2 / 1, 3/4 / 2) = 1/2."""
    assert chance_of_correct(10, 2, 2, epsilon=0.0, delta=0.0) == pytest.approx(1 / 4)
    assert chance_of_correct(10, 2, 2, epsilon=0.0, delta=0.01) == pytest.approx(1 / 4 + 2 * 10 * 0.01 / 2)


def test_a_larger_delta_or_more_unguessed_canaries_prove_less():
    bounds = [refuted(1000, 100, 95, delta) for delta in (0.0, 1e-5, 1e-4, 1e-3)]
    assert bounds == sorted(bounds, reverse=True) and bounds[0] > bounds[-1]
    assert refuted(100, 100, 95, 1e-4) > refuted(10_000, 100, 95, 1e-4)


def test_half_of_the_guesses_right_prove_nothing():
    assert refuted(1000, 200, 100, 1e-5) == 0.0
    assert refuted(1000, 200, 0, 1e-5) == 0.0


def test_the_highest_scores_are_guessed_in_and_the_lowest_out():
    included = np.array([True, False, True, True, False, False])
    scores = np.array([9.0, 8.0, 5.0, 0.5, 1.0, 0.0])
    found = one_run_bound(scores, included, guesses=4, delta=0.0)
    # In: 9 (right), 8 (wrong). Out: 0 (right), 0.5 (wrong).
    assert found == OneRunBound(0.0, 0.0, 0.95, canaries=6, guesses=4, correct=2)
    assert one_run_bound(scores, included, guesses=1, delta=0.0).correct == 1


@pytest.mark.parametrize("guesses", [0, 7])
def test_guesses_that_cannot_be_made_are_refused(guesses):
    with pytest.raises(ValueError, match="guesses on 6"):
        one_run_bound(np.zeros(6), np.zeros(6, bool), guesses=guesses, delta=0.0)


@pytest.mark.parametrize("true_epsilon", [0.2, 1.0, 4.0])
def test_randomised_response_is_exceeded_as_often_as_the_confidence_allows(true_epsilon):
    """Every guess is right with probability e^eps / (1 + e^eps): the very case that the bound is tight for."""
    rng = np.random.Generator(np.random.Philox(3))
    correct = rng.binomial(500, 1 / (1 + math.exp(-true_epsilon)), 4000)
    bounds = np.array([refuted(500, 500, int(count), 0.0) for count in correct])
    exceeded = np.mean(bounds > true_epsilon)
    assert exceeded <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(bounds))
    assert exceeded > 0.01
    assert np.median(bounds) > 0.6 * true_epsilon - 0.1


@pytest.mark.parametrize("noise_multiplier, least", [(0.7, 2.0), (2.0, 0.25), (10.0, 0.0)])
def test_a_gaussian_mechanism_is_never_exceeded_and_weak_noise_is_seen(noise_multiplier, least):
    rng = np.random.Generator(np.random.Philox(4))
    delta = 1e-5
    stated = epsilon([Spend(noise_multiplier, 1.0, 1)], delta, "prv")
    bounds = []
    for _ in range(200):
        included = rng.random(2000) < 0.5
        scores = included + noise_multiplier * rng.standard_normal(2000)
        bounds.append(one_run_bound(scores, included, guesses=200, delta=delta).epsilon)
    assert max(bounds) < stated
    assert np.median(bounds) >= least


def test_independent_runs_count_as_one_with_all_their_canaries():
    """Runs on data of their own compose in parallel; together they show noise that is half of what is stated."""
    rng = np.random.Generator(np.random.Philox(5))
    stated = epsilon([Spend(2.0, 1.0, 1)], 1e-5, "prv")
    included = rng.random(100_000) < 0.5
    scores = included + 1.0 * rng.standard_normal(100_000)
    assert one_run_bound(scores, included, guesses=5000, delta=1e-5).epsilon > stated
