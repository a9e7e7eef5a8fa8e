from __future__ import annotations

import math

import numpy as np
import pytest

from primia.privacy.grid import grid_step


@pytest.mark.parametrize("clip", [1e-6, 0.1, 0.5, 1.0, 1.9999999, 3.0, 1e6])
def test_the_step_is_a_power_of_two_near_the_clip_over_2_to_the_20(clip: float) -> None:
    step = grid_step(clip)
    assert math.log2(step).is_integer() and 2**20 <= clip / step < 2**21


@pytest.mark.parametrize("summands", [1, 3, 8, 9, 100, 1024])
def test_float32_adds_as_many_of_the_largest_entries_exactly(summands: int) -> None:
    clip = 1.9999999
    step = grid_step(clip, summands)
    entry = np.float32(math.floor(clip / step) * step)
    total = np.float32(0)
    for _ in range(summands):
        total += entry
    assert float(total) == summands * float(entry)
