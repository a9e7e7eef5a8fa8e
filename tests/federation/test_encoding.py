"""Contributions as ring vectors: what goes in comes out of the sum, exactly or within a step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.data.statistics import PixelSums
from primia.errors import ProtocolError, TrainingError
from primia.federation.encoding import EvaluationEncoding, FactsEncoding, UpdateEncoding, next_range, rounding_key
from primia.federation.messages import Contribution, TrainingFacts
from primia.federation.update import Update
from primia.secagg.ring import RingVector
from primia.training.evaluation import Evaluation

SIZES = (100, 20, 3)


def contribution(seed: int, weight: int, parameters: int = 50, buffers: int = 6, size: float = 0.01) -> Contribution:
    generator = np.random.default_rng(seed)
    moved = (generator.standard_normal(parameters) * size * weight).astype(np.float32)
    moments = (generator.random(buffers) * weight).astype(np.float32)
    return Contribution(Update(moved, moments, float(weight)), samples=weight, steps=weight // 4, loss_sum=1.25 * weight)


def summed(encoding: UpdateEncoding, contributions: list[Contribution]) -> RingVector:
    total = RingVector.zeros(encoding.layout)
    for index, item in enumerate(contributions):
        total.add_(encoding.encode(item, rounding_key(1, f"site-{index}", 1)))
    return total


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 2000), min_size=1, max_size=8), st.sampled_from([0.25, 1.0, 16.0]))
def test_the_decoded_sum_is_the_sum_within_a_step_a_site(weights: list[int], range_: float) -> None:
    encoding = UpdateEncoding(50, 6, float(sum(weights)), range_)
    contributions = [contribution(seed, weight) for seed, weight in enumerate(weights)]
    total = encoding.decode(summed(encoding, contributions))
    exact = sum(item.update.parameters.astype(np.float64) for item in contributions)
    mean_error = np.abs(total.update.parameters - exact).max() / sum(weights)
    assert mean_error <= range_ * 2.0**-27 * len(weights) + 1e-7 * np.abs(exact).max() / sum(weights)
    assert np.allclose(total.update.buffers, sum(item.update.buffers for item in contributions), rtol=1e-6, atol=1e-6 * len(weights))
    assert (total.update.weight, total.samples, total.clipped) == (sum(weights), sum(weights), 0)
    assert total.steps == sum(weight // 4 for weight in weights)
    assert total.loss_sum == pytest.approx(1.25 * sum(weights), abs=1e-5)


def test_the_largest_values_of_all_sites_do_not_wrap() -> None:
    """Every parameter at the range, at every site, weights just below twice a power of two."""
    weights, range_ = [1023, 1024], 16.0
    encoding = UpdateEncoding(2, 0, float(sum(weights)), range_)
    contributions = [
        Contribution(Update(np.array([range_, -range_], np.float32) * weight, np.zeros(0, np.float32), float(weight)), 1, 1, 0.0)
        for weight in weights
    ]
    total = encoding.decode(summed(encoding, contributions)).update
    assert np.allclose(total.parameters / total.weight, [range_, -range_])


def test_values_beyond_the_range_are_counted_over_sites() -> None:
    encoding = UpdateEncoding(3, 0, 10.0, 1.0)
    beyond = [Contribution(Update(np.array([9.0, -9.0, 0.5], np.float32) * 5, np.zeros(0, np.float32), 5.0), 5, 1, 0.0) for _ in range(2)]
    total = encoding.decode(summed(encoding, beyond))
    assert total.clipped == 4 and np.allclose(total.update.parameters / 10, [1.0, -1.0, 0.5])


def test_weights_that_could_make_the_sum_wrap_are_refused() -> None:
    encoding = UpdateEncoding(3, 0, 10.0, 1.0)
    grown = Contribution(Update(np.zeros(3, np.float32), np.zeros(0, np.float32), 21.0), 1, 1, 0.0)
    with pytest.raises(ProtocolError, match="the sites' weights sum to 21, out of range for sites of 10 images"):
        encoding.decode(summed(encoding, [grown]))
    with pytest.raises(ProtocolError, match="weights sum to 0"):
        encoding.decode(RingVector.zeros(encoding.layout))


@pytest.mark.parametrize(("statistic", "loss"), [(np.inf, 0.0), (np.nan, 0.0), (1e12, 0.0), (1.0, 2.0**40), (1.0, float("nan"))])
def test_what_is_out_of_range_is_a_failure_in_the_sum_and_no_refusal(statistic: float, loss: float) -> None:
    """The attack: a model scaled until a site refuses finds the site's own values, by halving."""
    encoding = UpdateEncoding(1, 2, 10.0, 1.0)
    broken = Contribution(Update(np.ones(1, np.float32), np.array([1.0, statistic], np.float32), 5.0), 1, 1, loss)
    vector = encoding.encode(broken, rounding_key(1, "a", 1))
    assert vector.wide[-1] == 1 and not vector.wide[:-1].any() and not vector.narrow.any()


@pytest.mark.parametrize("loss", [None, 2.0**33, float("inf"), float("nan")])
def test_an_evaluation_out_of_range_is_counted_and_no_refusal(loss: float | None) -> None:
    encoding = EvaluationEncoding(3)
    whole = Evaluation.of(np.zeros((4, 3), np.float32), np.zeros(4, np.int64))
    vector = encoding.encode(None if loss is None else replace(whole, loss_sum=loss))
    assert vector.wide[-1] == 1 and not vector.wide[:-1].any() and not vector.narrow.any()
    vector.add_(encoding.encode(whole))
    with pytest.raises(TrainingError, match=r"not finite, or out of range, at 1 site\(s\)"):
        encoding.decode(vector)


def test_an_upload_is_no_larger_than_float32() -> None:
    """ResNet-18: 11,170,000 parameters and 9,600 BatchNorm numbers."""
    layout = UpdateEncoding(11_170_000, 9_600, 5000.0, 16.0).layout
    assert layout.nbytes / (4 * (11_170_000 + 9_600)) < 1.001


def test_the_next_range_follows_the_mean_update() -> None:
    assert next_range(np.array([0.01, -0.03], np.float32), 16.0, 0) == 0.25
    assert next_range(np.zeros(2, np.float32), 16.0, 0) == 8.0
    assert next_range(np.array([0.01], np.float32), 0.25, 3) == 16.0


def test_facts_are_exact() -> None:
    encoding = FactsEncoding(classes=3, channels=1)
    facts = [TrainingFacts(np.array([1, 2, 3]), PixelSums(2**40, (2**50 + 1,), (2**55 + 1,)), 7, 6, 1) for _ in range(5)]
    total = RingVector.zeros(encoding.layout)
    for item in facts:
        total.add_(encoding.encode(item))
    decoded = encoding.decode(total)
    assert decoded.class_counts.tolist() == [5, 10, 15] and (decoded.steps, decoded.images, decoded.sites) == (35, 30, 5)
    assert decoded.pixels == PixelSums(5 * 2**40, (5 * (2**50 + 1),), (5 * (2**55 + 1),))


def test_negative_sums_of_noise_come_back() -> None:
    encoding = FactsEncoding(classes=2, channels=1)
    facts = TrainingFacts(np.zeros(2, np.int64), PixelSums(-5, (-7,), (-9,)), 1, 1, 1)
    assert encoding.decode(encoding.encode(facts)).pixels == PixelSums(-5, (-7,), (-9,))


def test_evaluations_add_up_to_the_same_metrics() -> None:
    generator = np.random.default_rng(0)
    encoding, total, plain = EvaluationEncoding(3), None, Evaluation.empty(3)
    for size in SIZES:
        logits = generator.standard_normal((size, 3)).astype(np.float32)
        evaluation = Evaluation.of(logits, generator.integers(0, 3, size))
        plain += evaluation
        vector = encoding.encode(evaluation)
        if total is None:
            total = vector
        else:
            total.add_(vector)
    assert total is not None
    decoded = encoding.decode(total)
    assert np.array_equal(decoded.confusion, plain.confusion) and np.array_equal(decoded.histograms, plain.histograms)
    assert decoded.loss_sum == pytest.approx(plain.loss_sum, abs=1e-5)
