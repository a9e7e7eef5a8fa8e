"""The round loop on a real tiny federation, in one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from primia.errors import FederationError, TrainingError
from primia.federation.driver.checkpoint import Checkpoints, RunState
from primia.federation.driver.prepare import prepare_run
from primia.federation.driver.rounds import RoundLoop
from primia.federation.driver.run import run_federation
from primia.federation.events import Event, Notice, RoundFinished, RunFinished, SiteFinished, SiteLeftOut
from primia.federation.plan import assign_hosts
from primia.federation.refusals import Kind
from primia.federation.run_spec import RunSetup
from primia.federation.update import GlobalModel
from primia.runs.folder import RunFolder
from primia.secagg.identity import Identity

DRIVER = Identity.generate("demo@primia.example")
PLAIN = {"secure_aggregation": {"enabled": False, "seal": False}}
Make = Callable[..., RunSetup]
MakeHosts = Callable[..., object]
Words = Callable[..., str]


def run(setup: RunSetup, hosts, until: int | None = None) -> tuple[RunState, list[Event]]:  # type: ignore[no-untyped-def]
    """Run, or go on from the last checkpoint, and stop dead after round ``until``."""
    checkpoints = Checkpoints(RunFolder(setup.folder).checkpoints, 2)
    prepared = prepare_run(setup, hosts, DRIVER)
    state = checkpoints.load_latest()[0] or RunState(prepared.initial)
    loop = RoundLoop(setup, prepared, checkpoints, state)
    events = []
    for event in loop.run():
        events.append(event)
        if isinstance(event, RoundFinished) and event.round == until:
            break
    return loop.state, events


def one_each(setup: RunSetup, make_hosts: MakeHosts, **options: object):  # type: ignore[no-untyped-def]
    return make_hosts(assign_hosts(setup.sites, 3), **options)


def equal(first: GlobalModel, second: GlobalModel) -> bool:
    return np.array_equal(first.parameters, second.parameters) and np.array_equal(first.buffers, second.buffers)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"federation": {"server_optimizer": "fedadam"}, "training": {"optimizer": "adam", "schedule": "cosine"}},
        {"federation": {"batchnorm": "local"}},
        {"federation": {"keep_optimizer_state": True}, "training": {"optimizer": "adamw"}},
        {"federation": {"sites_per_round": 2, "sync_every_n_batch": 3}, "augmentation": {"rotation": 20, "noise": 0.1}},
        {"run": {"mode": "pooled"}, "federation": {"keep_optimizer_state": True}},
        PLAIN,
        {"secure_aggregation": {"enabled": False}},
    ],
    ids=["fedavg", "fedadam", "fedbn", "optimizer-state", "sampled", "pooled", "plain", "sealed"],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(make_setup: Make, make_hosts: MakeHosts, sections: dict) -> None:  # type: ignore[type-arg]
    whole = make_setup("whole", **sections)
    expected, _ = run(whole, one_each(whole, make_hosts))
    broken = make_setup("broken", **sections)
    run(broken, one_each(broken, make_hosts), until=2)
    resumed, events = run(broken, one_each(broken, make_hosts))
    assert [event.round for event in events if isinstance(event, RoundFinished)] == [3, 4]
    assert equal(resumed.model, expected.model)
    assert resumed.best is not None and expected.best is not None
    assert resumed.best.model.round == expected.best.model.round and equal(resumed.best.model, expected.best.model)


def test_a_checkpoint_cut_short_falls_back_and_still_gives_the_same_model(make_setup: Make, make_hosts: MakeHosts) -> None:
    whole = make_setup("whole")
    expected, _ = run(whole, one_each(whole, make_hosts))
    broken = make_setup("broken")
    run(broken, one_each(broken, make_hosts), until=3)
    vectors = RunFolder(broken.folder).checkpoints / "round-000003.safetensors"
    vectors.write_bytes(vectors.read_bytes()[:1000])
    resumed, events = run(broken, one_each(broken, make_hosts))
    assert [event.round for event in events if isinstance(event, RoundFinished)] == [3, 4]
    assert equal(resumed.model, expected.model)


def test_virtual_sites_on_one_actor_give_the_same_model_up_to_float_rounding(make_setup: Make, make_hosts: MakeHosts) -> None:
    apart, together = make_setup("apart"), make_setup("together")
    first, _ = run(apart, one_each(apart, make_hosts))
    second, _ = run(together, make_hosts(assign_hosts(together.sites, 1)))
    assert np.allclose(first.model.parameters, second.model.parameters, atol=1e-5)


def test_modes_take_equal_optimisation_steps(make_setup: Make, make_hosts: MakeHosts) -> None:
    steps = {}
    for mode, site in (("federated", ""), ("pooled", ""), ("local", "site-1")):
        setup = make_setup(mode, run={"mode": mode, "site": site})
        hosts = make_hosts(assign_hosts(setup.sites, 3))
        steps[mode] = prepare_run(setup, hosts, DRIVER).steps
    assert steps["federated"] == steps["pooled"] == steps["local"] > 3


def test_a_lost_site_is_left_out_of_its_round_and_takes_part_in_the_next(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup()
    name = setup.training_sites[1]
    state, events = run(setup, one_each(setup, make_hosts, broken=frozenset({(2, name)})))
    assert [(event.round, event.site, event.reason) for event in events if isinstance(event, SiteLeftOut)] == [(2, name, "its actor died")]
    assert state.model.round == 4
    assert state.progress.faults == ({"round": 2, "site": name, "reason": "its actor died"},)
    vector = 4 * state.model.parameters.size + 8 * (state.model.buffers.size + 6)
    assert 0 <= state.progress.up_bytes[name] - 3 * vector <= 3 * 8  # padding
    assert 0 <= state.progress.up_bytes[setup.training_sites[0]] - 4 * vector <= 4 * 8


def test_below_the_quorum_the_run_stops_and_says_how_to_go_on(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(federation={"quorum": 0.9})
    with pytest.raises(FederationError, match=r"round 3: 2 of 3 sites .* --resume"):
        run(setup, one_each(setup, make_hosts, broken=frozenset({(3, setup.training_sites[0])})))
    state, _ = run(setup, one_each(setup, make_hosts))
    whole = make_setup("whole", federation={"quorum": 0.9})
    assert equal(state.model, run(whole, one_each(whole, make_hosts))[0].model)


def test_a_site_that_raises_is_left_out_and_keeps_its_words(make_setup: Make, make_hosts: MakeHosts, words: Words) -> None:
    setup = make_setup(federation={"rounds": 1})
    hosts, name = one_each(setup, make_hosts), setup.training_sites[2]
    hosts.hosts[2]._state = None
    _, events = run(setup, hosts)
    left_out = [event for event in events if isinstance(event, SiteLeftOut)]
    assert {event.site for event in left_out} == {name}
    assert {event.reason.removeprefix("left out of validation: ") for event in left_out} == {Kind.FAILED.value}
    assert "TypeError" in words(setup, name) and "Traceback" in words(setup, name)


def test_secure_and_plain_runs_give_the_same_model_up_to_the_rounding(make_setup: Make, make_hosts: MakeHosts) -> None:
    masked, plain, sealed = make_setup("masked"), make_setup("plain", **PLAIN), make_setup("sealed", secure_aggregation={"enabled": False})
    expected, _ = run(plain, one_each(plain, make_hosts))
    first, events = run(masked, one_each(masked, make_hosts))
    assert np.allclose(first.model.parameters, expected.model.parameters, atol=1e-5)
    assert np.allclose(first.model.buffers, expected.model.buffers, atol=1e-5)
    assert not np.array_equal(first.model.parameters, expected.model.parameters), "it was rounded"
    assert equal(run(sealed, one_each(sealed, make_hosts))[0].model, expected.model)
    assert {event.loss for event in events if isinstance(event, SiteFinished)} == {None}
    losses = [event.train_loss for event in events if isinstance(event, RoundFinished)]
    assert len(losses) == 4 and all(loss is not None and 0.1 < loss < 3 for loss in losses)


def test_the_sum_is_that_of_the_survivors_wherever_a_site_is_lost(make_setup: Make, make_hosts: MakeHosts) -> None:
    reference = make_setup("reference", federation={"rounds": 1}, **PLAIN)
    name = reference.training_sites[1]
    without, _ = run(reference, one_each(reference, make_hosts, broken=frozenset({(1, name)})))
    for method in ("advertise", "share", "train"):
        setup = make_setup(method, federation={"rounds": 1})
        hosts = one_each(setup, make_hosts)
        prepared = prepare_run(setup, hosts, DRIVER)
        hosts.lost = [(method, name)]
        loop = RoundLoop(setup, prepared, Checkpoints(RunFolder(setup.folder).checkpoints, 2), RunState(prepared.initial))
        events = list(loop.run())
        assert [event.site for event in events if isinstance(event, SiteLeftOut)] == [name], method
        assert np.allclose(loop.state.model.parameters, without.model.parameters, atol=1e-5), method


@pytest.mark.parametrize("method", ["confirm", "unmask"])
def test_a_site_lost_after_it_delivered_is_in_the_sum(make_setup: Make, make_hosts: MakeHosts, method: str) -> None:
    reference, setup = make_setup("reference", federation={"rounds": 1}), make_setup(federation={"rounds": 1})
    whole, _ = run(reference, one_each(reference, make_hosts))
    hosts = one_each(setup, make_hosts)
    prepared = prepare_run(setup, hosts, DRIVER)
    hosts.lost = [(method, setup.training_sites[2])]
    loop = RoundLoop(setup, prepared, Checkpoints(RunFolder(setup.folder).checkpoints, 2), RunState(prepared.initial))
    notices = [event.text for event in loop.run() if isinstance(event, Notice)]
    assert equal(loop.state.model, whole.model)
    assert any("lost after its update was in the sum" in text for text in notices)


def test_too_few_sites_for_the_threshold_end_the_run_with_a_way_on(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(federation={"quorum": 0.1})
    broken = frozenset((2, name) for name in setup.training_sites[:2])
    with pytest.raises(FederationError, match=r"round 2: 1 of 3 sites in the group of 'site-3' delivered, 2 are needed .* --resume"):
        run(setup, one_each(setup, make_hosts, broken=broken))
    state, _ = run(setup, one_each(setup, make_hosts))
    assert state.model.round == 4


def test_a_change_beyond_the_range_is_clipped_and_said(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(federation={"rounds": 2}, secure_aggregation={"range": 2.0**-9})
    _, events = run(setup, one_each(setup, make_hosts))
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert len(notices) == 1 and "round 1:" in notices[0] and "are clipped" in notices[0], "the next range follows from the mean update"


def test_one_training_site_alone_cannot_hide(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup()
    alone = replace(setup, sites=tuple(replace(site, trains=site.name == "site-1") for site in setup.sites))
    with pytest.raises(FederationError, match=r"two training sites at least, 1 can take part.*secure_aggregation.enabled = no"):
        prepare_run(alone, one_each(alone, make_hosts), DRIVER)


def test_sites_may_keep_their_metrics_to_themselves(make_setup: Make, make_hosts: MakeHosts) -> None:
    told, kept = (
        make_setup("told", federation={"rounds": 1}),
        make_setup("kept", federation={"rounds": 1}, secure_aggregation={"site_metrics": False}),
    )
    (with_sites,) = [event for event in run(told, one_each(told, make_hosts))[1] if isinstance(event, RoundFinished)]
    (without,) = [event for event in run(kept, one_each(kept, make_hosts))[1] if isinstance(event, RoundFinished)]
    assert set(with_sites.site_validation) == set(told.training_sites) and not without.site_validation
    assert with_sites.validation == without.validation


def test_an_evaluation_that_loses_a_site_begins_anew_before_anything_is_opened(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(federation={"rounds": 1})
    hosts = one_each(setup, make_hosts)
    hosts.lost = [("evaluate", setup.training_sites[0])]
    _, events = run(setup, hosts)
    assert not [event for event in events if isinstance(event, SiteLeftOut)]
    assert hosts.calls.count("evaluate") == 2
    opened = hosts.calls[hosts.calls.index("evaluate") :]
    assert opened == ["evaluate", "advertise", "share", "evaluate", "confirm", "unmask"]


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(
    make_setup: Make, make_hosts: MakeHosts, words: Words
) -> None:
    setup = make_setup(training={"learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"round 1, 3 of 3 sites: the loss is no longer finite"):
        run(setup, one_each(setup, make_hosts))
    assert Checkpoints(RunFolder(setup.folder).checkpoints, 2).rounds() == [0]
    assert "batch" in words(setup, "site-1")


@pytest.mark.parametrize("privacy", [{}, {"unit": "image", "noise_multiplier": 1.0, "delta": 0.01, "accountant": "rdp"}])
@pytest.mark.parametrize("mode", ["federated", "pooled", "local"])
def test_sites_smaller_than_a_batch_train_on_all_their_images(
    make_setup: Make, make_hosts: MakeHosts, mode: str, privacy: dict[str, object]
) -> None:
    """Left out, they would tell a driver that asks with other batch sizes how many images they have."""
    rest = {"model": {"normalisation": "group"}, "privacy": privacy} if privacy else {}
    run_settings = {"mode": mode, "site": "site-1" if mode == "local" else ""}
    setup = make_setup(training={"batch_size": 500}, federation={"rounds": 2}, run=run_settings, **rest)
    hosts = one_each(setup, make_hosts)
    assert prepare_run(setup, hosts, DRIVER).steps == 3, "one each"
    state, events = run(setup, hosts)
    assert state.model.round == 2 and not [event for event in events if isinstance(event, SiteLeftOut)]


def test_early_stopping_ends_the_run(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(federation={"patience": 1, "rounds": 50}, training={"learning_rate": 1e-12})
    hosts = one_each(setup, make_hosts)
    finished = [event for event in run_federation(setup, hosts) if isinstance(event, RunFinished)]
    assert [event.status for event in finished] == ["stopped"]
    assert finished[0].summary["rounds"] == 2


def test_a_resume_after_early_stopping_does_not_train_on(make_setup: Make, make_hosts: MakeHosts) -> None:
    sections = {"federation": {"patience": 1, "rounds": 50}, "training": {"learning_rate": 1e-12}}
    setup = make_setup(**sections)
    run(setup, one_each(setup, make_hosts))
    resumed, events = run(setup, one_each(setup, make_hosts))
    assert resumed.model.round == 2 and not [event for event in events if isinstance(event, RoundFinished)]


def test_a_run_that_is_ended_from_outside_is_pruned_with_its_best_model_and_no_test(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(**PLAIN)
    hosts, reasons = one_each(setup, make_hosts), iter(["", "", "others are better"])
    events = list(run_federation(setup, hosts, lambda: next(reasons)))
    finished = events[-1]
    assert isinstance(finished, RunFinished) and finished.status == finished.summary["status"] == "pruned"
    assert [event.round for event in events if isinstance(event, RoundFinished)] == [1, 2] and finished.summary["rounds"] == 2
    assert [event.text for event in events if isinstance(event, Notice)] == ["ended after round 2: others are better"]
    assert finished.summary["test"] is None and hosts.calls.count("evaluate") == 2, "the test split was not touched"
    assert finished.summary["validation"] and (setup.folder / "model.safetensors").exists()


def test_a_pruned_run_can_be_gone_on_with(make_setup: Make, make_hosts: MakeHosts) -> None:
    """It gives what it would have given, had it not been ended."""
    whole, pruned = make_setup("whole", **PLAIN), make_setup("pruned", **PLAIN)
    (expected,) = [event for event in run_federation(whole, one_each(whole, make_hosts)) if isinstance(event, RunFinished)]
    reasons = iter(["", "", "others are better"])
    list(run_federation(pruned, one_each(pruned, make_hosts), lambda: next(reasons)))
    (finished,) = [event for event in run_federation(pruned, one_each(pruned, make_hosts)) if isinstance(event, RunFinished)]
    assert (finished.status, finished.summary["test"]) == ("complete", expected.summary["test"])
    assert (pruned.folder / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()


def test_pooled_mode_of_a_single_site(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(run={"mode": "pooled"})
    alone = replace(setup, sites=tuple(site for site in setup.sites if site.name in ("pooled", "site-1")))
    hosts = make_hosts(assign_hosts(alone.sites, 3))
    prepared = prepare_run(alone, hosts, DRIVER)
    assert prepared.single_steps == prepared.steps > 1


def test_a_validation_that_lacks_a_site_chooses_no_model(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup()
    hosts = one_each(setup, make_hosts)
    hosts.lost = [("evaluate", setup.training_sites[1])] * 2
    score, chosen = hosts.ask, []

    def ask(method, sites, arguments):  # type: ignore[no-untyped-def]
        if method == "evaluate" and not chosen:
            chosen.append(hosts.lost)
            hosts.lost = []  # the first validation is whole
            yield from score(method, sites, arguments)
            hosts.lost = chosen[0] * 9
        else:
            yield from score(method, sites, arguments)

    hosts.ask = ask
    state, _ = run(setup, hosts)
    assert state.best is not None and state.best.model.round == 1 and state.progress.validations_since_best == 0


def test_fedbn_keeps_batchnorm_at_the_site(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(federation={"batchnorm": "local", "rounds": 2})
    run(setup, one_each(setup, make_hosts))
    states = sorted(RunFolder(setup.folder).sites.glob("*/*/*.safetensors"))
    assert {path.parent.parent.name for path in states} == set(setup.training_sites)
    assert len({path.read_bytes() for path in states}) == len(states)
    assert not any(path.parent.stat().st_mode & 0o077 for path in states), "nobody but the site reads them"
    pooled = make_setup("pooled-bn", federation={"rounds": 2})
    run(pooled, one_each(pooled, make_hosts))
    assert not list(RunFolder(pooled.folder).sites.rglob("*.safetensors"))


def test_the_run_folder_holds_what_it_should(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup()
    (finished,) = [event for event in run_federation(setup, one_each(setup, make_hosts)) if isinstance(event, RunFinished)]
    names = {path.name for path in setup.folder.iterdir()}
    assert {
        "config.ini",
        "summary.json",
        "rounds.parquet",
        "model.safetensors",
        "model.json",
        "checkpoints",
        "tensorboard",
        "run.log",
    } <= names
    summary = RunFolder(setup.folder).read_summary()
    assert summary == finished.summary
    assert {"validation", "test", "sites", "rounds", "mode", "seed", "timing", "communication", "versions", "config"} <= set(summary)
    assert set(summary["sites"]) == {"site-1", "site-2", "site-3"}
    for metrics in (summary["validation"], summary["test"], summary["sites"]["site-1"]["test"]):
        assert {"accuracy", "balanced_accuracy", "mcc", "roc_auc", "confusion", "per_class"} <= set(metrics)
    support = sum(sum(row) for row in summary["test"]["confusion"])
    assert support == sum(sum(counts.values()) for counts in summary["data"]["counts"]["test"].values())


def test_statistics_are_pooled_exactly(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup()
    masked = prepare_run(setup, one_each(setup, make_hosts), DRIVER)
    plain = make_setup("plain", **PLAIN)
    clear = prepare_run(plain, one_each(plain, make_hosts), DRIVER)
    pooled = make_setup("pooled", run={"mode": "pooled"})
    joined = prepare_run(pooled, one_each(pooled, make_hosts), DRIVER)
    assert masked.session.normalisation == clear.session.normalisation == joined.session.normalisation


def test_class_weights_follow_the_training_sites(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(training={"class_weights": True})
    prepared = prepare_run(setup, one_each(setup, make_hosts), DRIVER)
    assert set(prepared.class_counts["train"]) == {"all"}, "one site's counts are in the sum only"
    counts = np.sum([list(site.values()) for site in prepared.class_counts["train"].values()], axis=0)
    assert counts.sum() == prepared.train_units
    weights = np.array(prepared.session.learner.class_weights)
    assert np.allclose(weights * counts, counts.sum() / len(counts))


def test_an_older_best_survives_a_worse_round(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup()
    state, events = run(setup, one_each(setup, make_hosts))
    scores = {event.round: float(str(event.validation["mcc"])) for event in events if isinstance(event, RoundFinished) and event.validation}
    assert state.best is not None and state.best.mcc == max(scores.values())
    assert state.best.model.round == min(round_ for round_, score in scores.items() if score == state.best.mcc)
    assert replace(state.best).validation["mcc"] == scores[state.best.model.round]
