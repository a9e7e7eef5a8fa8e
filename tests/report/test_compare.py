from __future__ import annotations

from statistics import mean, stdev

import pytest

from primia.errors import RunError
from primia.report.compare import compare

SITES = ("hospital-a", "hospital-b", "hospital-c")


def score(value):
    """Sets the test MCC of a run."""
    return lambda summary: summary["test"].update(mcc=value)


@pytest.fixture
def experiment(make_run):
    """Three seeds of federated, pooled and each site alone, with given test MCC."""

    def make(federated=(0.80, 0.82, 0.84), pooled=(0.83, 0.85, 0.87), alone=(0.70, 0.75, 0.72), **options):
        runs = [make_run(f"fed-{i}", seed=i, change=score(value), **options) for i, value in enumerate(federated, 1)]
        runs += [make_run(f"pooled-{i}", mode="pooled", seed=i, change=score(value)) for i, value in enumerate(pooled, 1)]
        for site, value in zip(SITES, alone, strict=False):
            runs += [make_run(f"{site}-{i}", mode="local", site=site, seed=i, change=score(value + i / 1000)) for i in (1, 2, 3)]
        return runs

    return make


def test_seeds_of_a_kind_are_one_group(experiment):
    comparison = compare(experiment())
    assert [group.label for group in comparison.groups] == ["federated", "pooled", *(f"local {site}" for site in SITES)]
    statistic = comparison.groups[0].statistic("test_mcc")
    assert (statistic.mean, statistic.sd, statistic.n) == (
        pytest.approx(mean([0.80, 0.82, 0.84])),
        pytest.approx(stdev([0.80, 0.82, 0.84])),
        3,
    )
    assert [run.seed for run in comparison.groups[0].runs] == [1, 2, 3]


def test_verdicts(experiment):
    comparison = compare(experiment())
    assert comparison.is_fair
    assert comparison.conclusions == (
        "federated beats the best single site (hospital-b) by +0.068 test MCC (3 seeds), spread between seeds ±0.020",
        "federated falls behind pooled by 0.030 test MCC (3 seeds), spread between seeds ±0.028",
    )


def test_the_contrary_is_said_as_plainly(experiment):
    first, second = compare(experiment(federated=(0.60, 0.61, 0.62), pooled=(0.61, 0.61, 0.61))).conclusions
    assert first.startswith("federated falls behind the best single site (hospital-b) by 0.142 test MCC (3 seeds)")
    assert second == "federated equals pooled to three decimals of test MCC (3 seeds), within the spread between seeds (±0.010)"


def test_a_gain_within_the_spread_is_not_sold(experiment):
    assert "within the spread between seeds" in compare(experiment(federated=(0.70, 0.80, 0.90))).conclusions[0]


def test_one_seed_has_no_spread(make_run):
    runs = [make_run("f", change=score(0.8)), make_run("l", mode="local", site="hospital-a", change=score(0.7))]
    comparison = compare(runs)
    assert comparison.conclusions == (
        "federated beats the best single site (hospital-a) by +0.100 test MCC (1 seed), spread between seeds unknown",
    )
    assert comparison.groups[0].statistic("test_mcc").sd is None


def test_unequal_numbers_of_seeds_are_said(experiment):
    assert "(2 against 3 seeds)" in compare(experiment(federated=(0.80, 0.82))).conclusions[0]


def test_unlike_runs_are_compared_with_a_warning(make_run):
    comparison = compare([make_run("f"), make_run("p", mode="pooled", fingerprint="beef")])
    assert not comparison.is_fair
    assert comparison.conclusions[0].endswith("; but the runs are not comparable, see above")


def test_pooled_against_single_sites_without_a_federation(make_run):
    runs = [make_run("p", mode="pooled", change=score(0.8)), make_run("l", mode="local", site="hospital-a", change=score(0.7))]
    assert compare(runs).conclusions[0].startswith("pooled beats the best single site (hospital-a) by +0.100")


def test_nothing_to_conclude(make_run):
    assert compare([make_run("one")]).conclusions[0].startswith("nothing to conclude")


def test_runs_of_one_mode_with_other_settings_are_groups_of_their_own(make_run):
    fedprox = {"federation": {"proximal_mu": 0.1}}
    comparison = compare([make_run("a"), make_run("b", seed=2), make_run("c", settings=fedprox), make_run("p", mode="pooled")])
    assert [(group.label, len(group.runs)) for group in comparison.groups] == [
        ("federated (federation.proximal_mu = 0.0)", 2),
        ("federated (federation.proximal_mu = 0.1)", 1),
        ("pooled", 1),
    ]
    assert len(comparison.conclusions) == 2


def test_a_local_run_is_scored_on_all_sites_and_on_its_own(make_run):
    own = {"change": lambda summary: summary["sites"]["hospital-b"]["test"].update(mcc=0.123)}
    (run,) = compare([make_run("l", mode="local", site="hospital-b", skill=0.9, **own)]).runs
    assert run.scores.test_mcc == pytest.approx(0.775)
    assert run.scores.own_site_test_mcc == 0.123
    assert run.scores.worst_site_mcc == pytest.approx(0.70)
    assert run.worst_site == "hospital-c"


def test_a_run_without_test_images_has_no_test_scores(make_run):
    def forget(summary):
        summary["test"] = None
        for site in summary["sites"].values():
            site["test"] = None

    (run,) = compare([make_run("f", change=forget)]).runs
    assert (run.scores.test_mcc, run.scores.worst_site_mcc, run.worst_site) == (None, None, "")
    assert run.scores.validation_mcc is not None


def test_folders_of_one_name_are_told_apart(make_run):
    comparison = compare([make_run("x/run"), make_run("y/run", mode="pooled")])
    assert len({run.name for run in comparison.runs}) == 2


def test_bad_arguments(make_run):
    with pytest.raises(RunError, match="nothing to compare"):
        compare([])
    run = make_run()
    with pytest.raises(RunError, match="given twice"):
        compare([run, run / ".." / run.name])
