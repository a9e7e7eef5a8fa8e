from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from primia.mpc.messages import Role
from primia.mpc.seeds import Purpose, Seeds, as_array, as_seed, tree_key

SEED = bytes(range(16))


@pytest.mark.parametrize("bits", [20, 28, 32, 44, 64])
def test_ring_elements_are_uniform_in_their_ring(kit: SimpleNamespace, bits: int) -> None:
    values = Seeds(SEED, bits).ring(1, Purpose.VALUE_MASK, (300, 40))
    assert values.dtype == (np.uint32 if bits <= 32 else np.uint64) and values.shape == (300, 40)
    assert int(values.max()) < 2**bits
    kit.assert_uniform((values >> values.dtype.type(bits - 8)).astype(np.uint8), "the highest bits of the ring")


@pytest.mark.parametrize("kept", [1, 12, 20, 32])
def test_fewer_bits_are_the_low_ones(kept: int) -> None:
    seeds = Seeds(SEED, 32)
    whole, low = (seeds.ring(1, Purpose.POOL_MASK, (1000,), bits) for bits in (None, kept))
    assert np.array_equal(low, whole & np.uint32(2**kept - 1))


def test_every_stage_purpose_and_seed_is_a_stream_of_its_own() -> None:
    streams = [
        Seeds(seed, 64).ring(stage, purpose, (4,)).tobytes() for seed in (SEED, bytes(16)) for stage in (0, 1, 256) for purpose in Purpose
    ]
    keys = [tree_key(seed, stage) for seed in (SEED, bytes(16)) for stage in (0, 1, 256)]
    assert len({*streams, *keys}) == len(streams) + len(keys)
    assert {len(key) for key in keys} == {16}


def test_a_seed_says_the_same_twice() -> None:
    first, second = Seeds(SEED, 44), Seeds(SEED, 44)
    assert all(np.array_equal(a, b) for a, b in zip(first.table(3, 4, 50), second.table(3, 4, 50), strict=True))
    assert [array.shape for array in first.table(3, 4, 50)] == [(5, 50), (2, 50)]


def test_roots_are_a_partys_own() -> None:
    for role, bit in ((Role.MODEL_OWNER, 0), (Role.DATA_OWNER, 1)):
        roots, _ = Seeds(SEED, 32).roots(0, role, 100)
        assert ((roots[:, 0] & np.uint64(1)) == bit).all()


def test_a_seed_travels() -> None:
    assert as_seed(as_array(SEED)) == SEED and as_array(SEED).flags.writeable
