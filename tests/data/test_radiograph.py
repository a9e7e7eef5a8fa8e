from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from primia.data.anatomy import Anatomy, lungs
from primia.data.canvas import Grid
from primia.data.radiograph import Style, radiograph

STYLE = Style(exposure=1.1, contrast=1.0, gamma=1.0, noise=0.0, blur=0.5, field_of_view=1.0, marker=(0.05, 0.05))


def shot(finding: str, seed: int, size: int = 64) -> NDArray[np.uint8]:
    return radiograph(Anatomy.draw(np.random.default_rng(seed)), finding, STYLE, np.random.default_rng(seed), size)


def air(size: int = 64) -> tuple[NDArray[np.bool_], Grid]:
    grid = Grid(size, rotation=0.0, zoom=1.0, shift=(0.0, 0.0))
    return lungs(grid, Anatomy.draw(np.random.default_rng(1))).air > 0.9, grid


@pytest.mark.parametrize("size", [8, 64, 100, 224])
@pytest.mark.parametrize("finding", ["normal", "bacterial", "viral"])
def test_any_size_gives_a_full_grey_range(finding: str, size: int) -> None:
    image = shot(finding, 3, size)
    assert image.shape == (size, size) and image.dtype == np.uint8
    assert np.ptp(image) > 120


def test_lungs_are_darker_than_what_lies_between_and_below() -> None:
    mean = np.mean([shot("normal", seed) for seed in range(12)], axis=0)
    inside, grid = air()
    middle, belly = grid.side < 0.06, grid.v > 0.8
    assert mean[inside].mean() < 0.75 * mean[middle].mean()
    assert mean[inside].mean() < 0.85 * mean[belly & (grid.side < 0.5)].mean()


def test_findings_make_lungs_denser_and_bacterial_on_one_side() -> None:
    inside, grid = air()

    def density(finding: str) -> NDArray[np.float64]:
        images = np.stack([shot(finding, seed) for seed in range(24)]).astype(float)
        left, right = images[:, inside & (grid.u < 0)].mean(axis=1), images[:, inside & (grid.u > 0)].mean(axis=1)
        return np.array([(left + right).mean(), np.abs(left - right).mean()])

    normal, bacterial, viral = map(density, ("normal", "bacterial", "viral"))
    assert bacterial[0] > normal[0] + 4 and viral[0] > normal[0] + 4
    assert bacterial[1] > 1.5 * viral[1]


def test_images_of_a_patient_differ_in_pose_only() -> None:
    anatomy = Anatomy.draw(np.random.default_rng(1))
    first, second = (radiograph(anatomy, "normal", STYLE, np.random.default_rng(seed), 64).astype(float) for seed in (1, 2))
    assert not np.array_equal(first, second)
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.8
