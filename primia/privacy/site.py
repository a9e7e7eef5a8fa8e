"""A site's privacy in a run: calibrated noise, a budget that stops, a ledger, and what can be said about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from primia.config.settings import PrivacySettings
from primia.privacy.accounting import calibrate, epsilon, history_epsilon, rounds_within
from primia.privacy.errors import BudgetSpent
from primia.privacy.ledger import Charge, Ledger
from primia.privacy.mechanism import Mechanism
from primia.privacy.spend import Limit, Spend

STATISTICS_ROUND = 0


@dataclass(frozen=True)
class PrivacyPlan:
    """What a site is going to do in a run: its ``units`` (images, or patients, a public number) and the steps of each of ``rounds``.

    ``batch_size``: units that a step draws on average.
    """

    units: int
    batch_size: int
    steps: int
    rounds: int

    @property
    def sample_rate(self) -> float:
        """Probability that a unit is in a step's sample."""
        return min(1.0, self.batch_size / self.units)


@dataclass(frozen=True)
class Statement:
    """What a site's data have cost in a run, as plain data.

    ``epsilon_all_runs``: over all runs of the federation, at the same delta, by ``history_epsilon``; None where earlier runs protected
    another unit, since epsilon for images bounds nothing for patients.
    """

    unit: str
    epsilon: float
    epsilon_all_runs: float | None
    delta: float
    accountant: str
    noise_multiplier: float
    sample_rate: float
    sampling: str
    steps: int
    clip: float
    views: int
    units: int
    neighbours: str
    noisy_statistics: bool


class SitePrivacy:
    """Keeps one site within its budget in one run.

    Where ``privacy.unit = site``, the driver has one for the federation, with the sites as units, all of them in each round's only step.
    The noise follows from settings and plan alone, so that a site started again goes on with the same. A round that is trained again,
    after a crash or on resuming, is charged again, and may leave no budget for the last one.

    ``limit``: gives the limit on epsilon over all runs in the ledger, asked afresh each time; None: there is none.

    Raises:
        PrivacyError: the target cannot be met.
    """

    def __init__(
        self,
        settings: PrivacySettings,
        plan: PrivacyPlan,
        ledger: Ledger,
        *,
        federation: str,
        run: str,
        limit: Callable[[], Limit | None] | None = None,
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._ledger = ledger
        self._federation = federation
        self._run = run
        self._limit = limit
        self.delta = settings.delta or 1 / plan.units
        self.mechanism = Mechanism(self._calibrated(), settings.clip, plan.sample_rate, plan.units)

    def admit(self, round: int, steps: int) -> None:
        """Raise :class:`BudgetSpent` if a release after ``steps`` steps may not be made; to be asked before the work."""
        self._check(self._training_charge(round, steps), self._ledger.charges(self._federation))

    def charge(self, round: int, steps: int) -> None:
        """Charge the ledger for a release after ``steps`` steps; when this returns, it may be made, and not otherwise.

        Raises:
            BudgetSpent: it may not.
            PrivacyError: the ledger cannot be written.
        """
        self._pay(self._training_charge(round, steps))

    def charge_statistics(self) -> None:
        """Charge the ledger for noisy statistics, once for each time that they leave the site; errors as :meth:`charge`."""
        self._pay(self._charge_of(STATISTICS_ROUND, self._statistics()))

    def statement(self) -> Statement:
        """What is spent so far, by the ledger."""
        charges = self._ledger.charges(self._federation)
        own = self._own(charges)
        return Statement(
            unit=self._settings.unit,
            epsilon=self._epsilon(own),
            epsilon_all_runs=self._over_all_runs(charges),
            delta=self.delta,
            accountant=self._settings.accountant,
            noise_multiplier=self.mechanism.noise_multiplier,
            sample_rate=self.mechanism.sample_rate,
            sampling="Poisson" if self.mechanism.sample_rate < 1.0 else "none",
            steps=sum(charge.steps for charge in own if charge.round != STATISTICS_ROUND),
            clip=self._settings.clip,
            views=self._settings.views,
            units=self._plan.units,
            neighbours=f"add or remove one {self._settings.unit}",
            noisy_statistics=any(charge.round == STATISTICS_ROUND for charge in own),
        )

    def _calibrated(self) -> float:
        settings, plan = self._settings, self._plan
        if settings.target_epsilon is None:
            assert settings.noise_multiplier is not None  # the settings' own check
            return settings.noise_multiplier
        planned = [Spend(0.0, plan.sample_rate, plan.steps * plan.rounds)]
        before = [self._statistics()] if settings.statistics == "noisy" else []
        return calibrate(planned, settings.target_epsilon, self.delta, settings.accountant, earlier=before, rounds=plan.rounds)

    def _statistics(self) -> Spend:
        return Spend(self._settings.statistics_noise, 1.0, 1)

    def _training_charge(self, round: int, steps: int) -> Charge:
        return self._charge_of(round, self.mechanism.spend(steps))

    def _charge_of(self, round: int, spend: Spend) -> Charge:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Charge(now, self._federation, self._run, round, self._settings.unit, **asdict(spend), delta=self.delta)

    def _pay(self, charge: Charge) -> None:
        self._ledger.charge(charge, lambda charges: self._check(charge, charges))

    def _check(self, charge: Charge, charges: Sequence[Charge]) -> None:
        target, everything = self._settings.target_epsilon, [*charges, charge]
        if target is not None and (after := self._epsilon(self._own(everything))) > target:
            raise BudgetSpent(
                f"{_what(charge)}: would take this run to epsilon = {after:.4g}, above privacy.target_epsilon = {target:g}; "
                f"the run ends here{self._room(charge, self._own(charges), target)}"
            )
        limit = self._limit() if self._limit else None
        if limit is None:
            return
        if (total := self._over_all_runs(everything)) is None:
            raise BudgetSpent(
                f"{_what(charge)}: earlier runs of {self._federation} protected another unit than {charge.unit}, so that epsilon over all "
                f"runs, which {limit.whose} limits to {limit.epsilon:g}, cannot be stated; use the same privacy.unit as before"
            )
        if total > limit.epsilon:
            raise BudgetSpent(
                f"{_what(charge)}: would take all runs of {self._federation} to epsilon = {total:.4g}, above {limit.epsilon:g}, "
                f"the limit of {limit.whose}{self._room(charge, charges, limit.epsilon)}; {limit.remedy}"
            )

    def _room(self, charge: Charge, before: Sequence[Charge], limit: float) -> str:
        rounds = rounds_within(charge.spend, limit, self.delta, "rdp", [entry.spend for entry in before])
        return f" ({self._epsilon(before):.4g} is spent, and {rounds} more such rounds would fit)"

    def _over_all_runs(self, charges: Sequence[Charge]) -> float | None:
        alike = all(charge.unit == self._settings.unit for charge in charges)
        return history_epsilon([charge.spend for charge in charges], self.delta, self._settings.accountant) if alike else None

    def _own(self, charges: Iterable[Charge]) -> list[Charge]:
        return [charge for charge in charges if charge.run == self._run]

    def _epsilon(self, charges: Iterable[Charge]) -> float:
        return epsilon([charge.spend for charge in charges], self.delta, self._settings.accountant)


def _what(charge: Charge) -> str:
    return "noisy statistics" if charge.round == STATISTICS_ROUND else f"round {charge.round}"
