"""What all trials of a sweep have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from primia.config.settings import ResourceSettings, Settings
from primia.data.prepare import FederatedData
from primia.federation.data import new_data
from primia.federation.driver.actors import Actors, check_nodes, device_of, plan_actors
from primia.federation.plan import plan_sites
from primia.privacy.account import Account
from primia.search.folder import SweepFolder
from primia.search.records import TrialRecord, Value
from primia.search.space.space import Space

_SWEEP_PART = 48
"""Letters of a sweep's identity in those of its trials, which are limited to 64."""


@dataclass(frozen=True)
class Assignment:
    """One trial's part: its number and values, which replica of the sites' actors it uses, and what an earlier part of the sweep left."""

    number: int
    replica: int
    parameters: Mapping[str, Value]
    record: TrialRecord | None = None


@dataclass(frozen=True)
class SweepPlan:
    """Everything that a trial's process is started with; picklable.

    ``data``, ``actors``: shards and actors that all trials share; None where each makes its own. ``resources``: in numbers instead of
    "automatic", so that a trial's settings, run again elsewhere, give the same model. ``cluster``: CPUs and GPUs. ``replicas``: of each
    shared actor.
    """

    path: Path
    space: Space
    data: FederatedData | None
    actors: Actors | None
    resources: ResourceSettings
    device: str
    cluster: tuple[int, int]
    replicas: int = 1

    @classmethod
    def of(cls, folder: SweepFolder, space: Space, data: FederatedData | None, cpus: int, gpus: int) -> SweepPlan:
        """The plan on a running cluster of so many CPUs and GPUs; ``data``: None where each trial makes its own.

        Raises:
            ConfigError: the cluster can never offer what the shared actors ask for.
        """
        wanted, search = space.base.resources, space.base.search
        actors, device = None, device_of(wanted, gpus)
        replicas = min(search.replicas or search.max_concurrent, search.max_concurrent)
        if data:
            actors = plan_actors(wanted, plan_sites(data, space.base.run), cpus, gpus, replicas)
            check_nodes(actors)
            wanted = wanted.model_copy(update={"actors": len(actors.hosts), "threads": actors.options.threads})
        return cls(folder.path, space, data, actors, wanted, device, (cpus, gpus), replicas)

    @property
    def folder(self) -> SweepFolder:
        """The sweep's folder."""
        return SweepFolder(self.path)

    @property
    def account(self) -> Account:
        """The privacy account over all trials."""
        return Account(self.folder.sites, self.space.base.search.max_epsilon)

    def own_actors(self, settings: Settings) -> Actors:
        """Actors for one trial alone, of as many as there may be at the same time; packs the images where that has not been done.

        Raises:
            ConfigError: the cluster cannot offer what the trial's settings ask for.
        """
        sites = plan_sites(new_data(settings), settings.run)
        return plan_actors(settings.resources, sites, *self.cluster, replicas=self.space.base.search.max_concurrent)

    def settings(self, name: str, parameters: Mapping[str, Value]) -> Settings:
        """A trial's settings, with its run folder among the sweep's trials.

        Raises:
            ConfigError: the values contradict each other.
        """
        settings = self.space.settings(parameters)
        run = settings.run.model_copy(update={"output": self.folder.trials, "name": name, "repeat": self._repeat(name)})
        resources = settings.resources.model_copy(update=self._resolved_resources(parameters))
        return settings.model_copy(update={"run": run, "resources": resources})

    def _repeat(self, name: str) -> str:
        """What a trial's sites draw is the trial's own, and the same when it, or a sweep of the same ``run.repeat``, is run again.

        The trial's number is the beginning of its folder's name.
        """
        sweep = self.space.base.run.repeat or self.folder.identity()
        return f"{sweep[:_SWEEP_PART]}-{name.partition('-')[0]}" if sweep else ""

    def _resolved_resources(self, parameters: Mapping[str, Value]) -> dict[str, object]:
        return {key: value for key, value in self.resources if f"resources.{key}" not in parameters}
