from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.privacy.rounding import bound, lower, number, span, upper


@given(st.floats(1e-12, 1e9))
def test_no_bound_claims_more_than_what_it_rounds(value: float) -> None:
    assert float(lower(value)) <= value <= float(upper(value))
    assert float(upper(value)) == pytest.approx(value, rel=0.011) and float(lower(value)) == pytest.approx(value, rel=0.011)


def test_what_has_no_digits() -> None:
    assert (upper(math.inf), upper(0.0), lower(0.0), number(7.0)) == ("infinite", "0", "0", "7")


def test_the_site_of_the_largest_epsilon_need_not_have_the_largest_delta() -> None:
    """The attack: a bound of the largest epsilon beside that site's delta holds at no other site."""
    assert bound([2.0, 2.98701], [1e-3, 1e-5]) == "epsilon at most 2.99 at delta = 1e-05 to 0.001"
    assert bound([0.501], [1e-5]) == "epsilon = 0.501 at delta = 1e-05"
    assert bound([0.5001], [1.0001e-5]) == "epsilon = 0.501 at delta = 1.01e-05"
    assert span([3.0, 3.0]) == "3"
