"""A tiny federation to search over, whose sites live in the test's own process."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from threading import Event as Flag
from typing import ClassVar

import pytest

from primia.config.settings import ResourceSettings, Settings
from primia.data.prepare import FederatedData
from primia.federation.driver.actors import Actors, WorkerOptions
from primia.federation.plan import assign_hosts, plan_sites
from primia.search.folder import SweepFolder
from primia.search.plan import SweepPlan
from primia.search.space.space import Space

federation = runpy.run_path(str(Path(__file__).parents[1] / "federation" / "conftest.py"))
tiny_data = federation["tiny_data"]

SPACE = {"training.learning_rate": "loguniform(1e-3, 1)", "training.momentum": "uniform(0, 0.9)"}
SECTIONS = federation["TINY"] | {"federation": {"rounds": 5}, "secure_aggregation": {"enabled": False, "seal": False}}


class LocalHosts(federation["InProcessHosts"]):  # type: ignore[misc]
    """Actors without Ray, which remember what they were asked and that they were let go."""

    made: ClassVar[list[LocalHosts]] = []

    def __init__(self, actors: Actors, deadline_s: float, stopped: Flag) -> None:
        super().__init__(actors.hosts)
        self.actors, self.left = actors, ""
        self.made.append(self)

    def close(self, charter: str) -> None:
        self.left = charter

    @property
    def rounds(self) -> int:
        """Rounds that were trained on them."""
        return self.calls.count("train")


@pytest.fixture
def local_hosts() -> type[LocalHosts]:
    """In place of ``RayHosts``; ``made`` are those of this test."""
    return type("Hosts", (LocalHosts,), {"made": []})


@pytest.fixture
def make_plan(tiny_data: FederatedData, tmp_path: Path) -> Callable[..., SweepPlan]:
    """A new sweep's folder and plan; keyword arguments are sections with the keys to change."""

    def make(name: str = "sweep", own_data: bool = False, **sections: dict[str, object]) -> SweepPlan:
        given = {"run": {"name": name, "output": tmp_path}, "search": {"space": SPACE}}
        merged = {key: {**SECTIONS.get(key, {}), **given.get(key, {}), **sections.get(key, {})} for key in {*SECTIONS, *given, *sections}}
        settings = Settings.model_validate(merged)
        folder = SweepFolder.create(tmp_path / name, settings, tiny_data.fingerprint)
        folder.begin(settings.search)
        actors = Actors(assign_hosts(plan_sites(tiny_data, settings.run), 3), WorkerOptions(cpus=0.5, gpus=0.0, threads=1), pool="sweep")
        shared = (None, None) if own_data else (tiny_data, actors)
        return SweepPlan(folder.path, Space.of(settings), *shared, ResourceSettings(actors=3, threads=1), "cpu", (2, 0))

    return make
