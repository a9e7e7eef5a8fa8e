from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from primia.training.batches import batches, steps_per_epoch


def made(images: int, batch_size: int, first_step: int, steps: int, seed: int = 1, site: str = "a") -> list[NDArray[np.int64]]:
    return list(batches(images, batch_size, seed=seed, site=site, first_step=first_step, steps=steps))


@pytest.mark.parametrize(("images", "steps"), [(1, 1), (32, 1), (33, 2), (64, 2), (65, 3)])
def test_steps_per_epoch_by_hand(images: int, steps: int) -> None:
    assert steps_per_epoch(images, 32) == steps


@given(images=st.integers(1, 200), batch_size=st.integers(1, 40), epoch=st.integers(0, 3))
def test_an_epoch_has_every_image_once_in_near_equal_batches(images: int, batch_size: int, epoch: int) -> None:
    per_epoch = steps_per_epoch(images, batch_size)
    parts = made(images, batch_size, epoch * per_epoch, per_epoch)
    sizes = [len(part) for part in parts]
    assert sorted(np.concatenate(parts)) == list(range(images))
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1


@given(images=st.integers(1, 60), batch_size=st.integers(1, 20), cuts=st.lists(st.integers(1, 15), min_size=1, max_size=4))
def test_rounds_go_on_where_the_last_one_stopped(images: int, batch_size: int, cuts: list[int]) -> None:
    whole = made(images, batch_size, 0, sum(cuts))
    pieces = [part for index, cut in enumerate(cuts) for part in made(images, batch_size, sum(cuts[:index]), cut)]
    assert len(whole) == len(pieces) and all(np.array_equal(a, b) for a, b in zip(whole, pieces, strict=True))


def test_order_differs_between_epochs_sites_and_seeds() -> None:
    orders = {
        tuple(np.concatenate(made(50, 10, first, 5, seed, site)))
        for first, seed, site in [(0, 1, "a"), (5, 1, "a"), (0, 2, "a"), (0, 1, "b")]
    }
    assert len(orders) == 4


def test_the_order_is_the_same_on_every_machine() -> None:
    assert [part.tolist() for part in made(7, 3, 0, 3)] == [[0, 1, 4], [5, 2], [6, 3]]
