from __future__ import annotations

import pytest

from primia.errors import PrivacyError
from primia.privacy.delta import check_delta, default_delta


def test_the_default_is_small_and_below_one_over_units() -> None:
    assert default_delta(1) == default_delta(30_000) == 1e-5
    assert default_delta(10**6) == pytest.approx(10**-6.6)
    for units in (1, 2, 10, 5_000, 10**5, 10**7):
        check_delta(default_delta(units), units, unit="image", where="here")
        assert default_delta(units) * units <= 1


@pytest.mark.parametrize(("units", "delta"), [(10, 0.1), (10, 0.9), (1220, 1 / 1220), (3, 0.5)])
def test_one_over_units_and_more_is_refused(units: int, delta: float) -> None:
    with pytest.raises(
        PrivacyError, match=rf"^delta = .* here, with {units} patients, allows to publish one of them in full; .* for example 1e-05$"
    ):
        check_delta(delta, units, unit="patient", where="here")
    check_delta(0.99 / units, units, unit="patient", where="here")
    check_delta(None, units, unit="patient", where="here")
