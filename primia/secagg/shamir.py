"""Shamir's secret sharing (CACM 1979) over the field of 2^255 - 19 elements."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

from primia.errors import ProtocolError

PRIME = 2**255 - 19
SECRET_BYTES = 31
SHARE_BYTES = 32


def fresh_secret() -> bytes:
    """A uniform secret of ``SECRET_BYTES`` bytes."""
    return _draw(2 ** (8 * SECRET_BYTES)).to_bytes(SECRET_BYTES, "big")


def split(secret: bytes, threshold: int, places: Sequence[int]) -> list[bytes]:
    """One share for each of the places (distinct, positive): any ``threshold`` of them give the secret, fewer nothing at all."""
    coefficients = [_draw(PRIME) for _ in range(threshold - 1)]
    constant = int.from_bytes(secret, "big")
    return [_evaluate(constant, coefficients, place).to_bytes(SHARE_BYTES, "big") for place in places]


def join(shares: Mapping[int, bytes]) -> bytes:
    """The secret of ``SECRET_BYTES`` bytes from shares by place; all of them are used.

    Raises:
        ProtocolError: a share is no field element, or the shares are not of one secret (where that shows).
    """
    values = [int.from_bytes(share, "big") for share in shares.values()]
    if any(len(share) != SHARE_BYTES for share in shares.values()) or any(value >= PRIME for value in values):
        raise ProtocolError("a share of a secret is out of range: it was damaged or made up")
    weights = _weights_at_zero(tuple(shares))
    secret = sum(weight * value for weight, value in zip(weights, values, strict=True)) % PRIME
    if secret >> (8 * SECRET_BYTES):
        raise ProtocolError("shares of a secret do not belong together: one of them is false")
    return secret.to_bytes(SECRET_BYTES, "big")


def _draw(bound: int) -> int:
    """A uniform number below ``bound`` from the operating system's generator."""
    return secrets.randbelow(bound)


def _evaluate(constant: int, coefficients: Sequence[int], place: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value + coefficient) * place % PRIME
    return (value + constant) % PRIME


@lru_cache(maxsize=4096)
def _weights_at_zero(places: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's weights for the value at 0: the product over the others of place / (place - own)."""
    weights = []
    for own in places:
        numerator = denominator = 1
        for place in places:
            if place != own:
                numerator = numerator * place % PRIME
                denominator = denominator * (place - own) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return tuple(weights)
