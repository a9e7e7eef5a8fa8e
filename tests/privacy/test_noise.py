from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from primia.privacy.noise import SecureGenerator

COUNT = 400_001


def test_a_key_repeats_the_stream_and_no_key_does_not() -> None:
    same = [SecureGenerator(bytes(32)) for _ in range(2)]
    assert np.array_equal(same[0].gaussian(1001, 2.0), same[1].gaussian(1001, 2.0))
    assert np.array_equal(same[0].words(7), same[1].words(7))
    assert not np.array_equal(SecureGenerator().words(4), SecureGenerator().words(4))


def test_noise_is_normal_by_a_chi_square_test(generator: SecureGenerator) -> None:
    """200 bins of equal probability, the outermost from 2.6 deviations on: far below a p of 1e-4 only with a wrong distribution."""
    noise = generator.gaussian(COUNT, 3.0)
    edges = 3.0 * stats.norm.ppf(np.linspace(0, 1, 201))
    counts, _ = np.histogram(noise, edges)
    assert counts.sum() == COUNT
    assert stats.chisquare(counts).pvalue > 1e-4


def test_moments_up_to_the_fourth(generator: SecureGenerator) -> None:
    noise = generator.gaussian(COUNT, 1.0).astype(np.float64)
    deviations = np.sqrt(np.array([1, 2, 15, 96]) / COUNT)  # of the means of z, z^2, z^3 and z^4
    moments = np.array([np.mean(noise**power) for power in (1, 2, 3, 4)])
    assert (np.abs(moments - [0, 1, 0, 3]) < 4.5 * deviations).all()


def test_draws_of_one_angle_and_of_neighbouring_places_are_uncorrelated(generator: SecureGenerator) -> None:
    noise = generator.gaussian(2**18, 1.0).reshape(-1, 2, 2**13)
    for first, second in ((noise[:, 0], noise[:, 1]), (noise[..., :-1], noise[..., 1:]), (noise[:-1], noise[1:])):
        for power in (1, 2):
            correlation = np.corrcoef((first**power).ravel(), (second**power).ravel())[0, 1]
            assert abs(correlation) < 5 / np.sqrt(first.size)


@pytest.mark.parametrize("count", [0, 1, 2, 2**14 - 1, 2**14 + 1])
def test_any_count(count: int, generator: SecureGenerator) -> None:
    noise = generator.gaussian(count, 1.0)
    assert noise.shape == (count,) and noise.dtype == np.float32 and np.isfinite(noise).all()
    assert len(np.unique(noise)) >= count - 10, "float32 has some equal values, no part is repeated"
    assert len(np.unique(generator.words(count))) == count


def test_no_deviation_is_no_noise(generator: SecureGenerator) -> None:
    assert not generator.gaussian(5, 0.0).any()


def reached_by_scaling(values: np.ndarray, factor: np.float32) -> np.ndarray:  # type: ignore[type-arg]
    """Which float32 ``values`` are the product of some float32 with ``factor``."""
    near = (values / factor).view(np.int32)
    return np.any([(near + step).view(np.float32) * factor == values for step in range(-2, 3)], axis=0)


@pytest.mark.parametrize("deviation", [0.7, 0.93, 1.1, 1.3])
def test_no_values_are_left_out_whatever_the_deviation(deviation: float, generator: SecureGenerator) -> None:
    """Draws that were summed first and scaled to the deviation then would all be products."""
    factor = np.float32(deviation / 2)
    values = np.arange(np.float32(0.25).view(np.int32), np.float32(2).view(np.int32), 97, dtype=np.int32).view(np.float32)
    noise = np.abs(generator.gaussian(COUNT, deviation))
    noise = noise[(noise >= 0.25) & (noise < 2)]
    assert reached_by_scaling(values * factor, factor).all()
    assert not reached_by_scaling(values, factor).all()
    assert (~reached_by_scaling(noise, factor)).mean() > 0.03


def test_fine_noise_is_normal_and_of_the_deviation(generator: SecureGenerator) -> None:
    noise = generator.fine_gaussian(COUNT, 3.0)
    counts, _ = np.histogram(noise, 3.0 * stats.norm.ppf(np.linspace(0, 1, 201)))
    assert noise.dtype == np.float64 and counts.sum() == COUNT and stats.chisquare(counts).pvalue > 1e-4
    assert np.abs(noise).max() > 3.0 * 4
    assert not generator.fine_gaussian(5, 0.0).any()


def test_fine_noise_ends_at_nine_deviations(monkeypatch: pytest.MonkeyPatch, generator: SecureGenerator) -> None:
    """The words nearest to either end of the tail, with both signs: never infinite, never more than half."""
    words = np.array([0, 1, 2**64 - 2, 2**64 - 1], np.uint64)
    monkeypatch.setattr(generator, "words", lambda count: words)
    np.testing.assert_allclose(generator.fine_gaussian(4, 2.0), [18.3106, -18.3106, 0, 0], atol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_low_bits_of_rounded_fine_noise_are_uniform(bits: int, generator: SecureGenerator) -> None:
    """Also far out: float32 noise of this size would be all multiples of 8 from 8 deviations in 2^24 on."""
    rounded = np.rint(generator.fine_gaussian(COUNT, 2.0**27)).astype(np.int64)
    for part in (rounded, rounded[np.abs(rounded) > 2**28]):
        counts = np.bincount(part & (2**bits - 1), minlength=2**bits)
        assert len(part) > 10_000 and stats.chisquare(counts).pvalue > 1e-4


def test_words_are_uniform(generator: SecureGenerator) -> None:
    words = generator.words(COUNT)
    for shift in (56, 0):
        counts = np.bincount((words >> np.uint64(shift) & np.uint64(255)).astype(int), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4
