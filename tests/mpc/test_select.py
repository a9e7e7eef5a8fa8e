"""The formulas of :mod:`primia.mpc.select`: first in whole numbers, for every value and mask; then the code against the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from primia.mpc.dpf_layout import PAD
from primia.mpc.program import TABLE_ENTRIES
from primia.mpc.ring import Ring
from primia.mpc.select import check_mask, choose, correct, low_bits, sign_shares

RNG = np.random.default_rng(0)


def every(low: int, high: int, modulus: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a value in [low, high) and a mask below ``modulus``."""
    values, masks = np.meshgrid(np.arange(low, high), np.arange(modulus), indexing="ij")
    return values.ravel(), masks.ravel()


def sign_of(masked: np.ndarray, mask: np.ndarray, bits: int) -> np.ndarray:
    """s = t_b xor r_b xor [r_low <= t_low]."""
    low = 2**bits
    return (masked >> bits & 1) ^ (mask >> bits & 1) ^ (mask % low <= masked % low)


@pytest.mark.parametrize(("kept", "bits"), [(4, 3), (6, 3), (7, 4), (9, 7)])
def test_the_sign_from_the_low_bits(kept: int, bits: int) -> None:
    values, masks = every(-(2**bits), 2**bits, 2**kept)
    assert np.array_equal(sign_of((values + masks) % 2**kept, masks, bits), values >= 0)


@pytest.mark.parametrize("kept", [4, 6, 8])
def test_the_lift_into_whole_numbers(kept: int) -> None:
    """v = (t' - 2^(k-2)) - (r - c msb(r) 2^k), while |v| < 2^(k-2)."""
    quarter, modulus = 2 ** (kept - 2), 2**kept
    values, masks = every(-quarter, quarter, modulus)
    moved = (values + masks + quarter) % modulus
    wrapped = (moved < modulus // 2) * (masks >> (kept - 1)) * modulus
    assert np.array_equal(moved - quarter - (masks - wrapped), values)


@pytest.mark.parametrize(("kept", "bits"), [(5, 4), (6, 4), (6, 3), (8, 3), (10, 8)])
def test_the_range_check_is_zero_just_within_the_range(kept: int, bits: int) -> None:
    """Whatever the sign formula gives outside it."""
    half = 2 ** (kept - 1)
    values, masks = every(-half, half, 2**kept)
    masked = (values + masks) % 2**kept
    borrow = masked % 2**bits < masks % 2**bits
    check = (masked >> bits) - (masks >> bits) - borrow + 1 - sign_of(masked, masks, bits)
    within = (values >= -(2**bits)) & (values < 2**bits)
    assert np.array_equal(check % 2 ** (kept - bits) == 0, within)


def dealt(
    masks: Ring, base: Ring, outputs: Ring, random_bits: np.ndarray, entries: int, kept: int, bits: int
) -> list[tuple[Ring, np.ndarray]]:
    """The model owner's and the data owner's shares of table and check."""
    dtype, count = masks.dtype, masks.size
    theirs = RNG.integers(0, 2 ** (8 * dtype.itemsize), (1 + entries, count), dtype=dtype), RNG.integers(0, 256, (2, count), dtype=np.uint8)
    ours = theirs[0].copy(), theirs[1].copy()
    correct(masks, base, outputs, random_bits, *ours, entries == TABLE_ENTRIES["relu"], kept, bits)
    return [ours, theirs]


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("kind", ["relu", "max"])
@pytest.mark.parametrize(("kept", "bits"), [(6, 4), (7, 4), (8, 3), (12, 3)])
def test_both_shares_make_the_choice_under_its_new_mask(kind: str, kept: int, bits: int, dtype: type) -> None:
    values, masks = every(-(2**bits), 2**bits, 2**kept) if kept < 12 else (np.repeat(np.arange(-8, 8), 500), RNG.integers(0, 2**12, 8000))
    count, lift = values.size, kind == "relu"
    signs, random_bits = values >= 0, RNG.integers(0, 2, count, dtype=np.uint8)
    opened = (signs ^ (masks >> bits & 1) ^ random_bits).astype(np.uint8)
    masked = ((values + masks) % 2**kept).astype(dtype)
    outputs = RNG.integers(0, 2 ** (8 * dtype(0).itemsize), count, dtype=dtype)
    base, base_mask = (np.zeros(0, dtype), np.zeros(0, dtype)) if lift else RNG.integers(0, 2**kept, (2, count), dtype=dtype)
    sides = dealt(masks.astype(dtype), base_mask, outputs, random_bits, TABLE_ENTRIES["relu" if lift else "max"], kept, bits)
    shares, checks = np.empty((2, count), dtype), np.empty((2, count), np.uint8)
    for party, (table, check) in enumerate(sides):
        public = (masked, base if party == 0 else base[:0], opened, table, check)
        choose(*public, party == 0, lift, kept, bits, check_mask(kept, bits), shares[party], checks[party])
    found = shares[0] + shares[1] - outputs
    if lift:
        assert np.array_equal(found, np.where(signs, values, 0).astype(dtype))
    else:
        due = (base - base_mask).astype(np.int64) + np.where(signs, values, 0)
        assert np.array_equal(found & dtype(2**kept - 1), due.astype(dtype) & dtype(2**kept - 1))
    assert np.array_equal(checks[0], checks[1])


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize(("kept", "bits"), [(6, 4), (7, 4), (9, 3), (12, 3)])
def test_shares_of_the_check_differ_just_outside_the_range(kept: int, bits: int, dtype: type) -> None:
    """Of the bits that exist, at most eight: a value 2^(b + 8) away would look like one within."""
    values, masks = every(-(2 ** (kept - 1)), 2 ** (kept - 1), 2**kept) if kept < 12 else every(-512, 512, 2**9)
    count, empty = values.size, np.zeros(0, dtype)
    masked = ((values + masks) % 2**kept).astype(dtype)
    random_bits = RNG.integers(0, 2, count, dtype=np.uint8)
    opened = (sign_of(masked.astype(np.int64), masks, bits) ^ (masks >> bits & 1) ^ random_bits).astype(np.uint8)
    checks = np.empty((2, count), np.uint8)
    for party, (table, check) in enumerate(
        dealt(masks.astype(dtype), empty, np.zeros(count, dtype), random_bits, TABLE_ENTRIES["relu"], kept, bits)
    ):
        choose(
            masked, empty, opened, table, check, party == 0, True, kept, bits, check_mask(kept, bits), np.empty(count, dtype), checks[party]
        )
    assert np.array_equal(checks[0] == checks[1], (values >= -(2**bits)) & (values < 2**bits))


@pytest.mark.parametrize(("kept", "bits", "mask"), [(20, 17, 7), (16, 15, 1), (20, 12, 255), (44, 17, 255)])
def test_the_check_has_the_bits_that_exist(kept: int, bits: int, mask: int) -> None:
    assert check_mask(kept, bits) == mask


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_low_bits_are_padded_with_zeros(dtype: type) -> None:
    values = RNG.integers(0, 2**32, PAD + 1, dtype=np.uint64).astype(dtype)
    found = low_bits(values, 11)
    assert found.dtype == np.uint32 and found.size == 2 * PAD
    assert np.array_equal(found[: PAD + 1], values % 2**11) and not found[PAD + 1 :].any()


def test_only_one_party_adds_the_public_bit() -> None:
    comparison, free = RNG.integers(0, 2, (2, 8), dtype=np.uint8)
    values = np.array([0, 2**11, 2**12, 3 * 2**11, 1], np.uint32)
    assert np.array_equal(sign_shares(comparison, free, None, 11, 5), (comparison ^ free)[:5])
    assert np.array_equal(sign_shares(comparison, free, values, 11, 5), (comparison ^ free)[:5] ^ np.array([0, 1, 0, 1, 0], np.uint8))
