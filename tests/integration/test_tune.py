"""Sweeps by the real command on a real Ray: killed and gone on with, side by side, as a population, and with actors of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from primia.config.fields import value_of
from primia.config.reader import load_config
from primia.runs.folder import RunFolder
from primia.search.folder import SweepFolder
from primia.search.records import State, TrialRecord

pytestmark = pytest.mark.integration

Starter = Callable[..., Any]
SMALL = (
    "run.repeat=tests",
    "data.demo_images=60",
    "data.image_size=32",
    "training.batch_size=8",
    "federation.rounds=6",
    "search.scheduler=none",
)
SPACE = ("search.training.learning_rate=loguniform(1e-3, 1e-1)", "search.augmentation.rotation=quniform(0, 20, 5)")


@pytest.fixture
def tune_arguments(tmp_path: Path) -> Callable[..., list[str]]:
    def arguments(name: str, *sets: str, trials: int = 3) -> list[str]:
        options = [item for setting in (*SMALL, *SPACE, *sets) for item in ("--set", setting)]
        return ["tune", "--output", str(tmp_path), "--name", name, "--trials", str(trials), "--no-dashboard", *options]

    return arguments


def told(records: list[TrialRecord]) -> list[tuple[object, ...]]:
    return [(record.number, record.state, record.parameters, record.curve, record.value) for record in records]


def test_a_killed_sweep_goes_on_where_it_was(primia_ray: Starter, tune_arguments: Any, tmp_path: Path) -> None:
    """SIGKILL in the second trial, and a site's actor killed after going on: nothing is lost, and nothing is trained twice."""
    killed = primia_ray(*tune_arguments("sweep"))
    sweep = SweepFolder(tmp_path / "sweep")
    second = sweep.trials / "0002"
    killed.wait_for(lambda: (second / "checkpoints/round-000002.json").exists(), "checkpoint of round 2 of trial 2")
    killed.kill_everything()
    first = {path: path.stat().st_mtime_ns for path in (sweep.trials / "0001").rglob("*") if path.is_file()}
    assert [record.state for record in sweep.records()] == [State.COMPLETE, State.RUNNING]

    changed = primia_ray("tune", "--resume", str(sweep.path), "--set", "search.augmentation.rotation=quniform(0, 20, 10)")
    assert changed.wait() == 5
    assert "search.augmentation.rotation" in changed.text and changed.text.strip().count("\n") == 0

    resumed = primia_ray("tune", "--resume", str(sweep.path), "--trials", "4", "--no-dashboard")
    resumed.wait_for(lambda: (sweep.trials / "0003/checkpoints/round-000001.json").exists(), "round 1 of trial 3")
    os.kill(resumed.workers()[0], signal.SIGKILL)
    assert resumed.wait() == 0, resumed.text
    assert resumed.left_behind() == []
    records = sweep.records()
    assert [record.state for record in records] == [State.COMPLETE] * 4 and all(record.rounds == 6 for record in records)
    assert first == {path: path.stat().st_mtime_ns for path in first}, "the first trial is repeated from the record"
    assert any("resumed after round" in line for line in (second / "run.log").read_text().splitlines())
    for record in records:
        assert RunFolder(sweep.path / record.folder).read_summary()["validation"]["mcc"] == record.value  # type: ignore[index]
        assert (sweep.path / record.folder / "report.html").exists()
    best = max(records, key=lambda record: record.value or -1)
    assert load_config(sweep.best).training.learning_rate == best.parameters["training.learning_rate"]
    assert sweep.report.exists() and sweep.read_summary()["best"] == best.number


@pytest.mark.slow
def test_the_same_seed_gives_the_same_sweep_also_after_a_kill_and_its_best_trains_to_the_same_value(
    primia_ray: Starter, tune_arguments: Any, tmp_path: Path
) -> None:
    sets = ("search.scheduler=asha", "search.random_trials=2")
    for name in ("one", "two"):
        command = primia_ray(*tune_arguments(name, *sets, trials=6))
        assert command.wait() == 0, command.text
    killed = primia_ray(*tune_arguments("killed", *sets, trials=6))
    killed.wait_for(lambda: (tmp_path / "killed/trials/0003").exists(), "trial 3")
    killed.kill_everything()
    resumed = primia_ray("tune", "--resume", str(tmp_path / "killed"), "--no-dashboard")
    assert resumed.wait() == 0, resumed.text
    one, two, three = (told(SweepFolder(tmp_path / name).records()) for name in ("one", "two", "killed"))
    assert one == two == three
    trained = primia_ray("train", "--config", str(tmp_path / "one/best.ini"), "--output", str(tmp_path), "--name", "again")
    assert trained.wait() == 0, trained.text
    summary = RunFolder(tmp_path / "again").read_summary()
    assert summary["validation"]["mcc"] == SweepFolder(tmp_path / "one").read_summary()["value"]  # type: ignore[index]


@pytest.mark.slow
def test_trials_side_by_side_use_replicas_of_the_sites(primia_ray: Starter, tune_arguments: Any, tmp_path: Path) -> None:
    command = primia_ray(*tune_arguments("sweep", "search.max_concurrent=2", "federation.rounds=40", trials=4))
    sweep = SweepFolder(tmp_path / "sweep")
    running = [State.RUNNING] * 2
    command.wait_for(lambda: sweep.table.exists() and [record.state for record in sweep.records()] == running, "two trials at work")
    assert len(command.workers()) == 6
    assert command.wait() == 0, command.text
    assert command.left_behind() == []
    assert all(record.state is State.COMPLETE for record in sweep.records())


@pytest.mark.slow
def test_a_population_exchanges_models_and_settings(primia_ray: Starter, tune_arguments: Any, tmp_path: Path) -> None:
    """They take turns, so each is paused, and goes on in the folder that it has come to; a seed gives one course of exchanges."""
    sets = ("search.scheduler=pbt", "search.grace=0.1", "search.algorithm=random", "federation.rounds=20")
    for name in ("one", "two"):
        command = primia_ray(*tune_arguments(name, *sets, trials=5))
        assert command.wait(300) == 0, command.text
    one, two = (SweepFolder(tmp_path / name) for name in ("one", "two"))
    assert told(one.records()) == told(two.records())
    assert all(record.state is State.COMPLETE and record.rounds == 20 for record in one.records())
    heirs = [record for record in one.records() if record.cause]
    assert heirs and all("goes on from trial" in record.cause and "-from-" in record.folder for record in heirs)
    for record in one.records():
        settings = RunFolder(one.path / record.folder).settings()
        assert {key: value_of(settings, key) for key in record.parameters} == record.parameters
    resumed = primia_ray("tune", "--resume", str(one.path), "--no-dashboard")
    assert resumed.wait() == 5 and "all 5 trials are over" in resumed.text, resumed.text
    resumed = primia_ray("tune", "--resume", str(one.path), "--no-dashboard", "--trials", "6")
    assert resumed.wait(120) == 0 and "ERROR" not in resumed.text, resumed.text
    assert told(one.records())[:5] == told(two.records()) and one.records()[5].state is State.COMPLETE


@pytest.mark.slow
def test_searched_images_give_each_trial_actors_of_its_own(primia_ray: Starter, tune_arguments: Any, tmp_path: Path) -> None:
    command = primia_ray(*tune_arguments("sweep", "search.data.image_size=choice(16, 24)", "search.max_concurrent=2", trials=3))
    assert command.wait(240) == 0, command.text
    assert command.left_behind() == []
    for record in SweepFolder(tmp_path / "sweep").records():
        size = RunFolder(tmp_path / "sweep" / record.folder).read_summary()["data"]["image_size"]  # type: ignore[index]
        assert record.state is State.COMPLETE and size == record.parameters.get("data.image_size", 32)
