"""One of each that may come from a stranger: a run with checkpoints, a model, a sweep, and site boxes."""

from __future__ import annotations

import runpy
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from primia.config.settings import Settings
from primia.consent import mock
from primia.consent.boxes import create_boxes
from primia.data.prepare import FederatedData
from primia.data.shard import Row, ShardHeader, write_shard
from primia.federation.driver.run import run_federation
from primia.federation.plan import assign_hosts
from primia.federation.run_spec import RunSetup
from primia.privacy.ledger import Charge, Ledger
from primia.runs.folder import RunFolder
from primia.search.folder import SweepFolder
from primia.search.records import State, TrialRecord
from primia.secagg.identity import Identity

federation = runpy.run_path(str(Path(__file__).parents[1] / "federation" / "conftest.py"))
tiny_data = federation["tiny_data"]

STUDY = "study@hospital.example"


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one."""
    with tempfile.TemporaryDirectory(prefix="primia-test-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def run_folder(memory: Path, tiny_data: FederatedData) -> Path:
    """A finished run of two rounds."""
    settings = Settings.model_validate({**federation["TINY"], "federation": {"rounds": 2, "batchnorm": "local"}})
    folder = RunFolder.create(memory / "made" / "run", settings, tiny_data.fingerprint)
    setup = RunSetup.of(settings, tiny_data, folder.path, started_at=0.0)
    for _ in run_federation(setup, federation["InProcessHosts"](assign_hosts(setup.sites, 1))):
        pass
    shutil.rmtree(folder.tensorboard)
    return folder.path


@pytest.fixture(scope="module")
def model_folder(memory: Path, run_folder: Path) -> Path:
    """Its model alone."""
    folder = memory / "made" / "model"
    folder.mkdir()
    for name in ("model.json", "model.safetensors"):
        shutil.copy(run_folder / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def sweep_folder(memory: Path, run_folder: Path) -> Path:
    """A sweep with one whole trial."""
    settings = Settings.model_validate(
        {**federation["TINY"], "run": {"name": "sweep"}, "search": {"space": {"training.momentum": "uniform(0, 0.9)"}}}
    )
    folder = SweepFolder.create(
        memory / "made" / "sweep", settings, "f", '[{"parameters": {"training.momentum": 0.5}, "objectives": [0.5]}]'
    )
    shutil.copytree(run_folder, folder.path / "trials" / "0001", ignore=shutil.ignore_patterns("checkpoints", "sites"))
    folder.write_records(
        [
            TrialRecord(1, State.COMPLETE, {"training.momentum": 0.5}, "trials/0001", 0.5, None, 2, 2, 2, 1.0, 10, ((1, 0.4), (2, 0.5))),
            TrialRecord(2, State.RUNNING, {"training.momentum": 0.7}, "trials/0002", 0.3, None, 1, 2, 1, 1.0, 10, ((1, 0.3),)),
        ]
    )
    folder.write_summary(folder.result().model_dump(mode="json") | {"status": "complete", "best": 1, "value": 0.5})
    return folder.path


@pytest.fixture(scope="module")
def box_folder(memory: Path) -> Path:
    """A site box with a grant, a pinned peer and a log."""
    packed = memory / "made" / "packed"
    for split in ("train", "test"):
        (packed / split).mkdir(parents=True)
        rows = [Row(np.zeros((1, 8, 8), np.uint8), number % 2, f"p{number}", f"{number}.png") for number in range(4)]
        write_shard(packed / split / "north.arrow", ShardHeader("north", split, ("cat", "dog"), 1, 8, False, "f"), rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mock, "LEAST_IMAGES", 8)
        (box,) = create_boxes(memory / "made" / "box", packed)
    box.grant(STUDY, max_epsilon=3.0)
    box.pin(Identity.generate("south").public)
    Ledger(box.ledger).charge(Charge("2026-01-02T03:04:05+00:00", STUDY, "run", 1, "patient", 1.1, 0.5, 50, 1e-4), lambda charges: None)
    return box.path
