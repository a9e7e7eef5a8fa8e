"""A site's privacy in a run: what is sampled, calibrated noise, a budget that stops, a ledger, and what can be said about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from primia.config.settings import PrivacySettings
from primia.errors import BudgetSpent, PrivacyError
from primia.privacy.account import Account
from primia.privacy.accounting import calibrate, epsilon, history_epsilon, rounds_within
from primia.privacy.delta import check_delta, default_delta
from primia.privacy.filter import filtered_epsilon, releases_within
from primia.privacy.ledger import Charge, Ledger
from primia.privacy.mechanism import Mechanism
from primia.privacy.sampling import Units
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
    """What a site's data cost in a run, as plain data.

    ``epsilon``: of all planned rounds, or of more where rounds were trained again. A run that ends early costs no less, since whoever ended
    it may have looked at its models. ``epsilon_spent``: of what is charged so far; None in statements of earlier versions.
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
    epsilon_spent: float | None = None


class SitePrivacy:
    """Keeps one site within its budget in one run: what is sampled, noised and booked all follow from one value of the settings.

    Where ``privacy.unit = site``, the driver has one for the federation, with the sites as units, all of them in each round's only step.
    The noise follows from settings and plan alone, so that a site started again goes on with the same; a run that was charged with another
    unit, noise or sampling rate before is refused. A round that is trained again, after a crash or on resuming, is charged again, and may
    leave no budget for the last one.

    ``limit``: gives the owner's limit on epsilon over all runs in the ledger, read again each time; None: there is none. ``account``: has
    one of its own.

    Raises:
        PrivacyError: the target cannot be met, or delta is too large for so many units.
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
        account: Account | None = None,
    ) -> None:
        check_delta(settings.delta, plan.units, unit=settings.unit, where="(privacy.delta)")
        self._settings = settings
        self._plan = plan
        self._ledger = ledger
        self._federation = federation
        self._run = run
        self._limits = [each for each in (limit, account and account.limit) if each]
        self.delta = settings.delta or default_delta(plan.units)
        self.mechanism = Mechanism(self._calibrated(), settings.clip, plan.sample_rate, plan.units)

    @property
    def statistics_noise(self) -> float:
        """Noise multiplier of noisy statistics."""
        return self._settings.statistics_noise

    def units(self, patients: Sequence[str]) -> Units:
        """What steps sample and statistics add up: the units that are booked, of training images of these ``patients``.

        Raises:
            PrivacyError: there are more or fewer than the noise was made for.
        """
        if self._settings.unit == "patient":
            units = Units.grouped(patients, self._settings.views)
        else:
            units = Units.images(len(patients), self._settings.views)
        if len(units) != self._plan.units:
            raise PrivacyError(
                f"the noise is for {self._plan.units} units ({self._settings.unit}), but the site has {len(units)}; start a new run"
            )
        return units

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

    def has_charged_statistics(self) -> bool:
        """Whether noisy statistics of this run, of the same unit and noise, are charged: the ones that were told may be told again."""
        asked = self._charge_of(STATISTICS_ROUND, self._statistics())
        own = self._own(self._ledger.charges(self._federation))
        return any((charge.round, charge.unit, charge.spend) == (asked.round, asked.unit, asked.spend) for charge in own)

    def statement(self) -> Statement:
        """What the run costs by its plan and by the ledger."""
        charges = self._ledger.charges(self._federation)
        own = self._own(charges)
        committed = self._committed(own)
        return Statement(
            unit=self._settings.unit,
            epsilon=self._epsilon(committed),
            epsilon_all_runs=self._over_all_runs(charges, committed),
            delta=self.delta,
            accountant=self._settings.accountant,
            noise_multiplier=self.mechanism.noise_multiplier,
            sample_rate=self.mechanism.sample_rate,
            sampling="Poisson" if self.mechanism.sample_rate < 1.0 else "none",
            steps=_steps(own),
            clip=self._settings.clip,
            views=self._settings.views,
            units=self._plan.units,
            neighbours=f"add or remove one {self._settings.unit}",
            noisy_statistics=any(charge.round == STATISTICS_ROUND for charge in own),
            epsilon_spent=self._epsilon([charge.spend for charge in own]),
        )

    def _calibrated(self) -> float:
        settings, plan = self._settings, self._plan
        if settings.target_epsilon is None:
            assert settings.noise_multiplier is not None  # the settings' own check
            return settings.noise_multiplier
        planned = [Spend(0.0, plan.sample_rate, self._planned_steps)]
        before = [self._statistics()] if settings.statistics == "noisy" else []
        return calibrate(planned, settings.target_epsilon, self.delta, settings.accountant, earlier=before, rounds=plan.rounds)

    @property
    def _planned_steps(self) -> int:
        return self._plan.steps * self._plan.rounds

    def _committed(self, own: Sequence[Charge]) -> list[Spend]:
        """What is charged to the run, and what is still planned: it ends early by a choice that may depend on its models."""
        statistics = [charge.spend for charge in own if charge.round == STATISTICS_ROUND]
        if not statistics and self._settings.statistics == "noisy":
            statistics = [self._statistics()]
        return [self.mechanism.spend(max(_steps(own), self._planned_steps)), *statistics]

    def _statistics(self) -> Spend:
        return Spend(self.statistics_noise, 1.0, 1)

    def _training_charge(self, round: int, steps: int) -> Charge:
        return self._charge_of(round, self.mechanism.spend(steps))

    def _charge_of(self, round: int, spend: Spend) -> Charge:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Charge(now, self._federation, self._run, round, self._settings.unit, **asdict(spend), delta=self.delta)

    def _pay(self, charge: Charge) -> None:
        self._ledger.charge(charge, lambda charges: self._check(charge, charges))

    def _check(self, charge: Charge, charges: Sequence[Charge]) -> None:
        self._check_plan(charge, self._own(charges))
        self._check_target(charge, self._own(charges))
        for each in self._limits:
            if limit := each():
                self._check_limit(charge, charges, limit)

    def _check_plan(self, charge: Charge, own: Sequence[Charge]) -> None:
        """Refuse a run whose mechanism has changed: a target is kept, and a statement true, for a mechanism that was fixed ahead."""
        alike = [entry for entry in own if (entry.round == STATISTICS_ROUND) == (charge.round == STATISTICS_ROUND)]
        if any(entry.unit != charge.unit for entry in own) or any(_mechanism(entry) != _mechanism(charge) for entry in alike):
            raise PrivacyError(
                f"{_what(charge)}: this run was charged with another unit, noise multiplier or sampling rate before "
                f"(now {charge.unit}, {charge.noise_multiplier:g}, {charge.sample_rate:.4g}); start a new run for other settings"
            )

    def _check_target(self, charge: Charge, own: Sequence[Charge]) -> None:
        target, before = self._settings.target_epsilon, [entry.spend for entry in own]
        if target is None or (after := self._epsilon([*before, charge.spend])) <= target:
            return
        more = rounds_within(charge.spend, target, self.delta, "rdp", before)
        raise BudgetSpent(
            f"{_what(charge)}: would take this run to epsilon = {after:.4g}, above privacy.target_epsilon = {target:g}; "
            f"the run ends here{_room(self._epsilon(before), more)}"
        )

    def _check_limit(self, charge: Charge, charges: Sequence[Charge], limit: Limit) -> None:
        """Hold the sum over all runs against a limit, at the delta and for the unit that the limit is about."""
        unit = limit.unit or charge.unit
        if any(entry.unit != unit for entry in (*charges, charge)):
            mend = "the owner can grant it for another unit (--unit)" if limit.unit else "use the same privacy.unit as before"
            raise BudgetSpent(
                f"{_what(charge)}: runs of {self._federation} protected another unit than {unit}, so that epsilon over all runs, which "
                f"{limit.whose} limits to {limit.epsilon:g} for each {unit}, cannot be stated; {mend}"
            )
        delta, before = limit.delta or self.delta, [entry.spend for entry in charges]
        total = filtered_epsilon([*before, charge.spend], limit.epsilon, delta)
        if total > limit.epsilon:
            room = _room(filtered_epsilon(before, limit.epsilon, delta), releases_within(charge.spend, limit.epsilon, delta, before))
            raise BudgetSpent(
                f"{_what(charge)}: would take all runs of {self._federation} to epsilon = {total:.4g} at delta = {delta:.2g}, above "
                f"{limit.epsilon:g}, the limit of {limit.whose}{room}; {limit.remedy}"
            )

    def _over_all_runs(self, charges: Sequence[Charge], committed: Sequence[Spend]) -> float | None:
        if any(charge.unit != self._settings.unit for charge in charges):
            return None
        others = [charge.spend for charge in charges if charge.run != self._run]
        return history_epsilon([*others, *committed], self.delta, self._settings.accountant)

    def _own(self, charges: Iterable[Charge]) -> list[Charge]:
        return [charge for charge in charges if charge.run == self._run]

    def _epsilon(self, spends: Iterable[Spend]) -> float:
        return epsilon(spends, self.delta, self._settings.accountant)


def _what(charge: Charge) -> str:
    return "noisy statistics" if charge.round == STATISTICS_ROUND else f"round {charge.round}"


def _room(spent: float, more: int) -> str:
    return f" ({spent:.4g} is spent, and {more} more such rounds would fit)"


def _mechanism(charge: Charge) -> tuple[float, float]:
    return charge.noise_multiplier, charge.sample_rate


def _steps(charges: Iterable[Charge]) -> int:
    """Steps of training."""
    return sum(charge.steps for charge in charges if charge.round != STATISTICS_ROUND)
