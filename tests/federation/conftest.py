"""A tiny federation on synthetic radiographs, and hosts that live in the test's own process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from primia.config.settings import Settings
from primia.data.federation import FederatedData, prepare
from primia.federation.plan import SitePlan, plan_sites
from primia.federation.run_folder import RunFolder
from primia.federation.setup import RunSetup
from primia.federation.site import HostEvaluation, HostResult, RoundTask, Session, SiteFacts, SiteFailure, SiteHost
from primia.federation.update import GlobalModel

TINY = {
    "data": {"source": "demo", "demo_images": 36, "image_size": 16, "sites": 3, "validation_fraction": 0.25, "test_fraction": 0.25},
    "training": {"batch_size": 4, "optimizer": "sgd", "learning_rate": 0.05},
    "federation": {"rounds": 4},
}


class InProcessHosts:
    """Hosts without Ray; ``broken`` names (round, site) pairs whose actor is lost."""

    def __init__(self, assignment: Sequence[Sequence[SitePlan]], broken: frozenset[tuple[int, str]] = frozenset()) -> None:
        self.hosts = [SiteHost(sites) for sites in assignment]
        self.names = [tuple(site.name for site in sites) for sites in assignment]
        self.broken = broken

    def describe(self) -> tuple[SiteFacts, ...]:
        return tuple(facts for host in self.hosts for facts in host.describe())

    def train(self, session: Session, task: RoundTask, start: GlobalModel) -> Iterator[HostResult]:
        for host, names in zip(self.hosts, self.names, strict=True):
            parts = tuple(part for part in task.sites if part.site in names)
            lost = [part.site for part in parts if (task.round, part.site) in self.broken]
            if lost:
                yield HostResult(None, (), tuple(SiteFailure(part.site, "its actor died") for part in parts))
            elif parts:
                yield host.train(session, replace(task, sites=parts), start)

    def evaluate(self, session: Session, split: str, sites: Sequence[str], model: GlobalModel) -> Iterator[HostEvaluation]:
        for host in self.hosts:
            yield host.evaluate(session, split, sites, model)

    def close(self) -> None: ...


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> FederatedData:
    return prepare(Settings.model_validate(TINY).data, tmp_path_factory.mktemp("shards"))


@pytest.fixture
def make_setup(tiny_data: FederatedData, tmp_path: Path) -> Callable[..., RunSetup]:
    """A run folder and its setup; keyword arguments are sections with the keys to change."""

    def make(name: str = "run", **sections: dict[str, object]) -> RunSetup:
        merged = {key: {**TINY.get(key, {}), **sections.get(key, {})} for key in {*TINY, *sections}}
        settings = Settings.model_validate(merged)
        folder = RunFolder.create(tmp_path / name, settings, tiny_data.fingerprint)
        return RunSetup(
            settings=settings,
            sites=plan_sites(tiny_data, settings.run),
            classes=tiny_data.classes,
            channels=tiny_data.channels,
            image_size=tiny_data.image_size,
            synthetic=tiny_data.synthetic,
            skipped=(),
            warnings=(),
            device="cpu",
            folder=folder.path,
            started_at=0.0,
            data_seconds=0.0,
        )

    return make


@pytest.fixture
def make_hosts() -> Callable[..., InProcessHosts]:
    return InProcessHosts
