from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from primia.audits.similarity import Similarity, correlation, mean_similarity, similarity


def smooth(seed: int, side: int = 32) -> torch.Tensor:
    small = torch.rand(1, 1, side // 4, side // 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(small, size=(side, side), mode="bilinear")


def test_the_same_picture_has_ssim_one_and_the_largest_psnr():
    assert similarity(smooth(1), smooth(1)) == Similarity(pytest.approx(1.0), 99.0)


def test_psnr_is_that_of_the_mean_square_error():
    grey = torch.full((1, 1, 32, 32), 0.5)
    assert similarity(grey + 0.1, grey).psnr == pytest.approx(20.0, abs=1e-3)


def test_ssim_is_that_of_its_formula_on_constant_pictures():
    a, b, c1 = 0.25, 0.75, 0.01**2
    pictures = (torch.full((1, 1, 32, 32), value) for value in (a, b))
    assert similarity(*pictures).ssim == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-3)


def test_noise_is_unlike_a_picture_and_a_disturbed_picture_is_in_between():
    original = smooth(1)
    noise = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    disturbed = (original + 0.1 * (noise - 0.5)).clamp(0, 1)
    assert similarity(noise, original).ssim < 0.1 < 0.5 < similarity(disturbed, original).ssim < 1.0


@pytest.mark.parametrize("side", [8, 12, 16])
def test_pictures_smaller_than_the_window_have_a_value(side):
    assert similarity(smooth(1, side), smooth(1, side)).ssim == pytest.approx(1.0)


def test_the_mean_is_of_both():
    assert mean_similarity([Similarity(0.0, 10.0), Similarity(0.5, 30.0)]) == Similarity(0.25, 20.0)


def test_correlation_knows_no_contrast_and_a_flat_picture_is_like_none():
    original = smooth(1)
    assert correlation(0.1 * original + 0.4, original) == pytest.approx(1.0, abs=1e-4)
    assert correlation(1 - original, original) == pytest.approx(-1.0, abs=1e-4)
    assert correlation(torch.full_like(original, 0.5), original) == pytest.approx(0.0, abs=1e-3)
    assert abs(correlation(smooth(2), original)) < 0.6
