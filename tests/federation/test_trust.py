"""What a driver cannot get out of sites: other terms for some, a second sum over others, less protection than was granted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from primia.config.settings import PrivacySettings
from primia.consent.box import SiteBox
from primia.errors import BudgetSpent, ConsentError, FederationError, PrivacyError, ProtocolError
from primia.federation.driver.checkpoint import Checkpoints, RunState
from primia.federation.driver.collect import CollectedFacts
from primia.federation.driver.hosts import Arguments
from primia.federation.driver.prepare import prepare_run
from primia.federation.driver.rounds import RoundLoop
from primia.federation.events import Event, SiteLeftOut
from primia.federation.messages import Charter, RoundTask, Session
from primia.federation.plan import assign_hosts
from primia.federation.refusals import Kind
from primia.federation.run_spec import RunSetup
from primia.federation.site.log import SiteLog
from primia.federation.sources import PackedSite
from primia.privacy import statistics
from primia.privacy.filter import filtered_epsilon
from primia.privacy.ledger import Ledger
from primia.runs.folder import RunFolder
from primia.secagg.driver import DriverRole
from primia.secagg.identity import Identity
from primia.secagg.messages import Task
from primia.secagg.ring import Layout

DRIVER = Identity.generate("demo@primia.example")
FEDERATION = "demo@primia.example"
NOISE = {"unit": "image", "noise_multiplier": 1.0, "accountant": "rdp", "delta": 0.01}
Make = Callable[..., RunSetup]
MakeHosts = Callable[..., Any]
Words = Callable[..., str]


def loop_of(setup: RunSetup, hosts: Any, state: RunState | None = None) -> RoundLoop:
    prepared = prepare_run(setup, hosts, DRIVER)
    return RoundLoop(setup, prepared, Checkpoints(RunFolder(setup.folder).checkpoints, 2), state or RunState(prepared.initial))


def one_each(setup: RunSetup, make_hosts: MakeHosts, **options: object) -> Any:
    return make_hosts(assign_hosts(setup.sites, 3), **options)


def change_for_others(hosts: Any, kept: str, change: Callable[[object], object]) -> None:
    """Make the driver lie: all sites but one are given changed arguments in training."""
    ask = hosts.ask

    def lying(method: str, sites: Any, arguments: Arguments) -> Any:
        def changed(names: tuple[str, ...]) -> tuple[object, ...]:
            given = arguments(names)
            return tuple(map(change, given)) if method == "train" and kept not in names else given

        return ask(method, sites, changed)

    hosts.ask = lying


@pytest.mark.parametrize(
    "change",
    [
        lambda item: replace(item, total_weight=item.total_weight * 2.0**28) if isinstance(item, Session) else item,
        lambda item: replace(item, range=item.range * 2.0**28) if isinstance(item, RoundTask) else item,
        lambda item: replace(item, parameters=item.parameters * 0) if hasattr(item, "parameters") else item,
    ],
    ids=["scale", "range", "dead model"],
)
def test_sites_that_are_told_other_terms_mask_nothing(
    make_setup: Make, make_hosts: MakeHosts, words: Words, change: Callable[[object], object]
) -> None:
    """Otherwise the sum would be the one honest site's update."""
    setup = make_setup(federation={"rounds": 1, "quorum": 0.1})
    hosts = one_each(setup, make_hosts)
    change_for_others(hosts, setup.training_sites[0], change)
    loop, events = loop_of(setup, hosts), []
    with pytest.raises(FederationError, match="1 of 3 sites"):
        for event in loop.run():
            events.append(event)
    left_out = [event for event in events if isinstance(event, SiteLeftOut)]
    assert [event.reason for event in left_out] == [Kind.PROTOCOL.value] * 2
    assert all("another model or other settings than its task is about" in words(setup, event.site) for event in left_out)


def test_a_round_that_was_opened_is_not_opened_again_without_a_site(make_setup: Make, make_hosts: MakeHosts, words: Words) -> None:
    """The driver crashes before its checkpoint; a site is gone when it resumes. The two sums would differ by that site's update."""
    setup = make_setup(federation={"rounds": 1})
    list(loop_of(setup, one_each(setup, make_hosts)).run())
    lost = one_each(setup, make_hosts, broken=frozenset({(1, setup.training_sites[2])}))
    with pytest.raises(FederationError, match="other sites, terms or another model than before"):
        list(loop_of(setup, lost).run())
    assert "train of round 1 was agreed on with other sites before (site-3 differ)" in words(setup, "site-1")
    again = loop_of(setup, one_each(setup, make_hosts))
    list(again.run())
    assert again.state.model.round == 1, "with the same sites it goes on"


def test_below_the_quorum_nothing_is_opened(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup(federation={"rounds": 1, "quorum": 0.9})
    hosts = one_each(setup, make_hosts, broken=frozenset({(1, setup.training_sites[2])}))
    loop = loop_of(setup, hosts)
    hosts.calls.clear()
    with pytest.raises(FederationError, match="2 of 3 sites delivered, the quorum is 3"):
        list(loop.run())
    assert "confirm" not in hosts.calls and "unmask" not in hosts.calls
    whole = loop_of(setup, one_each(setup, make_hosts))
    list(whole.run())
    assert whole.state.model.round == 1


def test_facts_are_told_once_in_a_run(make_setup: Make, make_hosts: MakeHosts) -> None:
    """Told again without a site, they would tell by subtraction how many images of each class it has."""
    setup = make_setup()
    first = one_each(setup, make_hosts)
    told = prepare_run(setup, first, DRIVER)
    second = one_each(setup, make_hosts)
    again = prepare_run(setup, second, DRIVER)
    assert "facts" in first.calls and "facts" not in second.calls
    assert again.session == replace(told.session, charter=again.session.charter) and again.class_counts == told.class_counts


def test_an_evaluation_that_must_stay_in_a_sum_is_not_given_alone(make_setup: Make, make_hosts: MakeHosts, words: Words) -> None:
    setup = make_setup(federation={"rounds": 1}, secure_aggregation={"site_metrics": False})
    hosts = one_each(setup, make_hosts)
    prepared = prepare_run(setup, hosts, DRIVER)
    result = hosts.hosts[0].evaluate(prepared.session, "validation", [setup.training_sites[0]], prepared.initial, {})
    assert result.total is None and not result.metrics and result.failures[0].kind is Kind.PROTECTION
    assert "alone has validation images" in words(setup, setup.training_sites[0])


def test_a_site_takes_no_part_in_sums_with_strangers(make_setup: Make, make_hosts: MakeHosts, words: Words) -> None:
    setup = make_setup(federation={"rounds": 1})
    hosts = one_each(setup, make_hosts)
    prepared = prepare_run(setup, hosts, DRIVER)
    ghost = replace(prepared.session.charter, sites=(*prepared.session.charter.sites, "ghost"))
    task = Task(FEDERATION, ghost.run, 1, "train", ("site-1", "ghost"), 0.6, 0, Layout(1, 1))
    for charter, said in ((prepared.session.charter, "not of this federation"), (ghost, "other terms (run, sites, settings or driver)")):
        reply = hosts.hosts[0].advertise(charter, task, ["site-1"])
        assert not reply.values and reply.failures[0].kind is Kind.PROTOCOL and said in words(setup, "site-1")


def private_shards(box: SiteBox) -> PackedSite:
    """A box's private halves, as a site without a box."""
    return PackedSite(box.name, **{split: (box.shard(split, dry_run=False),) for split in box.splits})


def purposes(box: SiteBox) -> list[str]:
    return [str(entry.event.get("purpose", entry.event.get("what"))) for entry in box.audit_log()]


def test_every_use_of_a_boxs_images_is_in_its_log(make_boxed: Any, make_hosts: MakeHosts) -> None:
    setup, boxes = make_boxed({})
    list(loop_of(setup, one_each(setup, make_hosts)).run())
    for box in boxes.values():
        assert [purpose for purpose in purposes(box) if purpose in ("facts", "train", "validation")] == ["facts", "train", "validation"]


def test_a_cap_on_epsilon_keeps_out_runs_without_privacy(make_boxed: Any, make_hosts: MakeHosts, words: Words) -> None:
    setup, boxes = make_boxed({"max_epsilon": 2.0})
    with pytest.raises(FederationError, match=r"it would be protected less than its owner"):
        prepare_run(setup, one_each(setup, make_hosts), DRIVER)
    assert "is granted epsilon = 2 for each patient, but this run has privacy.unit = none" in words(setup, "site-1", boxes["site-1"].path)


def test_a_cap_that_is_lowered_takes_effect_at_once(make_boxed: Any, make_hosts: MakeHosts, words: Words) -> None:
    privacy = {"unit": "image", "noise_multiplier": 2.0, "accountant": "rdp", "delta": 0.01}
    setup, boxes = make_boxed(
        {"max_epsilon": 200.0, "unit": "image"}, privacy=privacy, model={"normalisation": "group"}, federation={"rounds": 2}
    )
    loop, events = loop_of(setup, one_each(setup, make_hosts)), list[Event]()
    for event in loop.run():
        events.append(event)
        if type(event).__name__ == "RoundFinished":
            for box in boxes.values():
                box.grant(FEDERATION, max_epsilon=1e-3, unit="image", first_contact=True)
    reasons = {event.reason for event in events if isinstance(event, SiteLeftOut)}
    assert loop.state.model.round == 1 and loop.status == "stopped"
    assert reasons == {Kind.SPENT.value}
    assert all("the limit of the data's owner" in words(setup, name, box.path) for name, box in boxes.items())


def test_a_run_without_any_budget_says_so(make_boxed: Any, make_hosts: MakeHosts) -> None:
    privacy = {"unit": "image", "noise_multiplier": 1.0, "accountant": "rdp", "delta": 0.01}
    setup, _ = make_boxed({"max_epsilon": 1e-3, "unit": "image"}, privacy=privacy, model={"normalisation": "group"})
    with pytest.raises(PrivacyError, match=r"no round can be trained.*0 of 3 sites take part"):
        list(loop_of(setup, one_each(setup, make_hosts)).run())


def test_a_cap_holds_at_the_grants_delta_whatever_runs_name(make_boxed: Any, make_hosts: MakeHosts, words: Words) -> None:
    """The attack: three runs that name a delta at which they seem to cost next to nothing."""
    setup, boxes = make_boxed({"max_epsilon": 30.0, "unit": "image"}, model={"normalisation": "group"})
    for number, delta in enumerate((0.05, 0.9, 0.95, 0.99)):
        privacy = PrivacySettings(unit="image", noise_multiplier=3.0, accountant="rdp", delta=delta)
        settings = setup.settings.model_copy(update={"privacy": privacy})
        folder = RunFolder.create(setup.folder.with_name(f"attack-{number}"), settings, "x").path
        run = replace(setup, settings=settings, folder=folder)
        try:
            list(loop_of(run, one_each(run, make_hosts)).run())
        except (FederationError, PrivacyError) as error:
            assert delta < 0.1 or Kind.DELTA.value in str(error)
            assert delta < 0.1 or "allows to publish one of them in full" in words(run, "site-1", boxes["site-1"].path)
        else:
            assert delta < 0.1
    for box in boxes.values():
        charges = Ledger(box.ledger).charges(FEDERATION)
        assert filtered_epsilon([charge.spend for charge in charges], 30.0, 1e-5) <= 30.0
        (budget,) = box.budgets()
        assert (budget.cap, budget.unit, budget.delta) == (30.0, "image", 1e-5) and 0 < budget.spent <= 30.0


def test_a_cap_for_patients_keeps_out_runs_that_protect_images(make_boxed: Any, make_hosts: MakeHosts, words: Words) -> None:
    setup, boxes = make_boxed({"max_epsilon": 50.0}, privacy=NOISE, model={"normalisation": "group"})
    with pytest.raises(FederationError, match="protected less than its owner"):
        prepare_run(setup, one_each(setup, make_hosts), DRIVER)
    said = words(setup, "site-1", boxes["site-1"].path)
    assert "for each patient, but this run has privacy.unit = image" in said and "--unit image" in said


def test_the_unit_that_is_booked_is_the_one_that_is_sampled(make_setup: Make, make_hosts: MakeHosts) -> None:
    """A driver that sends other settings under one charter: patients are booked, and images would be sampled."""
    setup = make_setup(privacy=NOISE | {"unit": "patient"}, model={"normalisation": "group"}, training={"batch_size": 2})
    hosts = one_each(setup, make_hosts)
    patients = prepare_run(setup, hosts, DRIVER).session.charter
    privacy = patients.settings.privacy.model_copy(update={"unit": "image"})
    images = replace(patients, settings=patients.settings.model_copy(update={"privacy": privacy}))
    (member,) = [member for host in hosts.hosts if (member := host._gate.member("site-1"))]
    first = member.privacy(patients, 1)
    first.charge(1, 1)
    second = member.privacy(images, 1)
    assert len(member.units(patients, first)) == first.statement().units < len(member.units(images, second)) == second.mechanism.units
    for call in (second.admit, second.charge):
        with pytest.raises(PrivacyError, match="this run was charged with another unit"):
            call(2, 1)
    assert [charge.unit for charge in Ledger(RunFolder(setup.folder).sites / "site-1" / "privacy.jsonl").charges()] == ["patient"]


def test_statistics_are_noised_as_they_are_booked(make_setup: Make, make_hosts: MakeHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = make_setup(privacy=NOISE | {"statistics": "noisy", "statistics_noise": 7.0}, model={"normalisation": "group"})
    seen: list[float] = []
    noised = statistics.noisy_sums
    monkeypatch.setattr(
        statistics, "noisy_sums", lambda data, units, noise, generator: seen.append(noise) or noised(data, units, noise, generator)
    )
    prepare_run(setup, one_each(setup, make_hosts), DRIVER)
    charges = [Ledger(RunFolder(setup.folder).sites / site / "privacy.jsonl").charges() for site in setup.training_sites]
    assert seen == [7.0] * 3 and [charge.noise_multiplier for (charge,) in charges] == seen


NOISY = NOISE | {"statistics": "noisy", "statistics_noise": 7.0}


def test_noisy_statistics_are_another_federations_for_its_own_charge(make_boxed: Any, make_hosts: MakeHosts) -> None:
    """The attack: a federation without budget names a run of one that has paid, and gets what that one paid for."""
    setup, boxes = make_boxed({"unit": "image"}, privacy=NOISY, model={"normalisation": "group"})
    box, other = boxes["site-1"], "other@primia.example"
    box.grant(other, max_epsilon=1e-3, unit="image", first_contact=True)
    hosts = one_each(setup, make_hosts)
    charter = prepare_run(setup, hosts, DRIVER).session.charter
    (member,) = [member for host in hosts.hosts if (member := host._gate.member("site-1"))]
    first = member.noisy_pixels(charter)
    assert member.noisy_pixels(charter) == first and len(Ledger(box.ledger).charges(FEDERATION)) == 1, "of one run they are the same"
    federation = charter.settings.federation.model_copy(update={"identity": other})
    named = replace(charter, id="other", settings=charter.settings.model_copy(update={"federation": federation}))
    assert named.run == charter.run
    with pytest.raises(BudgetSpent):
        member.noisy_pixels(named)
    assert not Ledger(box.ledger).charges(other)


@pytest.mark.parametrize("change", [{"statistics_noise": 6.0}, {"statistics_noise": 8.0}, {"unit": "patient"}])
def test_noisy_statistics_are_told_again_as_they_were_charged_only(
    make_boxed: Any, make_hosts: MakeHosts, change: dict[str, object]
) -> None:
    setup, boxes = make_boxed({"unit": "image"}, privacy=NOISY, model={"normalisation": "group"}, training={"batch_size": 2})
    hosts = one_each(setup, make_hosts)
    charter = prepare_run(setup, hosts, DRIVER).session.charter
    (member,) = [member for host in hosts.hosts if (member := host._gate.member("site-1"))]
    privacy = charter.settings.privacy.model_copy(update=change)
    other = replace(charter, id="other", settings=charter.settings.model_copy(update={"privacy": privacy}))
    with pytest.raises(PrivacyError, match="this run was charged with another unit, noise multiplier or sampling rate"):
        member.noisy_pixels(other)
    boxes["site-1"].ledger.write_text("")
    member.noisy_pixels(charter)
    assert len(Ledger(boxes["site-1"].ledger).charges(FEDERATION)) == 1, "without a charge they are drawn and charged anew"


@pytest.mark.parametrize("identity", [FEDERATION, "other@primia.example"])
def test_nothing_raw_goes_on_in_a_run_with_privacy(make_boxed: Any, make_hosts: MakeHosts, identity: str) -> None:
    """The attack: a round without privacy leaves raw momentum at the site, and one with a tiny clip, under the same name, releases it."""
    sections = {"federation": {"rounds": 2, "keep_optimizer_state": True}, "secure_aggregation": {"enabled": False, "seal": False}}
    setup, boxes = make_boxed({"require": "any"}, **sections, model={"normalisation": "group"})
    boxes["site-1"].grant("other@primia.example", require="any")
    hosts = one_each(setup, make_hosts)
    prepared = prepare_run(setup, hosts, DRIVER)
    session, start, host = prepared.session, prepared.initial, hosts.hosts[0]
    first = host.train(session, RoundTask(1, 2, ("site-1",), None), start)
    raw = np.abs(first.total.update.parameters).max() / first.total.update.weight
    assert raw > 1e-3
    private = PrivacySettings.model_validate(NOISE | {"clip": 1e-6})
    federation = session.charter.settings.federation.model_copy(update={"identity": identity})
    settings = session.charter.settings.model_copy(update={"privacy": private, "federation": federation})
    charter = replace(session.charter, id="other", settings=settings)
    second = host.train(replace(session, charter=charter), RoundTask(2, 2, ("site-1",), None), replace(start, round=1))
    assert not second.failures and np.abs(second.total.update.parameters).max() / second.total.update.weight < 1e-4


def meet(boxes: dict[str, SiteBox], pairs: Iterable[tuple[str, str]]) -> None:
    """Let owners pin one another: (who, whom)."""
    for who, whom in pairs:
        boxes[who].pin(boxes[whom].public, by_owner=True)


EVERYBODY = [(who, whom) for who in ("site-1", "site-2", "site-3") for whom in ("site-1", "site-2", "site-3") if who != whom]


def test_without_pins_a_masked_sum_needs_first_contact(make_boxed: Any, make_hosts: MakeHosts, words: Words) -> None:
    setup, boxes = make_boxed({"first_contact": False})
    with pytest.raises(FederationError, match="its owner has not pinned the keys of the other sites of a sum"):
        prepare_run(setup, one_each(setup, make_hosts), DRIVER)
    said = words(setup, "site-1", boxes["site-1"].path)
    assert "needs 1 other site(s) whose keys the owner has pinned, 0 are" in said and "--first-contact" in said
    assert not any(box.peers() for box in boxes.values()), "no key is believed"
    meet(boxes, [("site-1", "site-2"), ("site-2", "site-3"), ("site-3", "site-1")])
    with pytest.raises(ProtocolError, match="site-1: its owner has not pinned the keys of the other sites of a sum"):
        prepare_run(setup, one_each(setup, make_hosts), DRIVER)
    assert "with site-3, whose key the owner has not pinned" in words(setup, "site-1", boxes["site-1"].path)
    meet(boxes, EVERYBODY)
    prepare_run(setup, one_each(setup, make_hosts), DRIVER)


def test_sites_that_were_believed_once_are_in_no_sum_without_first_contact(make_boxed: Any, make_hosts: MakeHosts) -> None:
    """The owner pins one real site, and asks for more from then on; two that the driver made up were believed before."""
    setup, boxes = make_boxed({})
    prepare_run(setup, one_each(setup, make_hosts), DRIVER)
    meet(boxes, [("site-1", "site-2")])
    boxes["site-1"].grant(FEDERATION)
    with pytest.raises(ConsentError, match="with site-3, whose key the owner has not pinned"):
        boxes["site-1"].check_partners(FEDERATION, ["site-1", "site-2", "site-3"], ["site-1", "site-2", "site-3"])
    boxes["site-1"].check_partners(FEDERATION, ["site-1", "site-2"], ["site-1", "site-2"])


@pytest.fixture
def begun(make_boxed: Any, make_hosts: MakeHosts) -> tuple[Any, Charter, dict[str, Any], dict[str, SiteBox]]:
    """An aggregation that all sites have joined, each knowing all others: hosts, charter, rosters, boxes."""
    setup, boxes = make_boxed({})
    meet(boxes, EVERYBODY)
    hosts = one_each(setup, make_hosts)
    charter = prepare_run(setup, hosts, DRIVER).session.charter
    return hosts, charter, begin(hosts, charter, boxes), boxes


def begin(hosts: Any, charter: Charter, boxes: dict[str, SiteBox]) -> dict[str, Any]:
    """Begin an aggregation: the roster of each site."""
    names = tuple(sorted(boxes))
    role = DriverRole(Task(FEDERATION, charter.run, 1, "train", names, 0.6, 0, Layout(1, 1)))
    advertisements: dict[str, Any] = {}
    for host in hosts.hosts:
        advertisements |= host.advertise(charter, role.task, names).values
    return role.rosters(advertisements)


@pytest.mark.parametrize(
    ("grant", "said"),
    [
        ({"partners": ("site-2",)}, "with site-3, but is granted sums with site-2 only"),
        ({"pinned": 2, "first_contact": True}, "a masked sum needs 2 other site(s) whose keys the owner has pinned, 1 are"),
        ({}, "whose key the owner has not pinned"),
    ],
    ids=["with", "pinned", "plain"],
)
def test_a_roster_that_the_owner_does_not_want_gets_no_shares(begun: Any, grant: dict[str, Any], said: str) -> None:
    """Joining is not enough: whoever is in the roster is in the sum."""
    hosts, charter, rosters, boxes = begun
    peers = boxes["site-1"].path / "peers.json"
    if "partners" not in grant:
        peers.write_text(peers.read_text().replace('"owner"', '"first contact"', 1))
    boxes["site-1"].grant(FEDERATION, **grant)
    reply = hosts.hosts[0].share(charter, "train", {"site-1": rosters["site-1"]})
    assert not reply.values and reply.failures[0].kind is Kind.PARTNERS
    assert said in SiteLog(boxes["site-1"].path / "errors.log").last().words  # type: ignore[union-attr]


def test_a_key_that_the_owner_replaces_is_believed_no_more(begun: Any) -> None:
    """The attack: an administrator whose old key leaked goes on with it in a federation that has begun."""
    hosts, charter, rosters, boxes = begun
    boxes["site-1"].grant(FEDERATION)
    assert hosts.hosts[0].share(charter, "train", {"site-1": rosters["site-1"]}).values
    boxes["site-1"].pin(Identity.generate("site-2").public, by_owner=True, replace=True)
    reply = hosts.hosts[0].share(charter, "train", {"site-1": begin(hosts, charter, boxes)["site-1"]})
    assert not reply.values
    assert "somebody else, or new keys" in SiteLog(boxes["site-1"].path / "errors.log").last().words  # type: ignore[union-attr]


def test_no_key_of_a_roster_that_is_not_wanted_is_believed(begun: Any) -> None:
    hosts, charter, rosters, boxes = begun
    peers = boxes["site-1"].path / "peers.json"
    known = {"site-2": json.loads(peers.read_text())["site-2"] | {"by": "first contact"}}
    peers.write_text(json.dumps(known))
    boxes["site-1"].grant(FEDERATION, first_contact=True, partners=("site-2",))
    assert not hosts.hosts[0].share(charter, "train", {"site-1": rosters["site-1"]}).values
    assert json.loads(peers.read_text()) == known


def test_pinned_sites_count_where_they_have_delivered(begun: Any) -> None:
    """A driver that says that those whom the owner knows were lost on the way."""
    hosts, charter, rosters, boxes = begun
    boxes["site-1"].grant(FEDERATION, pinned=2)
    assert hosts.hosts[0].share(charter, "train", {"site-1": rosters["site-1"]}).values
    reply = hosts.hosts[0].confirm(charter, "train", ["site-1"], ["site-1", "site-3"])
    assert not reply.values and reply.failures[0].kind is Kind.PARTNERS
    assert "with 1 other sites that the owner has pinned" in SiteLog(boxes["site-1"].path / "errors.log").last().words  # type: ignore[union-attr]


def test_less_protection_than_granted_keeps_a_site_out(make_boxed: Any, make_hosts: MakeHosts) -> None:
    setup, _ = make_boxed({}, secure_aggregation={"enabled": False, "seal": False})
    with pytest.raises(FederationError, match="no training site takes part"):
        prepare_run(setup, one_each(setup, make_hosts), DRIVER)


def test_a_dry_run_needs_no_grant_and_leaves_lines_in_the_log_and_nothing_else(make_boxed: Any, make_hosts: MakeHosts) -> None:
    setup, boxes = make_boxed(None, run={"dry_run": True})
    books = ("peers.json", "privacy.jsonl", "aggregations.jsonl", "grants.json")
    loop = loop_of(setup, one_each(setup, make_hosts))
    list(loop.run())
    assert loop.state.model.round == 1
    for box in boxes.values():
        lines = [entry.event for entry in box.audit_log() if entry.event["purpose"] != "init"]
        assert [line["purpose"] for line in lines] == ["join", "facts", "train", "validation"]
        assert all(str(line["outcome"]).startswith("dry run: ") and line["run"] for line in lines)
        assert not [book for book in books if (box.path / book).exists()]


def test_a_dry_run_does_not_touch_private_halves(make_boxed: Any, make_hosts: MakeHosts, words: Words) -> None:
    """Damaged ones are not noticed, and a driver that calls it a dry run and points at the private halves gets nothing."""
    setup, boxes = make_boxed(None, run={"dry_run": True})
    lying = replace(setup, sites=tuple(replace(site, source=private_shards(boxes[site.name])) for site in setup.sites))
    with pytest.raises(FederationError, match="no training site takes part"):
        prepare_run(lying, one_each(lying, make_hosts), DRIVER)
    assert "lies in the site box" in words(lying, "site-1")
    for box in boxes.values():
        for split in box.splits:
            box.shard(split, dry_run=False).write_text("not to be read")
    assert prepare_run(setup, one_each(setup, make_hosts), DRIVER).train_units


def test_a_log_that_cannot_be_written_costs_the_site_and_not_the_run(make_boxed: Any, make_hosts: MakeHosts) -> None:
    setup, boxes = make_boxed({})
    loop = loop_of(setup, one_each(setup, make_hosts))
    (boxes["site-2"].path / "audit.jsonl").write_text("no log\n")
    events = list(loop.run())
    left_out = {event.site for event in events if isinstance(event, SiteLeftOut)}
    assert left_out == {"site-2"} and loop.state.model.round == 1


def test_facts_come_back_from_the_run_folder(make_setup: Make, make_hosts: MakeHosts) -> None:
    setup = make_setup()
    prepare_run(setup, one_each(setup, make_hosts), DRIVER)
    text = RunFolder(setup.folder).facts.read_text()
    facts = CollectedFacts.from_json(text)
    assert facts.to_json() == text and facts.total.images == int(np.sum(facts.total.class_counts)) and not facts.absent
