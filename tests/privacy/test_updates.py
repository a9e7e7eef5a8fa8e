from __future__ import annotations

import numpy as np
import pytest

from primia.privacy.accounting import epsilon
from primia.privacy.noise import SecureGenerator
from primia.privacy.spend import Spend
from primia.privacy.updates import clip_update, noise_sum


def norm(vector: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.linalg.norm(vector.astype(np.float64)))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e8, 1e25])
def test_a_large_update_is_scaled_to_just_below_the_clip_in_place(scale: float) -> None:
    rng = np.random.Generator(np.random.Philox(1))
    update = (scale * rng.standard_normal(2**20 + 3)).astype(np.float32)
    direction = update / np.float32(scale)
    clipped = clip_update(update, 0.5)
    assert clipped is update and 0.5 * (1 - 1e-5) < norm(update) <= 0.5
    assert np.dot(update, direction) / norm(update) / norm(direction) == pytest.approx(1.0, rel=1e-4)


def test_a_small_update_is_left_as_it_is() -> None:
    update = np.array([0.3, -0.4], np.float32)
    assert clip_update(update.copy(), 1.0).tolist() == update.tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_is_not_finite_becomes_zero(value: float) -> None:
    assert not clip_update(np.array([1.0, value], np.float32), 1.0).any()


def test_noise_has_the_stated_deviation_and_is_added_in_place(generator: SecureGenerator) -> None:
    total = np.full(200_000, 5.0, np.float32)
    assert noise_sum(total, 2.0, 0.25, generator) is total
    assert total.mean() == pytest.approx(5.0, abs=0.01) and total.std() == pytest.approx(0.5, rel=0.01)


def test_every_round_counts_in_full() -> None:
    # Ten rounds at 4 are one at 4 / sqrt(10).
    assert epsilon([Spend(4.0, 1.0, 10)], 1e-3, "prv") == pytest.approx(epsilon([Spend(4 / 10**0.5, 1.0, 1)], 1e-3, "prv"))
