"""What actors are asked of a cluster; starting them is in tests/integration."""

from __future__ import annotations

from itertools import product
from math import floor

import pytest

from primia.config.settings import ResourceSettings
from primia.errors import ConfigError
from primia.federation.driver import actors as module
from primia.federation.driver.actors import check_nodes, device_of, plan_actors
from primia.federation.plan import SitePlan
from primia.federation.sources import PackedSite


def sites(training: int, others: int = 0) -> tuple[SitePlan, ...]:
    return tuple(SitePlan(PackedSite(f"site-{n:02d}"), trains=n < training, selects=True) for n in range(training + others))


def resources(**given: object) -> ResourceSettings:
    return ResourceSettings.model_validate(given)


def test_each_training_site_has_an_actor_and_its_share_of_the_cluster() -> None:
    actors = plan_actors(resources(), sites(3, others=2), cpus=2, gpus=0)
    assert [len(host) for host in actors.hosts] == [2, 2, 1] and [host[0].name for host in actors.hosts] == [
        "site-00",
        "site-01",
        "site-02",
    ]
    assert actors.options.cpus == 0.5 and actors.options.gpus == 0 and actors.options.threads == 1
    assert (actors.pool, actors.nodes) == ("", ()), "they are a run's own"


def test_no_actor_takes_more_than_one_cpu_or_gpu_by_itself() -> None:
    options = plan_actors(resources(), sites(2), cpus=16, gpus=8).options
    assert (options.cpus, options.gpus, options.threads) == (1, 1, 8)


def test_replicas_share_what_one_would_have() -> None:
    alone, shared = (plan_actors(resources(), sites(3), cpus=12, gpus=1, replicas=replicas) for replicas in (1, 2))
    assert alone.hosts == shared.hosts, "replicas are of the same hosts"
    assert (alone.options.threads, shared.options.threads) == (4, 2)
    assert shared.options.gpus == pytest.approx(alone.options.gpus / 2, abs=0.002)
    assert plan_actors(resources(), sites(3), cpus=2, gpus=1, replicas=4).options.threads == 1


def test_shares_never_add_up_to_more_than_there_is() -> None:
    """They are rounded: 12 actors of a sixth of a CPU each still fit on two."""
    for training, cpus, replicas in product(range(1, 30), range(1, 65), (1, 2, 3, 4, 8)):
        actors = plan_actors(resources(), sites(training), cpus, cpus, replicas)
        count = len(actors.hosts) * replicas
        for each in (actors.options.cpus, actors.options.gpus):
            assert cpus * floor(1 / each) >= count, "so many fit, none of them on two"
        assert actors.options.threads * count <= max(cpus, count)


@pytest.mark.parametrize(
    ("given", "replicas", "said"),
    [
        ({"cpus_per_actor": 1}, 1, "resources.cpus_per_actor = 1: 3 actors need 3 CPUs, but the cluster has 2"),
        ({"cpus_per_actor": 0.5}, 2, "resources.cpus_per_actor = 0.5: 6 actors need 3 CPUs, but the cluster has 2"),
        ({"gpus_per_actor": 0.5}, 1, "resources.gpus_per_actor = 0.5: 3 actors need 1.5 GPUs, but the cluster has 1"),
        ({"gpus_per_actor": 2}, 1, "resources.gpus_per_actor = 2: 3 actors need 6 GPUs, but the cluster has 1"),
    ],
)
def test_more_than_the_cluster_has_is_refused(given: dict[str, object], replicas: int, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_actors(resources(**given), sites(3), cpus=2, gpus=1, replicas=replicas)
    assert str(caught.value).startswith(said) and "lower it, or resources.actors, or search.replicas" in str(caught.value)


@pytest.mark.parametrize(("given", "what"), [({"cpus_per_actor": 3}, "CPU"), ({"gpus_per_actor": 1}, "GPU")])
def test_an_actor_that_no_single_node_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch, given: dict[str, object], what: str) -> None:
    """The cluster has enough in all: two nodes of two CPUs and half a GPU, and a dead one with plenty."""
    node = {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 0.5}}
    monkeypatch.setattr(module.ray, "nodes", lambda: [node, node, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}])
    fitting = {"cpus_per_actor": 2, "gpus_per_actor": 0.5}
    check_nodes(plan_actors(resources(**fitting), sites(1), cpus=4, gpus=1))
    with pytest.raises(ConfigError, match=rf"needs \d {what}s, but the largest node has .*; lower resources\.{what.lower()}s_per_actor"):
        check_nodes(plan_actors(resources(**fitting | given), sites(1), cpus=4, gpus=1))


def test_a_part_of_a_gpu_lies_on_one_of_them() -> None:
    assert plan_actors(resources(), sites(3), cpus=2, gpus=2).options.gpus == 0.5
    assert plan_actors(resources(gpus_per_actor=0.5), sites(4), cpus=2, gpus=2).options.gpus == 0.5
    with pytest.raises(
        ConfigError, match=r"resources\.gpus_per_actor = 0\.6: 3 actors need 1\.8 GPUs, each part of one within it, but the cluster has 2"
    ):
        plan_actors(resources(gpus_per_actor=0.6), sites(3), cpus=2, gpus=2)
    with pytest.raises(ConfigError, match=r"resources\.gpus_per_actor = 1\.5: above 1 it must be a whole number"):
        plan_actors(resources(gpus_per_actor=1.5), sites(1), cpus=2, gpus=2)


def test_what_is_asked_for_is_what_is_planned() -> None:
    given = resources(actors=2, threads=3, cpus_per_actor=0.25, gpus_per_actor=0.125)
    actors = plan_actors(given, sites(5), cpus=2, gpus=1, replicas=4)
    assert (len(actors.hosts), actors.options.threads, actors.options.cpus, actors.options.gpus) == (2, 3, 0.25, 0.125)
    on_cpu = plan_actors(resources(device="cpu", gpus_per_actor=9), sites(5), cpus=2, gpus=1)
    assert on_cpu.options.gpus == 0, "no GPU is asked for that is not used"


def test_the_device_follows_from_settings_and_cluster() -> None:
    assert [device_of(resources(device=device), gpus) for device, gpus in [("auto", 0), ("auto", 1), ("cpu", 1), ("cuda", 1)]] == [
        "cpu",
        "cuda",
        "cpu",
        "cuda",
    ]
    with pytest.raises(ConfigError, match=r"resources\.device = cuda, but Ray finds no GPU; set it to auto or cpu"):
        plan_actors(resources(device="cuda"), sites(2), cpus=2, gpus=0)
