from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.federation.encoding import UpdateEncoding, ring_step
from primia.federation.messages import Contribution
from primia.federation.update import Update
from primia.privacy.accounting import epsilon
from primia.privacy.grid import grid_step
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
    clipped = clip_update(update, 0.5, 3)
    assert clipped is update and 0.5 * (1 - 2e-3) < norm(update) <= 0.5
    assert np.dot(update, direction) / norm(update) / norm(direction) == pytest.approx(1.0, rel=1e-4)


def test_a_small_update_is_left_as_it_is_on_the_grid() -> None:
    update = np.array([0.3, -0.4], np.float32)
    clipped = clip_update(update.copy(), 1.0, 3) * 2**20
    assert clipped.tolist() == np.trunc(update * 2**20).tolist() == [314572, -419430]


numbers = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)


@settings(max_examples=200, deadline=None)
@given(
    entries=st.lists(numbers, min_size=1, max_size=40),
    repeat=st.sampled_from([1, 3000]),
    clip=st.floats(1e-6, 1e6),
    sites=st.integers(1, 1100),
)
def test_whatever_an_update_is_its_norm_on_the_grid_is_within_the_clip(entries: list[float], repeat: int, clip: float, sites: int) -> None:
    """Exactly: the sum of the squares of its whole steps. It goes through the ring of secure aggregation unchanged."""
    update = clip_update(np.tile(np.array(entries, np.float32), repeat), clip, sites)
    step = grid_step(clip, sites)
    steps = [int(value) for value in update.astype(np.float64) / step]
    assert (np.array(steps) * step == update).all()
    assert sum(value**2 for value in steps) * step**2 <= clip**2
    encoded = UpdateEncoding(len(update), 0, float(sites), clip).encode(
        Contribution(Update(update, np.zeros(0, np.float32), 1.0), 1, 1, 0.0), bytes(16)
    )
    assert (encoded.narrow.view(np.int32) * ring_step(clip, sites) == update).all()


def test_the_roundings_of_norm_factor_and_product_lift_no_entry_by_a_step() -> None:
    """Three equal entries that are a whole number of steps but for a hair, so that rounding to nearest would reach it."""
    draws = np.random.Generator(np.random.Philox(4))
    for whole, value in zip(draws.integers(620_000, 1_200_000, 200).tolist(), draws.uniform(1.5, 3.0, 200).tolist(), strict=True):
        clip = float(np.nextafter(whole * 3**0.5 * 2.0**-20, 0.0))
        steps = clip_update(np.full(3, value, np.float32), clip, 3) / np.float32(grid_step(clip, 3))
        assert sum(int(entry) ** 2 for entry in steps) * Fraction(grid_step(clip, 3)) ** 2 <= Fraction(clip) ** 2


def test_one_site_more_changes_the_sum_by_no_more_than_the_clip_exactly() -> None:
    """The attack: sums in float32 round, by another amount with a site more. On the grid nothing rounds."""
    rng = np.random.Generator(np.random.Philox(5))
    sites, clip = 8, 1.0
    updates = [clip_update((10.0 ** rng.uniform(-6, 6) * rng.standard_normal(1000)).astype(np.float32), clip, sites) for _ in range(sites)]
    for order in (range(sites), reversed(range(sites))):
        total = np.zeros(1000, np.float32)
        for site in order:
            total += updates[site]
        exact = np.sum([update.astype(np.float64) for update in updates], axis=0)
        assert np.array_equal(total.astype(np.float64), exact)


def test_every_noised_sum_is_reachable_with_and_without_a_site() -> None:
    """The attack on noise in floating point: is there a noise with which this sum gives this output? Here there always is."""
    sites, clip, step = 3, 1.0, grid_step(1.0, 3)
    one, other = (np.array([value], np.float32) for value in (0.3, -0.7))
    sums = [clip_update(one.copy(), clip, sites), clip_update(one.copy(), clip, sites) + clip_update(other.copy(), clip, sites)]
    for total in sums:
        outputs = np.array([noise_sum(total.copy(), 1e-3, clip, sites, SecureGenerator())[0] for _ in range(200)], np.float64)
        for candidate in sums:
            noise = (outputs - candidate.astype(np.float64)) / step
            assert np.array_equal(noise, np.rint(noise))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_is_not_finite_becomes_zero(value: float) -> None:
    assert not clip_update(np.array([1.0, value], np.float32), 1.0, 3).any()


def test_noise_has_the_stated_deviation_and_is_added_in_place(generator: SecureGenerator) -> None:
    total = np.full(200_000, 5.0, np.float32)
    assert noise_sum(total, 2.0, 0.25, 3, generator) is total
    assert total.mean() == pytest.approx(5.0, abs=0.01) and total.std() == pytest.approx(0.5, rel=0.01)


def test_every_round_counts_in_full() -> None:
    # Ten rounds at 4 are one at 4 / sqrt(10).
    assert epsilon([Spend(4.0, 1.0, 10)], 1e-3, "prv") == pytest.approx(epsilon([Spend(4 / 10**0.5, 1.0, 1)], 1e-3, "prv"))
