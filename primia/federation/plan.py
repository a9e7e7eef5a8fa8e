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
from primia.data.prepare import FederatedData, SiteShards
from primia.errors import ConfigError, ConsentError, DataError
from primia.federation.sources import BoxedSite, PackedSite, SiteSource

POOLED = "pooled"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SitePlan:
    """What a site does in a run, and what its worker is started with.

    ``trains``: takes part in rounds. ``selects``: its validation images count when the best model is chosen. ``tests``: it has test images.
    ``owns``: it has training images, whether or not it trains. Sites are told of these by name, in the charter; ``source`` is for whoever
    starts their workers.
    """

    source: SiteSource
    trains: bool
    selects: bool
    tests: bool = False
    owns: bool = False

    @property
    def name(self) -> str:
        """The site's name."""
        return self.source.name


def _source(site: SiteShards) -> SiteSource:
    if site.box:
        return BoxedSite(site.name, site.box)
    return PackedSite(site.name, _paths(site.train), _paths(site.validation), _paths(site.test))


def _paths(path: Path | None) -> tuple[Path, ...]:
    return (path,) if path else ()


def plan_sites(data: FederatedData, run: RunSettings) -> tuple[SitePlan, ...]:
    """Sites of a run in fixed (name) order, training sites first.

    A site that trains alone is selected by its own validation shard, or by the central one where it has
    none: a hospital by itself has no other hospital's data to choose by.

    Raises:
        ConfigError: ``run.site`` names no site.
        DataError: ``pooled`` is the name of a site; no site has training images.
        ConsentError: ``pooled`` mode over site boxes, which are each opened by their own site only.
    """
    owners = [site for site in data.sites if site.train]
    names = [site.name for site in owners]
    if not owners:
        raise DataError("no site has training images; see `primia-ray data stats DIR`")
    if run.mode == "local" and run.site not in names:
        raise ConfigError(f"run.site = {run.site!r} is not a site of this data; sites: {', '.join(names)}")
    if run.mode == "pooled" and any(site.box for site in data.sites):
        raise ConsentError("run.mode = pooled would take images out of their site boxes, which no grant allows; set run.mode = federated")
    if run.mode == "pooled" and POOLED in names:
        raise DataError(f"a site is named {POOLED!r}, the name of the joined shards in pooled mode; rename its folder")

    alone = next((site for site in owners if site.name == run.site), None) if run.mode == "local" else None
    by_own = bool(alone and alone.validation)
    plans = [
        SitePlan(
            source=_source(site),
            trains=bool(site.train) and (run.mode == "federated" or (alone is not None and site.name == alone.name)),
            selects=bool(site.validation) and (not by_own or (alone is not None and site.name == alone.name)),
            tests=bool(site.test),
            owns=bool(site.train),
        )
        for site in data.sites
    ]
    if run.mode == "pooled":
        joined = tuple(path for site in owners for path in _paths(site.train))
        plans.append(SitePlan(PackedSite(POOLED, train=joined), trains=True, selects=False))
    if not any(plan.selects for plan in plans):
        raise DataError("no site has validation images, so no model can be chosen; set data.validation_fraction above 0")
    return tuple(sorted(plans, key=lambda plan: (not plan.trains, plan.name)))


def assign_hosts(sites: Sequence[SitePlan], actors: int) -> tuple[tuple[SiteSource, ...], ...]:
    """What each of at most ``actors`` hosts is started with: sites are dealt training sites first and evenly, at least one to each."""
    training = sum(site.trains for site in sites)
    hosts = max(1, min(actors, training))
    return tuple(tuple(site.source for site in sites[index::hosts]) for index in range(hosts))


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
