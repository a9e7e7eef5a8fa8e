from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from primia.mpc.ring import (
    Window,
    columns_of,
    convolve,
    dtype_of,
    encode,
    matmul,
    pack,
    packed_bytes,
    repeat,
    signed,
    spread,
    sum_windows,
    unpack,
    window_parts,
)
from primia.mpc.workers import Workers

RNG = np.random.default_rng(0)


def uniform(shape: tuple[int, ...], bits: int) -> np.ndarray:
    return RNG.integers(0, 2**bits, shape, dtype=np.uint64).astype(dtype_of(bits))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 7), (16, 130, 600), (70, 9, 5), (64, 36, 1300)])
def test_products_wrap_exactly(shape: tuple[int, int, int], threads: int, bits: int) -> None:
    m, k, n = shape
    left, right = (RNG.integers(0, 2**bits, s, dtype=np.uint64).astype(dtype_of(bits)) for s in ((m, k), (k, n)))
    expected = (left.astype(object) @ right.astype(object)) % 2**bits
    assert np.array_equal(matmul(left, right, Workers(threads))[:m].astype(object), expected)


@pytest.mark.parametrize(
    "window",
    [
        Window((3, 3), (1, 1), (1, 1)),
        Window((7, 7), (2, 2), (3, 3)),
        Window((1, 1), (2, 2), (0, 0)),
        Window((1, 1), (1, 1), (0, 0)),
        Window((2, 3), (3, 1), (0, 2)),
        Window((9, 8), (1, 1), (0, 0)),
    ],
)
def test_convolutions_and_sums_are_torchs(window: Window) -> None:
    maps = RNG.integers(-1000, 1000, (3, 2, 9, 8))
    weights = RNG.integers(-1000, 1000, (5, 3, *window.kernel))
    torch_maps = torch.from_numpy(maps.transpose(1, 0, 2, 3).copy()).double()
    expected = F.conv2d(torch_maps, torch.from_numpy(weights).double(), stride=window.stride, padding=window.padding)
    ours = convolve(maps.astype(np.uint32), weights.reshape(5, -1).astype(np.uint32), window, Workers())
    assert np.array_equal(signed(ours, 32), expected.numpy().transpose(1, 0, 2, 3).astype(np.int64))
    ones = torch.ones(3, 1, *window.kernel).double()
    sums = F.conv2d(torch_maps, ones, stride=window.stride, padding=window.padding, groups=3)
    assert np.array_equal(signed(sum_windows(maps.astype(np.uint32), window), 32), sums.numpy().transpose(1, 0, 2, 3).astype(np.int64))


def test_a_spread_map_makes_the_transposed_convolution() -> None:
    maps, weights = RNG.integers(-9, 9, (3, 1, 4, 5)), RNG.integers(-9, 9, (3, 2, 3, 2))
    expected = F.conv_transpose2d(
        torch.from_numpy(maps.transpose(1, 0, 2, 3).copy()).double(), torch.from_numpy(weights).double(), stride=2
    )
    turned = weights[:, :, ::-1, ::-1].transpose(1, 0, 2, 3).reshape(2, -1)
    ours = convolve(spread(maps.astype(np.uint32), (2, 2)), turned.astype(np.uint32), Window((3, 2), (1, 1), (2, 1)), Workers())
    assert np.array_equal(signed(ours, 32)[:, 0], expected[0].numpy().astype(np.int64))


def test_window_parts_hold_the_maximum_of_each_window() -> None:
    window = Window((3, 3), (2, 2), (1, 1))
    maps = RNG.integers(0, 100, (2, 3, 7, 8)).astype(np.uint32)
    rows = np.maximum.reduce(window_parts(maps, window, 3))
    both = np.maximum.reduce(window_parts(rows, window, 2))
    expected = F.max_pool2d(torch.from_numpy(maps.astype(np.float32)), 3, 2, 1).numpy()
    assert np.array_equal(both, expected)


def test_nearest_upsampling() -> None:
    maps = RNG.integers(0, 9, (2, 1, 3, 2)).astype(np.uint32)
    assert np.array_equal(repeat(maps, 2), F.interpolate(torch.from_numpy(maps.astype(np.float32)), scale_factor=2).numpy())


def test_columns_cover_a_batch_image_by_image() -> None:
    maps = np.arange(2 * 2 * 2 * 2, dtype=np.uint32).reshape(2, 2, 2, 2)
    assert columns_of(maps, Window((2, 2), (1, 1), (0, 0))).tolist() == [
        [0, 4],
        [1, 5],
        [2, 6],
        [3, 7],
        [8, 12],
        [9, 13],
        [10, 14],
        [11, 15],
    ]


@pytest.mark.parametrize("bits", [1, 7, 16, 18, 20, 31, 32, 33, 40, 63, 64])
@pytest.mark.parametrize("count", [0, 1, 31, 1000])
def test_packing_there_and_back(bits: int, count: int) -> None:
    values = RNG.integers(0, 2**bits, count, dtype=np.uint64).astype(dtype_of(bits))
    data = pack(values, bits)
    assert data.nbytes == packed_bytes(count, bits) and count * bits / 8 <= data.nbytes < count * bits / 8 + 8
    assert np.array_equal(unpack(data, count, bits, dtype_of(bits)), values)


def test_packing_reduces() -> None:
    assert unpack(pack(np.array([2**20 + 5, 7], np.uint32), 20), 2, 20, np.uint32).tolist() == [5, 7]


@pytest.mark.parametrize("bits", [20, 32, 40, 64])
def test_reals_there_and_back(bits: int) -> None:
    values = np.array([-3.75, -0.001, 0.0, 0.5, 100.25])
    assert np.allclose(signed(encode(values, 10, bits), bits) / 2**10, values, atol=2**-11)
