from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from primia.audits.views import masked, mean_of, noised


def gradient(scale: float = 1.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(scale * torch.randn(shape, generator=generator) for shape in ((40, 50), (50,)))


def flat(parts) -> np.ndarray:
    return torch.cat([part.flatten() for part in parts]).double().numpy()


def test_a_masked_message_is_uniform_whatever_it_hides():
    for scale in (0.0, 1.0, 100.0):
        seen = flat(masked(gradient(scale), largest=16.0, parties=3).gradient)
        assert kstest(seen / (16.0 * 3), "uniform", (-1, 2)).pvalue > 1e-4
        assert abs(np.corrcoef(seen, flat(gradient()))[0, 1]) < 0.1


def test_a_mask_is_used_once():
    assert not np.array_equal(
        flat(masked(gradient(), largest=16.0, parties=3).gradient), flat(masked(gradient(), largest=16.0, parties=3).gradient)
    )


def test_without_its_mask_the_message_is_the_gradient(monkeypatch):
    monkeypatch.setattr("primia.audits.views.os.urandom", bytes)
    seen = masked(gradient(), largest=16.0, parties=3).gradient
    assert [part.shape for part in seen] == [(40, 50), (50,)]
    assert np.allclose(flat(seen), flat(gradient()), atol=1e-6)


def test_the_sum_is_seen_as_the_mean_over_sites():
    seen = mean_of([gradient(1.0), gradient(2.0), gradient(6.0)]).gradient
    assert np.allclose(flat(seen), 3 * flat(gradient()), atol=1e-5)


@pytest.mark.parametrize("scale, length", [(1.0, 2.0), (1e-4, None)])
def test_long_gradients_are_clipped_and_short_ones_left(scale, length):
    seen = noised(gradient(scale), clip=2.0, noise_multiplier=0.0, generator=torch.Generator())
    assert np.linalg.norm(flat(seen.gradient)) == pytest.approx(length or np.linalg.norm(flat(gradient(scale))), rel=1e-5)


def test_the_noise_has_its_deviation_and_follows_from_the_generator():
    seen = [noised(gradient(0.0), clip=2.0, noise_multiplier=1.5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    first, again, other = (flat(view.gradient) for view in seen)
    assert np.std(first) == pytest.approx(3.0, rel=0.05)
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_gradient_of_zero_is_noised_too():
    assert np.isfinite(flat(noised(gradient(0.0), clip=1.0, noise_multiplier=1.0, generator=torch.Generator()).gradient)).all()
