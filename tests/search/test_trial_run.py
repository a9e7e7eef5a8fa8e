"""One trial on a real tiny federation, in one process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from primia.errors import RunError
from primia.privacy.filter import filtered_epsilon
from primia.privacy.ledger import Ledger
from primia.runs.folder import RunFolder
from primia.search import trial_run
from primia.search.plan import Assignment, SweepPlan
from primia.search.records import State, Told, TrialRecord, Value
from primia.search.trial_run import TrialRun
from primia.search.tune.trainable import ASSIGNMENT, MCC, PERCENT, TOLD, FederatedTrial, trial_name

VALUES: Mapping[str, Value] = {"training.learning_rate": 0.05, "training.momentum": 0.9}
SLOW: Mapping[str, Value] = {"training.learning_rate": 0.001, "training.momentum": 0.0}
ROUNDS = 5
SITES = ("site-1", "site-2", "site-3")
PRIVATE: dict[str, dict[str, object]] = {
    "model": {"normalisation": "group"},
    "privacy": {"unit": "image", "noise_multiplier": 1.0, "delta": 0.01, "accountant": "rdp", "validation": "public"},
}
MakePlan = Callable[..., SweepPlan]
Hosts = Any
"""The class of :class:`~tests.search.conftest.LocalHosts`, which is in no package."""


def trial(
    plan: SweepPlan, hosts: Hosts, number: int = 1, parameters: Mapping[str, Value] = VALUES, record: TrialRecord | None = None
) -> TrialRun:
    return TrialRun(plan, Assignment(number, 0, parameters, record), hosts)


def a_summary(plan: SweepPlan, record: TrialRecord) -> None:
    """A run folder with results, of which only that they are there is looked at."""
    RunFolder.create(plan.path / record.folder, plan.settings("x", VALUES), "f").summary.touch()


def rounds_of(plan: SweepPlan, record: TrialRecord) -> list[int]:
    """Rounds in a trial's history, which lists none twice."""
    rows = pq.read_table(RunFolder(plan.path / record.folder).history, filters=[("site", "=", "all")])
    return sorted(rows["round"].to_pylist())


def model(plan: SweepPlan, record: TrialRecord) -> bytes:
    return (plan.path / record.folder / "model.safetensors").read_bytes()


def summary(plan: SweepPlan, record: TrialRecord) -> dict[str, Any]:
    return RunFolder(plan.path / record.folder).read_summary()


def reached(told: Iterable[Told]) -> list[Told]:
    """What was told, but for what it took: a resume takes longer, and models are sent to the sites again."""
    return [replace(each, record=replace(each.record, seconds=0.0, bytes=0)) for each in told]


def test_it_tells_after_each_validation_and_at_the_end(make_plan: MakePlan, local_hosts: Hosts) -> None:
    plan = make_plan()
    told = list(trial(plan, local_hosts, number=3).told())
    assert [each.record.rounds for each in told] == [1, 2, 3, 4, 5]
    assert [each.percent for each in told] == [20, 40, 60, 80, 100]
    assert [each.is_over for each in told] == [False] * 4 + [True]
    assert [each.record.state for each in told] == [State.RUNNING] * 4 + [State.COMPLETE]
    for each in told:
        record = each.record
        assert (record.number, record.folder, record.parameters, record.planned_rounds) == (3, "trials/0003", VALUES, ROUNDS)
        assert [round_ for round_, _ in record.curve] == list(range(1, record.rounds + 1))
        assert record.value == max(mcc for _, mcc in record.curve) == dict(record.curve)[record.best_round]
    assert [hosts.left for hosts in local_hosts.made] == [str(plan.path / "trials/0003")], "the actors were let go"


def test_the_end_has_what_the_runs_summary_says(make_plan: MakePlan, local_hosts: Hosts) -> None:
    plan = make_plan(search={"second_objective": "bytes", "scheduler": "none"})
    *_, last = trial(plan, local_hosts).told()
    said, record = summary(plan, last.record), last.record
    assert record.bytes == said["communication"]["up_bytes"] + said["communication"]["down_bytes"] == record.second > 0
    assert (record.value, record.best_round) == (said["validation"]["mcc"], said["best_round"])
    assert record.seconds == pytest.approx(sum(said["timing"][phase] for phase in ("training", "validation", "test")))
    assert record.epsilon == {} and said["test"] is not None


def test_validations_alone_are_told(make_plan: MakePlan, local_hosts: Hosts) -> None:
    told = list(trial(make_plan(federation={"validate_every": 2}), local_hosts).told())
    assert [each.record.rounds for each in told] == [2, 4, 5]
    assert [round_ for round_, _ in told[-1].record.curve] == [2, 4, 5]


def test_the_run_has_the_trials_settings_and_the_sweeps_machines(make_plan: MakePlan, local_hosts: Hosts) -> None:
    plan = make_plan(run={"seed": 7})
    run = TrialRun(plan, Assignment(2, 1, VALUES), local_hosts)
    told = run.told()
    next(told)
    settings = RunFolder(plan.path / "trials/0002").settings()
    assert (settings.training.learning_rate, settings.training.momentum, settings.run.seed) == (0.05, 0.9, 7)
    assert (settings.resources.actors, settings.resources.threads, settings.search.space) == (3, 1, {})
    assert run.folder.path == settings.run.output / settings.run.name
    assert local_hosts.made[0].actors == replace(plan.actors, replica=1)
    run.end(prune=False)


def test_trials_with_images_or_actors_of_their_own_plan_them(make_plan: MakePlan, local_hosts: Hosts, tmp_path: Path) -> None:
    plan = make_plan(own_data=True, data={"cache": tmp_path / "cache"}, search={"max_concurrent": 2})
    *_, told = trial(plan, local_hosts).told()
    actors = local_hosts.made[0].actors
    assert told.record.state is State.COMPLETE
    assert not actors.pool and len(actors.hosts) == 3 and 2 * 3 * actors.options.cpus <= 2


def test_a_setting_that_cannot_be_ends_the_trial_with_its_line(make_plan: MakePlan, local_hosts: Hosts) -> None:
    plan = make_plan()
    (told,) = trial(plan, local_hosts, parameters={**VALUES, "training.momentum": 2.0}).told()
    assert (told.record.state, told.percent, told.is_over, told.is_spent) == (State.FAILED, 0, True, False)
    assert "training.momentum" in told.record.cause and "traceback" not in told.record.cause and "\n" not in told.record.cause
    assert not local_hosts.made


def test_a_loss_that_is_not_finite_fails_the_trial_with_its_line(make_plan: MakePlan, local_hosts: Hosts) -> None:
    plan = make_plan()
    (told,) = trial(plan, local_hosts, parameters={**VALUES, "training.learning_rate": 1e30}).told()
    assert told.record.state is State.FAILED and "no longer finite" in told.record.cause and "traceback" not in told.record.cause
    assert local_hosts.made[0].left


def test_a_bug_fails_the_trial_alone_with_its_traceback_in_the_log(make_plan: MakePlan, local_hosts: Hosts) -> None:
    class Broken(local_hosts):  # type: ignore[misc]
        def ask(self, method: str, *others: Any) -> Any:
            if self.rounds == 2:
                raise ZeroDivisionError("of all things")
            return super().ask(method, *others)

    plan = make_plan()
    *earlier, told = trial(plan, Broken).told()
    assert told.record.cause.startswith("ZeroDivisionError: of all things; traceback in trials/0001/run.log")
    assert "Traceback" in (log := (plan.path / "trials/0001/run.log").read_text()) and "of all things" in log
    assert (told.record.state, told.percent, told.is_over) == (State.FAILED, 0, True)
    assert earlier[-1].record.curve == told.record.curve and len(told.record.curve) == 1
    assert Broken.made[0].left, "the actors were let go"
    assert [each.record.state for each in trial(plan, local_hosts, 2).told()][-1] is State.COMPLETE


def test_a_pruned_trial_is_a_run_with_the_best_model_so_far_and_no_test(make_plan: MakePlan, local_hosts: Hosts) -> None:
    plan = make_plan()
    run = trial(plan, local_hosts)
    told = run.told()
    next(told)
    before = next(told).record
    run.end(prune=True)
    assert local_hosts.made[0].rounds == 2 and local_hosts.made[0].left, "no round is trained that nobody asked for"
    said, record = summary(plan, before), run.record
    assert (said["status"], said["test"], said["rounds"]) == ("pruned", None, 2)
    assert said["validation"]["mcc"] == before.value and len(model(plan, before)) > 1000
    assert (record.state, record.value, record.curve, record.rounds) == (State.PRUNED, before.value, before.curve, 2)
    assert "search.scheduler" in run.folder.log.read_text()


def test_a_trial_that_is_over_is_not_ended_again(make_plan: MakePlan, local_hosts: Hosts) -> None:
    plan = make_plan()
    run = trial(plan, local_hosts)
    *_, last = run.told()
    before = summary(plan, last.record)
    run.end(prune=True)
    assert run.record == last.record and summary(plan, last.record) == before
    trial(plan, local_hosts, 2).end(prune=True)
    assert not (plan.path / "trials/0002").exists(), "one that has not begun leaves nothing"


@pytest.mark.parametrize("secure", [False, True])
def test_an_interrupted_trial_goes_on_bit_for_bit(make_plan: MakePlan, local_hosts: Hosts, secure: bool) -> None:
    aggregation = {"enabled": secure, "seal": secure}
    whole, broken = make_plan("whole", secure_aggregation=aggregation), make_plan("broken", secure_aggregation=aggregation)
    expected = list(trial(whole, local_hosts).told())
    run = trial(broken, local_hosts)
    told = run.told()
    for _ in range(3):
        next(told)
    run.end(prune=False)
    assert run.record.state is State.RUNNING and not run.folder.summary.exists()
    again = list(trial(broken, local_hosts, record=run.record).told())
    assert reached(again) == reached(expected), "what was told is told again, for searcher and scheduler"
    assert model(broken, again[-1].record) == model(whole, expected[-1].record)
    assert rounds_of(broken, again[-1].record) == [1, 2, 3, 4, 5]
    assert local_hosts.made[-1].rounds < local_hosts.made[0].rounds


def test_a_trial_killed_in_the_middle_of_a_round_goes_on_from_its_last_checkpoint(
    make_plan: MakePlan, local_hosts: Hosts, tmp_path: Path
) -> None:
    plan = make_plan()
    run = trial(plan, local_hosts)
    told = run.told()
    expected = [next(told), next(told)]
    run.save(tmp_path / "saved")  # returns when the checkpoint of round 2 is on disk
    killed = replace(plan, path=tmp_path / "killed")
    shutil.copytree(plan.path, killed.path)
    expected += told
    again = list(trial(killed, local_hosts, record=replace(expected[0].record, curve=(), rounds=0, value=None)).told())
    assert reached(again) == reached(expected)
    assert local_hosts.made[-1].rounds == 3


def test_a_trial_killed_before_its_first_checkpoint_begins_anew(make_plan: MakePlan, local_hosts: Hosts) -> None:
    """Its folder was being made; that of another sweep's trial, whole, shows what is expected."""
    plan, whole = make_plan(), make_plan("whole")
    (plan.path / "trials/0001").mkdir()
    (plan.path / "trials/0001/config.ini").write_text("[run]\n")
    started = TrialRecord(1, State.RUNNING, VALUES, "trials/0001")
    again = trial(plan, local_hosts, record=started).told()
    assert reached(again) == reached(trial(whole, local_hosts).told())


def test_a_trial_killed_between_its_summary_and_its_record_is_not_trained_again(make_plan: MakePlan, local_hosts: Hosts) -> None:
    plan = make_plan()
    first, *_, last = trial(plan, local_hosts).told()
    again = list(trial(plan, local_hosts, record=first.record).told())
    assert [each.record.rounds for each in again] == [1, 2, 3, 4, 5] and again[-1] == last
    assert len(local_hosts.made) == 1


def test_a_trial_under_way_when_the_sweep_stopped_can_be_gone_on_with(make_plan: MakePlan, local_hosts: Hosts) -> None:
    """Ray ends it as if it were pruned (search.time_limit), but its record says running; that of a pruned one would say pruned."""
    plan, whole = make_plan(), make_plan("whole")
    run = trial(plan, local_hosts)
    told = run.told()
    known = next(told).record
    run.end(prune=True)
    again = list(trial(plan, local_hosts, record=known).told())
    assert reached(again) == reached(trial(whole, local_hosts).told())


def test_a_resumed_trial_that_is_pruned_at_once_trains_no_further(make_plan: MakePlan, local_hosts: Hosts) -> None:
    plan = make_plan()
    run = trial(plan, local_hosts)
    told = run.told()
    known = [next(told), next(told), next(told)][-1].record
    run.end(prune=False)
    again = trial(plan, local_hosts, record=known)
    told = again.told()
    assert next(told).record.rounds == 1
    again.end(prune=True)
    assert (again.record.state, again.record.rounds, again.record.curve) == (State.PRUNED, 3, known.curve)
    assert local_hosts.made[-1].rounds == 0 and summary(plan, known)["status"] == "pruned"


@pytest.mark.parametrize(("state", "rounds"), [(State.COMPLETE, 5), (State.PRUNED, 3)])
def test_a_record_that_is_over_is_repeated_without_training(make_plan: MakePlan, local_hosts: Hosts, state: State, rounds: int) -> None:
    curve = ((1, 0.1), (2, 0.4), (3, 0.2), (4, 0.5), (5, 0.3))[:rounds]
    value, best = max((mcc, round_) for round_, mcc in curve)
    record = TrialRecord(4, state, VALUES, "trials/0004", value, None, rounds, 5, best, 12.0, 99, curve, {"site-1": 0.5}, "why")
    plan = make_plan()
    a_summary(plan, record)
    told = list(trial(plan, local_hosts, 4, record=record).told())
    assert [(each.record.rounds, each.percent, each.record.value) for each in told] == [
        (1, 20, 0.1), (2, 40, 0.4), (3, 60, 0.4), (4, 80, 0.5), (5, 100, 0.5)
    ][:rounds]  # fmt: skip
    assert told[-1].record == record and [each.is_over for each in told] == [False] * (rounds - 1) + [True]
    assert {each.record.state for each in told[:-1]} == {State.RUNNING}
    assert not local_hosts.made


@pytest.mark.parametrize("rounds", [3, 5])
def test_one_that_ended_before_its_last_round_was_told_as_whole(make_plan: MakePlan, local_hosts: Hosts, rounds: int) -> None:
    """By federation.patience, or since privacy was spent."""
    curve = ((1, 0.1), (2, 0.4), (3, 0.2))
    record = TrialRecord(1, State.COMPLETE, VALUES, "trials/0001", 0.4, rounds=3, planned_rounds=rounds, best_round=2, curve=curve)
    *before, last = trial(make_plan(), local_hosts, record=record).told()
    assert [each.record.rounds for each in before] == [1, 2, 3][: 3 if rounds > 3 else 2]
    assert (last.record, last.percent, last.is_over) == (record, 100, True)


def test_a_sweep_that_was_killed_before_a_pruned_trial_had_results_ends_it(make_plan: MakePlan, local_hosts: Hosts) -> None:
    plan = make_plan()
    run = trial(plan, local_hosts)
    told = run.told()
    next(told)
    pruned = replace(next(told).record, state=State.PRUNED)
    run.end(prune=False)
    assert not RunFolder(plan.path / pruned.folder).summary.exists()
    again = list(trial(plan, local_hosts, record=pruned).told())
    assert [(each.record.rounds, each.percent, each.is_over) for each in again] == [(1, 20, False), (2, 40, False), (2, 40, True)]
    assert again[-1].record.state is State.PRUNED and summary(plan, pruned)["status"] == "pruned" and local_hosts.made[-1].rounds == 0


def test_a_trial_that_was_put_away_and_goes_on_has_no_results_until_its_end(make_plan: MakePlan, local_hosts: Hosts) -> None:
    """What they say of privacy is not all any more, should it fail."""
    plan = make_plan()
    run = trial(plan, local_hosts)
    first = run.told()
    so_far = next(first).record
    run.end(prune=True)
    folder = RunFolder(plan.path / so_far.folder)
    assert folder.read_summary()["status"] == "pruned"
    again = trial(plan, local_hosts, record=so_far)
    told = again.told()
    next(told)
    next(told)
    assert not folder.summary.exists()
    again.end(prune=False)


def test_a_trial_of_other_images_is_not_gone_on_with(make_plan: MakePlan, local_hosts: Hosts) -> None:
    plan = make_plan()
    run = trial(plan, local_hosts)
    so_far = next(run.told()).record
    run.end(prune=False)
    RunFolder(plan.path / so_far.folder).data.write_text('{"fingerprint": "other", "id": "x"}')
    (failed,) = trial(plan, local_hosts, record=so_far).told()
    assert failed.record.state is State.FAILED and "the images have changed since it was started" in failed.record.cause


def test_a_record_that_failed_is_repeated_as_it_was_told(make_plan: MakePlan, local_hosts: Hosts) -> None:
    record = TrialRecord(1, State.FAILED, VALUES, "trials/0001", 0.1, None, 1, 5, 1, curve=((1, 0.1),), cause="the loss is not finite")
    validated, failed = trial(make_plan(), local_hosts, record=record).told()
    assert (validated.record, validated.percent, validated.is_over) == (replace(record, state=State.RUNNING), 20, False)
    assert failed == Told(record, 0, is_over=True)
    unheard = replace(record, value=None, curve=(), rounds=0, planned_rounds=0)
    assert list(trial(make_plan("other"), local_hosts, record=unheard).told()) == [Told(unheard, 0, is_over=True)]


def test_population_based_training_goes_on_from_anothers_model(
    make_plan: MakePlan, local_hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the other's settings and draws as well, what comes of it is the other's own model."""
    monkeypatch.setattr(SweepPlan, "_repeat", lambda plan, name: "one")
    plan = make_plan(search={"scheduler": "pbt"})
    one, two = trial(plan, local_hosts, 1), trial(plan, local_hosts, 2, SLOW)
    told = one.told()
    next(told)
    next(told)
    one.save(tmp_path / "saved")
    origin = one.record
    expected = list(told)[-1].record
    next(two.told())
    two.end(prune=False)
    same, other = trial(plan, local_hosts, 2), trial(plan, local_hosts, 3, SLOW)
    for each in (same, other):
        each.branch(origin, tmp_path / "saved")
    assert same.record.folder == "trials/0002-from-002" and same.record.cause == "goes on from trial 1 after round 2"
    told = list(same.told())
    assert local_hosts.made[-1].rounds == 3
    assert [each.record.rounds for each in told] == [3, 4, 5]
    assert (told[-1].record.value, told[-1].record.curve) == (expected.value, expected.curve)
    assert model(plan, told[-1].record) == model(plan, expected)
    *_, last = other.told()
    assert last.record.curve[:2] == expected.curve[:2] and last.record.curve != expected.curve
    assert other.folder.settings().training.learning_rate == 0.001
    assert (plan.path / "trials/0002").is_dir(), "what was trained before stays"


def test_a_population_member_that_went_on_from_another_is_resumed_in_its_new_place(
    make_plan: MakePlan, local_hosts: Hosts, tmp_path: Path
) -> None:
    plan = make_plan(search={"scheduler": "pbt"})
    one, two = trial(plan, local_hosts, 1), trial(plan, local_hosts, 2, SLOW)
    next(one.told())
    one.save(tmp_path / "one")
    two.branch(one.record, tmp_path / "one")
    told = two.told()
    next(told)
    next(told)
    two.end(prune=False)
    known = two.record
    again = trial(plan, local_hosts, 2, SLOW, known)
    *_, last = again.told()
    assert (last.record.folder, last.record.cause) == ("trials/0002-from-001", "goes on from trial 1 after round 1")
    assert len(known.curve) == 3 and last.record.curve[:3] == known.curve and local_hosts.made[-1].rounds == 2
    one.end(prune=False)


def test_a_population_is_not_told_again_what_is_over(make_plan: MakePlan, local_hosts: Hosts) -> None:
    plan = make_plan(search={"scheduler": "pbt"})
    *_, last = trial(plan, local_hosts).told()
    (again,) = trial(plan, local_hosts, record=last.record).told()
    assert (again.record, again.percent, again.is_over) == (last.record, 100, True)


def test_what_is_not_checkpointed_cannot_be_saved(
    make_plan: MakePlan, local_hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("primia.federation.driver.checkpoint._WRITTEN_S", 0.05)
    run = trial(make_plan(), local_hosts)
    with pytest.raises(RunError, match="has no checkpoint of round 0"):
        run.save(tmp_path / "saved")


def test_epsilon_is_told_by_site_and_as_an_objective(make_plan: MakePlan, local_hosts: Hosts) -> None:
    plan = make_plan(**PRIVATE, search={"second_objective": "epsilon", "scheduler": "none"}, federation={"rounds": 1})
    *_, last = trial(plan, local_hosts).told()
    assert set(last.record.epsilon) == set(SITES) and last.record.second == max(last.record.epsilon.values()) > 0.1


def test_trials_together_stay_within_the_sweeps_epsilon(make_plan: MakePlan, local_hosts: Hosts) -> None:
    """The ledgers are the sweep's: the first trial ends where they are full, the next one cannot begin, and both say it."""
    alone = make_plan("alone", **PRIVATE, federation={"rounds": 2})
    list(trial(alone, local_hosts).told())
    ledgers = [Ledger(alone.path / "sites" / site / "privacy.jsonl").charges() for site in SITES]
    spent = [[charge.spend for charge in charges] for charges in ledgers]
    limit = next(limit / 10 for limit in range(1, 1000) if all(filtered_epsilon(each, limit / 10, 0.01) <= limit / 10 for each in spent))
    plan = make_plan(**PRIVATE, search={"max_epsilon": limit})
    *_, first = trial(plan, local_hosts, 1).told()
    assert (first.record.state, first.record.rounds, first.is_spent) == (State.COMPLETE, 2, False)
    assert summary(plan, first.record)["status"] == "stopped"
    (second,) = trial(plan, local_hosts, 2).told()
    assert (second.record.state, second.is_over, second.is_spent) == (State.FAILED, True, True)
    assert "have spent their privacy budget" in second.record.cause
    assert "search.max_epsilon" in (plan.path / "trials/0002/run.log").read_text()
    for site in SITES:
        charges = Ledger(plan.path / "sites" / site / "privacy.jsonl").charges("demo@primia.example")
        assert [charge.run.partition("#")[0] for charge in charges] == ["0001", "0001"]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, local_hosts: Hosts) -> Callable[..., FederatedTrial]:
    """Makes the shell that Ray Tune drives, for a trial of that number; its hosts need no Ray."""
    monkeypatch.setattr(trial_run, "TrialRun", partial(TrialRun, make_hosts=local_hosts))
    named = {"number": 0}
    monkeypatch.setattr(FederatedTrial, "trial_name", property(lambda self: trial_name(named["number"])))

    def make(plan: SweepPlan, config: Mapping[str, Any]) -> FederatedTrial:
        named["number"] = config[ASSIGNMENT]["number"]
        made = FederatedTrial.__new__(FederatedTrial)
        made.setup(config, plan=plan)
        return made

    return make


def config(number: int, parameters: Mapping[str, Value] = VALUES) -> dict[str, Any]:
    return {ASSIGNMENT: {"number": number, "replica": 0, "parameters": parameters, "record": None}}


def test_a_step_is_what_schedulers_read(make_plan: MakePlan, shell: Callable[..., FederatedTrial]) -> None:
    plan = make_plan()
    made = shell(plan, config(1))
    results = [made.step() for _ in range(ROUNDS)]
    assert [result[PERCENT] for result in results] == [20, 40, 60, 80, 100]
    assert [result["done"] for result in results] == [False] * 4 + [True]
    assert [result[MCC] for result in results] == [result[TOLD].record.value for result in results]
    failed = shell(plan, config(2, {**VALUES, "training.momentum": 2.0})).step()
    assert (failed[PERCENT], failed[MCC], failed["done"]) == (0, -1, True)


@pytest.mark.parametrize(("scheduler", "status"), [("asha", "pruned"), ("pbt", None)])
def test_a_process_that_is_given_another_trial_ends_the_one_before(
    make_plan: MakePlan, shell: Callable[..., FederatedTrial], scheduler: str, status: str | None
) -> None:
    """A member of a population pauses, and may go on."""
    plan = make_plan(search={"scheduler": scheduler})
    made = shell(plan, config(1))
    made.step()
    assert made.reset_config(config(1, SLOW))
    run = RunFolder(plan.path / "trials/0001")
    assert (run.read_summary()["status"] if run.summary.exists() else None) == status


def test_a_member_goes_on_from_its_own_checkpoint_or_anothers(
    make_plan: MakePlan, shell: Callable[..., FederatedTrial], tmp_path: Path
) -> None:
    plan = make_plan(search={"scheduler": "pbt"})
    one = shell(plan, config(1))
    one.step()
    (tmp_path / "saved").mkdir()
    one.save_checkpoint(str(tmp_path / "saved"))
    one.load_checkpoint(str(tmp_path / "saved"))
    assert one.step()[TOLD].record.folder == "trials/0001"
    two = shell(plan, config(2, SLOW))
    two.load_checkpoint(str(tmp_path / "saved"))
    told = two.step()[TOLD].record
    assert (told.folder, told.rounds, told.curve[0]) == ("trials/0002-from-001", 2, one._run.record.curve[0])
    (tmp_path / "paused").mkdir()
    two.save_checkpoint(str(tmp_path / "paused"))
    two.reset_config(config(2, SLOW))
    two.load_checkpoint(str(tmp_path / "paused"))
    assert two._run._assignment.replica == 1 % plan.replicas, "its own, not the other's"
    again = two.step()[TOLD].record
    assert (again.folder, again.cause, again.rounds) == (told.folder, told.cause, 3), "it goes on where it was paused"
    for each in (one, two):
        each.cleanup()
