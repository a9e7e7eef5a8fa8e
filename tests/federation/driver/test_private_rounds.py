"""Differential privacy in whole runs: what is spent, what is told, and where it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from primia.data.shard import Shard
from primia.errors import BudgetSpent, FederationError, PrivacyError, TrainingError
from primia.federation.driver.checkpoint import Checkpoints, RunState
from primia.federation.driver.prepare import prepare_run
from primia.federation.driver.rounds import RoundLoop
from primia.federation.driver.run import run_federation
from primia.federation.events import Event, Notice, RoundFinished, RunFinished, SiteFinished, SiteLeftOut
from primia.federation.messages import RoundTask
from primia.federation.plan import assign_hosts
from primia.federation.refusals import Kind
from primia.federation.run_spec import RunSetup
from primia.privacy.account import Account
from primia.privacy.accounting import epsilon
from primia.privacy.filter import filtered_epsilon
from primia.privacy.ledger import Ledger
from primia.privacy.spend import Spend
from primia.runs.folder import RunFolder
from primia.secagg.identity import Identity

DRIVER = Identity.generate("demo@primia.example")
FEDERATION = "demo@primia.example"
DP = {"unit": "image", "target_epsilon": 8.0, "delta": 0.01, "accountant": "rdp"}  # prv takes tenths of seconds for each value
BASE = {"model": {"normalisation": "group"}, "federation": {"rounds": 2}}
Make = Callable[..., RunSetup]
MakeHosts = Callable[..., object]
Words = Callable[..., str]


def hosts_of(setup: RunSetup, make_hosts: MakeHosts, **options: object):  # type: ignore[no-untyped-def]
    return make_hosts(assign_hosts(setup.sites, 3), **options)


def finish(setup: RunSetup, hosts) -> tuple[RunFinished, list[Event]]:  # type: ignore[no-untyped-def]
    events = list(run_federation(setup, hosts))
    (finished,) = [event for event in events if isinstance(event, RunFinished)]
    return finished, events


def ledger(setup: RunSetup, site: str) -> Ledger:
    return Ledger(RunFolder(setup.folder).sites / site / "privacy.jsonl")


@pytest.mark.parametrize("secure", [True, False])
def test_a_run_spends_its_target_and_no_more(make_setup: Make, make_hosts: MakeHosts, secure: bool) -> None:
    setup = make_setup(**BASE, privacy=DP, secure_aggregation={"enabled": secure})
    finished, events = finish(setup, hosts_of(setup, make_hosts))
    privacy = finished.summary["privacy"]
    assert finished.status == "complete" and set(privacy["sites"]) == set(setup.training_sites)
    for name, statement in privacy["sites"].items():
        charges = ledger(setup, name).charges(FEDERATION)
        assert [charge.round for charge in charges] == [1, 2]
        spent = epsilon([charge.spend for charge in charges], 0.01, "rdp")
        assert 7 < statement["epsilon"] == spent <= 8
        assert statement["unit"] == "image" and statement["sampling"] == "Poisson" and statement["neighbours"] == "add or remove one image"
    assert "epsilon at most 8 at delta = 0.01" in privacy["statement"] and "DP-SGD" in privacy["statement"]
    assert ("aggregated securely" in privacy["statement"]) == secure
    assert {event.train_loss for event in events if isinstance(event, RoundFinished)} == {None}
    assert {event.loss for event in events if isinstance(event, SiteFinished)} == {None}


def test_nothing_exact_is_told_of_training_images_but_their_number(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(**BASE, privacy=DP, secure_aggregation={"enabled": False})
    prepared = prepare_run(setup, hosts_of(setup, make_hosts), DRIVER)
    assert prepared.class_counts["train"] == {} and prepared.train_units > 0
    assert prepared.session.normalisation.mean == (0.5,) and prepared.session.normalisation.std == (0.25,)


def test_the_last_model_is_taken_where_private_images_may_not_choose(make_setup: Make, make_hosts: MakeHosts) -> None:
    """With a rate that ruins the model the first validation is as good as any; the last model counts all the same."""
    private = make_setup("private", **BASE, privacy=DP)
    finished, events = finish(private, hosts_of(private, make_hosts))
    assert finished.summary["best_round"] == 2
    assert [event.is_best for event in events if isinstance(event, RoundFinished)] == [False, True]
    public = make_setup("public", **BASE, privacy=DP | {"validation": "public"})
    finished, events = finish(public, hosts_of(public, make_hosts))
    scores = [float(str(event.validation["mcc"])) for event in events if isinstance(event, RoundFinished) and event.validation]
    assert finished.summary["best_round"] == 1 + int(np.argmax(scores))


def test_a_round_that_is_trained_again_costs_again_and_the_target_still_holds(
    make_setup: Make, make_hosts: MakeHosts, words: Words
) -> None:
    """The checkpoint of round 1 is lost after its updates left; the resumed run has no budget left for round 2."""
    setup = make_setup(**BASE, privacy=DP)
    hosts = hosts_of(setup, make_hosts)
    prepared = prepare_run(setup, hosts, DRIVER)
    loop = RoundLoop(setup, prepared, Checkpoints(RunFolder(setup.folder).checkpoints, 2), RunState(prepared.initial))
    next(event for event in loop.run() if isinstance(event, RoundFinished))
    loop._writer.flush()
    (RunFolder(setup.folder).checkpoints / "round-000001.json").unlink()
    finished, events = finish(setup, hosts_of(setup, make_hosts))
    assert finished.status == "stopped"
    assert finished.summary["rounds"] == finished.summary["best_round"] == 1
    assert any("stopped after round 1" in event.text for event in events if isinstance(event, Notice))
    refusals = [event.reason for event in events if isinstance(event, SiteLeftOut)]
    assert refusals and set(refusals) == {Kind.SPENT.value}
    for name in setup.training_sites:
        assert "above privacy.target_epsilon = 8" in words(setup, name)
        charges = ledger(setup, name).charges(FEDERATION)
        assert [charge.round for charge in charges] == [1, 1]
        assert epsilon([charge.spend for charge in charges], 0.01, "rdp") <= 8


def test_a_site_without_budget_stops_and_the_others_go_on(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(**BASE, privacy=DP)
    poor = setup.training_sites[0]
    hosts = hosts_of(setup, make_hosts)
    prepared = prepare_run(setup, hosts, DRIVER)
    charter = prepared.session.charter
    (member,) = [member for host in hosts.hosts if (member := host._gate.member(poor))]
    member.privacy(charter, member.steps(charter)).charge(1, member.steps(charter))  # as if round 1 had been trained before
    loop = RoundLoop(setup, prepared, Checkpoints(RunFolder(setup.folder).checkpoints, 2), RunState(prepared.initial))
    events = list(loop.run())
    assert loop.status == "complete" and loop.state.model.round == 2
    assert [(event.round, event.site) for event in events if isinstance(event, SiteLeftOut)] == [(2, poor)]


def test_a_target_that_cannot_be_met_says_what_could(make_setup: Make, make_hosts: MakeHosts, words: Words) -> None:
    """Statistics alone cost more than the target."""
    setup = make_setup(**BASE, privacy=DP | {"target_epsilon": 0.5, "statistics": "noisy", "statistics_noise": 1.0})
    with pytest.raises(PrivacyError, match=r"site 'site-1': privacy.target_epsilon cannot be met; raise it"):
        prepare_run(setup, hosts_of(setup, make_hosts), DRIVER)
    assert re.search(r"target_epsilon = 0.5 cannot be met .* set privacy.target_epsilon = \d", words(setup, "site-1"))


def test_patients_are_protected_as_wholes(make_setup: Make, make_hosts: MakeHosts) -> None:
    sections = BASE | {"training": {"batch_size": 2}, "privacy": DP | {"unit": "patient", "views": 2}}
    setup = make_setup(**sections)
    hosts = hosts_of(setup, make_hosts)
    finished, _ = finish(setup, hosts)
    shards = {site.name: [Shard.open(path) for path in site.source.train] for site in setup.sites}  # type: ignore[union-attr]
    for name, statement in finished.summary["privacy"]["sites"].items():
        patients = {patient for shard in shards[name] for patient in shard.patients}
        assert statement["units"] == len(patients) < sum(len(shard) for shard in shards[name])
        assert statement["neighbours"] == "add or remove one patient" and statement["views"] == 2
    assert "all training images of each patient together" in finished.summary["privacy"]["statement"]
    units = sum(site["units"] for site in finished.summary["privacy"]["sites"].values())
    told = json.dumps(finished.summary["data"] | {"config": None}) + RunFolder(setup.folder).facts.read_text()
    assert finished.summary["data"]["train_patients"] == units and finished.summary["data"]["train_images"] is None
    images = sum(len(shard) for name in shards for shard in shards[name])
    assert str(images) not in told, "how many images patients have is not told"


def test_noisy_statistics_are_paid_for_once_and_kept_when_a_run_is_resumed(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(**BASE, privacy=DP | {"statistics": "noisy", "statistics_noise": 5.0})
    first = prepare_run(setup, hosts_of(setup, make_hosts), DRIVER).session.normalisation
    second = prepare_run(setup, hosts_of(setup, make_hosts), DRIVER).session.normalisation
    assert first == second and first.mean != (0.5,)
    (charge,) = ledger(setup, "site-1").charges(FEDERATION)
    assert charge.round == 0 and charge.spend == Spend(5.0, 1.0, 1)
    finished, _ = finish(setup, hosts_of(setup, make_hosts))
    assert all(statement["noisy_statistics"] and statement["epsilon"] <= 8 for statement in finished.summary["privacy"]["sites"].values())


def test_whole_sites_are_protected_by_noise_on_the_sum(make_setup: Make, make_hosts: MakeHosts) -> None:
    sections = BASE | {
        "federation": {"rounds": 2, "weighting": "uniform"},
        "privacy": {"unit": "site", "noise_multiplier": 2.0, "clip": 0.01, "delta": 0.1},
    }
    setup = make_setup(**sections)
    finished, events = finish(setup, hosts_of(setup, make_hosts))
    assert not [event for event in events if isinstance(event, Notice) and "clipped" in event.text]
    (statement,) = finished.summary["privacy"]["sites"].values()
    assert statement["steps"] == 2 and statement["units"] == 3 and statement["sample_rate"] == 1.0
    assert statement["epsilon"] == epsilon([Spend(2.0, 1.0, 2)], 0.1, "prv")
    assert "all training images of each site together" in finished.summary["privacy"]["statement"]


def test_noise_on_the_sum_has_its_size_and_is_fresh(make_setup: Make, make_hosts: MakeHosts) -> None:
    """Updates clipped to almost nothing leave the noise: standard deviation 50 * 0.001 / 3 a parameter."""
    sections = BASE | {
        "federation": {"rounds": 1, "weighting": "uniform"},
        "privacy": {"unit": "site", "noise_multiplier": 50.0, "clip": 0.001, "delta": 0.1},
    }
    moves = []
    for name in ("one", "two"):
        setup = make_setup(name, **sections)
        prepared = prepare_run(setup, hosts_of(setup, make_hosts), DRIVER)
        loop = RoundLoop(setup, prepared, Checkpoints(RunFolder(setup.folder).checkpoints, 2), RunState(prepared.initial))
        list(loop.run())
        moves.append(loop.state.model.parameters - prepared.initial.parameters)
    expected = 50 * 0.001 / 3
    assert all(abs(move.std() / expected - 1) < 0.02 for move in moves)
    assert abs(np.corrcoef(*moves)[0, 1]) < 0.05


def test_statements_survive_a_resume(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(**BASE, privacy=DP)
    prepared = prepare_run(setup, hosts_of(setup, make_hosts), DRIVER)
    checkpoints = Checkpoints(RunFolder(setup.folder).checkpoints, 2)
    loop = RoundLoop(setup, prepared, checkpoints, RunState(prepared.initial))
    next(event for event in loop.run() if isinstance(event, RoundFinished))
    loop._writer.flush()
    state, _ = checkpoints.load_latest()
    assert state is not None and set(state.progress.privacy) == set(setup.training_sites)
    assert json.loads(json.dumps(state.progress.privacy)) == {name: dict(said) for name, said in state.progress.privacy.items()}


def test_the_ledger_is_the_sites_own(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(**BASE, privacy=DP)
    finish(setup, hosts_of(setup, make_hosts))
    path = Path(RunFolder(setup.folder).sites / "site-1" / "privacy.jsonl")
    assert path.stat().st_mode & 0o777 == 0o600


NOISE = {"unit": "image", "noise_multiplier": 1.0, "delta": 0.01, "accountant": "rdp", "validation": "public"}
WHOLE_SITES = {"unit": "site", "noise_multiplier": 2.0, "clip": 0.01, "delta": 0.1, "accountant": "rdp", "validation": "public"}


def paid_by(account: Account) -> dict[str, list[Spend]]:
    """What each ledger of the account holds."""
    return {
        path.parent.name: [charge.spend for charge in Ledger(path).charges(FEDERATION)] for path in account.folder.rglob("privacy.jsonl")
    }


def smallest_limit(spends: list[Spend], delta: float) -> float:
    """The limit that just allows ``spends``."""
    start = epsilon(spends, delta, "rdp")
    return next(limit for limit in np.arange(start, 10 * start, start / 200).tolist() if filtered_epsilon(spends, limit, delta) <= limit)


@pytest.mark.parametrize("privacy", [NOISE, WHOLE_SITES], ids=["image", "site"])
def test_runs_of_one_account_share_ledgers_and_limit(
    make_setup: Make, make_hosts: MakeHosts, words: Words, tmp_path: Path, privacy: dict[str, object]
) -> None:
    """One whole run and one round of the next fit; a third cannot begin. No run's own folder has a ledger."""
    sections = BASE | {"federation": {"rounds": 2, "weighting": "uniform"}, "privacy": privacy}

    def of_account(name: str, limit: float | None) -> RunSetup:
        return replace(make_setup(name, **sections), account=Account(tmp_path / "account", limit))

    def total(spends: list[Spend]) -> float:
        return epsilon(spends, float(str(privacy["delta"])), "rdp")

    first = of_account("first", None)
    assert finish(first, hosts_of(first, make_hosts))[0].status == "complete"
    paid = paid_by(Account(tmp_path / "account", None))
    assert len(paid) == (3 if privacy is NOISE else 1) and {len(spends) for spends in paid.values()} == {2}
    limit = smallest_limit(max(([*spends, spends[0]] for spends in paid.values()), key=total), float(str(privacy["delta"])))
    second = of_account("second", limit)
    finished, events = finish(second, hosts_of(second, make_hosts))
    assert (finished.status, finished.summary["rounds"]) == ("stopped", 1)
    said = [
        event.text if isinstance(event, Notice) else words(second, event.site)
        for event in events
        if isinstance(event, Notice | SiteLeftOut)
    ]
    assert any("the limit of the search (search.max_epsilon)" in text for text in said)
    third = of_account("third", limit)
    with pytest.raises(BudgetSpent, match="no round can be trained"):
        finish(third, hosts_of(third, make_hosts))
    paid = paid_by(Account(tmp_path / "account", None))
    assert {len(spends) for spends in paid.values()} == {3} and all(total(spends) <= limit for spends in paid.values())
    assert not [path for setup in (first, second, third) for path in setup.folder.rglob("privacy.jsonl")]
    for name, statement in finished.summary["privacy"]["sites"].items():
        spends = paid[name if privacy is NOISE else "account"]
        assert statement["epsilon_spent"] == total(spends[2:]) < statement["epsilon"] == total(spends[:2])
        assert statement["epsilon_all_runs"] == total([*spends, spends[2]]), "the round that was planned counts"


def test_what_protects_others_cannot_be_added_up_in_one_account(
    make_setup: Make, make_hosts: MakeHosts, words: Words, tmp_path: Path
) -> None:
    images, patients = (
        replace(
            make_setup(unit, **BASE | {"federation": {"rounds": 1}, "training": {"batch_size": 2}, "privacy": {**NOISE, "unit": unit}}),
            account=Account(tmp_path / "account", 1000.0),
        )
        for unit in ("image", "patient")
    )
    assert finish(images, hosts_of(images, make_hosts))[0].status == "complete"
    with pytest.raises(BudgetSpent):
        finish(patients, hosts_of(patients, make_hosts))
    assert Kind.SPENT.value in RunFolder(patients.folder).log.read_text()
    assert "protected another unit than patient" in words(patients, "site-1")


def test_plain_runs_say_that_nothing_is_private(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(federation={"rounds": 1})
    finished, _ = finish(setup, hosts_of(setup, make_hosts))
    privacy = finished.summary["privacy"]
    assert privacy["unit"] == "none" and not privacy["sites"]
    assert "No differential privacy was used" in privacy["statement"]
    assert "never over fewer than 3. This holds as long as fewer than 2 of a round's sites tell the driver" in privacy["statement"]
    sealed = make_setup("sealed", federation={"rounds": 1}, secure_aggregation={"enabled": False})
    finished, _ = finish(sealed, hosts_of(sealed, make_hosts))
    assert "sealed for the driver, which saw it in clear" in finished.summary["privacy"]["statement"]


@pytest.mark.parametrize("aggregation", [{"enabled": True}, {"enabled": False, "seal": True}, {"enabled": False, "seal": False}])
def test_every_answer_is_charged_also_that_the_noised_model_is_not_finite(
    make_setup: Make, make_hosts: MakeHosts, aggregation: dict[str, object]
) -> None:
    """The attack: whether the model overflows follows from the noised sum, and was told without a charge, as often as asked."""
    setup = make_setup(
        model={"normalisation": "group"},
        privacy={"unit": "image", "noise_multiplier": 1e5, "clip": 1e6, "delta": 0.01, "accountant": "rdp"},
        training={"optimizer": "sgd", "learning_rate": 1e30, "momentum": 0.0},
        federation={"rounds": 4, "sync_every_n_batch": 1},
        secure_aggregation=aggregation,
    )
    hosts = hosts_of(setup, make_hosts)
    prepared = prepare_run(setup, hosts, DRIVER)
    task = RoundTask(1, 4, setup.training_sites, None, range=16.0)
    for asked in (1, 2):
        with suppress(TrainingError, FederationError):
            list(prepared.collector.train(prepared.session, task, prepared.initial))
        assert [len(ledger(setup, site).charges()) for site in setup.training_sites] == [asked] * 3


def test_a_dry_run_on_boxes_has_a_ledger_of_its_own(make_boxed: Callable[..., Any], make_hosts: MakeHosts, tmp_path: Path) -> None:
    """The attack: a dry run, which needs no grant, whose state folder makes the box's ledger its own."""
    setup, boxes = make_boxed(None, run={"dry_run": True}, privacy=DP, model={"normalisation": "group"})
    hosts = hosts_of(setup, make_hosts)
    session = prepare_run(setup, hosts, DRIVER).session
    charter = replace(session.charter, id="other", state_folder=tmp_path / "boxes")
    for host in hosts.hosts:
        host.join(charter, setup.training_sites)
        host.train(
            replace(session, charter=charter),
            RoundTask(1, 1, setup.training_sites, None, range=16.0),
            prepare_run(setup, hosts, DRIVER).initial,
        )
    assert not any(box.ledger.exists() for box in boxes.values())
