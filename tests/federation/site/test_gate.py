"""One gate in front of all calls of a site: none without it, none without a grant, and a line for each use and each refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from primia.consent.box import SiteBox
from primia.errors import ProtocolError
from primia.federation.driver.prepare import Prepared, prepare_run
from primia.federation.messages import Charter, HostReply, RoundTask, Session, SiteFailure
from primia.federation.plan import assign_hosts
from primia.federation.refusals import Kind
from primia.federation.run_spec import RunSetup
from primia.federation.site import allowance
from primia.federation.site.allowance import Allowance
from primia.federation.site.gate import CALLS, UNREADABLE, Entry, Gated, Visit, site_call
from primia.federation.site.host import SiteHost
from primia.federation.site.member import TOO_MANY, Member
from primia.federation.site.worker import FederatedWorker
from primia.federation.update import GlobalModel
from primia.secagg.identity import Identity
from primia.secagg.messages import Roster, Task
from primia.secagg.ring import Layout

pytestmark = pytest.mark.usefixtures("spoken")

DRIVER = Identity.generate("demo@primia.example")
FEDERATION = "demo@primia.example"
ASKING = sorted(CALLS - {"leave"})
SITE = "site-1"
MakeHosts = Callable[..., Any]


def arguments(prepared: Prepared) -> dict[str, tuple[object, ...]]:
    """Each call, made for one site with what a driver could send."""
    session, charter, start = prepared.session, prepared.session.charter, prepared.initial
    settings = charter.settings.secure_aggregation
    task = Task(FEDERATION, charter.run, 1, "train", charter.training, settings.threshold, settings.neighbours, Layout(1, 1))
    return {
        "join": (charter, [SITE]),
        "facts": (charter, [SITE], {}),
        "train": (session, RoundTask(1, 1, (SITE,), None, range=16.0), start),
        "evaluate": (session, "validation", [SITE], start, {}),
        "advertise": (charter, task, [SITE]),
        "share": (charter, "train", {SITE: Roster({}, {})}),
        "confirm": (charter, "train", [SITE], list(charter.training)),
        "unmask": (charter, "train", {SITE: {}}),
        "statements": (charter, [SITE]),
    }


def prepared_run(setup: RunSetup, make_hosts: MakeHosts) -> tuple[Prepared, Any]:
    hosts = make_hosts(assign_hosts(setup.sites, 3))
    return prepare_run(setup, hosts, DRIVER), hosts.hosts[0]


def refusals(box: SiteBox) -> list[str]:
    return [str(entry.event["outcome"]) for entry in box.audit_log() if str(entry.event.get("outcome")).startswith("refused: ")]


def test_every_public_method_of_a_host_is_a_call(make_boxed: Any, make_hosts: MakeHosts) -> None:
    assert {name for name in dir(SiteHost) if not name.startswith("_")} == CALLS
    assert set(arguments(prepared_run(make_boxed({})[0], make_hosts)[0])) == set(ASKING), "the tests below try each"


def test_a_call_without_the_gate_cannot_be_written() -> None:
    with pytest.raises(TypeError, match="does not pass the gate"):
        type("Host", (SiteHost,), {"peek": lambda self: self})
    with pytest.raises(TypeError, match="does not pass the gate"):
        type("Host", (Gated,), {"facts": lambda self: self})


@pytest.mark.parametrize(
    "method", ["_gate", "_learner", "__init__", "__class__", "__call__", "peek", "forget", [], 5, None, type("T", (str,), {})("join")]
)
def test_a_worker_answers_calls_only(make_boxed: Any, method: Any) -> None:
    """And what is tried is in the log."""
    setup, boxes = make_boxed(None)
    worker = FederatedWorker([setup.sites[0].source], threads=torch.get_num_threads())
    with pytest.raises(ProtocolError, match="no call of a site; calls: advertise, confirm"):
        worker.call(method)
    event = boxes[SITE].audit_log()[-1].event
    assert event == {"purpose": "unknown call", "fault": "its name", "outcome": UNREADABLE}
    worker.call("leave", "some charter")


def test_no_call_is_answered_without_a_grant_and_each_refusal_is_logged(make_boxed: Any, make_hosts: MakeHosts) -> None:
    setup, boxes = make_boxed({})
    prepared, host = prepared_run(setup, make_hosts)
    boxes[SITE].revoke(FEDERATION)
    for number, call in enumerate(ASKING, 1):
        result = getattr(host, call)(*arguments(prepared)[call])
        assert [failure.site for failure in result.failures] == [SITE], call
        told = [getattr(result, name, None) for name in ("values", "total", "counts", "metrics", "reports", "sealed")]
        assert not any(told), f"{call}: nothing but the refusal"
        assert len(refusals(boxes[SITE])) == number and "was revoked" in refusals(boxes[SITE])[-1], call


def test_no_call_is_answered_on_other_terms_under_one_id(make_boxed: Any, make_hosts: MakeHosts) -> None:
    setup, boxes = make_boxed({"require": "any"})
    prepared, host = prepared_run(setup, make_hosts)
    charter = prepared.session.charter
    number = 0
    for change in other_terms(charter):
        for call in ASKING:
            changed = replace(prepared, session=replace(prepared.session, charter=change))
            result = getattr(host, call)(*arguments(changed)[call])
            assert [failure.site for failure in result.failures] == [SITE], call
            number += 1
            assert len(refusals(boxes[SITE])) == number, call
            assert "other terms (run, sites, settings or driver)" in refusals(boxes[SITE])[-1]


def other_terms(charter: Charter) -> list[Charter]:
    """Another run, other sites, another setting, less protection."""

    def settings(section: str, **changed: object) -> Charter:
        kept = getattr(charter.settings, section)
        return replace(charter, settings=charter.settings.model_copy(update={section: kept.model_copy(update=changed)}))

    return [
        replace(charter, run="renamed"),
        replace(charter, sites=charter.sites[:2], training=charter.training[:2]),
        settings("run", seed=2),
        settings("secure_aggregation", enabled=False, seal=False),
    ]


def test_after_it_has_left_a_federation_may_come_with_new_terms(make_setup: Any, make_hosts: MakeHosts) -> None:
    setup = make_setup()
    prepared, host = prepared_run(setup, make_hosts)
    charter = prepared.session.charter
    renamed = replace(charter, run="renamed")
    assert host.join(renamed, [SITE]).failures
    host.leave(charter.id)
    assert not host.join(renamed, [SITE]).failures


def test_a_session_stays_what_it_was(make_setup: Any, make_hosts: MakeHosts) -> None:
    """Else a learner kept from before would do the old work under the name of new work."""
    setup = make_setup(federation={"rounds": 1})
    prepared, host = prepared_run(setup, make_hosts)
    session = prepared.session
    assert not host.evaluate(session, "validation", [SITE], prepared.initial, {}).failures
    other = replace(session, learner=replace(session.learner, seed=session.learner.seed + 1))
    (failure,) = host.evaluate(other, "validation", [SITE], prepared.initial, {}).failures
    assert "another session" in failure.reason


def test_rounds_go_forward_until_a_driver_joins_again(make_setup: Any, make_hosts: MakeHosts) -> None:
    setup = make_setup(federation={"rounds": 3}, secure_aggregation={"enabled": False, "seal": False})
    prepared, host = prepared_run(setup, make_hosts)

    def train(round_: int) -> list[str]:
        task = RoundTask(round_, 3, (SITE,), None)
        return [failure.reason for failure in host.train(prepared.session, task, replace(prepared.initial, round=round_ - 1)).failures]

    assert not train(2) and not train(2) and not train(3)
    assert "round 2 was asked for after round 3" in train(2)[0]
    host.join(prepared.session.charter, [SITE])
    assert not train(2)


def test_each_answered_call_that_is_about_images_has_its_line(make_boxed: Any, make_hosts: MakeHosts) -> None:
    setup, boxes = make_boxed({"require": "any"}, secure_aggregation={"enabled": False})
    prepared, host = prepared_run(setup, make_hosts)
    for call in ("train", "evaluate", "statements"):
        assert not getattr(host, call)(*arguments(prepared)[call]).failures
    lines = [entry.event for entry in boxes[SITE].audit_log() if "run" in entry.event]
    assert [(line["purpose"], line["outcome"]) for line in lines] == [
        (purpose, "delivers") for purpose in ("join", "facts", "train", "validation", "statement")
    ]
    assert all(line["federation"] == FEDERATION and line["run"] == prepared.session.charter.run for line in lines)


def test_a_drivers_words_are_short_in_the_log(make_boxed: Any) -> None:
    """Also those of a driver that is refused: the owner will read them on a terminal."""
    setup, boxes = make_boxed(None)
    charter = Charter("id", "run" + 900 * "x", (SITE,), setup.settings, setup.classes, 1, setup.folder, DRIVER.public)
    assert SiteHost([setup.sites[0].source]).join(charter, [SITE]).failures
    event = boxes[SITE].audit_log()[-1].event
    assert event["purpose"] == "join" and str(event["outcome"]).startswith("refused: ")
    assert event["run"] == "run" + 497 * "x"


def test_a_drivers_words_are_short_in_the_log_whatever_script_they_are_in(make_boxed: Any) -> None:
    """A letter takes up to twelve bytes as JSON."""
    setup, boxes = make_boxed(None)
    charter = Charter("id", 900 * "\U0001f600", (SITE,), setup.settings, setup.classes, 1, setup.folder, DRIVER.public)
    host = SiteHost([setup.sites[0].source])
    size = (boxes[SITE].path / "audit.jsonl").stat().st_size
    for _ in range(10):
        host.join(charter, [SITE])
    assert (boxes[SITE].path / "audit.jsonl").stat().st_size - size < 10 * 3000
    assert boxes[SITE].audit_log()[-1].event["run"] == 41 * "\U0001f600"


def test_calls_that_need_no_grant_do_not_fill_the_log(make_boxed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack: a driver without a grant asks until the log takes no more, and with it the site takes part in nothing."""
    monkeypatch.setattr(allowance, "_AT_ONCE", 20.0)
    setup, boxes = make_boxed(None)
    host, before = SiteHost([setup.sites[0].source]), len(boxes[SITE].audit_log())
    clock = [0.0]
    (member,) = host._gate._members.values()
    member._free = Allowance(lambda: clock[0])
    charter = Charter("id", "run", (SITE,), setup.settings, setup.classes, 1, setup.folder, DRIVER.public)
    dry = charter.settings.run.model_copy(update={"dry_run": True})
    free = replace(charter, id="dry", settings=charter.settings.model_copy(update={"run": dry}))
    for number in range(100):
        assert host.join(replace(charter, run=f"run-{number}"), [SITE]).failures
        assert not host.join(free, [SITE]).failures
        host.leave(["odd"])  # type: ignore[arg-type]
    lines = [entry.event for entry in boxes[SITE].audit_log()[before:]]
    assert len(lines) == 21 and lines[-1] == {"purpose": "many calls", "outcome": TOO_MANY}
    clock[0] = 15.0
    host.join(charter, [SITE])
    assert boxes[SITE].audit_log()[-1].event["unlisted"] == 280
    clock[0] = 60.0
    host.join(charter, [SITE])
    assert "unlisted" not in boxes[SITE].audit_log()[-1].event, "what was told is not told again"
    boxes[SITE].grant(FEDERATION, first_contact=True)
    granted = replace(charter, id="granted", settings=setup.settings)
    for _ in range(5):
        assert not host.join(granted, [SITE]).failures
    lines = [entry.event for entry in boxes[SITE].audit_log()[-5:]]
    assert all(line["outcome"] == "delivers" for line in lines), "what is granted is always listed"


def test_nested_words_of_an_event_are_shortened_too(make_boxed: Any) -> None:
    setup, boxes = make_boxed(None)
    charter = Charter("id", "run", (SITE,), setup.settings, setup.classes, 1, setup.folder, DRIVER.public)
    long = 2000 * "x"
    Member(setup.sites[0].source).note(charter, {"outcome": "a\x1bb", "list": [long] * 1000, "deep": {long: {"a": {"b": long, "c": []}}}})
    event = boxes[SITE].audit_log()[-1].event
    assert (
        event["outcome"] == "a?b"
        and event["list"] == [long[:500]] * 100
        and event["deep"] == {long[:500]: {"a": {"b": long[:500], "c": "..."}}}
    )


def with_privacy(charter: Charter, privacy: object) -> Charter:
    return replace(charter, settings=charter.settings.model_copy(update={"privacy": privacy}))


def pretender(charter: Charter) -> Any:
    """No charter, but what answers each question about one as the driver likes."""
    kept = {field.name: getattr(charter, field.name) for field in fields(charter)}
    return SimpleNamespace(**kept, ledgers=charter.ledgers, is_secure=True, keeps_evaluations=False, is_sealed=True)


def changing(*lists: list[str]) -> Any:
    """Other names at each reading."""
    names: list[Any] = []
    for each in lists:
        step = iter(each)
        names += [step] * (len(each) + 1)
    return map(next, names)


ODD_CHARTERS: dict[str, Callable[[Charter], Any]] = {
    "a namespace": pretender,
    "a subclass": lambda charter: type("Charter", (Charter,), {"is_secure": True})(**vars(charter)),
    "a namespace in the settings": lambda charter: with_privacy(
        charter, SimpleNamespace(unit="patient", is_on=False, is_by_site=False, delta=None)
    ),
    "settings that are not valid": lambda charter: with_privacy(charter, charter.settings.privacy.model_copy(update={"unit": "patient"})),
    "a run name of 50 MB": lambda charter: replace(charter, run=50_000_000 * "x"),
    "a run name that is a number": lambda charter: replace(charter, run=5),  # type: ignore[arg-type]
    "a run name that moves the cursor": lambda charter: replace(charter, run="run\x1b[2J"),
    "a list of sites": lambda charter: replace(charter, sites=list(charter.sites)),  # type: ignore[arg-type]
    "an endless number of channels": lambda charter: replace(charter, channels=10**450),
    "nothing": lambda charter: None,
}


@pytest.mark.parametrize("name", ODD_CHARTERS)
def test_a_charter_of_odd_types_reaches_no_site(make_boxed: Any, make_hosts: MakeHosts, name: str) -> None:
    """In each call, with the same answer and the same line, which quotes nothing."""
    setup, boxes = make_boxed({})
    prepared, host = prepared_run(setup, make_hosts)
    odd = ODD_CHARTERS[name](prepared.session.charter)
    changed = replace(prepared, session=replace(prepared.session, charter=odd))
    for call in ASKING:
        given = tuple(odd if isinstance(each, Charter) else each for each in arguments(prepared)[call])
        given = tuple(changed.session if isinstance(each, Session) else each for each in given)
        is_refused(boxes[SITE], getattr(host, call)(*given), call)


def is_refused(box: SiteBox, result: Any, call: str) -> None:
    assert result.failures == (SiteFailure.of(SITE, Kind.PROTOCOL),), call
    assert not any(getattr(result, name, None) for name in ("values", "total", "counts", "metrics", "reports", "sealed")), call
    event = dict(box.audit_log()[-1].event)
    assert event.pop("fault", "") is not None and event == {"purpose": call, "outcome": UNREADABLE}


ODD_TASKS: dict[str, dict[str, Any]] = {
    "a round of 451 digits": {"round": 10**450},
    "a round that is no number": {"round": float("nan")},
    "a set": {"round": {1, 2}},
    "a truth value": {"round": True},
    "a purpose of three million zeros": {"purpose": [0] * 3_000_000},
    "a threshold without end": {"threshold": float("inf")},
}


@pytest.mark.parametrize("name", ODD_TASKS)
def test_a_task_of_odd_types_is_refused_and_the_log_can_be_read(make_boxed: Any, name: str) -> None:
    """Without any grant: one call left the log unreadable, or left no line in it."""
    setup, boxes = make_boxed(None)
    host = SiteHost([setup.sites[0].source])
    charter = Charter("id", "run", (SITE,), setup.settings, setup.classes, 1, setup.folder, DRIVER.public)
    task = replace(Task(FEDERATION, "run", 1, "train", (SITE,), 0.6, 0, Layout(1, 1)), **ODD_TASKS[name])
    before = len(boxes[SITE].audit_log())
    is_refused(boxes[SITE], host.advertise(charter, task, [SITE]), "advertise")
    assert len(boxes[SITE].audit_log()) == before + 1
    assert (boxes[SITE].path / "audit.jsonl").stat().st_size < 10_000
    boxes[SITE].grant(FEDERATION, first_contact=True)


@pytest.mark.parametrize("survivors", [changing(["site-1"]), iter(["site-1"]), {"site-1"}, "site-1", None])
def test_names_that_can_be_read_once_only_are_refused(make_boxed: Any, make_hosts: MakeHosts, survivors: Any) -> None:
    """The attack: the journal reads all sites, the signature is on some."""
    setup, boxes = make_boxed({})
    prepared, host = prepared_run(setup, make_hosts)
    is_refused(boxes[SITE], host.confirm(prepared.session.charter, "train", [SITE], survivors), "confirm")


def test_a_model_of_other_numbers_is_refused(make_boxed: Any, make_hosts: MakeHosts) -> None:
    """The attack: a model of the same bytes as integers, for all sites but one, whose update the sum then is."""
    setup, boxes = make_boxed({})
    prepared, host = prepared_run(setup, make_hosts)
    session, task, start = arguments(prepared)["train"]
    assert isinstance(start, GlobalModel)
    vector: Any = start.parameters
    strided = np.zeros(2 * vector.size, np.float32)[::2]
    models: list[Any] = [
        vector.view(np.int32),
        vector.astype(np.float64),
        vector.astype(">f4"),
        vector[None],
        strided,
        vector.tolist(),
        None,
    ]
    for odd in models:
        is_refused(boxes[SITE], host.train(session, task, replace(start, parameters=odd)), "train")


def test_too_few_and_too_many_arguments_are_a_refusal(make_boxed: Any) -> None:
    setup, boxes = make_boxed({})
    host = SiteHost([setup.sites[0].source])
    is_refused(boxes[SITE], host.join(), "join")  # type: ignore[call-arg]
    is_refused(boxes[SITE], host.join(*range(9)), "join")


@pytest.mark.parametrize("error", [ValueError, RecursionError, MemoryError, KeyError, OverflowError])
def test_a_call_that_cannot_be_described_is_a_refusal_whatever_the_error(
    make_boxed: Any, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    setup, boxes = make_boxed({})

    def describe(charter: str) -> Visit:
        raise error("the driver's own words")

    class Host(SiteHost):
        @site_call(describe)
        def join(self, entry: Entry, charter: str) -> HostReply:  # type: ignore[override]
            raise AssertionError("not reached")

    is_refused(boxes[SITE], Host([setup.sites[0].source]).join("id"), "join")
    assert boxes[SITE].audit_log()[-1].event["fault"] == error.__name__


def test_leaving_by_what_is_no_name_is_refused(make_boxed: Any) -> None:
    setup, boxes = make_boxed({})
    for odd in (["unhashable"], 5, 2000 * "x"):
        before = len(boxes[SITE].audit_log())
        SiteHost([setup.sites[0].source]).leave(odd)  # type: ignore[arg-type]
        assert boxes[SITE].audit_log()[-1].event["outcome"] == UNREADABLE and len(boxes[SITE].audit_log()) == before + 1
    host: Any = SiteHost([setup.sites[0].source])
    for call in (host.leave, lambda: host.leave("a", "b"), lambda: host.leave(name="a"), lambda: host("leave", "a", 5)):
        before = len(boxes[SITE].audit_log())
        call()
        assert boxes[SITE].audit_log()[-1].event["outcome"] == UNREADABLE and len(boxes[SITE].audit_log()) == before + 1


def test_a_site_works_on_the_copy_that_was_checked(make_setup: Any, make_hosts: MakeHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, host = prepared_run(make_setup(), make_hosts)
    seen: list[Charter] = []

    def identity(member: Member, charter: Charter) -> Identity:
        seen.append(charter)
        return DRIVER

    monkeypatch.setattr(Member, "identity", identity)
    charter = prepared.session.charter
    assert not host.join(charter, [SITE]).failures
    assert seen == [charter] and seen[0] is not charter and seen[0].settings is not charter.settings


def test_terms_are_kept_of_so_many_federations_the_oldest_forgotten_with_all_it_began(make_setup: Any, make_hosts: MakeHosts) -> None:
    prepared, host = prepared_run(make_setup(), make_hosts)
    charter = prepared.session.charter
    host._gate.forget(charter.id)
    for number in range(64):
        assert not host.join(replace(charter, id=str(number)), [SITE]).failures
    host.join(replace(charter, id="0"), [SITE])
    (member,) = host._gate._members.values()
    assert host.join(replace(charter, id="1", run="renamed"), [SITE]).failures, "still known"
    host.join(replace(charter, id="64"), [SITE])
    assert len(host._gate._terms) == 64 and "0" in host._gate._terms and "1" not in host._gate._terms
    assert "1" not in member._identities and "0" in member._identities
    assert not host.join(replace(charter, id="1", run="renamed"), [SITE]).failures


def test_a_fault_of_the_work_is_logged_as_well(make_boxed: Any, make_hosts: MakeHosts) -> None:
    setup, boxes = make_boxed({"require": "any"}, secure_aggregation={"enabled": False})
    prepared, host = prepared_run(setup, make_hosts)
    host._state = None
    host.train(*arguments(prepared)["train"])
    assert str(boxes[SITE].audit_log()[-1].event["outcome"]).startswith("left out: ")


def test_an_event_names_its_round_where_there_is_one() -> None:
    visit = Visit(None, (), "facts")  # type: ignore[arg-type]
    assert visit.event == {"purpose": "facts"} and replace(visit, round=0).event == {"purpose": "facts", "round": 0}
