"""What a site asks of each call: the attacks of a driver that needs no code at the site, only calls in its own words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from primia.errors import FederationError, ProtocolError
from primia.federation.driver.collect import PlainCollector, SiteEvaluated, ToldScores
from primia.federation.driver.collect_secure import SecureCollector
from primia.federation.driver.prepare import Prepared, prepare_run
from primia.federation.messages import (
    Charter,
    Contribution,
    RoundTask,
    Session,
    SiteFailure,
    SiteReport,
    evaluation_terms,
    facts_terms,
    model_digest,
    round_terms,
)
from primia.federation.plan import assign_hosts
from primia.federation.run_spec import RunSetup
from primia.federation.site import host as site_module
from primia.federation.update import GlobalModel
from primia.secagg.identity import Identity
from primia.secagg.messages import Task
from primia.secagg.ring import Layout

pytestmark = pytest.mark.usefixtures("spoken")

DRIVER = Identity.generate("demo@primia.example")
SITES = ("site-1", "site-2", "site-3")
Make = Callable[..., RunSetup]
MakeHosts = Callable[..., Any]


@dataclass
class Attacker:
    """A driver that may say what it likes, over hosts in this process."""

    hosts: Any
    prepared: Prepared

    @property
    def charter(self) -> Charter:
        return self.prepared.session.charter

    def named(self, **changes: Any) -> Session:
        """The session under another charter."""
        return replace(self.prepared.session, charter=replace(self.charter, **changes))

    def collector(self, session: Session) -> SecureCollector:
        charter, flat = session.charter, self.prepared.flat
        return SecureCollector(self.hosts, charter, flat, PlainCollector(self.hosts, charter, flat, DRIVER))

    def train(self, session: Session, sites: Sequence[str] = SITES, without: str = "") -> tuple[Contribution | None, list[str]]:
        """Ask for round 1, as if ``without`` had been lost: the sum, and why sites refused."""
        rounds = session.charter.settings.federation.rounds
        task = RoundTask(1, rounds, tuple(sites), None, range=16.0)
        lost = [("train", without)] if without else []
        return self._heard(self.collector(session).train(session, task, self.prepared.initial), lost)

    def evaluate(self, session: Session, split: str, sites: Sequence[str]) -> tuple[Any, list[str]]:
        return self._heard(self.collector(session).evaluate(session, split, sites, self.prepared.initial), [])

    def _heard(self, collection: Any, lost: list[tuple[str, str]]) -> tuple[Any, list[str]]:
        self.hosts.lost = lost
        reasons: list[str] = []
        try:
            reasons += [item.reason for item in collection if isinstance(item, SiteFailure)]
        except ProtocolError as error:
            reasons.append(str(error))
        return collection.total, reasons


@pytest.fixture
def attacker(make_setup: Make, make_hosts: MakeHosts) -> Attacker:
    setup = make_setup(federation={"rounds": 3}, training={"schedule": "constant"})
    hosts = make_hosts(assign_hosts(setup.sites, 3))
    return Attacker(hosts, prepare_run(setup, hosts, DRIVER))


def settings_of(attacker: Attacker, section: str, **changed: object) -> Any:
    settings = attacker.charter.settings
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=changed)})


def test_renaming_the_run_in_confirm_opens_no_second_sum(attacker: Attacker) -> None:
    """The attack: masks for all three, opened over two of them, and again over three under another name."""
    total, _ = attacker.train(attacker.prepared.session)
    assert total is not None
    ask = attacker.hosts.ask

    def renaming(method: str, sites: Any, arguments: Any) -> Any:
        def changed(names: tuple[str, ...]) -> tuple[Any, ...]:
            given = arguments(names)
            return (replace(given[0], run="renamed"), *given[1:]) if method == "confirm" else given

        return ask(method, sites, changed)

    attacker.hosts.ask = renaming
    total, reasons = attacker.train(attacker.prepared.session, without="site-3")
    assert total is None and "other terms (run, sites, settings or driver)" in reasons[-1]


CHANGES: dict[str, Callable[[Attacker], dict[str, Any]]] = {
    "a new name": lambda attacker: {},
    "more rounds at a constant rate": lambda attacker: {"settings": settings_of(attacker, "federation", rounds=5)},
    "another deadline, patience and quorum": lambda attacker: {
        "settings": settings_of(attacker, "federation", round_deadline=7.0, patience=3, quorum=0.1)
    },
    "another threshold and range": lambda attacker: {
        "settings": settings_of(attacker, "secure_aggregation", threshold=0.65, range=32.0, site_metrics=False)
    },
    "another server and weighting": lambda attacker: {
        "settings": settings_of(attacker, "federation", server_optimizer="fedadam", weighting="uniform")
    },
    "another output folder": lambda attacker: {"state_folder": attacker.charter.state_folder / "other"},
    "another account": lambda attacker: {"account": None, "classes": attacker.charter.classes},
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_same_work_is_not_summed_over_other_sites_whatever_it_is_called(attacker: Attacker, name: str) -> None:
    first, _ = attacker.train(attacker.prepared.session)
    assert first is not None
    again = attacker.named(id="other", run="renamed", **CHANGES[name](attacker))
    total, reasons = attacker.train(again, without="site-3")
    assert total is None and "agreed on with other sites before (site-3 differ)" in reasons[-1]


def test_private_training_is_not_summed_over_other_sites_either(make_setup: Make, make_hosts: MakeHosts) -> None:
    """The attack: so little noise that draws and noise change nothing, and sums over three sites and over two of them."""
    privacy = {"unit": "image", "noise_multiplier": 0.3, "accountant": "rdp", "delta": 0.01}
    setup = make_setup(federation={"rounds": 3}, training={"batch_size": 100}, privacy=privacy, model={"normalisation": "group"})
    attacker = Attacker(make_hosts(assign_hosts(setup.sites, 3)), prepare_run(setup, make_hosts(assign_hosts(setup.sites, 3)), DRIVER))
    attacker.collector(attacker.prepared.session).join(SITES)
    first, _ = attacker.train(attacker.prepared.session)
    assert first is not None
    total, reasons = attacker.train(attacker.prepared.session, without="site-3")
    assert total is None and "agreed on with other sites before (site-3 differ)" in reasons[-1]


def test_a_repeat_over_the_same_sites_is_the_same_sum(attacker: Attacker) -> None:
    first, _ = attacker.train(attacker.prepared.session)
    second, _ = attacker.train(attacker.named(id="other", run="renamed"))
    assert first is not None and second is not None
    assert np.array_equal(first.update.parameters, second.update.parameters)


def test_an_evaluation_of_one_model_is_summed_over_one_set_of_sites_in_all_runs(attacker: Attacker) -> None:
    total, _ = attacker.evaluate(attacker.prepared.session, "validation", SITES)
    assert total is not None
    again = attacker.named(id="other", run="renamed", settings=settings_of(attacker, "federation", rounds=9))
    total, reasons = attacker.evaluate(again, "validation", SITES[:2])
    assert total is None and "agreed on with other sites before (site-3 differ)" in reasons[-1]
    assert attacker.evaluate(attacker.named(id="third", run="third"), "validation", SITES)[0] is not None


def test_training_images_are_not_evaluated(attacker: Attacker) -> None:
    """Their confusion counts and scores tell which images the model knows by heart."""
    session, model = attacker.prepared.session, attacker.prepared.initial
    for split in ("train", "", "all"):
        result = attacker.hosts.hosts[0].evaluate(session, split, ["site-1"], model, {})
        assert (
            result.total is None
            and not result.metrics
            and "a model is evaluated on validation and test images" in result.failures[0].reason
        )
        assert attacker.evaluate(session, split, SITES)[0] is None


def test_an_evaluation_outside_a_sum_is_the_sites_own_metrics_and_no_histograms(attacker: Attacker) -> None:
    result = attacker.hosts.hosts[0].evaluate(attacker.prepared.session, "validation", ["site-1"], attacker.prepared.initial, {})
    assert result.total is None and set(result.metrics) == {"site-1"} and not result.failures
    numbers = np.array([value for key, value in result.metrics["site-1"].items() if isinstance(value, float | int)])
    assert numbers.size < 20, "metrics, not 2,000 bins"


def test_the_only_site_with_images_of_a_split_speaks_for_all(attacker: Attacker) -> None:
    collection = attacker.collector(attacker.prepared.session).evaluate(
        attacker.prepared.session, "validation", ["site-2"], attacker.prepared.initial
    )
    (evaluated,) = list(collection)
    assert isinstance(evaluated, SiteEvaluated) and isinstance(collection.total, ToldScores)
    assert collection.total.metrics(attacker.charter.classes) == evaluated.metrics


def aggregation(charter: Charter, **changes: Any) -> Task:
    settings = charter.settings
    given = {
        "federation": settings.federation.identity,
        "run": charter.run,
        "round": 1,
        "purpose": "train",
        "sites": charter.training,
        "threshold": settings.secure_aggregation.threshold,
        "neighbours": settings.secure_aggregation.neighbours,
        "layout": Layout(1, 1),
    }
    return Task(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sites": SITES[:2]}, "sites that are not due"),
        ({"sites": ("site-1", "site-1", "site-2")}, "with one twice"),
        ({"sites": ("site-1",), "purpose": "facts", "round": 0}, "fewer than two sites"),
        ({"sites": ("site-1", "ghost")}, "'ghost', which is not of this federation"),
        ({"run": "renamed"}, "other terms than those of its federation"),
        ({"federation": "other@primia.example"}, "other terms"),
        ({"threshold": 0.51}, "other terms"),
        ({"neighbours": 2}, "other terms"),
        ({"round": 4}, "not due"),
        ({"round": 0}, "not due"),
        ({"purpose": "facts"}, "not due"),
        ({"purpose": "anything"}, "not due"),
    ],
)
def test_an_aggregation_is_that_of_the_charter(attacker: Attacker, changes: dict[str, Any], said: str) -> None:
    """Sites that are due in a round follow from settings and round: a driver cannot pick two of many."""
    host = attacker.hosts.hosts[0]
    assert not host.advertise(attacker.charter, aggregation(attacker.charter), ["site-1"]).failures
    (failure,) = host.advertise(attacker.charter, aggregation(attacker.charter, **changes), ["site-1"]).failures
    assert said in failure.reason


def change_calls(attacker: Attacker, method: str, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> None:
    """Make the driver say something else in one of its calls."""
    ask = attacker.hosts.ask

    def lying(called: str, sites: Any, arguments: Any) -> Any:
        return ask(called, sites, (lambda names: change(arguments(names))) if called == method else arguments)

    attacker.hosts.ask = lying


def look_at(attacker: Attacker, method: str, look: Callable[[Any], None]) -> None:
    """Look at each answer to a call."""
    ask = attacker.hosts.ask

    def asking(name: str, sites: Any, arguments: Any) -> Any:
        for answer in ask(name, sites, arguments):
            if name == method:
                look(answer)
            yield answer

    attacker.hosts.ask = asking


@pytest.mark.parametrize("survivors", [("site-1",), ("site-1", "site-2"), ("site-1", "site-2", "ghost")])
def test_no_sum_is_opened_below_the_quorum_or_with_strangers(make_setup: Make, make_hosts: MakeHosts, survivors: tuple[str, ...]) -> None:
    """And a site that has refused to confirm cannot be made to unmask: others' signatures are not its own."""
    setup = make_setup(federation={"rounds": 3, "quorum": 0.9})
    hosts = make_hosts(assign_hosts(setup.sites, 3))
    attacker = Attacker(hosts, prepare_run(setup, hosts, DRIVER))
    change_calls(attacker, "confirm", lambda given: (*given[:3], survivors))
    total, reasons = attacker.train(attacker.prepared.session)
    said = "cannot be true" if "ghost" in survivors else "site 'site-1' helps to open no sum over fewer than 3"
    assert total is None and any(said in reason for reason in reasons)


def test_a_site_that_refused_a_step_takes_no_further_part(attacker: Attacker) -> None:
    """The journal refuses the list in ``confirm``; the shares are then asked for all the same, with the signatures of the others."""
    assert attacker.train(attacker.prepared.session)[0] is not None
    attacker.train(attacker.named(id="other", run="renamed"), without="site-3")
    other = attacker.named(id="other", run="renamed").charter
    (failure,) = attacker.hosts.hosts[0].unmask(other, "train", {"site-1": {}}).failures
    assert "knows of no aggregation for train" in failure.reason


@pytest.mark.parametrize(
    ("task", "start_round", "said"),
    [
        (RoundTask(4, 3, SITES, None, range=16.0), 3, "round 4 of 3"),
        (RoundTask(1, 30, SITES, None, range=16.0), 0, "round 1 of 30"),
        (RoundTask(2, 3, SITES, None, range=16.0), 0, "from a model of round 0"),
        (RoundTask(1, 3, SITES, 1, range=16.0), 0, "1 steps were asked for, where each site's own pass is a round"),
        (RoundTask(1, 3, SITES, None), 0, "a range of 0.0"),
        (RoundTask(1, 3, SITES, None, range=16.0), 0, "knows of no aggregation for train"),
    ],
)
def test_a_round_is_one_of_the_run_and_begun_with_masks(attacker: Attacker, task: RoundTask, start_round: int, said: str) -> None:
    host = attacker.hosts.hosts[0]
    result = host.train(attacker.prepared.session, task.of(("site-1",)), replace(attacker.prepared.initial, round=start_round))
    assert result.total is None and not result.reports and said in result.failures[0].reason


def test_a_round_without_the_shares_of_others_is_refused_before_it_is_trained(attacker: Attacker) -> None:
    change_calls(attacker, "train", lambda given: (given[0], replace(given[1], inboxes={}), given[2]))
    total, reasons = attacker.train(attacker.prepared.session)
    assert total is None and "nothing would hide its update" in reasons[0]


@pytest.mark.parametrize("field", ["training", "augmentation", "precision", "proximal_mu", "classes"])
def test_a_learner_is_that_of_the_charter(attacker: Attacker, field: str) -> None:
    """What a site books, for example under differential privacy, follows from the charter."""
    session = attacker.prepared.session
    spec = session.learner
    other = {
        "training": spec.training.model_copy(update={"batch_size": 1}),
        "augmentation": spec.augmentation.model_copy(update={"noise": 0.9}),
        "precision": "bfloat16",
        "proximal_mu": 1.0,
        "classes": ("a", "b"),
    }[field]
    lying = replace(session, learner=replace(spec, **{field: other}))
    for result in (
        attacker.hosts.hosts[0].train(lying, RoundTask(1, 3, ("site-1",), None, range=16.0), attacker.prepared.initial),
        attacker.hosts.hosts[0].evaluate(lying, "validation", ["site-1"], attacker.prepared.initial, {}),
    ):
        assert "than the charter" in result.failures[0].reason


@pytest.mark.parametrize(
    "changes",
    [{"image_size": 32}, {"class_weights": (1.0, 1.0, 1.0)}, {"device": "meta"}, {"channels": 3}, {"classes": ("a", "b")}],
    ids=str,
)
def test_a_learner_is_for_the_sites_images(attacker: Attacker, changes: dict[str, Any]) -> None:
    """Else a driver chooses what kernels are compared on before private training, and what they then work on."""
    session = attacker.prepared.session
    charter = replace(session.charter, **{key: value for key, value in changes.items() if key in ("channels", "classes")})
    lying = replace(session, charter=replace(charter, id="other"), learner=replace(session.learner, **changes))
    for result in (
        attacker.hosts.hosts[0].train(lying, RoundTask(1, 3, ("site-1",), None, range=16.0), attacker.prepared.initial),
        attacker.hosts.hosts[0].evaluate(lying, "validation", ["site-1"], attacker.prepared.initial, {}),
        attacker.hosts.hosts[0].facts(lying.charter, ["site-1"], {}) if charter != session.charter else None,
    ):
        assert result is None or "nothing is done" in result.failures[0].reason


@pytest.mark.parametrize("weights", [None, (1.0, 1.0), (0.0, 1.0, 1.0), (-1.0, 1.0, 1.0)])
def test_class_weights_are_above_zero_one_a_class(make_setup: Make, make_hosts: MakeHosts, weights: tuple[float, ...] | None) -> None:
    setup = make_setup(training={"class_weights": True})
    hosts = make_hosts(assign_hosts(setup.sites, 3))
    session = prepare_run(setup, hosts, DRIVER).session
    model = Attacker(hosts, prepare_run(setup, hosts, DRIVER)).prepared.initial
    assert not hosts.hosts[0].evaluate(session, "validation", ["site-1"], model, {}).failures
    lying = replace(session, charter=replace(session.charter, id="other"), learner=replace(session.learner, class_weights=weights))
    (failure,) = hosts.hosts[0].evaluate(lying, "validation", ["site-1"], model, {}).failures
    assert "class weights that the charter does not ask for" in failure.reason


def test_zero_and_its_negative_are_the_same_work(attacker: Attacker) -> None:
    """The attack: a setting that changes its sign bit and nothing else names other work, and an equal second sum is opened."""
    first, _ = attacker.train(attacker.prepared.session)
    assert first is not None
    settings = attacker.charter.settings
    changed = settings.model_copy(update={"augmentation": settings.augmentation.model_copy(update={"shear": -0.0})})
    again = attacker.named(id="other", run="renamed", settings=changed)
    again = replace(again, learner=replace(again.learner, augmentation=changed.augmentation))
    total, reasons = attacker.train(again, without="site-3")
    assert total is None and "nothing is masked" in reasons[0], "the site works on 0.0, which is on no other terms"


def test_a_change_without_effect_is_the_same_work(attacker: Attacker) -> None:
    """The attack: a setting that float32 rounds away names other work, whose result is the same bit for bit."""
    first, _ = attacker.train(attacker.prepared.session)
    assert first is not None
    session = attacker.named(id="other", run="renamed", settings=settings_of(attacker, "training", label_smoothing=1e-30))
    changed = replace(session, learner=replace(session.learner, training=session.charter.settings.training))
    total, reasons = attacker.train(changed, without="site-3")
    assert total is None and "agreed on with other sites before (site-3 differ)" in reasons[-1]


@pytest.mark.parametrize("change", [{}, {"label_smoothing": 1e-30}, {"batch_size": 17}], ids=["the same", "no effect", "one more a batch"])
def test_a_refusal_does_not_tell_whether_work_failed(
    make_sized: Make, make_hosts: MakeHosts, monkeypatch: pytest.MonkeyPatch, change: dict[str, float]
) -> None:
    """The attack: the first step of a huge rate survives, a second one does not, so work fails where there are more images than a batch.

    Asked for again over other sites, all have to refuse, whichever of them failed: otherwise refusals would tell their numbers of images.
    """
    training = {"batch_size": 16, "optimizer": "sgd", "learning_rate": 1e30, "schedule": "constant"}
    setup = make_sized("run", (16, 17, 18), training=training, federation={"rounds": 3})
    hosts = make_hosts(assign_hosts(setup.sites, 3))
    attacker = Attacker(hosts, prepare_run(setup, hosts, DRIVER))
    failed: list[str] = []
    monkeypatch.setattr(site_module, "_failure", lambda charter, member, asked, error: failed.append(member.name))
    attacker.train(attacker.prepared.session)
    assert failed == ["site-2", "site-3"]

    session = attacker.named(id="other", run="renamed", settings=settings_of(attacker, "training", **change))
    changed = replace(session, learner=replace(session.learner, training=session.charter.settings.training))
    refusals: dict[str, str] = {}
    monkeypatch.setattr(site_module, "_failure", lambda charter, member, asked, error: SiteFailure(member.name, str(error)))
    look_at(attacker, "confirm", lambda answer: refusals.update({failure.site: failure.reason for failure in answer.result.failures}))
    attacker.train(changed, without="site-3")
    assert set(refusals) == {"site-1", "site-2"} and all("site-3 differ" in reason for reason in refusals.values())


def test_a_run_is_of_the_sites_that_it_began_with(attacker: Attacker) -> None:
    """Sites that come later could be anybody's, and one that is left out would be told by subtraction."""
    assert attacker.train(attacker.prepared.session)[0] is not None
    fewer = attacker.named(id="other", sites=SITES[:2], training=SITES[:2])
    session = replace(fewer, charter=replace(fewer.charter, settings=settings_of(attacker, "training", batch_size=2)))
    host = attacker.hosts.hosts[0]
    (failure,) = host.advertise(session.charter, aggregation(session.charter), ["site-1"]).failures
    assert "this run was of other sites before" in failure.reason


def test_facts_are_those_of_training_sites(attacker: Attacker) -> None:
    """Over one that does not train, a sum of two would be the other's own."""
    charter = attacker.named(id="other", training=SITES[:2]).charter
    task = aggregation(charter, purpose="facts", round=0, sites=("site-1", "site-3"))
    (failure,) = attacker.hosts.hosts[0].advertise(charter, task, ["site-1"]).failures
    assert "not due" in failure.reason


@pytest.mark.parametrize("round_", [-1, 4])
def test_a_model_is_one_of_the_runs_rounds(attacker: Attacker, round_: int) -> None:
    """A site's own BatchNorm layers and the journal go by it."""
    model = replace(attacker.prepared.initial, round=round_)
    (failure,) = attacker.hosts.hosts[0].evaluate(attacker.prepared.session, "validation", ["site-1"], model, {}).failures
    assert f"a model of round {round_} in a run of 3" in failure.reason


def test_a_site_that_does_not_train_is_not_trained(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(federation={"rounds": 3}, secure_aggregation={"enabled": False, "seal": False})
    hosts = make_hosts(assign_hosts(setup.sites, 3))
    attacker = Attacker(hosts, prepare_run(setup, hosts, DRIVER))
    session = attacker.named(id="other", training=SITES[1:])
    result = hosts.hosts[0].train(session, RoundTask(1, 3, ("site-1",), None), attacker.prepared.initial)
    assert result.total is None and "does not train in this federation" in result.failures[0].reason


def test_terms_are_of_all_that_decides_what_a_site_adds(attacker: Attacker) -> None:
    """Sites that were told other ones, or given other models, add up to nothing that can be read."""
    session, model = attacker.prepared.session, attacker.prepared.initial
    other = GlobalModel(0, model.parameters + np.float32(1), model.buffers)
    first, second = model_digest(model), model_digest(other)
    assert first != second
    assert evaluation_terms(session, "test", 0, first) != evaluation_terms(session, "test", 0, second)
    assert evaluation_terms(session, "test", 0, first) != evaluation_terms(session, "test", 1, first)
    task = RoundTask(1, 3, SITES, None, range=16.0)
    assert round_terms(session, task, first) != round_terms(session, task, second)
    assert round_terms(session, task, first) != round_terms(session, replace(task, range=8.0), first)
    changed = attacker.named(run="other")
    assert facts_terms(session.charter) != facts_terms(changed.charter)
    assert evaluation_terms(session, "test", 0, first) != evaluation_terms(changed, "test", 0, first)


def test_a_learner_of_other_settings_is_made_anew(attacker: Attacker) -> None:
    """Where the gate has forgotten a charter, its id may come back with other settings."""
    host, session = attacker.hosts.hosts[0], attacker.prepared.session
    first = host._learner(session)
    assert host._learner(session) is first
    other = replace(session, learner=replace(session.learner, training=session.learner.training.model_copy(update={"batch_size": 2})))
    assert host._learner(other) is not first and host._learner(other).spec == other.learner


@pytest.mark.parametrize("changed", [{"training": {"optimizer": "adam"}}, {"model": {"normalisation": "group"}}], ids=str)
def test_a_state_of_another_form_is_not_loaded(make_setup: Make, make_hosts: MakeHosts, changed: dict[str, dict[str, str]]) -> None:
    """The attack: sites whose round had failed have no state, and answer where the others stumble over theirs."""
    kept = {"rounds": 3, "keep_optimizer_state": True, "batchnorm": "local"}
    setup = make_setup(federation=kept, training={"optimizer": "sgd"}, secure_aggregation={"enabled": False, "seal": False})
    hosts = make_hosts(assign_hosts(setup.sites, 3))
    attacker = Attacker(hosts, prepare_run(setup, hosts, DRIVER))
    host, session, start = hosts.hosts[0], attacker.prepared.session, attacker.prepared.initial
    assert not host.train(session, RoundTask(1, 3, ("site-1",), None), start).failures
    (section,) = changed
    settings = settings_of(attacker, section, **changed[section])
    other = replace(session, charter=replace(session.charter, id="other", settings=settings))
    other = replace(other, learner=replace(session.learner, **{section: getattr(settings, section)}))
    flat = host._learner(other).flat
    model = GlobalModel(1, np.zeros(flat.parameter_count, np.float32), np.ones(flat.buffer_count, np.float32))
    assert not host.train(other, RoundTask(2, 3, ("site-1",), None), model).failures


def test_facts_of_one_run_are_summed_over_one_set_of_sites(attacker: Attacker) -> None:
    """Under other settings as well: they would tell by subtraction what a site adds."""
    other = attacker.named(id="other", settings=settings_of(attacker, "training", batch_size=2)).charter
    collector = SecureCollector(attacker.hosts, other, attacker.prepared.flat, attacker.prepared.collector)  # type: ignore[arg-type]
    with pytest.raises((ProtocolError, FederationError), match=r"facts of round 0 was agreed on with other sites before \(site-3 differ\)"):
        collector.facts(SITES[:2], [])


def test_a_site_that_is_no_member_takes_no_part(attacker: Attacker) -> None:
    other = replace(attacker.charter, id="other", sites=("site-2", "site-3"), training=("site-2", "site-3"))
    (failure,) = attacker.hosts.hosts[0].join(other, ["site-1"]).failures
    assert "is not of this federation" in failure.reason


def test_reports_are_those_of_the_sites_in_the_sum(attacker: Attacker) -> None:
    """What a driver that follows the protocol asks for is answered, with the terms that driver and site make out each for itself."""
    session, model = attacker.prepared.session, attacker.prepared.initial
    task = RoundTask(1, 3, SITES, None, range=16.0)
    collection = attacker.collector(session).train(session, task, model)
    assert [item.site for item in collection if isinstance(item, SiteReport)] == list(SITES) and collection.total
    assert evaluation_terms(session, "test", 0, model_digest(model)) != evaluation_terms(session, "validation", 0, model_digest(model))
