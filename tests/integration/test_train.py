from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

Start = Callable[..., "object"]
Arguments = Callable[..., list[str]]


def test_the_command_trains_and_leaves_nothing_running(primia_ray, train_arguments: Arguments, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    command = primia_ray(*train_arguments("first"))
    assert command.wait() == 0, command.text
    assert command.left_behind() == []
    summary = json.loads((tmp_path / "runs/first/summary.json").read_text())
    assert summary["status"] == "complete" and summary["rounds"] == 6
    assert "site-1" in command.text and "runs/first" in command.text
    assert (tmp_path / "runs/first/report.html").exists()

    again = primia_ray(*train_arguments("first"))
    assert again.wait() == 5
    assert again.text.count("\n") == 1 and "exists already" in again.text


def test_a_resume_after_sigkill_of_everything_gives_the_same_model_bit_for_bit(
    primia_ray, train_arguments: Arguments, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    sets = ("training.optimizer=adam", "federation.server_optimizer=fedavgm", "augmentation.rotation=15")
    whole = primia_ray(*train_arguments("whole", *sets))
    assert whole.wait() == 0, whole.text
    killed = primia_ray(*train_arguments("killed", *sets))
    run = tmp_path / "runs/killed"
    killed.wait_for(lambda: (run / "checkpoints/round-000003.json").exists(), "checkpoint of round 3")
    killed.kill_everything()
    assert not (run / "summary.json").exists()
    resumed = primia_ray("train", "--resume", str(run))
    assert resumed.wait() == 0, resumed.text
    assert "going on after round" in resumed.text
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "runs/whole/model.safetensors").read_bytes()
    test = [json.loads((tmp_path / "runs" / name / "summary.json").read_text())["test"] for name in ("whole", "killed")]
    assert test[0] == test[1]


def test_ctrl_c_leaves_a_checkpoint_and_no_process(primia_ray, train_arguments: Arguments, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    command = primia_ray(*train_arguments("stopped", "federation.sync_every_n_batch=40", "federation.rounds=50"))
    run = tmp_path / "runs/stopped"
    command.wait_for(lambda: (run / "checkpoints/round-000001.json").exists(), "checkpoint of round 1")
    command.interrupt()
    assert command.wait(30) == 130, command.text
    assert command.left_behind() == []
    assert "interrupted after round" in command.text and "--resume" in command.text and "Traceback" not in command.text
    changed = primia_ray("train", "--resume", str(run), "--set", "training.batch_size=4")
    assert changed.wait() == 5
    assert "training.batch_size: 8 -> 4" in changed.text and changed.text.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_stops_a_run_of_short_rounds(primia_ray, train_arguments: Arguments, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    command = primia_ray(*train_arguments("short", "federation.rounds=100000"))
    command.wait_for(lambda: (tmp_path / "runs/short/checkpoints/round-000002.json").exists(), "checkpoint of round 2")
    command.interrupt()
    assert command.wait(30) == 130, command.text
    assert "interrupted after round" in command.text and command.left_behind() == []


def test_a_cluster_that_is_not_there_is_one_clear_line(primia_ray, train_arguments: Arguments, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    command = primia_ray(*train_arguments("nowhere"), "--address", "127.0.0.1:1")
    assert command.wait() == 8
    assert command.text.strip().count("\n") == 0 and "cannot attach to the Ray cluster at 127.0.0.1:1" in command.text
    assert not (tmp_path / "runs/nowhere").exists()
