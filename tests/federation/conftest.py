"""A tiny federation on synthetic radiographs, and hosts that live in the test's own process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from primia.config.settings import Settings
from primia.data.federation import FederatedData, prepare
from primia.federation.exchange import RoundTask, SiteFailure
from primia.federation.hosts import Answer, Arguments
from primia.federation.plan import SitePlan
from primia.federation.run_folder import RunFolder
from primia.federation.run_setup import RunSetup
from primia.federation.site import SiteHost
from primia.federation.site_log import SiteLog

TINY = {
    "run": {"repeat": "tests"},  # so that runs of one seed compare
    "data": {"source": "demo", "demo_images": 36, "image_size": 16, "sites": 3, "validation_fraction": 0.25, "test_fraction": 0.25},
    "training": {"batch_size": 4, "optimizer": "sgd", "learning_rate": 0.05},
    "federation": {"rounds": 4},
}


class InProcessHosts:
    """Hosts without Ray.

    ``broken`` names (round, site) pairs whose actor is lost in training; ``lost`` (method, site) pairs whose actor is lost in that call,
    once each.
    """

    def __init__(
        self,
        assignment: Sequence[Sequence[SitePlan]],
        broken: frozenset[tuple[int, str]] = frozenset(),
        lost: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.hosts = [SiteHost(sites) for sites in assignment]
        self.names = [tuple(site.name for site in sites) for sites in assignment]
        self.broken = broken
        self.lost = list(lost)
        self.calls: list[str] = []

    def share(self, value: object) -> object:
        return value

    def ask(self, method: str, sites: Sequence[str], arguments: Arguments) -> Iterator[Answer]:
        self.calls.append(method)
        for host, names in zip(self.hosts, self.names, strict=True):
            asked = tuple(name for name in names if name in sites)
            if not asked:
                continue
            given = arguments(asked)
            if self._is_lost(method, asked, given):
                yield Answer(asked, None, tuple(SiteFailure(name, "its actor died", lost=True) for name in asked))
            else:
                yield Answer(asked, getattr(host, method)(*given), ())

    def _is_lost(self, method: str, names: tuple[str, ...], given: tuple[object, ...]) -> bool:
        tasks = [item for item in given if isinstance(item, RoundTask)]
        if any((task.round, name) in self.broken for task in tasks for name in names):
            return True
        for name in names:
            if (method, name) in self.lost:
                self.lost.remove((method, name))
                return True
        return False


@pytest.fixture
def words() -> Callable[..., str]:
    """What a site's own log last said: of a site with a box where the box is given."""

    def read(setup: RunSetup, site: str, box: Path | None = None) -> str:
        entry = SiteLog((box or RunFolder(setup.folder).sites / site) / "errors.log").last()
        return f"{entry.words}\n{entry.traceback}" if entry else ""

    return read


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
        return RunSetup.of(settings, tiny_data, folder.path, started_at=0.0)

    return make


@pytest.fixture
def make_hosts() -> Callable[..., InProcessHosts]:
    return InProcessHosts
