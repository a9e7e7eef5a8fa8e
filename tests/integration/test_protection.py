"""What protects a run, on a real Ray: sums that stay exact when an actor is killed, and grants that are read each round."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from primia.config.settings import DataSettings
from primia.consent.box import SiteBox
from primia.consent.boxes import create_boxes
from primia.data.prepare import prepare
from primia.federation.driver.checkpoint import Checkpoints, RunState
from primia.federation.driver.hosts import Answer, Arguments
from primia.federation.driver.prepare import prepare_run
from primia.federation.driver.rounds import RoundLoop
from primia.federation.messages import RoundTask, SiteFailure
from primia.federation.plan import assign_hosts
from primia.federation.refusals import Kind
from primia.federation.run_spec import RunSetup
from primia.federation.site.host import SiteHost
from primia.federation.sources import SiteSource
from primia.runs.folder import RunFolder
from primia.secagg.identity import Identity

pytestmark = pytest.mark.integration

Starter = Callable[..., Any]
TrainArguments = Callable[..., list[str]]
FEDERATION = "demo@primia.example"


class Replay:
    """Hosts in this process; one site is lost in the training of one round."""

    def __init__(self, assignment: Sequence[Sequence[SiteSource]], lost: tuple[int, str]) -> None:
        self._hosts = [(tuple(site.name for site in sites), SiteHost(sites)) for sites in assignment]
        self._lost = lost

    def share(self, value: object) -> object:
        return value

    def ask(self, method: str, sites: Sequence[str], arguments: Arguments) -> Iterator[Answer]:
        for names, host in self._hosts:
            asked = tuple(name for name in names if name in sites)
            given = arguments(asked) if asked else ()
            if any(isinstance(item, RoundTask) and (item.round, asked[0]) == self._lost for item in given):
                yield Answer(asked, None, (SiteFailure(asked[0], "lost", lost=True),))
            elif asked:
                yield Answer(asked, getattr(host, method)(*given), ())

    def close(self) -> None: ...


def replayed(run: Path, other: Path, lost: tuple[int, str]) -> RunState:
    """The same federation in this process, losing the same site in the same round."""
    settings = RunFolder(run).settings()
    data = prepare(settings.data, run.parent / ".shards")
    setup = RunSetup.of(settings, data, RunFolder.create(other, settings, data.fingerprint).path, started_at=0.0)
    prepared = prepare_run(setup, Replay(assign_hosts(setup.sites, len(setup.sites)), lost), Identity.generate(FEDERATION))
    loop = RoundLoop(setup, prepared, Checkpoints(RunFolder(other).checkpoints, 2), RunState(prepared.initial))
    list(loop.run())
    return loop.state


def test_a_site_killed_after_the_masks_were_agreed_leaves_an_exact_sum(
    primia_ray: Starter, train_arguments: TrainArguments, tmp_path: Path
) -> None:
    """Its neighbours have masked their updates against it; the sum is that of the others, bit for bit."""
    command = primia_ray(*train_arguments("killed", "federation.sync_every_n_batch=60"))
    run = tmp_path / "runs/killed"
    command.wait_for(lambda: (run / "checkpoints/round-000002.json").exists(), "checkpoint of round 2")
    os.kill(command.workers()[0], signal.SIGKILL)
    assert command.wait() == 0, command.text
    summary = json.loads((run / "summary.json").read_text())
    assert summary["privacy"]["secure_aggregation"]
    (fault,) = [fault for fault in summary["faults"] if "validation" not in fault["reason"]]
    assert "its actor died" in fault["reason"] and command.left_behind() == []
    assert summary["rounds"] == 6 and fault["site"] in (run / "run.log").read_text()
    up = summary["communication"]["sites"]
    others = [site for site in up if site != fault["site"]]
    assert up[fault["site"]]["up_bytes"] * 6 == up[others[0]]["up_bytes"] * 5, "it missed one round of six and came back"
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 3))
    try:
        state = replayed(run, tmp_path / "replayed", (fault["round"], fault["site"]))
    finally:
        torch.set_num_threads(threads)
    last = load_file(run / "checkpoints/round-000006.safetensors")
    assert np.array_equal(last["parameters"], state.model.parameters)
    assert np.array_equal(last["buffers"], state.model.buffers)


def test_grants_are_read_each_round_and_a_revoked_site_stays_out(
    primia_ray: Starter, train_arguments: TrainArguments, tmp_path: Path
) -> None:
    settings = {"source": "demo", "demo_images": 300, "image_size": 32}
    prepare(DataSettings.model_validate(settings), tmp_path / "shards")
    (packed,) = [path for path in (tmp_path / "shards").iterdir() if path.is_dir()]
    create_boxes(tmp_path / "boxes", packed)
    arguments = [*train_arguments("run", "federation.sync_every_n_batch=40", "federation.rounds=5"), "--data", str(tmp_path / "boxes")]
    boxes = {name: SiteBox.open(tmp_path / "boxes" / name) for name in ("site-1", "site-2", "site-3")}
    for box in boxes.values():
        box.grant(FEDERATION, first_contact=True)
    command = primia_ray(*arguments)
    run = tmp_path / "runs/run"
    command.wait_for(lambda: (run / "checkpoints/round-000002.json").exists(), "checkpoint of round 2")
    boxes["site-2"].revoke(FEDERATION)
    assert command.wait() == 0, command.text
    summary = json.loads((run / "summary.json").read_text())
    missed = {fault["round"] for fault in summary["faults"] if "left out of" not in fault["reason"] and "validation" not in fault["reason"]}
    assert summary["rounds"] == 5 and missed and min(missed) > 2 and 5 in missed
    assert {fault["site"] for fault in summary["faults"]} == {"site-2"}
    assert all(Kind.NOT_GRANTED.value in fault["reason"] for fault in summary["faults"])
    assert "was revoked" in (boxes["site-2"].path / "errors.log").read_text()
    trained = {name: [entry.event["round"] for entry in box.audit_log() if _delivers(entry.event)] for name, box in boxes.items()}
    assert trained["site-1"] == [1, 2, 3, 4, 5] and trained["site-2"] == [round_ for round_ in range(1, 6) if round_ not in missed]


def _delivers(event: Mapping[str, Any]) -> bool:
    return event.get("purpose") == "train" and event["outcome"] == "delivers"
