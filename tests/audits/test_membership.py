from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F

from primia.audits.membership import ShadowScores, confidences, likelihood_ratio, loss_threshold, outlier_score
from primia.audits.roc import area
from primia.data.statistics import Normalisation


class Pixels:
    """Images of 2 x 2 pixels; the first three are the logits that ``Reader`` gives."""

    def __init__(self, images: int) -> None:
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (images, 1, 2, 2)).astype(np.uint8)
        self.labels = rng.integers(0, 3, images)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices):
        return self.pixels[indices]


class Reader(nn.Module):
    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, images):
        return self.gain * images.flatten(1)[:, :3]


def test_confidence_is_the_logit_of_the_true_class_and_its_loss_threshold_minus_the_loss():
    data, normalisation = Pixels(300), Normalisation((0.5,), (0.25,))
    scores = confidences(Reader(), data, normalisation)
    logits = torch.from_numpy((data.pixels / 255 - 0.5) / 0.25).flatten(1)[:, :3]
    p = logits.softmax(1).numpy()[np.arange(300), data.labels]
    assert np.allclose(scores, np.log(p / (1 - p)), atol=1e-4)
    assert np.allclose(loss_threshold(scores), -F.cross_entropy(logits, torch.from_numpy(data.labels), reduction="none"), atol=1e-4)


def test_a_model_that_is_very_sure_overflows_nothing():
    assert np.isfinite(confidences(Reader(1e6), Pixels(20), Normalisation((0.0,), (1.0,)))).all()


@pytest.fixture
def game():
    """Each image has a difficulty of its own, and being trained on adds 1 to its score under any model; noise is 1."""
    rng = np.random.default_rng(0)
    images, shadows = 4000, 32
    difficulty = rng.normal(0, 4, images)
    trained_on = rng.random((shadows, images)).argsort(0) < shadows // 2
    values = difficulty + trained_on + rng.normal(0, 1, (shadows, images))
    member = np.arange(images) < images // 2
    return difficulty + member + rng.normal(0, 1, images), member, ShadowScores(values, trained_on)


def test_likelihood_ratios_know_how_hard_each_image_is_and_the_loss_does_not(game):
    confidence, member, shadows = game
    areas = {
        attack.__name__: area((score := attack(confidence, shadows))[member], score[~member])
        for attack in (likelihood_ratio, outlier_score)
    }
    plain = loss_threshold(confidence)
    best = norm.cdf(1 / np.sqrt(2))
    assert area(plain[member], plain[~member]) < 0.6
    assert best - 0.05 < areas["likelihood_ratio"] < best + 0.02
    assert best - 0.05 < areas["outlier_score"] < best + 0.02


def test_scores_are_the_papers_formulas_with_one_deviation_for_all_images(game):
    confidence, _, shadows = game
    inside = np.where(shadows.trained_on, shadows.values, np.nan)
    outside = np.where(shadows.trained_on, np.nan, shadows.values)
    deviations = [np.sqrt(np.nanvar(values, axis=0, ddof=1).mean()) for values in (inside, outside)]
    means = [np.nanmean(values, axis=0) for values in (inside, outside)]
    online = norm.logpdf(confidence, means[0], deviations[0]) - norm.logpdf(confidence, means[1], deviations[1])
    assert np.allclose(likelihood_ratio(confidence, shadows), online)
    assert np.allclose(outlier_score(confidence, shadows), (confidence - means[1]) / deviations[1])
