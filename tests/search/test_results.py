"""What a sweep leaves: the best settings, what was spent, the trials' reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest

from primia.api.preparation import resolved
from primia.config.reader import load_config
from primia.federation.driver.run import run_federation
from primia.federation.run_spec import RunSetup
from primia.privacy.accounting import epsilon, history_epsilon
from primia.privacy.ledger import Charge, Ledger
from primia.privacy.rounding import upper
from primia.privacy.spend import Spend
from primia.runs.folder import RunFolder
from primia.search import results
from primia.search.plan import Assignment, SweepPlan
from primia.search.records import State, TrialRecord, Value
from primia.search.results import write_results
from primia.search.trial_run import TrialRun

GOOD: Mapping[str, Value] = {"training.learning_rate": 0.05, "training.momentum": 0.9}
SLOW: Mapping[str, Value] = {"training.learning_rate": 0.001, "training.momentum": 0.0}
PRIVATE: dict[str, dict[str, object]] = {
    "model": {"normalisation": "group"},
    "privacy": {"unit": "image", "noise_multiplier": 1.0, "delta": 0.01, "accountant": "rdp", "validation": "public"},
}
MakePlan = Callable[..., SweepPlan]
Hosts = Any


@pytest.fixture
def without_pages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No page is written; the runs and sweeps whose page would have been."""
    pages: list[str] = []
    monkeypatch.setattr(results, "write_sweep_report", lambda path: pages.append(path.name))
    monkeypatch.setattr(results, "write_trial_report", lambda path: pages.append(path.name))
    return pages


def a_trial(plan: SweepPlan, number: int, value: float | None, parameters: Mapping[str, Value] = GOOD, **others: Any) -> TrialRecord:
    """A record with a run folder that has settings, and no results."""
    record = TrialRecord(
        number, State.COMPLETE, parameters, plan.folder.place(number), value=value, rounds=5, planned_rounds=5, seconds=2.0
    )
    RunFolder.create(plan.path / record.folder, plan.settings(f"{number:04d}", parameters), "f")
    return replace(record, **others)


def results_of(plan: SweepPlan, records: list[TrialRecord], status: str = "complete", reason: str = "") -> dict[str, Any]:
    write_results(plan.folder, plan.space, records, status, reason, 60.0)
    return plan.folder.read_summary()


def test_a_sweep_from_its_trials_to_its_results(make_plan: MakePlan, local_hosts: Hosts) -> None:
    """With pages; and the best settings, trained by themselves beside the sweep, give the best trial's value and model."""
    plan = make_plan()
    one, two = TrialRun(plan, Assignment(1, 0, GOOD), local_hosts), TrialRun(plan, Assignment(2, 0, SLOW), local_hosts)
    *_, last = one.told()
    told = two.told()
    so_far = next(told).record
    two.end(prune=True)
    known = [last.record, replace(so_far, state=State.PRUNED)]
    plan.folder.write_records(known)
    said = results_of(plan, known)
    records = plan.folder.records()
    assert [record.state for record in records] == [State.COMPLETE, State.PRUNED]
    assert records[1].bytes > 0 == so_far.bytes, "a pruned trial's own results are in the table"
    assert (said["status"], said["best"], said["value"], said["privacy"]) == ("complete", 1, last.record.value, None)
    assert all((path / "report.html").exists() for path in (plan.path, one.folder.path, two.folder.path))

    best = load_config(plan.folder.best)
    assert (best.run.output, best.run.name) == (plan.path.parent, ""), "a run of its own, beside the sweep"
    settings = resolved(best)
    trained = plan.settings("0001", GOOD)
    assert settings == trained.model_copy(
        update={"run": trained.run.model_copy(update={"name": settings.run.name, "output": plan.path.parent})}
    )
    assert plan.data and plan.actors
    folder = RunFolder.create(settings.run.output / settings.run.name, settings, plan.data.fingerprint)
    setup = RunSetup.of(settings, plan.data, folder.path, started_at=0.0)
    list(run_federation(setup, local_hosts(plan.actors, 60.0, Flag())))
    assert folder.read_summary()["validation"]["mcc"] == last.record.value  # type: ignore[index]
    models = [(path / "model.safetensors").read_bytes() for path in (folder.path, one.folder.path)]
    assert models[0] == models[1]


def test_the_summary_says_what_became_of_the_sweep(make_plan: MakePlan, without_pages: list[str]) -> None:
    plan = make_plan()
    records = [a_trial(plan, 1, 0.2), a_trial(plan, 2, 0.6, SLOW), a_trial(plan, 3, 0.9, state=State.PRUNED)]
    said = results_of(plan, records, "stopped", "search.time_limit = 60 s is over")
    assert {key: said[key] for key in ("name", "status", "reason", "best", "value", "front", "wall_seconds", "training_seconds")} == {
        "name": "sweep",
        "status": "stopped",
        "reason": "search.time_limit = 60 s is over",
        "best": 2,
        "value": 0.6,
        "front": [],
        "wall_seconds": 60.0,
        "training_seconds": 6.0,
    }
    assert said["started"] and said["given"] == 1 and said["versions"]["python"]
    assert without_pages == ["0001", "0002", "0003", "sweep"]
    head = plan.folder.best.read_text().splitlines()[0]
    assert head.startswith("# Trial 2 of the sweep sweep: validation MCC 0.6000 ")
    assert load_config(plan.folder.best).training.learning_rate == 0.001


def test_of_an_interrupted_sweep_the_reports_of_trials_wait(make_plan: MakePlan, without_pages: list[str]) -> None:
    plan = make_plan()
    said = results_of(plan, [a_trial(plan, 1, 0.5), a_trial(plan, 2, None, state=State.RUNNING)], "interrupted")
    assert (said["status"], said["best"]) == ("interrupted", 1)
    assert without_pages == ["sweep"]
    assert plan.folder.records()[1].state is State.RUNNING, "it can be gone on with"


def test_without_a_result_there_is_no_best(make_plan: MakePlan, without_pages: list[str]) -> None:
    plan = make_plan()
    said = results_of(plan, [a_trial(plan, 1, None, state=State.FAILED, cause="the loss is not finite")])
    assert (said["best"], said["value"], said["training_seconds"]) == (None, None, 2.0)
    assert not plan.folder.best.exists()


def test_a_best_trial_that_went_on_from_another_is_no_recipe_and_says_so(make_plan: MakePlan, without_pages: list[str]) -> None:
    plan = make_plan()
    results_of(plan, [a_trial(plan, 1, 0.5, cause="goes on from trial 2 after round 3")])
    assert "# It goes on from trial 2 after round 3, so these settings alone need not reach that." in plan.folder.best.read_text()


def test_with_two_objectives_there_is_a_front(make_plan: MakePlan, without_pages: list[str]) -> None:
    plan = make_plan(search={"second_objective": "bytes", "scheduler": "none"})
    records = [a_trial(plan, 1, 0.5, second=10.0), a_trial(plan, 2, 0.4, second=20.0), a_trial(plan, 3, 0.2, second=5.0)]
    assert results_of(plan, records)["front"] == [3, 1]


def charge(path: Path, run: str, spend: Spend, delta: float = 0.01) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unit = "image" if path.parent.name.startswith("site-") else "site"
    fields = {"noise_multiplier": spend.noise_multiplier, "sample_rate": spend.sample_rate, "steps": spend.steps}
    Ledger(path).charge(
        Charge("2026-01-01T00:00:00+00:00", "demo@primia.example", run, 1, unit, delta=delta, **fields), lambda charges: None
    )  # type: ignore[arg-type]


def test_privacy_is_counted_over_all_trials_by_the_sweeps_ledgers(make_plan: MakePlan, without_pages: list[str]) -> None:
    """Also what a trial has spent that has failed, and so has no summary."""
    plan = make_plan(**PRIVATE)
    spent = {"site-1": [Spend(1.0, 0.1, 20), Spend(2.0, 0.1, 20)], "site-2": [Spend(2.0, 0.1, 20)]}
    for site, spends in spent.items():
        for number, spend in enumerate(spends, 1):
            charge(plan.path / "sites" / site / "privacy.jsonl", f"{number:04d}#x", spend)
    privacy = results_of(plan, [a_trial(plan, 1, 0.5), a_trial(plan, 2, None, state=State.FAILED)])["privacy"]
    expected = {site: epsilon(spends, 0.01, "rdp") for site, spends in spent.items()}
    assert privacy["sites"] == expected and expected["site-1"] > expected["site-2"]
    assert (privacy["unit"], privacy["delta"], privacy["trials"]) == ("image", {"site-1": 0.01, "site-2": 0.01}, 2)
    most = upper(expected["site-1"])
    said = f"This search trained 2 trials on the same images. Together they spent epsilon at most {most} at delta = 0.01 at"
    assert privacy["sentence"].startswith(said)
    more = results_of(plan, [a_trial(plan, 3, None, state=State.FAILED), *plan.folder.records()])
    assert more["privacy"]["trials"] == 2, "one that could not begin has spent nothing"


def test_what_whole_sites_have_spent_is_in_one_ledger(make_plan: MakePlan, without_pages: list[str]) -> None:
    plan = make_plan(
        privacy={**PRIVATE["privacy"], "unit": "site", "delta": 0.1}, model={"normalisation": "group"}, federation={"weighting": "uniform"}
    )
    charge(plan.path / "sites" / "privacy.jsonl", "0001#x", Spend(2.0, 1.0, 3), 0.1)
    privacy = results_of(plan, [a_trial(plan, 1, 0.5)])["privacy"]
    assert privacy["sites"] == {"all": epsilon([Spend(2.0, 1.0, 3)], 0.1, "rdp")} and privacy["delta"] == {"all": 0.1}


def test_many_trials_are_composed_numerically_up_to_a_number(make_plan: MakePlan, without_pages: list[str]) -> None:
    plan = make_plan(**PRIVATE | {"privacy": {**PRIVATE["privacy"], "accountant": "prv"}})
    spends = [Spend(1.0 + number / 10, 0.05, 20) for number in range(6)]
    for spend in spends:
        charge(plan.path / "sites" / "site-1" / "privacy.jsonl", "0001#x", spend)
    privacy = results_of(plan, [a_trial(plan, 1, 0.5)])["privacy"]
    assert privacy["sites"]["site-1"] == epsilon(spends, 0.01, "prv") < history_epsilon(spends, 0.01, "prv")


def test_with_boxes_privacy_is_what_the_sites_have_stated(make_plan: MakePlan, without_pages: list[str]) -> None:
    """Their ledgers are their own; the largest statement is the last one, whichever trial that was."""
    plan = make_plan(**PRIVATE)
    totals: list[dict[str, float | None]] = [
        {"site-1": 1.0, "site-2": 2.5},
        {"site-1": 2.0, "site-2": None},
        {"site-1": 1.5, "site-2": 2.0},
    ]
    records = []
    for number, total in enumerate(totals, 1):
        records.append(a_trial(plan, number, 0.5))
        statements = {site: {"epsilon": 1.0, "epsilon_all_runs": value, "delta": 0.01} for site, value in total.items()}
        moved = {"up_bytes": 1, "down_bytes": 1}
        summary = {
            "validation": {"mcc": 0.5},
            "best_round": 1,
            "rounds": 5,
            "timing": {},
            "communication": moved,
            "privacy": {"sites": statements},
            "config": {"federation": {"rounds": 5}},
        }
        RunFolder(plan.path / records[-1].folder).summary.write_text(json.dumps(summary))
    records.append(a_trial(plan, 4, None, state=State.FAILED))
    privacy = results_of(plan, records)["privacy"]
    assert (privacy["sites"], privacy["unstated"]) == ({"site-1": 2.0, "site-2": 2.5}, [4])
    assert "Not counted is what these trials, which came to no statement, spent after the last one that did: 4." in privacy["sentence"]
    assert "Not counted" not in results_of(plan, records[:3])["privacy"]["sentence"]
