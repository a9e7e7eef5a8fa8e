from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from primia.mpc.oracle import Oracle, batch_rounding, random_rounding
from primia.mpc.program import INPUT, Layer, Program, Term
from primia.mpc.ring import Ring, Window, encode, signed
from primia.mpc.workers import Workers

ONE = Window((1, 1), (1, 1), (0, 0))


def constant(value: int) -> Any:
    return lambda index, layer, shape: np.full(shape, value, np.uint64)


def test_it_is_the_network_but_for_rounding(kit: SimpleNamespace) -> None:
    program = kit.program("residual")
    weights, biases = kit.random_weights(program)
    images = kit.encoded_images(program, 3)

    def real(values: Ring, fraction: int) -> torch.Tensor:
        return torch.from_numpy(signed(values, program.bits) / 2.0**fraction)

    def conv(maps: torch.Tensor, layer: int, term: int, size: int, **options: int) -> torch.Tensor:
        return F.conv2d(maps, real(weights[layer][term], 12).reshape(-1, maps.shape[1], size, size), **options)

    def biased(maps: torch.Tensor, layer: int) -> torch.Tensor:
        return maps + real(biases[layer], 22).view(1, -1, 1, 1)

    x = real(images, 10).transpose(0, 1)
    a = biased(conv(x, 0, 0, 3, padding=1), 0).relu()
    b = biased(conv(a, 1, 0, 3, padding=1) + a, 1).relu()
    c = biased(conv(b, 2, 0, 3, padding=1, stride=2) + conv(a, 2, 1, 1, stride=2), 2).relu()
    expected = biased(conv(c, 3, 0, 3), 3).flatten(1).numpy()
    found = Oracle(program, weights, biases, Workers(1)).run(images, random_rounding(bytes(16)))
    assert np.abs(found.outputs - expected).max() < 0.03 < np.abs(expected).max()


def identity(value: int) -> tuple[Oracle, Ring]:
    """A pixel times 2^-4, and its oracle: twelve bits are dropped of the pixel times 2^8."""
    layers = (
        Layer("a", (Term(INPUT, ONE),), "a.out", (1, 1, 1), 12, comparison_bits=15),
        Layer("head", (Term("a.out", ONE),), "result", (1, 1, 1), 12, last=True),
    )
    matrices = [[np.full((1, 1), weight, np.uint32)] for weight in (2**8, 2**12)]
    program = Program(32, 10, (1, 1, 1), layers)
    return Oracle(program, matrices, [np.zeros(1, np.uint32)] * 2, Workers(1)), encode(np.full((1, 1, 1, 1), value), 0, 32)


@pytest.mark.parametrize(("rounding", "due"), [(0, 6), (2**12 - 1 - 2**8 * 4, 6), (2**12 - 2**8 * 4, 7), (2**12 - 1, 7)])
def test_values_are_rounded_down_after_the_rounding_is_added(rounding: int, due: int) -> None:
    oracle, pixel = identity(16 * 6 + 4)
    assert oracle.run(pixel, constant(rounding)).outputs.item() * 2**10 == due


def test_negative_values_become_zero() -> None:
    oracle, pixel = identity(-16)
    assert oracle.run(pixel, constant(2**12 - 1)).outputs.item() == 0


@pytest.mark.parametrize(
    "make", [lambda program: batch_rounding(program, bytes(16), bytes(range(16))), lambda _: random_rounding(bytes(16))]
)
def test_rounding_is_uniform_below_the_weights_fraction(kit: SimpleNamespace, make: Any) -> None:
    program = kit.program("relu")
    values = make(program)(0, program.layers[0], (100_000,))
    assert values.max() < 2**12
    kit.assert_uniform((values >> np.uint64(4)).astype(np.uint8), "high bits")
    kit.assert_uniform((values & np.uint64(255)).astype(np.uint8), "low bits")
