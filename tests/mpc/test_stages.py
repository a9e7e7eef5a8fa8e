from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from primia.mpc.program import INPUT, Layer, Program, Term, comparisons
from primia.mpc.ring import Ring, Window
from primia.mpc.stages import Stage, walk

WINDOWS = [
    None,
    Window((2, 2), (2, 2), (0, 0)),
    Window((3, 3), (2, 2), (1, 1)),
    Window((3, 2), (1, 2), (1, 0)),
    Window((1, 4), (1, 3), (0, 2)),
    Window((5, 1), (2, 1), (2, 0)),
    Window((5, 7), (3, 1), (0, 3)),
    Window((1, 1), (2, 2), (0, 0)),
]


def layer_of(pool: Window | None) -> Layer:
    return Layer("a", (Term(INPUT, Window((1, 1), (1, 1), (0, 0))),), "a.out", (3, 9, 8), 4, comparison_bits=9, pool=pool, pool_bits=10)


def walked(layer: Layer, values: Ring) -> tuple[list[Stage], Ring]:
    """The stages, each answered with plain integers, and what comes out."""
    stages, seen = walk(layer, values, np.uint64(2**64 - 1)), []
    stage = next(stages)
    while True:
        seen.append(stage)
        positive = np.where(stage.values.view(np.int64) >= 0, stage.values, np.uint64(0))
        try:
            stage = stages.send(stage.base + positive if stage.kind == "max" else positive)
        except StopIteration as end:
            return seen, end.value


@pytest.mark.parametrize("pool", WINDOWS, ids=str)
def test_a_walk_makes_maxima_and_rectifies(pool: Window | None) -> None:
    values = np.random.default_rng(0).integers(-100, 100, (3, 2, 9, 8))
    _, output = walked(layer_of(pool), values.view(np.uint64))
    due = torch.from_numpy(values).double().clamp_min(0)  # padding with zeros is right because of ReLU
    if pool:
        due = F.pad(due, (pool.padding[1],) * 2 + (pool.padding[0],) * 2).unfold(2, pool.kernel[0], pool.stride[0])
        due = due.unfold(3, pool.kernel[1], pool.stride[1]).amax((-1, -2))
    assert np.array_equal(output.view(np.int64), due.numpy())


@pytest.mark.parametrize("pool", WINDOWS, ids=str)
def test_a_walk_has_the_stages_that_the_program_counts(pool: Window | None) -> None:
    layer = layer_of(pool)
    images = 2
    stages, _ = walked(layer, np.zeros((3, images, 9, 8), np.uint64))
    assert [(stage.size, stage.bits, stage.kind) for stage in stages] == [(images * c.size, c.bits, c.kind) for c in comparisons(layer)]
    assert [stage.number for stage in stages] == list(range(len(stages)))
    assert [stage.entries for stage in stages] == [2] * (len(stages) - 1) + [4]
    assert Program(32, 4, (3, 9, 8), (layer,)).costs().comparisons == sum(stage.size for stage in stages) // images


def test_differences_are_reduced() -> None:
    values = np.zeros((3, 1, 9, 8), np.uint32)
    values[..., 0] = 1
    stage = next(walk(layer_of(WINDOWS[1]), values, np.uint32(2**20 - 1)))
    assert set(np.unique(stage.values)) == {0, 2**20 - 1}
