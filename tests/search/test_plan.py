from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from primia.config.settings import SearchSettings, Settings
from primia.errors import ConfigError
from primia.search.plan import SweepPlan

MakePlan = Callable[..., SweepPlan]
VALUES = {"training.learning_rate": 0.25, "training.momentum": 0.5}


def test_a_trials_settings_are_those_given_with_its_values(make_plan: MakePlan) -> None:
    plan = make_plan(run={"seed": 9})
    settings = plan.settings("0007", VALUES)
    assert (settings.training.learning_rate, settings.training.momentum) == (0.25, 0.5)
    assert (settings.run.name, settings.run.output, settings.run.seed) == ("0007", plan.path / "trials", 9)
    assert settings.search == SearchSettings(), "a trial searches nothing"
    assert settings.run.repeat == "tests-0007" and plan.settings("0007-from-003", VALUES).run.repeat == "tests-0007"
    base = plan.space.base
    assert (settings.data, settings.model, settings.federation, settings.privacy) == (base.data, base.model, base.federation, base.privacy)


def test_what_sites_draw_is_of_the_sweep_and_the_trial(make_plan: MakePlan) -> None:
    one, two = make_plan("one", run={"repeat": ""}), make_plan("two", run={"repeat": ""})
    draws = [plan.settings(name, VALUES).run.repeat for plan in (one, two) for name in ("0001", "0002")]
    assert len(set(draws)) == 4 and draws[0] == f"{one.folder.identity()}-0001"
    assert one.settings("0001", VALUES).run.repeat == draws[0], "also when the sweep goes on"
    long = make_plan("long", run={"repeat": "r" * 64}).settings("12345", VALUES)
    assert Settings.model_validate(long.model_dump()).run.repeat.endswith("-12345")


def test_a_sweep_of_an_earlier_version_has_no_identity(make_plan: MakePlan) -> None:
    plan = make_plan(run={"repeat": ""})
    plan.folder.data.write_text('{"fingerprint": "f"}')
    assert plan.settings("0001", VALUES).run.repeat == ""


def test_machines_are_in_numbers_so_that_the_settings_give_the_same_model_elsewhere(make_plan: MakePlan) -> None:
    assert make_plan().settings("1", VALUES).resources == make_plan("other").resources != make_plan("third").space.base.resources


def test_a_searched_resource_is_the_trials_own(make_plan: MakePlan) -> None:
    plan = make_plan(search={"space": {"resources.threads": "randint(1, 4)", "training.momentum": "uniform(0, 0.9)"}})
    resources = plan.settings("1", {"resources.threads": 3, "training.momentum": 0.5}).resources
    assert (resources.threads, resources.actors) == (3, plan.resources.actors)


def test_values_that_contradict_the_rest_are_told(make_plan: MakePlan) -> None:
    with pytest.raises(ConfigError, match=r"training\.momentum"):
        make_plan().settings("1", {"training.momentum": 2.0})


@pytest.mark.parametrize("limit", [None, 3.0])
def test_all_trials_have_one_privacy_account(make_plan: MakePlan, limit: float | None) -> None:
    private = {"unit": "image", "noise_multiplier": 1.0, "validation": "public"}
    plan = make_plan(privacy=private, model={"normalisation": "group"}, search={"max_epsilon": limit})
    assert plan.account.folder == plan.path / "sites"
    whole = plan.account.limit()
    assert whole is None if limit is None else whole is not None and whole.epsilon == limit and "search.max_epsilon" in whole.whose


def test_own_actors_leave_room_for_the_trials_beside(make_plan: MakePlan, tmp_path: Path) -> None:
    """Searched: the number of sites, so every trial packs its own images."""
    plan = make_plan(
        own_data=True, data={"cache": tmp_path / "cache"}, search={"max_concurrent": 2, "space": {"data.sites": "randint(2, 4)"}}
    )
    for sites in (2, 4):
        actors = plan.own_actors(plan.settings("1", {"data.sites": sites}))
        assert sum(len(host) for host in actors.hosts) == sites and len(actors.hosts) == min(3, sites)
        assert not actors.pool and actors.options.cpus * len(actors.hosts) * 2 <= plan.cluster[0]


def test_it_travels_to_a_trials_process(make_plan: MakePlan) -> None:
    plan = make_plan()
    assert pickle.loads(pickle.dumps(plan)) == plan
