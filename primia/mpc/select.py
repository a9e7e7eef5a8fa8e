"""Choosing by a hidden bit: ReLU with its lift into the ring, and the larger of two values.

Values v are public up to a mask: both parties know v + r modulo 2^k. Let s = [v >= 0]. With t = (v + r), its low b bits and bit b,

    s = t_b xor r_b xor [r_low <= t_low]      while |v| < 2^b,

so the comparison keys are made for alpha = r_low, and the parties open u = s xor r_s for a random bit r_s. Everything else is linear
in values that the dealer knows and shares additively: a table (A, B_0, B_1, ...) with s * x = A(u) * (public part of x) + B(index),
A(0) = r_s, A(1) = 1 - r_s, and the mask of the output inside B.

*Lift.* For |v| < 2^(k-2) let t' = t + 2^(k-2) modulo 2^k and c = [t' < 2^(k-1)]. Then v = (t' - 2^(k-2)) - (r - c * msb(r) * 2^k) as
integers, hence in every ring: the index is (u, c).

*Range check.* With T = t >> b and R = r >> b, the number w = T - R - borrow + 1 - s is 0 modulo 2^(k-b) just while
-2^b <= v < 2^b. Given u it is linear in R, r_s and e = R_0 xor r_s, so the parties hold shares of it for nothing, and shares of zero
are equal up to their sign: the model owner hashes its own, the data owner compares.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from primia.mpc.dpf_layout import padded
from primia.mpc.ring import Ring

_CHECK_BITS = 8


def check_mask(value_bits: int, bits: int) -> int:
    """The bits of the range check that exist: those of a value above its comparison width, at most eight."""
    return (1 << min(_CHECK_BITS, value_bits - bits)) - 1


def low_bits(values: Ring, bits: int) -> NDArray[np.uint32]:
    """The low bits of flat values, zero-padded to whole bundles: inputs of the comparison."""
    out = np.zeros(padded(values.size), np.uint32)
    np.bitwise_and(values, values.dtype.type(2**bits - 1), out=out[: values.size], casting="unsafe")
    return out


def sign_shares(comparison: NDArray[np.uint8], free: NDArray[np.uint8], values: Ring | None, bits: int, count: int) -> NDArray[np.uint8]:
    """A party's share of u; the party that gives ``values`` adds the public bit b."""
    share = comparison[:count] ^ free[:count]
    return share if values is None else share ^ ((values >> values.dtype.type(bits)) & values.dtype.type(1)).astype(np.uint8)


@njit(nogil=True, cache=True)
def choose(
    values: Any,
    base: Any,
    opened: Any,
    table: Any,
    check: Any,
    first: bool,
    lift: bool,
    kept: int,
    bits: int,
    mask: int,
    out: Any,
    digest: Any,
) -> None:
    """Write a party's share of the output to ``out`` and of the range check to ``digest`` (uint8).

    Args:
        values: masked, of ``kept`` bits, flat: for a maximum the difference of the two.
        base: public values that the first party adds; empty: none.
        opened: u, uint8.
        table: the party's shares (1 + entries, count).
        check: the party's shares of R and e (2, count).
        first: whether this is the party that adds public parts.
        lift: ReLU into the ring; else a maximum within ``kept`` bits.
        bits: of the comparison.
        mask: see :func:`check_mask`.
    """
    count = values.size
    one, half = values.dtype.type(1), values.dtype.type(1 << (kept - 2))
    ring, top = values.dtype.type((1 << kept) - 1), kept - 1
    for i in range(count):
        value, u = values[i], opened[i]
        index = 1 + np.int64(u)
        public = value
        if lift:
            moved = (value + half) & ring
            public = moved - half
            index = 1 + 2 * np.int64(u) + np.int64(one ^ (moved >> top))
        hidden = table[0, i]
        factor = hidden if u == 0 else (one - hidden if first else np.uint64(0) - hidden)
        total = factor * public + table[index, i]
        if first and base.size:
            total += base[i]
        out[i] = total
        above = value >> bits
        turned = (np.int64(above) & 1) ^ np.int64(u) ^ 1
        share = np.int64(check[0, i]) + (1 - 2 * np.int64(u)) * np.int64(hidden & 0xFF) + (1 - 2 * turned) * np.int64(check[1, i])
        if first:
            share = np.int64(above) + 1 - np.int64(u) - turned - share
        digest[i] = np.uint8(share & mask)


@njit(nogil=True, cache=True)
def correct(masks: Any, base: Any, outputs: Any, random_bits: Any, table: Any, check: Any, lift: bool, kept: int, bits: int) -> None:
    """Turn the data owner's shares in ``table`` (1 + entries, count) and ``check`` (2, count) into the model owner's, in place.

    Args:
        masks: r of the compared values, flat, below 2^kept.
        base: mask of what a maximum adds to; empty for ReLU.
        outputs: mask that the output shall have.
        random_bits: the xor of both parties' free bits; r_s is that xor bit b of r.
    """
    one, top = masks.dtype.type(1), kept - 1
    for i in range(masks.size):
        mask = masks[i]
        above = mask >> bits
        chosen = (above & one) ^ masks.dtype.type(random_bits[i])
        table[0, i] = chosen - table[0, i]
        check[0, i] = np.uint8(above & 0xFF) - check[0, i]
        check[1, i] = np.uint8((above & one) ^ chosen) - check[1, i]
        for u in range(2):
            factor = chosen if u == 0 else one - chosen
            if lift:
                wrapped = mask - ((mask >> top) << kept)
                table[1 + 2 * u, i] = outputs[i] - factor * mask - table[1 + 2 * u, i]
                table[2 + 2 * u, i] = outputs[i] - factor * wrapped - table[2 + 2 * u, i]
            else:
                table[1 + u, i] = outputs[i] - base[i] - factor * mask - table[1 + u, i]
