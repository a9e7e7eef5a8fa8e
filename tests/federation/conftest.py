"""A tiny federation on synthetic radiographs, and hosts that live in the test's own process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from primia.config.settings import DataSettings, Settings
from primia.consent.box import SiteBox
from primia.consent.boxes import create_boxes, federated_data
from primia.data.prepare import FederatedData, SiteShards, prepare
from primia.data.shard import Row, ShardHeader, write_shard
from primia.federation.driver.hosts import Answer, Arguments
from primia.federation.messages import RoundTask, SiteFailure
from primia.federation.plan import SPLITS
from primia.federation.refusals import kind_of
from primia.federation.run_spec import RunSetup
from primia.federation.site import host as site_module
from primia.federation.site.host import SiteHost
from primia.federation.site.log import SiteLog
from primia.federation.sources import SiteSource
from primia.runs.folder import RunFolder

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
        assignment: Sequence[Sequence[SiteSource]],
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
def spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites say why they refuse, in full: what is tested is which condition a call fails by."""

    def failure(charter: object, member: Any, asked: str, error: Exception) -> SiteFailure:
        return SiteFailure(member.name, str(error), kind_of(error))

    monkeypatch.setattr(site_module, "_failure", failure)


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
def make_sized(tmp_path: Path) -> Callable[..., RunSetup]:
    """A run on sites of so many training images, and 8 for validation and test; keyword arguments are sections."""

    def shard(path: Path, site: str, split: str, images: int) -> Path:
        rng = np.random.Generator(np.random.Philox(len(site) + len(split)))
        header = ShardHeader(site, split, ("x", "y"), 1, 16, synthetic=True, fingerprint="made")
        rows = (Row(rng.integers(0, 255, (1, 16, 16)).astype(np.uint8), n % 2, f"p{n}", f"{n}.png") for n in range(images))
        write_shard(path, header, rows)
        return path

    def make(name: str, sizes: tuple[int, ...], **sections: dict[str, object]) -> RunSetup:
        sites, root = [], tmp_path / f"{name}-shards"
        for split in SPLITS:
            (root / split).mkdir(parents=True)
        for number, images in enumerate(sizes, 1):
            site = f"site-{number}"
            counts = {"train": images, "validation": 8, "test": 8}
            sites.append(SiteShards(site, **{split: shard(root / split / f"{site}.arrow", site, split, n) for split, n in counts.items()}))
        data = FederatedData(tuple(sites), ("x", "y"), 1, 16, synthetic=True, skipped=(), fingerprint="made")
        base: dict[str, dict[str, object]] = {
            "training": {"batch_size": 4, "optimizer": "sgd"},
            "federation": {"rounds": 2},
            "secure_aggregation": {"site_metrics": False},
        }
        settings = Settings.model_validate({key: {**base.get(key, {}), **sections.get(key, {})} for key in {*base, *sections}})
        folder = RunFolder.create(tmp_path / name, settings, data.fingerprint)
        return RunSetup.of(settings, data, folder.path, started_at=0.0)

    return make


@pytest.fixture
def make_hosts() -> Callable[..., InProcessHosts]:
    return InProcessHosts


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed shards to make boxes of."""
    root = tmp_path_factory.mktemp("packed")
    settings = {"source": "demo", "demo_images": 36, "image_size": 16, "validation_fraction": 0.25, "test_fraction": 0.25}
    prepare(DataSettings.model_validate(settings), root)
    (folder,) = [path for path in root.iterdir() if path.is_dir()]
    return folder


@pytest.fixture
def make_boxed(packed: Path, tmp_path: Path) -> Callable[..., tuple[RunSetup, dict[str, SiteBox]]]:
    """A run on site boxes, each granted to the federation with these terms."""

    def make(grant: dict[str, Any] | None = None, **sections: dict[str, object]) -> tuple[RunSetup, dict[str, SiteBox]]:
        boxes = {box.name: box for box in create_boxes(tmp_path / "boxes", packed)}
        for box in boxes.values():
            if grant is not None:
                box.grant("demo@primia.example", **{"first_contact": True, **grant})
        base = {
            "data": {"source": "boxes", "path": tmp_path / "boxes"},
            "training": {"batch_size": 4, "optimizer": "sgd", "learning_rate": 0.05},
            "federation": {"rounds": 1},
        }
        settings = Settings.model_validate({key: {**base.get(key, {}), **sections.get(key, {})} for key in {*base, *sections}})
        data = federated_data(tmp_path / "boxes", settings.run.dry_run)
        folder = RunFolder.create(tmp_path / "run", settings, data.fingerprint).path
        return RunSetup.of(settings, data, folder, started_at=0.0), boxes

    return make
