from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from primia.config.settings import PrivacySettings
from primia.errors import BudgetSpent, PrivacyError
from primia.privacy.accounting import epsilon
from primia.privacy.filter import filtered_epsilon
from primia.privacy.ledger import Ledger
from primia.privacy.site import PrivacyPlan, SitePrivacy
from primia.privacy.spend import Limit, Spend

PLAN = PrivacyPlan(units=1000, batch_size=100, steps=10, rounds=5)
MakeSite = Callable[..., SitePrivacy]


@pytest.fixture
def make_site(tmp_path: Path) -> MakeSite:
    """A site's privacy; all share one ledger. RDP unless said otherwise: quick."""

    def make(
        run: str = "run-1",
        cap: float | None = None,
        cap_delta: float | None = None,
        cap_unit: str | None = None,
        plan: PrivacyPlan = PLAN,
        **settings: object,
    ) -> SitePrivacy:
        limit = Limit(cap, "the data's owner", "ask the owner for more", cap_delta or 1e-5, cap_unit or "image") if cap else None
        values = {"unit": "image", "target_epsilon": 3.0, "accountant": "rdp"} | settings
        ledger = Ledger(tmp_path / "privacy.jsonl")
        return SitePrivacy(
            PrivacySettings.model_validate(values),
            plan,
            ledger,
            federation="fed@x.example",
            run=run,
            limit=lambda: limit,
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
    assert after.mechanism == before.mechanism and after.delta == 1e-5
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
    assert site.statement().epsilon == pytest.approx(epsilon([Spend(1.5, 0.1, 80)], 1e-5, "rdp"))


def test_the_owners_limit_is_over_all_runs(make_site: MakeSite) -> None:
    first = make_site(target_epsilon=None, noise_multiplier=1.5, cap=4.5)
    for round_ in range(1, 4):
        first.charge(round_, 10)
    second = make_site(run="run-2", target_epsilon=None, noise_multiplier=1.2, cap=4.5)
    with pytest.raises(
        BudgetSpent, match=r"all runs of fed@x\.example to epsilon = [\d.]+ at delta = 1e-05, above 4\.5, the limit of the data's"
    ):
        for round_ in range(1, 9):
            second.charge(round_, 10)
    statement = second.statement()
    assert 0 < statement.epsilon_spent < statement.epsilon < statement.epsilon_all_runs
    spends = [Spend(1.5, 0.1, 30), Spend(1.2, 0.1, statement.steps)]
    assert 3.5 < epsilon(spends, 1e-5, "rdp") < filtered_epsilon(spends, 4.5, 1e-5) <= 4.5
    assert statement.epsilon_all_runs == pytest.approx(epsilon([Spend(1.5, 0.1, 30), Spend(1.2, 0.1, 50)], 1e-5, "rdp"))


@pytest.mark.parametrize("delta", [None, 1e-6])
def test_a_cap_is_evaluated_at_the_grants_delta_whatever_a_run_names(make_site: MakeSite, tmp_path: Path, delta: float | None) -> None:
    """The attack: three runs, each at a delta of its own at which it seems to cost nothing."""
    for number, named in enumerate((9e-4, 9.5e-4, 9.9e-4)):
        site = make_site(run=f"run-{number}", target_epsilon=None, noise_multiplier=2.0, delta=named, cap=1.0, cap_delta=delta)
        with pytest.raises(BudgetSpent, match=r"above 1, the limit of the data's owner"):
            for round_ in range(1, 20):
                site.charge(round_, 10)
    spends = [charge.spend for charge in Ledger(tmp_path / "privacy.jsonl").charges()]
    assert len(spends) < 20 and epsilon(spends, delta or 1e-5, "prv") <= 1.0


@pytest.mark.parametrize("delta", [1e-3, 0.5, 0.9, 0.999])
def test_a_delta_that_gives_units_away_is_refused(make_site: MakeSite, delta: float) -> None:
    with pytest.raises(
        PrivacyError, match=r"\(privacy\.delta\), with 1000 training images, allows to publish one of them in full; .* 7.*e-05|1e-05"
    ):
        make_site(delta=delta)
    assert make_site(delta=9.9e-4).delta == 9.9e-4


def test_a_cap_for_patients_is_not_kept_by_protecting_images(make_site: MakeSite, tmp_path: Path) -> None:
    """Neither by the run at hand nor by those before it."""
    with pytest.raises(BudgetSpent, match=r"for each patient, cannot be stated; the owner can grant it for another unit \(--unit\)"):
        make_site(cap=8.0, cap_unit="patient").charge(1, 10)
    make_site().charge(1, 10)
    with pytest.raises(BudgetSpent, match=r"protected another unit than patient"):
        make_site(run="run-2", unit="patient", cap=8.0, cap_unit="patient").charge(1, 10)
    assert len(Ledger(tmp_path / "privacy.jsonl").charges()) == 1


@pytest.mark.parametrize(
    "change", [{"unit": "patient"}, {"noise_multiplier": 1.4}, {"plan": PrivacyPlan(units=1000, batch_size=101, steps=10, rounds=5)}]
)
def test_a_run_keeps_the_mechanism_that_it_began_with(make_site: MakeSite, change: dict[str, Any]) -> None:
    """Its epsilon is composed as fixed ahead, which it is not where a driver changes the settings by what it has seen."""
    values = {"target_epsilon": None, "noise_multiplier": 1.5, "statistics": "noisy"}
    make_site(**values).charge(1, 10)
    make_site(**values).charge_statistics()
    with pytest.raises(PrivacyError, match=r"^round 2: this run was charged with another unit, noise multiplier or sampling rate before"):
        make_site(**(values | change)).charge(2, 10)
    with pytest.raises(PrivacyError, match=r"^noisy statistics: this run was charged"):
        make_site(**(values | {"statistics_noise": 9.0})).charge_statistics()
    make_site(**values).charge(2, 10)
    make_site(run="run-2", **(values | change)).charge(2, 10)


def test_what_is_sampled_is_what_is_booked(make_site: MakeSite) -> None:
    patients = ["a"] * 3 + ["b"] * 2
    images = make_site(plan=PrivacyPlan(units=5, batch_size=2, steps=1, rounds=1)).units(patients)
    grouped = make_site(unit="patient", plan=PrivacyPlan(units=2, batch_size=2, steps=1, rounds=1)).units(patients)
    assert [len(members) for members in images.members] == [1] * 5 and [len(members) for members in grouped.members] == [3, 2]
    with pytest.raises(PrivacyError, match=r"the noise is for 5 units \(patient\), but the site has 2"):
        make_site(unit="patient", plan=PrivacyPlan(units=5, batch_size=2, steps=1, rounds=1)).units(patients)


def test_a_run_that_ends_early_costs_what_was_planned(make_site: MakeSite) -> None:
    whole = make_site(run="whole")
    for round_ in range(1, 6):
        whole.charge(round_, 10)
    site = make_site(run="run-2")
    site.charge(1, 10)
    early = site.statement()
    assert early.epsilon_spent == epsilon([site.mechanism.spend(10)], 1e-5, "rdp") < 2.0
    assert early.epsilon == whole.statement().epsilon > 2.9 and early.steps == 10
    for round_ in (2, 3, 4):
        site.charge(round_, 10)
    assert site.statement().epsilon == early.epsilon


def test_noisy_statistics_are_part_of_the_budget(make_site: MakeSite) -> None:
    plain, noisy = make_site(), make_site(run="run-2", statistics="noisy", statistics_noise=5.0)
    assert noisy.mechanism.noise_multiplier > plain.mechanism.noise_multiplier
    noisy.charge_statistics()
    alone = noisy.statement()
    assert alone.noisy_statistics and alone.steps == 0 and 2.9 < alone.epsilon <= 3.0
    assert alone.epsilon_spent == pytest.approx(epsilon([Spend(5.0, 1.0, 1)], 1e-5, "rdp"))
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
    site = make_site(unit="site", target_epsilon=8.0, delta=0.04, plan=PrivacyPlan(units=20, batch_size=20, steps=1, rounds=10))
    for round_ in range(1, 11):
        site.charge(round_, 1)
    statement = site.statement()
    assert (statement.unit, statement.sampling, statement.steps, statement.delta) == ("site", "none", 10, 0.04)
    assert statement.epsilon == pytest.approx(epsilon([Spend(site.mechanism.noise_multiplier, 1.0, 10)], 0.04, "rdp"))
    with pytest.raises(BudgetSpent):
        site.charge(11, 1)


def test_statistics_that_cost_too_much_are_refused(make_site: MakeSite) -> None:
    site = make_site(target_epsilon=None, noise_multiplier=1.0, statistics="noisy", statistics_noise=0.5, cap=1.0)
    with pytest.raises(BudgetSpent, match=r"^noisy statistics: would take all runs of "):
        site.charge_statistics()


def test_a_target_that_cannot_be_met_says_what_could(make_site: MakeSite) -> None:
    with pytest.raises(PrivacyError, match=r"set privacy\.target_epsilon = [\d.]+, which a noise multiplier of 2 meets$"):
        make_site(target_epsilon=0.5, statistics="noisy", statistics_noise=1.0)
