"""Which sites train, which only evaluate, which actor hosts whom, and how long a round is.

The three modes are one mechanism. ``federated``: every site trains. ``pooled``: one site called
``pooled`` trains on all shards as one. ``local``: one site trains. In all three every site evaluates on
its own validation and test shards, so that results compare site by site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from primia.config.settings import RunSettings
from primia.data.federation import FederatedData
from primia.errors import ConfigError, DataError

POOLED = "pooled"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SitePlan:
    """One site: the shards it holds and what it does with them.

    ``trains``: takes part in rounds. ``selects``: its validation shard counts when the best model is chosen. ``box``: see
    :class:`~primia.data.federation.SiteShards`.
    """

    name: str
    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    test: tuple[Path, ...]
    trains: bool
    selects: bool
    box: Path | None = None

    def shards(self, split: str) -> tuple[Path, ...]:
        """Paths of one split's shards; empty where the site has none."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]


def _paths(path: Path | None) -> tuple[Path, ...]:
    return (path,) if path else ()


def plan_sites(data: FederatedData, run: RunSettings) -> tuple[SitePlan, ...]:
    """Sites of a run in fixed (name) order, training sites first.

    A site that trains alone is selected by its own validation shard, or by the central one where it has
    none: a hospital by itself has no other hospital's data to choose by.

    Raises:
        ConfigError: ``run.site`` names no site.
        DataError: ``pooled`` is the name of a site; no site has training images.
    """
    owners = [site for site in data.sites if site.train]
    names = [site.name for site in owners]
    if not owners:
        raise DataError("no site has training images; see `primia-ray data stats DIR`")
    if run.mode == "local" and run.site not in names:
        raise ConfigError(f"run.site = {run.site!r} is not a site of this data; sites: {', '.join(names)}")
    if run.mode == "pooled" and POOLED in names:
        raise DataError(f"a site is named {POOLED!r}, the name of the joined shards in pooled mode; rename its folder")

    alone = next((site for site in owners if site.name == run.site), None) if run.mode == "local" else None
    by_own = bool(alone and alone.validation)
    plans = [
        SitePlan(
            name=site.name,
            train=_paths(site.train),
            validation=_paths(site.validation),
            test=_paths(site.test),
            trains=bool(site.train) and (run.mode == "federated" or (alone is not None and site.name == alone.name)),
            selects=bool(site.validation) and (not by_own or (alone is not None and site.name == alone.name)),
            box=site.box,
        )
        for site in data.sites
    ]
    if run.mode == "pooled":
        joined = tuple(path for site in owners for path in _paths(site.train))
        plans.append(SitePlan(POOLED, joined, (), (), trains=True, selects=False))
    if not any(plan.selects for plan in plans):
        raise DataError("no site has validation images, so no model can be chosen; set data.validation_fraction above 0")
    return tuple(sorted(plans, key=lambda plan: (not plan.trains, plan.name)))


def assign_hosts(sites: Sequence[SitePlan], actors: int) -> tuple[tuple[SitePlan, ...], ...]:
    """Deal sites to at most ``actors`` hosts, training sites first and evenly; every host has at least one."""
    training = sum(site.trains for site in sites)
    hosts = max(1, min(actors, training))
    return tuple(tuple(sites[index::hosts]) for index in range(hosts))


def actor_count(requested: int, training_sites: int, cores: int) -> int:
    """Actors for the sites: those asked for, else one a site, at most 8 or the number of cores."""
    return min(training_sites, requested or max(8, cores))


def single_learner_steps(all_steps: int, owners: int, sites_per_round: int) -> int:
    """Optimiser steps a round of the one learner of the pooled and the local mode.

    As many as the sites of the federation, which make ``all_steps`` together, would make in a round of ``sites_per_round`` of the
    ``owners`` (0: all), so that the modes compare at equal optimisation steps.
    """
    drawn = min(sites_per_round or owners, owners) / owners
    return max(1, ceil(all_steps * drawn))
