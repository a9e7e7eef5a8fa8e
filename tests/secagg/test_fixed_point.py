"""Reals as ring elements: exact where they can be, unbiased where they are rounded, clipped values counted."""

from __future__ import annotations

import numpy as np
import pytest

from primia.errors import ProtocolError
from primia.secagg.fixed_point import decode_narrow, decode_wide, encode_narrow, encode_wide

KEY = bytes(16)


def encoded(values: object, scale: float = 2.0**20, limit: float = 100.0, key: bytes = KEY) -> tuple[np.ndarray, int]:
    values = np.asarray(values, np.float32)
    out = np.empty(len(values), np.uint32)
    return out, encode_narrow(values, scale, limit, key, out)


def test_multiples_of_the_step_are_exact() -> None:
    values = np.array([0.0, 1.0, -1.0, 2.0**-20, -(2.0**-20), 99.5, -99.5], np.float32)
    out, clipped = encoded(values)
    assert clipped == 0 and np.array_equal(decode_narrow(out, 2.0**20), values)


def test_sums_of_negative_values_come_out_right() -> None:
    first, second = encoded([-3.0, 2.0])[0], encoded([1.0, -5.0])[0]
    assert decode_narrow(first + second, 2.0**20).tolist() == [-2.0, -3.0]


def test_rounding_is_unbiased_and_by_less_than_a_step() -> None:
    values = np.full(200_000, 0.3, np.float32)
    out, _ = encoded(values, scale=1.0)
    assert set(np.unique(out)) == {0, 1}
    assert abs(out.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(values))
    negative, _ = encoded(-values, scale=1.0)
    assert abs(negative.view(np.int32).mean() + 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(values))


def test_rounding_follows_from_the_key() -> None:
    values = np.linspace(-1, 1, 100_000, dtype=np.float32) / 3
    assert np.array_equal(encoded(values)[0], encoded(values)[0])
    assert not np.array_equal(encoded(values)[0], encoded(values, key=b"another key 16 b")[0])


def test_values_beyond_the_limit_are_clipped_and_counted() -> None:
    out, clipped = encoded([5.0, -7.0, 3.0, 1.0], limit=3.0)
    assert clipped == 2 and decode_narrow(out, 2.0**20).tolist() == [3.0, -3.0, 3.0, 1.0]


def test_wide_values_keep_a_millionth_over_nine_orders_of_magnitude() -> None:
    values = np.array([0.0, 1e-6, -123.456, 5e9, -5e9])
    total = encode_wide(values, "values are") + encode_wide(values, "values are")
    assert np.allclose(decode_wide(total), 2 * values, atol=2**-20)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e10])
def test_wide_values_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(ProtocolError, match="statistics are out of range"):
        encode_wide(np.array([1.0, value]), "statistics are")
