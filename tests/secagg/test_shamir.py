"""Shamir's shares: any threshold of them give the secret, one fewer says nothing."""

from __future__ import annotations

import secrets
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import ProtocolError
from primia.secagg.shamir import PRIME, SECRET_BYTES, SHARE_BYTES, join, split


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES), st.integers(2, 6), st.data())
def test_any_threshold_of_shares_gives_the_secret(secret: bytes, threshold: int, data: st.DataObject) -> None:
    places = range(1, threshold + 3)
    shares = dict(zip(places, split(secret, threshold, places), strict=True))
    chosen = data.draw(st.sets(st.sampled_from(list(places)), min_size=threshold))
    assert join({place: shares[place] for place in chosen}) == secret


def test_one_share_too_few_gives_another_number() -> None:
    secret = secrets.token_bytes(SECRET_BYTES)
    shares = dict(enumerate(split(secret, 3, [1, 2, 3, 4]), start=1))
    for places in combinations(shares, 2):
        try:
            assert join({place: shares[place] for place in places}) != secret
        except ProtocolError:
            continue  # out of range, as most numbers are


def test_every_secret_fits_with_one_share_too_few() -> None:
    """Perfect secrecy: for any other secret there is a polynomial through the same two shares, so they tell nothing of it."""
    shares = split(b"\1" * SECRET_BYTES, 3, [1, 2])
    other = int.from_bytes(b"\2" * SECRET_BYTES, "big")
    # The parabola through (0, other), (1, s1), (2, s2) has a third point, which join accepts together with the two shares.
    first, second = (int.from_bytes(share, "big") for share in shares)
    third = (other - 3 * first + 3 * second) % PRIME
    assert join({1: shares[0], 2: shares[1], 3: third.to_bytes(SHARE_BYTES, "big")}) == other.to_bytes(SECRET_BYTES, "big")


def test_shares_of_one_secret_differ_each_time() -> None:
    secret = bytes(SECRET_BYTES)
    assert split(secret, 2, [1, 2]) != split(secret, 2, [1, 2])


@pytest.mark.parametrize("false", [b"\xff" * SHARE_BYTES, PRIME.to_bytes(SHARE_BYTES, "big"), b"short", b""])
def test_shares_out_of_range_are_refused(false: bytes) -> None:
    shares = split(bytes(SECRET_BYTES), 2, [1, 2])
    with pytest.raises(ProtocolError, match="out of range"):
        join({1: shares[0], 2: false})
