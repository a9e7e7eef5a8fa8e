"""What sites do, free of Ray: hold shards, train and evaluate for a session, give back partial sums.

A :class:`SiteHost` serves one site or many virtual ones. Nothing but :class:`HostResult` and
:class:`HostEvaluation` leaves it: encoded updates already summed over its sites, and summable metrics.
"""

from __future__ import annotations

import traceback
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from primia.config.settings import FederationSettings
from primia.data.shard import Dataset, JoinedDataset, Shard
from primia.data.statistics import Normalisation, PixelSums, pixel_sums
from primia.errors import FederationError, TrainingError
from primia.federation.plan import SPLITS, SitePlan
from primia.federation.site_state import SiteState
from primia.federation.stages import Stage, build_stages, encode
from primia.federation.update import GlobalModel, Update, UpdateSum
from primia.training.evaluation import Evaluation
from primia.training.learner import Learner, LearnerSpec, LocalResult, LocalWork

_CACHED_LEARNERS = 2


@dataclass(frozen=True)
class Session:
    """One federation that a host serves; a host may serve several (trials of a search)."""

    id: str
    learner: LearnerSpec
    federation: FederationSettings
    normalisations: Mapping[str, Normalisation]
    state_folder: Path


@dataclass(frozen=True)
class SiteFacts:
    """What a site tells before the first round: image counts by class for each split it has, pixel sums of its training shard."""

    name: str
    class_counts: Mapping[str, NDArray[np.int64]]
    pixels: PixelSums | None

    @property
    def training_images(self) -> int:
        """Images in the training shard."""
        return int(self.class_counts["train"].sum()) if "train" in self.class_counts else 0


@dataclass(frozen=True)
class SiteTask:
    """One site's part in a round: so many optimiser steps, after ``first_step`` earlier ones."""

    site: str
    first_step: int
    steps: int


@dataclass(frozen=True)
class RoundTask:
    """A host's part in a round. States of rounds not in ``keep`` may be forgotten."""

    round: int
    rounds: int
    sites: tuple[SiteTask, ...]
    keep: tuple[int, ...] = ()


@dataclass(frozen=True)
class SiteReport:
    """How a site's local work went."""

    site: str
    result: LocalResult
    upload_bytes: int


@dataclass(frozen=True)
class SiteFailure:
    """Why a site is left out. ``fatal``: going on would not help (a loss that is not finite)."""

    site: str
    reason: str
    traceback: str = ""
    fatal: bool = False


@dataclass(frozen=True)
class HostResult:
    """One partial sum over a host's sites; ``update`` is None where no site delivered."""

    update: Update | None
    reports: tuple[SiteReport, ...]
    failures: tuple[SiteFailure, ...]


@dataclass(frozen=True)
class HostEvaluation:
    """Summable metrics of each site that has the split."""

    evaluations: Mapping[str, Evaluation]
    failures: tuple[SiteFailure, ...]


class SiteHost:
    """Holds the shards of its sites and works on them."""

    def __init__(self, sites: Sequence[SitePlan]) -> None:
        self._sites = {site.name: site for site in sites}
        self._learners: OrderedDict[str, Learner] = OrderedDict()
        self._data: dict[tuple[str, str], Dataset] = {}

    def describe(self) -> tuple[SiteFacts, ...]:
        """Facts on every site of this host."""
        return tuple(self._facts(site) for site in self._sites.values())

    def train(self, session: Session, task: RoundTask, start: GlobalModel) -> HostResult:
        """Local work of each named site from ``start``; a site that fails is reported and the others go on."""
        total, reports, failures = UpdateSum(), [], []
        for part in task.sites:
            try:
                update, report = self._train_site(session, task, part, start)
            except Exception as error:
                failures.append(_failure(part.site, error))
                continue
            total.add(update)
            reports.append(report)
        return HostResult(total.total, tuple(reports), tuple(failures))

    def evaluate(self, session: Session, split: str, sites: Sequence[str], model: GlobalModel) -> HostEvaluation:
        """Metrics of ``model`` on one split of each named site of this host; with FedBN on the site's own BatchNorm layers."""
        learner = self._learner(session)
        evaluations: dict[str, Evaluation] = {}
        failures = []
        for site in (self._sites[name] for name in sites if name in self._sites):
            try:
                data = self._dataset(site, split)
                self._state(session, site.name).load_model(learner, model)
                evaluations[site.name] = learner.evaluate(data, session.normalisations[site.name])
            except Exception as error:
                failures.append(_failure(site.name, error))
        return HostEvaluation(evaluations, tuple(failures))

    def _train_site(self, session: Session, task: RoundTask, part: SiteTask, start: GlobalModel) -> tuple[Update, SiteReport]:
        learner = self._learner(session)
        state = self._state(session, part.site)
        state.load_model(learner, start)
        state.load_optimizer(learner, task.round - 1)
        work = LocalWork(part.site, task.round, task.rounds, part.first_step, part.steps, session.normalisations[part.site])
        data = self._dataset(self._sites[part.site], "train")
        result = learner.train(data, work)
        state.save(learner, task.round, keep=task.keep)
        parameters = learner.parameters()
        np.subtract(parameters, start.parameters, out=parameters)
        update = Update(parameters, learner.buffers(), float(len(data)))
        encoded = encode(self._stages(session), update, start)
        return encoded, SiteReport(part.site, result, encoded.nbytes)

    def _stages(self, session: Session) -> tuple[Stage, ...]:
        return build_stages(session.federation, self._learner(session).flat)

    def _state(self, session: Session, site: str) -> SiteState:
        return SiteState(session.state_folder / site, session.federation, self._learner(session).flat)

    def _learner(self, session: Session) -> Learner:
        if session.id not in self._learners:
            self._learners[session.id] = Learner(session.learner)
        self._learners.move_to_end(session.id)
        while len(self._learners) > _CACHED_LEARNERS:
            self._learners.popitem(last=False)
        return self._learners[session.id]

    def _dataset(self, site: SitePlan, split: str) -> Dataset:
        key = (site.name, split)
        if key not in self._data:
            parts = [Shard.open(path) for path in site.shards(split)]
            self._data[key] = parts[0] if len(parts) == 1 else JoinedDataset(parts)
        return self._data[key]

    def _facts(self, site: SitePlan) -> SiteFacts:
        counts = {}
        for split in SPLITS:
            shards = [Shard.open(path) for path in site.shards(split)]
            if shards:
                counts[split] = np.sum([shard.class_counts() for shard in shards], axis=0)
        pixels = pixel_sums(self._dataset(site, "train")) if site.trains else None
        return SiteFacts(site.name, counts, pixels)


def _failure(site: str, error: Exception) -> SiteFailure:
    reason = str(error) if isinstance(error, TrainingError | FederationError) else f"{type(error).__name__}: {error}"
    if isinstance(error, TrainingError):
        return SiteFailure(site, reason, fatal=True)
    return SiteFailure(site, reason, traceback.format_exc())
