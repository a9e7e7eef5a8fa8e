"""What the data of a box have cost and may cost yet: of each federation, and of all together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from primia.consent.grants import DEFAULT_UNIT, Grant
from primia.privacy.accounting import history_epsilon
from primia.privacy.delta import default_delta
from primia.privacy.filter import filtered_epsilon
from primia.privacy.ledger import Charge


@dataclass(frozen=True)
class Budget:
    """One federation: its cap, None without one, and what it has spent, both for each ``unit`` at ``delta``.

    ``spent``: None where it protected another unit, or none that is one. ``holds``: whether the rest may still be spent.
    """

    federation: str
    unit: str
    delta: float
    cap: float | None
    spent: float | None
    holds: bool

    @property
    def worst(self) -> float | None:
        """Epsilon that this federation may reach; None: any, or not known."""
        if self.spent is None or not self.holds:
            return self.spent
        return None if self.cap is None else max(self.cap, self.spent)


@dataclass(frozen=True)
class Total:
    """All federations together, by basic composition: epsilons and deltas add up. None where one of them is not known."""

    unit: str
    delta: float
    worst: float | None
    spent: float | None


def budgets(grants: Iterable[Grant], charges: Sequence[Charge], count: Callable[[str], int]) -> tuple[Budget, ...]:
    """The budget of each federation with a grant or a charge; ``count`` gives the site's number of units of a kind."""
    known = {grant.federation: grant for grant in grants}
    names = sorted({*known, *(charge.federation for charge in charges)})
    return tuple(_budget(name, known.get(name), [charge for charge in charges if charge.federation == name], count) for name in names)


def totals(parts: Sequence[Budget]) -> tuple[Total, ...]:
    """The sum over federations for each kind of unit: epsilon for images and epsilon for patients do not add up."""
    return tuple(_total(unit, [part for part in parts if part.unit == unit]) for unit in sorted({part.unit for part in parts}))


def _budget(federation: str, grant: Grant | None, charges: Sequence[Charge], count: Callable[[str], int]) -> Budget:
    charged = {charge.unit for charge in charges}
    cap = grant.max_epsilon if grant else None
    unit = grant.unit if grant and cap is not None else min(charged, default=DEFAULT_UNIT)
    delta = (grant.delta if grant else None) or default_delta(count(unit))
    spends = [charge.spend for charge in charges]
    spent = None
    if charged <= {unit}:
        spent = history_epsilon(spends, delta, "rdp") if cap is None else filtered_epsilon(spends, cap, delta)
    return Budget(federation, unit, delta, cap, spent, holds=grant is not None and grant.state == "granted")


def _total(unit: str, parts: Sequence[Budget]) -> Total:
    used = [part for part in parts if part.holds or part.spent != 0.0]
    return Total(unit, sum(part.delta for part in used), _sum(part.worst for part in used), _sum(part.spent for part in used))


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
