"""Folders that an earlier version wrote: each is still opened, gone through, and resumed.

``earlier_folders.tar.xz`` was made before the packages were arranged anew: shards, boxes with a private run on them, a run that is
finished, one that was interrupted after its first round, and a sweep. Weights are zero or left out, so that it stays small.
"""

from __future__ import annotations

import runpy
import tarfile
from pathlib import Path

import pytest

from primia.consent.box import SiteBox
from primia.errors import ProtocolError
from primia.federation.data import data_of
from primia.federation.driver.checkpoint import Checkpoints
from primia.federation.driver.run import run_federation
from primia.federation.plan import assign_hosts
from primia.federation.run_spec import RunSetup
from primia.federation.site.journal import Journal, Sum
from primia.models.file import load_model
from primia.report.page import render_report
from primia.runs.folder import RunFolder
from primia.runs.results import RunResults
from primia.runs.rounds import read_rounds
from primia.search.folder import SweepFolder
from primia.search.report.page import SweepResults, render_sweep
from primia.search.space.space import Space

hosts = runpy.run_path(str(Path(__file__).parent / "federation" / "conftest.py"))["InProcessHosts"]


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with tarfile.open(Path(__file__).with_name("earlier_folders.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="tar")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_interrupted_run_is_resumed(earlier: Path) -> None:
    folder = RunFolder.open(earlier / "runs" / "interrupted")
    setup = RunSetup.of(folder.settings(), data_of(folder, lambda fingerprint: None), folder.path, started_at=0.0)
    assert setup.settings.federation.rounds == 2
    for _ in run_federation(setup, hosts(assign_hosts(setup.sites, 3))):
        pass
    assert folder.status() == "complete"
    assert set(read_rounds(folder.history)["round"].to_pylist()) == {1, 2}
    state, faults = Checkpoints(folder.checkpoints, 2).load_latest()
    assert state is not None and state.model.round == 2 and not faults
    render_report(RunResults.read(folder.path))


@pytest.mark.parametrize(("name", "words"), [("finished", "No differential privacy was used"), ("private", "epsilon")])
def test_a_finished_run_is_reported(earlier: Path, name: str, words: str) -> None:
    results = RunResults.read(RunFolder.open(earlier / "runs" / name).path)
    assert results.summary.status == "complete"
    assert words in render_report(results)


def test_a_model_is_loaded(earlier: Path) -> None:
    model, card = load_model(earlier / "runs" / "finished")
    assert card.image_size == 16 and sum(parameter.numel() for parameter in model.parameters()) > 0


def test_a_sweep_is_opened_and_shown(earlier: Path) -> None:
    folder = SweepFolder.open(earlier / "runs" / "sweep")
    assert [record.state.value for record in folder.records()] == ["complete", "complete"]
    assert folder.result().status == "complete" and SweepResults.read(folder)
    assert list(Space.of(folder.settings()).expressions) == ["training.learning_rate"]
    assert "training.learning_rate" in render_sweep(folder)


def test_a_box_keeps_its_books(earlier: Path) -> None:
    for name in ("site-1", "site-2", "site-3"):
        box = SiteBox.open(earlier / "boxes" / name)
        (grant,), (budget,) = box.grants(), box.budgets()
        assert grant.federation == "demo@primia.example" and grant.max_epsilon == 50.0
        assert budget.cap == 50.0 and 0 < budget.spent < 50.0
        assert len(box.peers()) == 2 == len(box.pinned_by_owner())
        assert [entry.event["purpose"] for entry in box.audit_log()].count("train") == 1
        with pytest.raises(ProtocolError, match="agreed on with other sites before"):
            identity = RunFolder(earlier / "runs" / "private").identity()
            Journal(box.path / "aggregations.jsonl").agree(Sum("demo@primia.example", identity, 1, "train", ("site-1", "site-2")))
