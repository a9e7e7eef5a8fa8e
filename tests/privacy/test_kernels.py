"""Both ways of each pass, compiled and torch's, against exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from primia.privacy import kernels

NORMS = [kernels._squared_norms_compiled, kernels._squared_norms_torch]
ADDERS = [kernels._add_steps_compiled, kernels._add_steps_torch]
LENGTHS = [1, 2**11 - 1, 2**11 + 1, 2**17 + 3, 2**20 - 1, 2**20 + 5]
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)


def vectors(length: int, count: int = 3) -> Tensor:
    return torch.randn(count, length, generator=torch.Generator().manual_seed(length)) * 100


@pytest.mark.parametrize("norms", NORMS)
@settings(max_examples=100, deadline=None)
@given(st.lists(FLOAT32, min_size=1, max_size=40))
def test_squared_norms_neither_overflow_nor_vanish(norms: Callable[[Tensor], Tensor], entries: list[float]) -> None:
    exact = sum(Fraction(entry) ** 2 for entry in entries)
    (found,) = norms(torch.tensor([entries])).tolist()
    assert abs(Fraction(found) - exact) <= exact * len(entries) / 2**52


@pytest.mark.parametrize("norms", NORMS)
@pytest.mark.parametrize("length", LENGTHS)
def test_a_units_norm_is_the_same_bit_for_bit_in_any_company(
    norms: Callable[[Tensor], Tensor], length: int, threads: Callable[[int], None]
) -> None:
    values = vectors(length)
    together = norms(values)
    assert torch.allclose(together, values.double().square().sum(1), rtol=1e-12)
    # Torch's own sums follow from the number of threads on a processor, where they are not used.
    for count in (1, 2, 3) if norms is kernels._squared_norms_compiled else (torch.get_num_threads(),):
        threads(count)
        assert torch.equal(norms(values[1:2])[0], together[1])
        assert torch.equal(norms(values.flip(0)).flip(0), together)


@pytest.mark.parametrize("norms", NORMS)
@pytest.mark.parametrize("entry", [math.inf, -math.inf, math.nan])
def test_a_norm_is_finite_only_where_all_entries_are(norms: Callable[[Tensor], Tensor], entry: float) -> None:
    values = vectors(2**11 + 1)
    values[1, -1] = entry
    assert norms(values).isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("add", ADDERS)
@pytest.mark.parametrize("length", LENGTHS)
def test_steps_are_truncated_products_of_float64(add: Callable[..., None], length: int, threads: Callable[[int], None]) -> None:
    values, factors = vectors(length), torch.tensor([3.7, 1e-300, 2.0**21 / 512], dtype=torch.float64)
    start = torch.arange(length, dtype=torch.float64)
    expected = start + (values.double() * factors[:, None]).trunc().sum(0)
    for count in (1, 2, 3):
        threads(count)
        total = start.clone()
        add(total, values, factors)
        assert torch.equal(total, expected)


@pytest.mark.parametrize("add", ADDERS)
def test_a_vector_of_factor_zero_adds_nothing_whatever_it_is(add: Callable[..., None]) -> None:
    values = torch.tensor([[1.5, -2.5], [math.inf, math.nan]])
    total = torch.zeros(2, dtype=torch.float64)
    add(total, values, torch.tensor([2.0, 0.0], dtype=torch.float64))
    assert total.tolist() == [3.0, -5.0]


@pytest.mark.parametrize("add", ADDERS)
def test_no_units_add_nothing(add: Callable[..., None]) -> None:
    total = torch.ones(5, dtype=torch.float64)
    add(total, torch.empty(0, 5), torch.empty(0, dtype=torch.float64))
    assert total.tolist() == [1.0] * 5
