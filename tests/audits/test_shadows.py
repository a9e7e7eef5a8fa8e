from __future__ import annotations

import numpy as np
import pytest

from primia.audits.membership import likelihood_ratio, loss_threshold
from primia.audits.roc import area
from primia.audits.shadows import Subset, deal_halves, train_shadows
from primia.config.settings import AugmentationSettings, ModelSettings, TrainingSettings
from primia.data.statistics import Normalisation
from primia.training.learner import LearnerSpec

NORMALISATION = Normalisation((0.5,), (0.29,))


class Noise:
    """Random pixels with random labels: all that can be learnt of them is by heart."""

    def __init__(self, images: int) -> None:
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (images, 1, 8, 8)).astype(np.uint8)
        self.labels = rng.integers(0, 2, images)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices):
        return self.pixels[indices]


@pytest.fixture
def spec() -> LearnerSpec:
    return LearnerSpec(
        model=ModelSettings(normalisation="group"),
        training=TrainingSettings(batch_size=16, learning_rate=5e-3),
        augmentation=AugmentationSettings(**dict.fromkeys(AugmentationSettings.model_fields, 0.0)),
        proximal_mu=0.0,
        precision="float32",
        device="cpu",
        classes=("a", "b"),
        channels=1,
        image_size=8,
        seed=1,
        class_weights=None,
    )


def test_every_image_goes_to_half_of_the_shadows_and_every_shadow_gets_about_half_of_the_images():
    dealt = deal_halves(1000, 6, seed=1)
    assert dealt.shape == (6, 1000)
    assert set(dealt.sum(axis=0)) == {3}
    assert (abs(dealt.sum(axis=1) - 500) < 80).all()
    assert np.array_equal(dealt, deal_halves(1000, 6, seed=1)) and not np.array_equal(dealt, deal_halves(1000, 6, seed=2))


def test_a_subset_gives_the_chosen_images():
    data = Noise(20)
    subset = Subset(data, np.array([3, 5, 8]))
    assert len(subset) == 3 and np.array_equal(subset.labels, data.labels[[3, 5, 8]])
    assert np.array_equal(subset.gather(np.array([2, 0])), data.pixels[[8, 3]])


def test_shadows_that_learn_by_heart_give_their_images_away(spec):
    """Each shadow plays the run's model once, and the others are the attacker's; the mean, since kernels decide a single one."""
    data, told = Noise(96), []
    shadows = train_shadows(spec, data, NORMALISATION, shadows=4, epochs=60, seed=1, threads=2, on_progress=lambda *at: told.append(at))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    losses, ratios = [], []
    for played in range(4):
        confidence, member = shadows.values[played], shadows.trained_on[played]
        others = np.arange(4) != played
        usable = shadows.trained_on[others].any(axis=0) & ~shadows.trained_on[others].all(axis=0)
        losses.append(area(loss_threshold(confidence)[member], loss_threshold(confidence)[~member]))
        known = type(shadows)(shadows.values[others][:, usable], shadows.trained_on[others][:, usable])
        score = likelihood_ratio(confidence[usable], known)
        ratios.append(area(score[member[usable]], score[~member[usable]]))
    assert np.mean(losses) > 0.8 and np.mean(ratios) > 0.7, (losses, ratios)


def test_shadows_follow_from_the_seed(spec):
    data = Noise(32)
    first, again = (
        train_shadows(spec, data, NORMALISATION, shadows=2, epochs=1, seed=3, threads=2, on_progress=lambda *at: None).values
        for _ in range(2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
