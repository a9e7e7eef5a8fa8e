"""What two runs of one seed have in common, and what they must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from primia.config.settings import RunSettings
from primia.federation.driver.checkpoint import Checkpoints, RunState
from primia.federation.driver.draws import draws_of, site_seed
from primia.federation.driver.prepare import Prepared, prepare_run
from primia.federation.driver.rounds import RoundLoop
from primia.federation.events import RoundFinished
from primia.federation.plan import assign_hosts
from primia.federation.run_spec import RunSetup
from primia.runs.folder import RunFolder
from primia.secagg.identity import Identity

DRIVER = Identity.generate("demo@primia.example")
OWN_DRAWS = {"run": {"repeat": ""}}
APART: dict[str, dict[str, object]] = {
    "data": {"normalisation": "site"},
    "federation": {"rounds": 1},
    "training": {"learning_rate": 0.01},
    "augmentation": {"rotation": 20.0},
}
"""Nothing that a site does depends on the others."""

Make = Callable[..., RunSetup]
MakeHosts = Callable[..., Any]
Vector = NDArray[np.float32]


def begun(setup: RunSetup, make_hosts: MakeHosts) -> tuple[Prepared, RoundLoop]:
    prepared = prepare_run(setup, make_hosts(assign_hosts(setup.sites, 3)), DRIVER)
    checkpoints = Checkpoints(RunFolder(setup.folder).checkpoints, 2)
    return prepared, RoundLoop(setup, prepared, checkpoints, checkpoints.load_latest()[0] or RunState(prepared.initial))


def summed(setup: RunSetup, make_hosts: MakeHosts) -> Vector:
    """The sum of the weighted updates of the only round, as a driver sees it, who knows the sum of the weights."""
    prepared, loop = begun(setup, make_hosts)
    list(loop.run())
    moved: Vector = (loop.state.model.parameters - prepared.initial.parameters) * prepared.train_units
    return moved


def update_of(setup: RunSetup, make_hosts: MakeHosts, site: str) -> Vector:
    """A site's own weighted update in the round that :func:`summed` makes, from the site itself."""
    _, loop = begun(setup, make_hosts)
    (host,) = (host for host in loop._prepared.collector._hosts.hosts if host._gate.member(site))  # type: ignore[attr-defined]
    seen: list[Vector] = []
    contribution = host._contribution

    def spy(*arguments: Any) -> Any:
        made = contribution(*arguments)
        seen.append(made.update.parameters.copy())
        return made

    host._contribution = spy
    list(loop.run())
    return seen[0]


def without(setup: RunSetup, site: str) -> RunSetup:
    return replace(setup, sites=tuple(plan for plan in setup.sites if plan.name != site))


def likeness(one: Vector, other: Vector) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def one_site_apart(make_setup: Make, make_hosts: MakeHosts, sections: dict[str, Any], names: tuple[str, str]) -> tuple[Vector, Vector]:
    """The difference of two runs of one seed, and the update of the site that is in one of them only."""
    whole, less = (make_setup(name, **sections) for name in names)
    last = whole.training_sites[-1]
    update = update_of(make_setup(f"{names[0]}-again", **{**sections, "run": {"repeat": "tests"}}), make_hosts, last)
    return summed(whole, make_hosts) - summed(without(less, last), make_hosts), update


def test_runs_of_the_same_draws_one_site_apart_differ_by_exactly_that_sites_update(make_setup: Make, make_hosts: MakeHosts) -> None:
    """The attack that a repeat makes possible, which is why it must be asked for."""
    difference, update = one_site_apart(make_setup, make_hosts, APART, ("whole", "less"))
    assert np.abs(difference - update).max() < 1e-3 * np.abs(update).max()


def test_runs_of_one_seed_one_site_apart_do_not_give_that_sites_update(make_setup: Make, make_hosts: MakeHosts) -> None:
    """Each has draws of its own, so the other sites' updates do not cancel."""
    difference, update = one_site_apart(make_setup, make_hosts, {**APART, **OWN_DRAWS}, ("whole", "less"))
    assert np.linalg.norm(difference - update) > 0.2 * np.linalg.norm(update)


def test_runs_of_one_seed_have_their_own_draws_and_the_same_initial_weights(make_setup: Make, make_hosts: MakeHosts) -> None:
    (one, first), (two, second) = (begun(make_setup(name, **OWN_DRAWS), make_hosts) for name in ("one", "two"))
    assert np.array_equal(one.initial.parameters, two.initial.parameters)
    assert one.session.learner.seed != two.session.learner.seed
    for loop in (first, second):
        list(loop.run())
    assert not np.array_equal(first.state.model.parameters, second.state.model.parameters)


def test_a_run_is_repeated_by_its_identity_also_one_that_was_resumed(make_setup: Make, make_hosts: MakeHosts) -> None:
    original = make_setup("original", **OWN_DRAWS)
    _, loop = begun(original, make_hosts)
    next(event for event in loop.run() if isinstance(event, RoundFinished))
    loop._writer.flush()
    _, resumed = begun(original, make_hosts)
    list(resumed.run())
    assert resumed.state.model.round == 4
    repeated = make_setup("repeated", run={"repeat": RunFolder(original.folder).token()})
    _, again = begun(repeated, make_hosts)
    list(again.run())
    assert np.array_equal(resumed.state.model.parameters, again.state.model.parameters)


@pytest.mark.parametrize("run", [{"mode": "pooled"}, {"mode": "local", "site": "a"}])
def test_one_learner_alone_draws_by_the_seed(run: dict[str, str]) -> None:
    settings = RunSettings.model_validate({**run, "seed": 7, "repeat": "x"})
    assert site_seed(settings, draws_of(settings, "own")) == 7


def test_a_repeat_goes_before_the_runs_own_draws() -> None:
    own, repeat = RunSettings(seed=7), RunSettings(seed=7, repeat="other")
    assert (draws_of(own, "own"), draws_of(repeat, "own")) == ("own", "other")
    seeds = {site_seed(own, "own"), site_seed(repeat, "other"), site_seed(RunSettings(seed=8), "own")}
    assert len(seeds) == 3 and all(0 <= seed < 2**63 for seed in seeds)
