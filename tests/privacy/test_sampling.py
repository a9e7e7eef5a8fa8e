from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from primia.privacy.noise import SecureGenerator
from primia.privacy.sampling import Units, micro_batches, poisson_sample


def test_an_image_shows_itself_as_often_as_there_are_views() -> None:
    units = Units.images(3, views=2)
    assert [members.tolist() for members in units.members] == [[0, 0], [1, 1], [2, 2]] and len(units) == 3


def test_images_of_one_name_are_a_unit() -> None:
    units = Units.grouped(["b", "a", "b", "c", "a", "b"])
    assert [members.tolist() for members in units.members] == [[1, 4], [0, 2, 5], [3]]


def test_each_unit_is_drawn_independently_at_the_rate(generator: SecureGenerator) -> None:
    units, rate, draws = Units.images(40), 0.3, 2000
    drawn = np.zeros((draws, 40), bool)
    for row in drawn:
        row[[int(index[0]) for index in poisson_sample(units, rate, generator)]] = True
    deviation = np.sqrt(rate * (1 - rate) / draws)
    assert (np.abs(drawn.mean(0) - rate) < 5 * deviation).all()
    sizes = drawn.sum(1)
    assert sizes.var() == pytest.approx(40 * rate * (1 - rate), rel=0.15), "sizes of samples vary as a binomial's"
    assert stats.binomtest(int((drawn[:, 0] & drawn[:, 1]).sum()), draws, rate**2).pvalue > 1e-5


def test_a_rate_of_one_draws_everything_and_a_small_one_may_draw_nothing(generator: SecureGenerator) -> None:
    units = Units.images(10)
    assert len(poisson_sample(units, 1.0, generator)) == 10
    sizes = [len(poisson_sample(units, 0.01, generator)) for _ in range(200)]
    assert min(sizes) == 0 and max(sizes) > 0


def test_a_patient_shows_some_of_the_images_each_as_often(generator: SecureGenerator) -> None:
    units = Units.grouped(["p"] * 5 + ["q"], views=2)
    seen = np.zeros(6)
    for _ in range(1000):
        first, second = poisson_sample(units, 1.0, generator)
        assert len(set(first)) == 2 and second.tolist() == [5]
        seen[first] += 1
    assert stats.chisquare(seen[:5]).pvalue > 1e-5


def test_micro_batches_keep_units_whole_and_are_of_one_size() -> None:
    shown = [np.array([1, 2]), np.array([3]), np.array([4, 5]), np.array([6, 7, 8, 9]), np.array([11])]
    batches = list(micro_batches(shown, 4))
    assert [batch.index.tolist() for batch in batches] == [[1, 2, 3, 3], [4, 5, 5, 5], [6, 7, 8, 9], [11] * 4]
    assert [batch.owner.tolist() for batch in batches] == [[0, 0, 1, 2], [0, 0, 1, 1], [0] * 4, [0, 1, 1, 1]]
    assert [batch.units for batch in batches] == [2, 1, 1, 1]
    assert list(micro_batches([], 4)) == []


def test_a_unit_larger_than_a_micro_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="a unit of 5 images does not fit into a batch of 4"):
        list(micro_batches([np.arange(5)], 4))
