from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from primia.audits.roc import Roc, area, area_interval


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return np.round(rng.normal(0.7, 1, 300), 1), np.round(rng.normal(0, 1, 200), 1)


def test_the_curve_and_its_area_are_scikit_learns_ties_included(scores):
    members, others = scores
    truth, values = np.r_[np.ones(300), np.zeros(200)], np.r_[members, others]
    false, true, _ = roc_curve(truth, values, drop_intermediate=False)
    roc = Roc.of(members, others)
    assert np.allclose(roc.false_positive_rate, false) and np.allclose(roc.true_positive_rate, true)
    assert area(members, others) == pytest.approx(roc_auc_score(truth, values))


def test_the_rate_at_few_false_positives_never_exceeds_them():
    members, others = np.array([3.0, 2.0, 1.0, 0.0]), np.array([2.5, 0.5, 0.4, 0.3])
    roc = Roc.of(members, others)
    assert [roc.true_positives_at(rate) for rate in (0.0, 0.24, 0.25, 1.0)] == [0.25, 0.25, 0.75, 1.0]


def test_the_interval_holds_the_area_is_repeatable_and_narrows_with_more_images(scores):
    members, others = scores
    low, high = area_interval(members, others, seed=1)
    assert low < area(members, others) < high
    assert (low, high) == area_interval(members, others, seed=1) != area_interval(members, others, seed=2)
    few_low, few_high = area_interval(members[:30], others[:20], seed=1)
    assert few_high - few_low > 2 * (high - low)


def test_the_interval_covers_the_true_area_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(20):
        low, high = area_interval(rng.normal(1, 1, 80), rng.normal(0, 1, 80), seed)
        covered += low <= 0.7602 <= high  # Phi(1 / sqrt 2)
    assert covered >= 16
