from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from primia.config.settings import RunSettings
from primia.data.prepare import FederatedData, SiteShards
from primia.errors import ConfigError, ConsentError, DataError
from primia.federation.plan import actor_count, assign_hosts, plan_sites, single_learner_steps
from primia.federation.sources import BoxedSite, PackedSite


def data(*sites: SiteShards) -> FederatedData:
    return FederatedData(
        sites=sites, classes=("a", "b"), channels=1, image_size=8, synthetic=False, skipped=(), fingerprint="f", warnings=()
    )


def site(name: str, splits: str = "train validation test") -> SiteShards:
    return SiteShards(name, *(Path(name) / split if split in splits.split() else None for split in ("train", "validation", "test")))


def test_federated_every_owner_trains_and_selects() -> None:
    plans = plan_sites(data(site("b"), site("a"), site("central", "validation test")), RunSettings())
    assert [(plan.name, plan.trains, plan.selects) for plan in plans] == [("a", True, True), ("b", True, True), ("central", False, True)]


def test_pooled_one_site_trains_on_all_shards_in_name_order() -> None:
    plans = plan_sites(data(site("a"), site("b")), RunSettings(mode="pooled"))
    assert [(plan.name, plan.trains, plan.selects) for plan in plans] == [("pooled", True, False), ("a", False, True), ("b", False, True)]
    assert plans[0].source == PackedSite("pooled", train=(Path("a/train"), Path("b/train")))


def test_a_site_with_a_box_is_started_with_its_box_and_nothing_else() -> None:
    boxed = replace(site("a"), box=Path("boxes/a"))
    plans = plan_sites(data(boxed, site("b", "train test")), RunSettings())
    assert [plan.source for plan in plans] == [BoxedSite("a", Path("boxes/a")), PackedSite("b", (Path("b/train"),), (), (Path("b/test"),))]
    assert [(plan.owns, plan.tests, plan.selects) for plan in plans] == [(True, True, True), (True, True, False)]
    with pytest.raises(ConsentError, match=r"run\.mode = pooled would take images out of their site boxes"):
        plan_sites(data(boxed, site("b")), RunSettings(mode="pooled"))


def test_local_one_site_trains_and_selects_by_its_own_validation() -> None:
    plans = plan_sites(data(site("a"), site("b"), site("central", "validation")), RunSettings(mode="local", site="b"))
    assert [(plan.name, plan.trains, plan.selects) for plan in plans] == [("b", True, True), ("a", False, False), ("central", False, False)]


def test_local_without_own_validation_selects_by_the_central_one() -> None:
    plans = plan_sites(data(site("a", "train"), site("b", "train"), site("central", "validation")), RunSettings(mode="local", site="b"))
    assert [plan.name for plan in plans if plan.selects] == ["central"]


def test_bad_plans_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'c' is not a site.*a, b"):
        plan_sites(data(site("a"), site("b")), RunSettings(mode="local", site="c"))
    with pytest.raises(DataError, match="named 'pooled'"):
        plan_sites(data(site("pooled"), site("b")), RunSettings(mode="pooled"))
    with pytest.raises(DataError, match="no site has validation images"):
        plan_sites(data(site("a", "train")), RunSettings())
    with pytest.raises(DataError, match="no site has training images"):
        plan_sites(data(site("a", "test")), RunSettings())


def test_hosts_share_sites_evenly_and_fixedly() -> None:
    plans = plan_sites(data(*(site(f"s{index:03d}") for index in range(10)), site("central", "validation")), RunSettings())
    hosts = assign_hosts(plans, 4)
    assert [len(host) for host in hosts] == [3, 3, 3, 2]
    assert sorted(plan.name for host in hosts for plan in host) == sorted(plan.name for plan in plans)
    assert len(assign_hosts(plans, 100)) == 10
    assert (actor_count(0, 3, 2), actor_count(0, 1000, 2), actor_count(0, 1000, 64), actor_count(5, 3, 2)) == (3, 8, 64, 3)


def test_a_single_learner_makes_the_steps_of_a_federated_round() -> None:
    assert single_learner_steps(14, owners=2, sites_per_round=0) == 14
    assert single_learner_steps(14, owners=2, sites_per_round=1) == 7
    assert single_learner_steps(14, owners=2, sites_per_round=5) == 14
    assert single_learner_steps(1, owners=100, sites_per_round=1) == 1
