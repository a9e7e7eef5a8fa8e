from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from primia.data.statistics import PixelSums, pixel_sums


class Memory:
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images
        self.labels = np.zeros(len(images), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.images[indices]


def images(count: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, channels, 5, 7), dtype=np.uint8)


def test_sums_over_chunks_are_numpys_over_all() -> None:
    data = images(600)
    normalisation = pixel_sums(Memory(data)).normalisation()
    assert normalisation.mean == pytest.approx((data / 255).mean(axis=(0, 2, 3)), rel=1e-12)
    assert normalisation.std == pytest.approx((data / 255).std(axis=(0, 2, 3)), rel=1e-12)


@given(st.integers(1, 39))
def test_sites_add_up_to_the_pool_exactly(cut: int) -> None:
    data = images(40)
    assert pixel_sums(Memory(data[:cut])) + pixel_sums(Memory(data[cut:])) == pixel_sums(Memory(data))


def test_zero_adds_nothing() -> None:
    sums = PixelSums.of(images(2))
    assert PixelSums.zero(3) + sums == sums


def test_white_pixels_overflow_nothing() -> None:
    sums = PixelSums.of(np.full((2, 1, 300, 300), 255, dtype=np.uint8))
    assert sums == PixelSums(180000, (180000 * 255,), (180000 * 255**2,))


def test_constant_images_can_be_divided_by_their_deviation() -> None:
    normalisation = PixelSums.of(np.full((1, 1, 4, 4), 51, dtype=np.uint8)).normalisation()
    assert normalisation.mean == pytest.approx((0.2,))
    assert normalisation.std == pytest.approx((1 / 255,))
