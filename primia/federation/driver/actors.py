"""The sites' actors: a run's own, or a pool that many runs share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from primia.config.settings import ResourceSettings
from primia.errors import ClusterError, ConfigError
from primia.federation.plan import SitePlan, actor_count, assign_hosts
from primia.federation.site.worker import FederatedWorker
from primia.federation.sources import SiteSource

_START_S = 120.0
_ROUNDING = 1e-9


@dataclass(frozen=True)
class WorkerOptions:
    """Resources of each actor, and its class."""

    cpus: float
    gpus: float
    threads: int
    worker: type[FederatedWorker] = FederatedWorker


@dataclass(frozen=True)
class Actors:
    """One actor for each of ``hosts``, which are groups of sites: their boxes or shards, which no call can change later.

    Without a ``pool`` they are a run's own. With one they are found by that name, and started where they are missing; replica ``replica``
    of a host runs on the node ``nodes[host]``, where the shards are mapped already.
    """

    hosts: tuple[tuple[SiteSource, ...], ...]
    options: WorkerOptions
    pool: str = ""
    replica: int = 0
    nodes: tuple[str, ...] = ()

    def start(self, host: int) -> Any:
        """A handle on the actor of a host."""
        options: dict[str, object] = {
            "num_cpus": self.options.cpus,
            "num_gpus": self.options.gpus,
            "max_restarts": -1,
            "max_task_retries": 0,
        }
        if self.pool:
            options |= {"name": f"{self.pool}/{host}/{self.replica}", "get_if_exists": True}
        if self.nodes:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(self.nodes[host], soft=False)
        return ray.remote(self.options.worker).options(**options).remote(self.hosts[host], self.options.threads)


def plan_actors(settings: ResourceSettings, sites: Sequence[SitePlan], cpus: int, gpus: int, replicas: int = 1) -> Actors:
    """A run's own actors on a cluster of so many CPUs and GPUs; with ``replicas``, each takes its share of what one would.

    Raises:
        ConfigError: the cluster can never offer what ``resources`` asks for.
    """
    training = sum(site.trains for site in sites)
    hosts = assign_hosts(sites, actor_count(settings.actors, training, cpus))
    actors = len(hosts) * replicas
    on_gpus = device_of(settings, gpus) == "cuda"
    options = WorkerOptions(
        cpus=settings.cpus_per_actor or _share(cpus, actors),
        gpus=(settings.gpus_per_actor or _share(gpus, actors)) if on_gpus else 0.0,
        threads=settings.threads or max(1, cpus // actors),
    )
    if options.cpus:
        _check("CPUs", options.cpus, actors, cpus, room=cpus / options.cpus)
    if options.gpus:
        _check_gpus(options.gpus, actors, gpus)
    return Actors(hosts, options)


def _share(there: int, actors: int) -> float:
    """What each of so many actors may have: one, or a part of which as many fit on each one that there is, since none is on two."""
    return max(1, floor(1000 / max(1, ceil(actors / there)))) / 1000 if there else 0.0


def check_nodes(actors: Actors) -> None:
    """Raise ConfigError where no node of the running cluster can hold a single one of the actors."""
    offers = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    for what, each in (("CPU", actors.options.cpus), ("GPU", actors.options.gpus)):
        largest = max((offer.get(what, 0.0) for offer in offers), default=0.0)
        if each > largest:
            raise ConfigError(
                f"each site actor needs {each:g} {what}s, but the largest node has {largest:g}; lower resources.{what.lower()}s_per_actor"
            )


def _check_gpus(each: float, actors: int, there: int) -> None:
    if each > 1 and each != floor(each):
        raise ConfigError(f"resources.gpus_per_actor = {each:g}: above 1 it must be a whole number")
    _check("GPUs", each, actors, there, room=there * floor(1 / each + _ROUNDING) if each <= 1 else there / each)


def _check(what: str, each: float, actors: int, there: int, room: float) -> None:
    if actors > room + _ROUNDING:
        together = ", each part of one within it" if each * actors <= there else ""
        raise ConfigError(
            f"resources.{what.lower()}_per_actor = {each:g}: {actors} actors need {each * actors:g} {what}{together}, but the cluster has "
            f"{there}; lower it, or resources.actors, or search.replicas"
        )


def device_of(settings: ResourceSettings, gpus: int) -> str:
    """``cuda`` or ``cpu``.

    Raises:
        ConfigError: a GPU is asked for, and there is none.
    """
    if settings.device == "cuda" and not gpus:
        raise ConfigError("resources.device = cuda, but Ray finds no GPU; set it to auto or cpu")
    return "cuda" if gpus and settings.device != "cpu" else "cpu"


class ActorPool:
    """Actors that many runs share, ``replicas`` of each host; they end with :meth:`close`, or with the process that made the pool."""

    def __init__(self, actors: Actors, name: str, replicas: int) -> None:
        self.actors = replace(actors, pool=name)
        self._handles = [self.actors.start(host) for host in range(len(actors.hosts))]
        if replicas > 1:
            self.actors = replace(self.actors, nodes=self._nodes())
        for replica in range(1, replicas):
            self._handles += [replace(self.actors, replica=replica).start(host) for host in range(len(actors.hosts))]

    def wait(self) -> None:
        """Return once all are up.

        Raises:
            ClusterError: some did not start in two minutes; says what they wait for.
        """
        self._answers([handle.ping.remote() for handle in self._handles])

    def close(self) -> None:
        """End the actors."""
        for handle in self._handles:
            ray.kill(handle)

    def _nodes(self) -> tuple[str, ...]:
        return tuple(self._answers([handle.node.remote() for handle in self._handles]))

    def _answers(self, calls: list[Any]) -> list[Any]:
        done, waiting = ray.wait(calls, num_returns=len(calls), timeout=_START_S)
        if waiting:
            options, free = self.actors.options, ray.available_resources()  # type: ignore[no-untyped-call]
            raise ClusterError(
                f"{len(waiting)} of {len(calls)} site actors did not start within {_START_S:.0f} s: each needs {options.cpus:g} CPUs and "
                f"{options.gpus:g} GPUs, free are {free.get('CPU', 0):g} and {free.get('GPU', 0):g}; lower search.replicas or "
                "resources.actors, or free the cluster"
            )
        try:
            return [ray.get(call) for call in done]
        except RayError as error:
            raise ClusterError(f"a site actor cannot be started: {str(error).strip().splitlines()[0]}") from error
