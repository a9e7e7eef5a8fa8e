"""One gate in front of all calls of a site: none without it, none without a grant, and a line for each use and each refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from primia.errors import ProtocolError
from primia.federation.exchange import Charter, RoundTask
from primia.federation.gate import CALLS, Gated, Visit
from primia.federation.plan import assign_hosts
from primia.federation.run_setup import RunSetup
from primia.federation.setup import Prepared, prepare_run
from primia.federation.site import SiteHost
from primia.federation.site_box import SiteBox
from primia.federation.worker import FederatedWorker
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


@pytest.mark.parametrize("method", ["_gate", "_learner", "__init__", "__class__", "peek", "forget"])
def test_a_worker_answers_calls_only(method: str) -> None:
    worker = FederatedWorker((), threads=1)
    with pytest.raises(ProtocolError, match="is no call of a site; calls: advertise, confirm"):
        worker.call(method)
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


def test_a_drivers_words_are_one_line_in_the_log(make_boxed: Any) -> None:
    """Also those of a driver that is refused: the owner will read them on a terminal."""
    setup, boxes = make_boxed(None)
    charter = Charter("id", "run\x1b[2J\n" + 999 * "x", (SITE,), setup.settings, setup.classes, 1, setup.folder, DRIVER.public)
    assert SiteHost([setup.sites[0].source]).join(charter, [SITE]).failures
    event = boxes[SITE].audit_log()[-1].event
    assert event["purpose"] == "join" and str(event["outcome"]).startswith("refused: ") and len(event["run"]) == 500
    assert str(event["run"]).startswith("run?[2J?x")


def test_a_fault_of_the_work_is_logged_as_well(make_boxed: Any, make_hosts: MakeHosts) -> None:
    setup, boxes = make_boxed({"require": "any"}, secure_aggregation={"enabled": False})
    prepared, host = prepared_run(setup, make_hosts)
    host._state = None
    host.train(*arguments(prepared)["train"])
    assert str(boxes[SITE].audit_log()[-1].event["outcome"]).startswith("left out: ")


def test_an_event_names_its_round_where_there_is_one() -> None:
    visit = Visit(None, (), "facts")  # type: ignore[arg-type]
    assert visit.event == {"purpose": "facts"} and replace(visit, round=0).event == {"purpose": "facts", "round": 0}
