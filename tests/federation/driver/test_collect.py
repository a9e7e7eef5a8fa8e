"""One site's nonsense is that site's: it is left out with the reason, and the others' sum stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from primia.errors import RunError
from primia.federation.driver.checkpoint import Checkpoints, RunState
from primia.federation.driver.collect import CollectedFacts
from primia.federation.driver.hosts import Answer
from primia.federation.driver.prepare import prepare_run
from primia.federation.driver.rounds import RoundLoop
from primia.federation.events import Event, SiteLeftOut
from primia.federation.messages import Contribution, HostResult
from primia.federation.plan import assign_hosts
from primia.federation.run_spec import RunSetup
from primia.federation.update import Update
from primia.runs.folder import RunFolder
from primia.secagg.identity import Identity
from primia.secagg.ring import Layout, RingVector

DRIVER = Identity.generate("demo@primia.example")
Make = Callable[..., RunSetup]
MakeHosts = Callable[..., Any]


@pytest.fixture
def known(make_setup: Make, make_hosts: MakeHosts) -> tuple[RunSetup, dict[str, object]]:
    """A run whose facts are known, and these."""
    setup = make_setup("known", secure_aggregation={"enabled": False})
    prepare_run(setup, make_hosts(assign_hosts(setup.sites, 3)), DRIVER)
    return setup, json.loads(RunFolder(setup.folder).facts.read_text())


def run_with(setup: RunSetup, hosts: Any, spoil: Callable[[HostResult], HostResult]) -> tuple[RunState, list[Event]]:
    """One round in which the second site's result is spoilt on its way."""
    prepared = prepare_run(setup, hosts, DRIVER)
    ask, name = hosts.ask, setup.training_sites[1]

    def spoiling(method: str, sites: Any, arguments: Any) -> Any:
        for answer in ask(method, sites, arguments):
            spoilt = method == "train" and answer.sites == (name,)
            yield Answer(answer.sites, spoil(answer.result), ()) if spoilt else answer

    hosts.ask = spoiling
    loop = RoundLoop(setup, prepared, Checkpoints(RunFolder(setup.folder).checkpoints, 2), RunState(prepared.initial))
    events = list(loop.run())
    return loop.state, events


def wrong_layout(result: HostResult) -> HostResult:
    return replace(result, total=RingVector.zeros(Layout(3, 3)))


def clear_update(result: HostResult) -> HostResult:
    return replace(result, total=None)


def tampered(result: HostResult) -> HostResult:
    return replace(result, sealed={name: envelope[:-1] + b"\0" for name, envelope in result.sealed.items()})


def withheld(result: HostResult) -> HostResult:
    return replace(result, sealed={})


@pytest.mark.parametrize(
    ("secure", "spoil", "said"),
    [
        (True, wrong_layout, "sent a vector of"),
        (True, clear_update, "sent no masked vector"),
        (False, tampered, "cannot be opened"),
        (False, withheld, "sent no sealed update"),
    ],
)
def test_a_site_that_sends_nonsense_is_left_out(
    make_setup: Make, make_hosts: MakeHosts, secure: bool, spoil: Callable[[HostResult], HostResult], said: str
) -> None:
    sections = {"federation": {"rounds": 1}, "secure_aggregation": {"enabled": secure}}
    setup, reference = make_setup("spoilt", **sections), make_setup("reference", **sections)
    name = setup.training_sites[1]
    state, events = run_with(setup, make_hosts(assign_hosts(setup.sites, 3)), spoil)
    left_out = [event for event in events if isinstance(event, SiteLeftOut)]
    assert [event.site for event in left_out] == [name] and said in left_out[0].reason
    lost = make_hosts(assign_hosts(reference.sites, 3), broken=frozenset({(1, name)}))
    expected, _ = run_with(reference, lost, lambda result: result)
    assert np.array_equal(state.model.parameters, expected.model.parameters)


def test_contributions_add_up_in_the_memory_of_the_first() -> None:
    first = Contribution(Update(np.ones(2, np.float32), np.ones(1, np.float32), 1.0), 1, 2, 3.0, 4)
    total = first.owned()
    total += Contribution(Update(np.ones(2, np.float32), np.ones(1, np.float32), 2.0), 10, 20, 30.0, 40)
    assert (total.update.weight, total.samples, total.steps, total.loss_sum, total.clipped) == (3.0, 11, 22, 33.0, 44)
    assert total.update.parameters is first.update.parameters and first.update.parameters.tolist() == [2, 2]


def counts_of(value: object) -> dict[str, object]:
    return {"counts": {"site-1": {"test": value}}}


@pytest.mark.parametrize(
    "change",
    [
        {"counts": [1]},
        counts_of([1]),
        counts_of([[1]]),
        counts_of("abc"),
        counts_of([1, -1, 1]),
        counts_of([2**70, 1, 1]),
        {"counts": {"site-1": {"other": [1, 1, 1]}}},
        {"counts": {"nobody": {"test": [1, 1, 1]}}},
        {"class_counts": "abc"},
        {"class_counts": [1]},
        {"class_counts": [10**9, 1, 1]},
        {"numbers": ["1", "2", "3"]},
        {"numbers": [10**300, 10**300, 3]},
        {"numbers": [-1, -1, -1]},
        {"numbers": [0, 0, 0]},
        {"numbers": [1.5, 1e300, 1.0]},
        {"numbers": [4, 40]},
        {"numbers": [4, 40, 4000]},
        {"pixels": [10, [1.0], [-5.0]]},
        {"pixels": [10, ["a"], [1.0]]},
        {"pixels": [0, [0], [0]]},
        {"pixels": [10, [1, 1, 1], [1, 1, 1]]},
        {"pixels": ["x", [1], [1]]},
        {"pixels": [10, [-1], [1]]},
        {"pixels": [10, [2551], [10**6]]},
        {"pixels": [10, [100], [10]]},
        {"absent": [1, 2]},
        {"absent": "abc"},
        {"absent": 5},
        {"absent": {"nobody": "gone"}},
    ],
)
def test_facts_of_odd_types_and_values_are_one_clear_error(
    make_setup: Make, make_hosts: MakeHosts, known: tuple[RunSetup, dict[str, object]], change: dict[str, object]
) -> None:
    setup, facts = known
    path = RunFolder(setup.folder).facts
    path.write_text(json.dumps({**facts, **change}))
    with pytest.raises(RunError, match=r"facts\.json cannot be read \(") as caught:
        prepare_run(setup, make_hosts(assign_hosts(setup.sites, 3)), DRIVER)
    assert str(caught.value).isprintable()


def test_facts_of_the_same_run_are_taken_up(make_hosts: MakeHosts, known: tuple[RunSetup, dict[str, object]]) -> None:
    setup, facts = known
    text = json.dumps(facts)
    RunFolder(setup.folder).facts.write_text(text)
    assert json.loads(CollectedFacts.from_json(text).to_json()) == facts
    assert prepare_run(setup, make_hosts(assign_hosts(setup.sites, 3)), DRIVER).train_units == facts["numbers"][1]  # type: ignore[index]
