from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from primia.data.shard import Dataset
from primia.data.statistics import pixel_sums
from primia.privacy.noise import SecureGenerator
from primia.privacy.sampling import Units
from primia.privacy.statistics import FRACTION_BITS, noisy_sums, normalisation_of, public_normalisation, sensitivity

MakeData = Callable[..., Dataset]


class Constant:
    """Images of one value."""

    def __init__(self, *values: int, channels: int = 1) -> None:
        self.labels = np.zeros(len(values), np.int64)
        self._images = np.array(values, np.uint8)[:, None, None, None].repeat(channels, 1).repeat(4, 2).repeat(4, 3)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return self._images[indices]


def sums(data: Dataset, units: Units, noise: float = 0.0) -> np.ndarray:  # type: ignore[type-arg]
    return noisy_sums(data, units, noise, SecureGenerator(bytes(32)))


def test_public_statistics_are_constants() -> None:
    assert public_normalisation(2).mean == (0.5, 0.5) and public_normalisation(2).std == (0.25, 0.25)


@pytest.mark.parametrize("channels", [1, 3])
def test_without_noise_they_are_the_exact_ones(channels: int, make_data: MakeData) -> None:
    data = make_data(300, channels=channels)
    ours, exact = normalisation_of(sums(data, Units.images(300))), pixel_sums(data).normalisation()
    np.testing.assert_allclose(ours.mean, exact.mean, atol=1e-5)
    np.testing.assert_allclose(ours.std, exact.std, atol=1e-5)


def test_sums_of_sites_add_up(make_data: MakeData) -> None:
    data = make_data(40)
    halves = [sums(data, Units(Units.images(40).members[part], 1)) for part in (slice(20), slice(20, None))]
    assert np.array_equal(halves[0] + halves[1], sums(data, Units.images(40))) and halves[0].dtype == np.int64


def test_a_patient_counts_once_whatever_the_number_of_images() -> None:
    data = Constant(0, 0, 0, 255)
    by_patient = normalisation_of(sums(data, Units.grouped(["a", "a", "a", "b"])))
    assert by_patient.mean[0] == pytest.approx(0.5) and by_patient.std[0] == pytest.approx(0.5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [0, 100, 255])
def test_no_unit_adds_more_than_the_sensitivity(value: int, channels: int) -> None:
    data = Constant(50, value, channels=channels)
    units = Units.images(2)
    change = (sums(data, units) - sums(data, Units(units.members[:1], 1))) / 2.0**FRACTION_BITS
    bound = sensitivity(channels)
    assert np.linalg.norm(change) <= bound
    if value == 255:
        assert np.linalg.norm(change) == pytest.approx(bound)


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_is_of_the_stated_size(make_data: MakeData, generator: SecureGenerator, channels: int) -> None:
    data, units = make_data(3, channels=channels), Units.images(3)
    exact = sums(data, units)
    noise = np.array([noisy_sums(data, units, 10.0, generator) - exact for _ in range(2000)]) / 2.0**FRACTION_BITS
    assert sensitivity(1) == np.sqrt(1.5) and sensitivity(3) == np.sqrt(2.5)
    np.testing.assert_allclose(noise.std(0), 10.0 * sensitivity(channels), rtol=0.07)
    assert np.abs(noise.mean(0)).max() < 5 * 10.0 * sensitivity(channels) / np.sqrt(2000)


@pytest.mark.parametrize("least", [16, 32])
def test_the_low_bits_of_large_noise_are_random_too(least: int, make_data: MakeData, generator: SecureGenerator) -> None:
    """In float32 noise from 16 on has steps of 2 of our integers, and from 32 on of 4: the sums' own low bits would be seen."""
    data, units = make_data(3), Units.images(3)
    exact = sums(data, units)
    noise = np.concatenate([noisy_sums(data, units, 20.0, generator) - exact for _ in range(1000)])
    large = noise[np.abs(noise) >= least * 2.0**FRACTION_BITS]
    shares = np.bincount(large & 3, minlength=4) / len(large)
    assert len(large) > 500 and (np.abs(shares - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / len(large))).all()


def test_useful_on_a_federation_and_within_bounds_where_noise_prevails(make_data: MakeData) -> None:
    data = make_data(2000)
    noisy, exact = normalisation_of(sums(data, Units.images(2000), 10.0)), pixel_sums(data).normalisation()
    assert abs(noisy.mean[0] - exact.mean[0]) < 0.05 and abs(noisy.std[0] / exact.std[0] - 1) < 0.3
    for values in ([-(2**24), 2**24, -(2**24)], [2**20, -(2**22), 2**22], [0, 0, 0]):
        spoilt = normalisation_of(np.array(values, np.int64))
        assert 0 <= spoilt.mean[0] <= 1 and 0.05 <= spoilt.std[0] <= 0.5
