from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from primia.mpc.aes import fresh_seed
from primia.mpc.blocks import widest
from primia.mpc.dpf import Backend, ComparisonKeys, backend, evaluate, generate, roots_from_seed
from primia.mpc.dpf_layout import PAD, key_bytes, key_shapes, padded
from primia.mpc.dpf_native import NativeBackend
from primia.mpc.dpf_portable import PortableBackend
from primia.mpc.workers import Workers

ALL: list[Backend] = [PortableBackend(), *(NativeBackend(width) for width in (1, 2, 4) if width <= widest())]
ONE = Workers(1)


def keys_of(alpha: NDArray[np.uint32], bits: int, aes: Backend, seeds: tuple[bytes, bytes]) -> tuple[ComparisonKeys, NDArray[np.uint64]]:
    roots = np.stack([roots_from_seed(seeds[party], 0, 0, party, alpha.size)[0] for party in range(2)])
    return generate(b"public tree key!", roots, alpha, bits, ONE, aes), roots


def shares(alpha: NDArray[np.uint32], x: NDArray[np.uint32], bits: int, aes: Backend) -> list[NDArray[np.uint8]]:
    keys, roots = keys_of(alpha, bits, aes, (bytes(16), bytes(range(16))))
    return [evaluate(b"public tree key!", roots[party], x, keys, ONE, aes) for party in range(2)]


@pytest.mark.parametrize("aes", ALL, ids=lambda aes: aes.name)
@pytest.mark.parametrize("bits", [8, 9, 10])
def test_the_truth_table(bits: int, aes: Backend) -> None:
    values = np.arange(2**bits, dtype=np.uint32)
    for alphas in np.array_split(values, 2 ** (bits - 8) * 4):
        alpha, x = np.repeat(alphas, values.size), np.tile(values, alphas.size)
        first, second = shares(alpha, x, bits, aes)
        assert np.array_equal(first ^ second, alpha <= x)


@pytest.mark.parametrize("aes", ALL[1:], ids=lambda aes: aes.name)
@pytest.mark.parametrize("bits", [8, 9, 15, 16, 17, 18, 25, 32])
def test_backends_agree_bit_for_bit(bits: int, aes: Backend) -> None:
    rng = np.random.default_rng(bits)
    alpha, x = rng.integers(0, 2**bits, (2, 5 * PAD), dtype=np.uint64).astype(np.uint32)
    x[: 2 * PAD] = np.clip(alpha[: 2 * PAD].astype(np.int64) + np.resize([-1, 0, 1, 2], 2 * PAD), 0, 2**bits - 1)
    seeds = (fresh_seed(), fresh_seed())
    (ours, roots), (theirs, _) = (keys_of(alpha, bits, each, seeds) for each in (aes, ALL[0]))
    for name in ("correction", "leaf", "flags"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    bits_of = [[evaluate(b"public tree key!", roots[party], x, ours, ONE, each) for each in (aes, ALL[0])] for party in range(2)]
    assert np.array_equal(bits_of[0][0], bits_of[0][1]) and np.array_equal(bits_of[1][0], bits_of[1][1])
    assert np.array_equal(bits_of[0][0] ^ bits_of[1][0], alpha <= x)


def test_threads_change_nothing() -> None:
    alpha = np.random.default_rng(0).integers(0, 2**12, 300 * PAD).astype(np.uint32)
    roots = np.stack([roots_from_seed(fresh_seed(), 0, 0, party, alpha.size)[0] for party in range(2)])
    one, three = (generate(bytes(16), roots, alpha, 12, Workers(threads), backend()) for threads in (1, 3))
    assert np.array_equal(one.correction, three.correction) and np.array_equal(one.leaf, three.leaf)
    x = alpha[::-1].copy()
    first, second = (evaluate(bytes(16), roots[0], x, one, Workers(threads), backend()) for threads in (1, 3))
    assert np.array_equal(first, second)


def test_a_share_alone_says_nothing() -> None:
    """One party's bits are fair coins whatever alpha is."""
    x = np.full(padded(40_000), 77, np.uint32)
    for alpha in (0, 77, 78, 255):
        first, second = shares(np.full_like(x, alpha), x, 8, backend())
        assert abs(first.mean() - 0.5) < 0.015 and abs(second.mean() - 0.5) < 0.015


def test_correction_words_are_uniform() -> None:
    alpha = np.zeros(padded(20_000), np.uint32)
    keys, _ = keys_of(alpha, 18, backend(), (fresh_seed(), fresh_seed()))
    for words in (keys.correction, keys.leaf):
        counts = np.bincount(words.view(np.uint8).ravel(), minlength=256)
        expected = counts.sum() / 256
        assert ((counts - expected) ** 2 / expected).sum() < 255 + 6 * np.sqrt(2 * 255)


def test_roots_differ_in_their_lowest_bit_and_leave_a_free_bit() -> None:
    (first, bits), (second, _) = (roots_from_seed(fresh_seed(), 3, 1, party, 5000) for party in range(2))
    assert not (first[:, 0] & np.uint64(1)).any() and (second[:, 0] & np.uint64(1)).all()
    assert abs(bits.mean() - 0.5) < 0.05


def test_key_sizes_are_what_they_are_said_to_be() -> None:
    """16 (b - 8) + 32 + (b - 8) / 8 bytes a comparison, the flags rounded up to whole bytes."""
    keys, _ = keys_of(np.zeros(10 * PAD, np.uint32), 18, backend(), (bytes(16), bytes(16)))
    assert (keys.correction.shape, keys.leaf.shape, keys.flags.shape) == key_shapes(18, 10 * PAD)
    assert keys.correction.nbytes + keys.leaf.nbytes + keys.flags.nbytes == key_bytes(18, 10 * PAD) == 10 * PAD * (160 + 32 + 2)


@pytest.mark.parametrize("bits", [7, 33])
def test_widths_that_do_not_fit_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="8 to 32 bits"):
        keys_of(np.zeros(PAD, np.uint32), bits, backend(), (bytes(16), bytes(16)))
