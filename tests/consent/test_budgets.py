from __future__ import annotations

import pytest

from primia.consent.budgets import budgets, totals
from primia.consent.grants import Grant
from primia.privacy.accounting import epsilon
from primia.privacy.filter import filtered_epsilon
from primia.privacy.ledger import Charge
from primia.privacy.spend import Spend


def charge(federation: str, unit: str) -> Charge:
    return Charge("t", federation, "run", 1, unit, 4.0, 1.0, 1, delta=0.9)


GRANTS = [Grant("a", "t", 3.0), Grant("b", "t", 2.0, delta=1e-6), Grant("c", "t"), Grant("d", "t", 5.0, revoked="t")]


def test_caps_and_spending_add_up_by_unit() -> None:
    parts = budgets(GRANTS, [charge("a", "patient"), charge("c", "image"), charge("d", "patient"), charge("e", "image")], lambda unit: 100)
    assert [(part.federation, part.unit, part.delta, part.holds) for part in parts] == [
        ("a", "patient", 1e-5, True),
        ("b", "patient", 1e-6, True),
        ("c", "image", 1e-5, True),
        ("d", "patient", 1e-5, False),
        ("e", "image", 1e-5, False),
    ]
    images, patients = totals(parts)
    spend = Spend(4.0, 1.0, 1)
    of_a, of_d = filtered_epsilon([spend], 3.0, 1e-5), filtered_epsilon([spend], 5.0, 1e-5)
    assert images.worst is None and images.spent == 2 * epsilon([spend], 1e-5, "rdp")
    assert patients.spent == of_a + of_d and patients.worst == 3.0 + 2.0 + of_d and patients.delta == pytest.approx(2.1e-5)


def test_another_unit_than_the_caps_leaves_the_sum_unknown() -> None:
    (total,) = totals(budgets(GRANTS[:1], [charge("a", "image")], lambda unit: 100))
    assert (total.unit, total.spent, total.worst) == ("patient", None, None)
