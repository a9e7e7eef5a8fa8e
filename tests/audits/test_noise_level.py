from __future__ import annotations

import pytest

from primia.audits.noise_level import NoiseLevel, noise_level
from primia.privacy.accounting import Spend, epsilon

GROUP = {"normalisation": "group"}


def test_a_run_without_noise_is_tried_with_that_of_epsilon_eight(subject):
    level = noise_level(subject)
    images = min(subject.site_images)
    assert (level.epsilon, level.of_run, level.clip) == (8.0, False, 1.0)
    steps = subject.epochs * -(-images // 4)
    assert epsilon([Spend(level.multiplier, 4 / images, steps)], 1 / images, "rdp") == pytest.approx(8.0, rel=0.05)


def test_the_runs_own_noise_and_clip_are_taken(make_subject):
    privacy = {"unit": "image", "noise_multiplier": 1.25, "clip": 0.5}
    subject = make_subject(model=GROUP, privacy=privacy, spent={"sites": {"a": {"epsilon": 2.0, "delta": 0.01}}})
    assert noise_level(subject) == NoiseLevel(1.25, 0.5, 2.0, True)


def test_a_smaller_target_means_more_noise(make_subject, subject):
    level = noise_level(make_subject(model=GROUP, privacy={"unit": "image", "target_epsilon": 1.0}))
    assert (level.epsilon, level.of_run) == (1.0, True)
    assert level.multiplier > 2 * noise_level(subject).multiplier
