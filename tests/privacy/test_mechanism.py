from __future__ import annotations

import pytest

from primia.privacy.mechanism import Mechanism
from primia.privacy.spend import Spend


def test_what_is_done_is_what_is_accounted_for() -> None:
    mechanism = Mechanism(noise_multiplier=1.5, clip=0.2, sample_rate=0.05, units=400)
    assert mechanism.spend(30) == Spend(1.5, 0.05, 30)
    assert mechanism.expected_units == pytest.approx(20)
