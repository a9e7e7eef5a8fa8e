from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom, norm

from primia.audits.bound import epsilon_lower_bound, highest_rate, lowest_rate

DELTA = 1e-3


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Exact epsilon of the Gaussian mechanism with sensitivity / deviation mu (Balle and Wang, ICML 2018, theorem 8)."""
    return brentq(lambda e: norm.cdf(mu / 2 - e / mu) - np.exp(e) * norm.cdf(-mu / 2 - e / mu) - delta, 0.0, 60.0)


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0, 4.0])
def test_a_gaussian_mechanism_is_never_said_to_leak_more_than_it_does(mu):
    """True of each of 20 runs here; chance allows one in twenty to be above."""
    rng, true = np.random.default_rng(int(10 * mu)), gaussian_epsilon(mu, DELTA)
    bounds = [epsilon_lower_bound(rng.normal(mu, 1, 4000), rng.normal(0, 1, 4000), delta=DELTA, seed=seed).epsilon for seed in range(20)]
    assert max(bounds) <= true
    assert np.median(bounds) > min(5.0, 0.2 * true)  # 2,000 images a half cannot prove much more than 5


def test_no_leak_gives_no_bound_in_nineteen_of_twenty_runs():
    rng = np.random.default_rng(0)
    bounds = [epsilon_lower_bound(rng.normal(size=500), rng.normal(size=500), delta=0.0, seed=seed).epsilon for seed in range(40)]
    assert np.count_nonzero(bounds) <= 4


def test_a_threshold_chosen_on_the_measured_half_would_flatter_small_samples():
    """What the split is for: with scores that tell nothing apart, the smallest p-value over thresholds would be far from uniform."""
    rng = np.random.default_rng(3)
    bounds = [epsilon_lower_bound(rng.normal(size=60), rng.normal(size=60), delta=0.0, seed=seed).epsilon for seed in range(60)]
    assert np.mean(np.array(bounds) > 0) <= 0.1


def test_both_answers_count():
    """Members among whom a third is never like others (accusing proves it), and others a third of whom are never like members."""
    rng = np.random.default_rng(0)
    plain, high, low = rng.normal(0, 1, 4000), rng.normal(9, 1, 2000), rng.normal(-9, 1, 2000)
    accusing = epsilon_lower_bound(np.r_[plain, high], plain, delta=DELTA, seed=1)
    acquitting = epsilon_lower_bound(plain, np.r_[plain, low], delta=DELTA, seed=1)
    assert accusing.epsilon > 4.5 and accusing.threshold > 3
    assert acquitting.epsilon > 4.5 and acquitting.threshold < -3


def test_more_confidence_and_more_delta_prove_less():
    rng = np.random.default_rng(0)
    scores = rng.normal(2, 1, 2000), rng.normal(0, 1, 2000)
    plain = epsilon_lower_bound(*scores, delta=0.0, seed=1).epsilon
    assert epsilon_lower_bound(*scores, delta=0.0, seed=1, confidence=0.999).epsilon < plain
    assert epsilon_lower_bound(*scores, delta=0.2, seed=1).epsilon < plain


def test_limits_are_clopper_and_pearsons():
    hits = np.arange(11)
    low, high = lowest_rate(hits, 10, 0.025), highest_rate(hits, 10, 0.025)
    assert low[0] == 0.0 and high[10] == 1.0
    assert np.allclose([binom.sf(k - 1, 10, p) for k, p in zip(hits[1:], low[1:], strict=True)], 0.025)
    assert np.allclose([binom.cdf(k, 10, p) for k, p in zip(hits[:-1], high[:-1], strict=True)], 0.025)
