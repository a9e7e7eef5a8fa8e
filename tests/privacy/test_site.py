from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from primia.config.settings import PrivacySettings
from primia.errors import PrivacyError
from primia.privacy.accounting import epsilon
from primia.privacy.errors import BudgetSpent
from primia.privacy.ledger import Ledger
from primia.privacy.site import PrivacyPlan, SitePrivacy
from primia.privacy.spend import Limit, Spend

PLAN = PrivacyPlan(units=1000, batch_size=100, steps=10, rounds=5)
MakeSite = Callable[..., SitePrivacy]


@pytest.fixture
def make_site(tmp_path: Path) -> MakeSite:
    """A site's privacy; all share one ledger. RDP unless said otherwise: quick."""

    def make(run: str = "run-1", cap: float | None = None, plan: PrivacyPlan = PLAN, **settings: object) -> SitePrivacy:
        values = {"unit": "image", "target_epsilon": 3.0, "accountant": "rdp"} | settings
        ledger = Ledger(tmp_path / "privacy.jsonl")
        return SitePrivacy(
            PrivacySettings.model_validate(values),
            plan,
            ledger,
            federation="fed@x.example",
            run=run,
            limit=None if cap is None else lambda: Limit(cap, "the data's owner", "ask the owner for more"),
        )

    return make


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_the_planned_rounds_fit_and_not_one_more(accountant: str, make_site: MakeSite) -> None:
    site = make_site(accountant=accountant)
    for round_ in range(1, 6):
        site.admit(round_, 10)
        site.charge(round_, 10)
    statement = site.statement()
    assert 2.9 < statement.epsilon <= 3.0 and statement.steps == 50
    for call in (site.admit, site.charge):
        with pytest.raises(BudgetSpent, match=r"^round 6: would take this run to epsilon = 3\.\d+, above privacy\.target_epsilon = 3; "):
            call(6, 10)
    assert make_site(accountant=accountant).statement() == statement, "the refused round is not charged"


def test_the_noise_is_the_same_after_a_restart_whatever_is_spent(make_site: MakeSite) -> None:
    before = make_site()
    before.charge(1, 10)
    after = make_site()
    assert after.mechanism == before.mechanism and after.delta == 1 / 1000
    assert after.mechanism.sample_rate == 0.1 and after.mechanism.expected_units == 100


def test_a_round_trained_again_is_charged_again_and_the_last_one_is_lost(make_site: MakeSite) -> None:
    for round_ in (1, 2, 2, 3, 4):
        make_site().charge(round_, 10)
    with pytest.raises(BudgetSpent, match=r"round 5: .* \([\d.]+ is spent, and 0 more such rounds would fit\)$"):
        make_site().charge(5, 10)


def test_noise_that_is_given_needs_no_target_and_never_stops(make_site: MakeSite) -> None:
    site = make_site(target_epsilon=None, noise_multiplier=1.5)
    for round_ in range(1, 9):
        site.charge(round_, 10)
    assert site.statement().epsilon == pytest.approx(epsilon([Spend(1.5, 0.1, 80)], 1e-3, "rdp"))


def test_the_owners_limit_is_over_all_runs(make_site: MakeSite) -> None:
    first = make_site(target_epsilon=None, noise_multiplier=1.5, cap=2.5)
    for round_ in range(1, 4):
        first.charge(round_, 10)
    second = make_site(run="run-2", target_epsilon=None, noise_multiplier=1.2, cap=2.5)
    with pytest.raises(BudgetSpent, match=r"all runs of fed@x\.example to epsilon = [\d.]+, above 2\.5, the limit of the data's owner \("):
        for round_ in range(1, 9):
            second.charge(round_, 10)
    statement = second.statement()
    assert statement.epsilon < statement.epsilon_all_runs <= 2.5
    spends = [Spend(1.5, 0.1, 30), Spend(1.2, 0.1, statement.steps)]
    assert statement.epsilon_all_runs == pytest.approx(epsilon(spends, 1e-3, "rdp"))


def test_noisy_statistics_are_part_of_the_budget(make_site: MakeSite) -> None:
    plain, noisy = make_site(), make_site(run="run-2", statistics="noisy", statistics_noise=5.0)
    assert noisy.mechanism.noise_multiplier > plain.mechanism.noise_multiplier
    noisy.charge_statistics()
    alone = noisy.statement()
    assert alone.noisy_statistics and alone.steps == 0
    assert alone.epsilon == pytest.approx(epsilon([Spend(5.0, 1.0, 1)], 1e-3, "rdp"))
    for round_ in range(1, 6):
        noisy.charge(round_, 10)
    assert 2.9 < noisy.statement().epsilon <= 3.0


def test_a_statement_says_all_that_a_paper_needs(make_site: MakeSite) -> None:
    site = make_site(unit="patient", views=4, clip=0.5, delta=1e-5)
    site.charge(1, 10)
    statement = site.statement()
    assert (statement.unit, statement.neighbours) == ("patient", "add or remove one patient")
    assert (statement.clip, statement.views, statement.units, statement.delta) == (0.5, 4, 1000, 1e-5)
    assert (statement.sampling, statement.sample_rate, statement.accountant) == ("Poisson", 0.1, "rdp")
    assert statement.noise_multiplier == site.mechanism.noise_multiplier


def test_a_batch_larger_than_the_shard_draws_everything(make_site: MakeSite) -> None:
    mechanism = make_site(plan=PrivacyPlan(units=50, batch_size=100, steps=1, rounds=2)).mechanism
    assert (mechanism.sample_rate, mechanism.expected_units) == (1.0, 50)


def test_whole_sites_are_units_of_the_driver(make_site: MakeSite) -> None:
    site = make_site(unit="site", target_epsilon=8.0, delta=0.05, plan=PrivacyPlan(units=20, batch_size=20, steps=1, rounds=10))
    for round_ in range(1, 11):
        site.charge(round_, 1)
    statement = site.statement()
    assert (statement.unit, statement.sampling, statement.steps, statement.delta) == ("site", "none", 10, 0.05)
    assert statement.epsilon == pytest.approx(epsilon([Spend(site.mechanism.noise_multiplier, 1.0, 10)], 0.05, "rdp"))
    with pytest.raises(BudgetSpent):
        site.charge(11, 1)


def test_statistics_that_cost_too_much_are_refused(make_site: MakeSite) -> None:
    site = make_site(target_epsilon=None, noise_multiplier=1.0, statistics="noisy", statistics_noise=0.5, cap=1.0)
    with pytest.raises(BudgetSpent, match=r"^noisy statistics: would take all runs of "):
        site.charge_statistics()


def test_a_target_that_cannot_be_met_says_what_could(make_site: MakeSite) -> None:
    with pytest.raises(PrivacyError, match=r"set privacy\.target_epsilon = [\d.]+, which a noise multiplier of 2 meets$"):
        make_site(target_epsilon=0.5, statistics="noisy", statistics_noise=1.0)
