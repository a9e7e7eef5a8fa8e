"""Vectors: FIPS 197 appendices A.1 and C.1, NIST SP 800-38A appendix F.1.1."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numba import njit

from primia.mpc.aes import expand, fresh_seed, ring_elements, round_keys
from primia.mpc.blocks import bundle, load, one_way, store, widest
from primia.mpc.dpf_portable import _child

VECTORS = [
    ("000102030405060708090a0b0c0d0e0f", "00112233445566778899aabbccddeeff", "69c4e0d86a7b0430d8cdb78070b4c55a"),
    ("2b7e151628aed2a6abf7158809cf4f3c", "6bc1bee22e409f96e93d7e117393172a", "3ad77bb40d7a3660a89ecaf32466ef97"),
    ("2b7e151628aed2a6abf7158809cf4f3c", "f69f2445df4f9b17ad2b417be66c3710", "7b0c785e27e8ad3f8223207104725dd4"),
]


@njit  # type: ignore[untyped-decorator]
def encrypt(lanes, keys, blocks):  # type: ignore[no-untyped-def]
    store(blocks, 0, one_way(load(lanes, blocks, 0), keys))


def test_the_key_schedule_of_fips_197() -> None:
    keys = round_keys(bytes.fromhex(VECTORS[1][0])).view(np.uint8).reshape(11, 16)
    assert keys[1].tobytes().hex() == "a0fafe1788542cb123a339392a6c7605"
    assert keys[10].tobytes().hex() == "d014f9a8c9ee2589e13f0cc8b6630ca6"


@pytest.mark.parametrize("width", [width for width in (1, 2, 4) if width <= widest()])
@pytest.mark.parametrize(("key", "plain", "cipher"), VECTORS)
def test_published_vectors_on_vector_instructions(width: int, key: str, plain: str, cipher: str) -> None:
    blocks = np.frombuffer(bytes.fromhex(plain) * 2 * width, np.uint64).copy()
    encrypt(bundle(width, 2), np.tile(round_keys(bytes.fromhex(key)), width).ravel(), blocks)
    expected = np.frombuffer(bytes.fromhex(cipher), np.uint64) ^ np.frombuffer(bytes.fromhex(plain), np.uint64)
    assert np.array_equal(blocks.reshape(-1, 2), np.tile(expected, (2 * width, 1)))


@pytest.mark.parametrize(("key", "plain", "cipher"), VECTORS)
def test_published_vectors_on_the_portable_backend(key: str, plain: str, cipher: str) -> None:
    block = np.frombuffer(bytes.fromhex(plain), np.uint64).reshape(1, 2)
    child = _child(bytes.fromhex(key), block, block[:, 0] & np.uint64(1))
    assert (child ^ block).tobytes().hex() == cipher


def test_expansion_is_counter_mode_with_streams_of_their_own() -> None:
    seed = fresh_seed()
    reference = Cipher(algorithms.AES(seed), modes.CTR(bytes.fromhex("0000000300000005") + bytes(8))).encryptor()
    assert expand(seed, 3, 5, 100).tobytes() == reference.update(bytes(100))
    streams = {expand(seed, stage, purpose, 32).tobytes() for stage in range(4) for purpose in range(4)}
    assert len(streams) == 16


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.uint64])
def test_ring_elements_fill_the_range(dtype: type) -> None:
    values = ring_elements(fresh_seed(), 0, 0, (50, 40), dtype)
    assert values.dtype == dtype and values.shape == (50, 40)
    assert abs(values.astype(np.float64).mean() / 2 ** (8 * values.itemsize) - 0.5) < 0.05


def test_seeds_are_fresh() -> None:
    assert len({fresh_seed() for _ in range(100)}) == 100
