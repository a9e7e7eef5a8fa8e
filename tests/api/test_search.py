"""Searching from Python, up to where Ray would start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from primia.api import search as tuning
from primia.api.search import SweepStart, tune
from primia.api.training import train
from primia.cluster.session import ClusterResources
from primia.config.reader import load_config
from primia.config.settings import Settings
from primia.data.demo import demo_catalogue
from primia.data.export import demo_tree
from primia.errors import ClusterError, ConfigError, RunError
from primia.search import plan as plans
from primia.search import results
from primia.search.folder import SweepFolder
from primia.search.plan import SweepPlan
from primia.search.records import State, TrialRecord
from primia.search.space.demo import DEMO_SPACE
from primia.search.tune import run as sweep
from primia.search.tune.run import Outcome
from primia.search.tune.warm_start import Known

SPACE = {"training.learning_rate": "loguniform(1e-4, 1)"}
DATA = {"source": "demo", "demo_images": 12, "image_size": 16, "sites": 2}
Configured = Callable[..., Settings]


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    """A small sweep's settings; keyword arguments are sections with the keys to change."""

    def make(**sections: dict[str, object]) -> Settings:
        base: dict[str, dict[str, object]] = {
            "run": {"name": "sweep", "output": tmp_path / "runs"},
            "data": {**DATA, "cache": tmp_path / "cache"},
            "search": {"space": SPACE, "trials": 3},
        }
        return Settings.model_validate({key: {**base.get(key, {}), **sections.get(key, {})} for key in {*base, *sections}})

    return make


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """In place of Ray: how often it was started, what the sweep was given, and what becomes of it (``error``, ``records``, ``reason``)."""
    seen = SimpleNamespace(starts=0, given=None, error=None, start_error=None, records=[], reason="", ended=0)

    @contextmanager
    def session(address: str | None, **options: object) -> Iterator[ClusterResources]:
        seen.starts += 1
        if seen.start_error:
            raise seen.start_error
        yield ClusterResources(cpus=2, gpus=0)
        seen.ended += 1

    def run_sweep(plan: SweepPlan, records: Any, known: Any, on_progress: Any) -> Outcome:
        seen.given = SimpleNamespace(space=plan.space, known=known, data=plan.data, records=records)
        plan.folder.write_records(seen.records)
        if seen.error:
            raise seen.error
        return Outcome({record.number: record for record in seen.records}, seen.reason)

    monkeypatch.setattr(tuning, "ray_session", session)
    monkeypatch.setattr(sweep, "run_sweep", run_sweep)
    monkeypatch.setattr(plans, "check_nodes", lambda actors: None)
    monkeypatch.setattr(results, "write_sweep_report", lambda path: None)
    return seen


def failed(number: int = 1, state: State = State.FAILED) -> TrialRecord:
    """A trial without a result, and without a run folder."""
    return TrialRecord(number, state, {"training.learning_rate": 0.1}, f"trials/{number:04d}")


def test_a_sweep_is_a_folder_with_its_trials_and_results(configured: Configured, ray: SimpleNamespace, tmp_path: Path) -> None:
    ray.records = [failed()]
    started: list[SweepStart] = []
    made = tune(configured(), on_start=started.append)
    assert made.path == tmp_path / "runs" / "sweep" and made.records == [failed()]
    assert (made.summary["status"], made.summary["reason"], made.summary["best"]) == ("complete", "", None)
    assert [(start.folder, start.space.names, start.notices, start.cluster.cpus) for start in started] == [(made.path, tuple(SPACE), (), 2)]
    assert [site.name for site in ray.given.data.sites] == ["site-1", "site-2"] and ray.given.records == []
    stored = SweepFolder(made.path)
    assert stored.settings() == configured() and stored.fingerprint() == ray.given.data.fingerprint
    assert ray.ended == 1


def test_a_sweep_that_ends_early_says_why(configured: Configured, ray: SimpleNamespace) -> None:
    ray.reason = "search.time_limit = 60 s is over"
    summary = tune(configured()).summary
    assert (summary["status"], summary["reason"]) == ("stopped", ray.reason)


def test_the_demonstration_has_a_small_space_of_its_own(configured: Configured, ray: SimpleNamespace) -> None:
    made = tune(configured(search={"space": {}}))
    assert SweepFolder(made.path).settings().search.space == DEMO_SPACE and ray.given.space.base.search.trials == 3


def test_nothing_to_search_is_said_before_anything_is_made(configured: Configured, ray: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^\[search\] there is nothing to search: write settings beside its keys"):
        tune(configured(data={"source": "folder", "path": tmp_path / "images"}, search={"space": {}}))
    assert ray.starts == 0 and list(tmp_path.iterdir()) == []


def test_resources_that_can_never_be_met_are_said_before_the_sweep_is_announced(
    configured: Configured, ray: SimpleNamespace, tmp_path: Path
) -> None:
    started: list[SweepStart] = []
    with pytest.raises(ConfigError, match=r"^resources.cpus_per_actor = 2: 2 actors need 4 CPUs, but the cluster has 2; lower it"):
        tune(configured(resources={"cpus_per_actor": 2}), on_start=started.append)
    assert not started and ray.given is None and not (tmp_path / "runs" / "sweep").exists()


def test_an_existing_folder_is_refused(configured: Configured, ray: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "runs" / "sweep").mkdir(parents=True)
    with pytest.raises(RunError, match=r"sweep exists already; give another --name, or go on with it: primia-ray tune --resume"):
        tune(configured())
    assert ray.starts == 0 and list((tmp_path / "runs" / "sweep").iterdir()) == []


def test_a_warm_start_that_is_no_sweep_is_refused(configured: Configured, ray: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no .*nowhere"):
        tune(configured(search={"warm_start": (str(tmp_path / "nowhere"),)}))
    assert ray.starts == 0 and not (tmp_path / "runs").exists()


def test_an_output_that_cannot_be_written_is_refused(configured: Configured, ray: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(RunError, match=r"cannot write to .*; give another --output"):
        tune(configured())
    assert ray.starts == 0


def test_earlier_results_are_given_to_the_search_and_said(configured: Configured, ray: SimpleNamespace) -> None:
    before = tune(configured(run={"name": "before"}))
    known = TrialRecord(1, State.COMPLETE, {"training.learning_rate": 0.1}, "trials/0001", value=0.5)
    SweepFolder(before.path).write_records([known, failed(2)])
    started: list[SweepStart] = []
    made = tune(configured(search={"warm_start": (str(before.path),)}), on_start=started.append)
    assert started[0].notices == (f"1 of 1 finished trials of {before.path} are known from the start",)
    assert ray.given.known == [Known(known.parameters, (0.5,))]
    SweepFolder(before.path).write_records([known, replace(known, number=2)])
    tune(resume=made.path)
    assert ray.given.known == [Known(known.parameters, (0.5,))], "a resumed sweep knows what it knew"


def test_a_warm_start_named_from_here_is_found_from_elsewhere(
    configured: Configured, ray: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.ini").write_text("[training]\nlearning_rate = 0.25\n")
    monkeypatch.chdir(tmp_path)
    made = tune(configured(search={"warm_start": ("good.ini",)}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    tune(resume=made.path)
    assert ray.given.space.base.search.warm_start == (str(tmp_path / "good.ini"),)


def test_a_searched_number_of_sites_leaves_packing_to_the_trials(configured: Configured, ray: SimpleNamespace, tmp_path: Path) -> None:
    made = tune(configured(search={"space": {"data.sites": "randint(2, 3)"}}))
    assert ray.given.data is None and not (tmp_path / "cache").exists()
    tune(resume=made.path)
    assert ray.starts == 2, "there is no fingerprint to compare"


@pytest.fixture
def begun(configured: Configured, ray: SimpleNamespace) -> Path:
    """A sweep with a trial under way."""
    ray.records = [failed(1, State.RUNNING)]
    return tune(configured()).path


def test_a_resumed_sweep_goes_on_from_its_records(begun: Path, ray: SimpleNamespace) -> None:
    started = SweepFolder(begun).read_summary()["started"]
    ray.records = [failed()]
    made = tune(resume=str(begun))
    assert made.path == begun and ray.given.records == [failed(1, State.RUNNING)] and made.records == [failed()]
    assert made.summary["started"] == started


def test_its_limits_may_change(begun: Path, configured: Configured, ray: SimpleNamespace) -> None:
    limits = {"trials": 9, "time_limit": 60.0, "target": 0.9, "max_concurrent": 2, "replicas": 1}
    tune(configured(run={"name": "", "output": "elsewhere"}, search=limits), resume=begun)
    search = ray.given.space.base.search
    assert {key: getattr(search, key) for key in limits} == limits
    stored = SweepFolder(begun).settings()
    assert stored.search.trials == 9 and stored.search.space == SPACE, "the next resume needs no flag"
    assert (stored.run.name, stored.run.output) == ("sweep", begun.parent), "where it lies is no difference"


def test_so_may_the_limit_of_privacy(configured: Configured, ray: SimpleNamespace) -> None:
    private = {
        "privacy": {"unit": "image", "noise_multiplier": 1.0, "validation": "public"},
        "training": {"batch_size": 4},
    }
    ray.records = [failed(1, State.RUNNING)]
    path = tune(configured(**private, search={"max_epsilon": 3.0})).path
    tune(configured(**private, search={"max_epsilon": 5.0}), resume=path)
    assert ray.given.space.base.search.max_epsilon == 5.0


@pytest.mark.parametrize(
    ("section", "changes", "said"),
    [
        (
            "search",
            {"space": {"training.learning_rate": "loguniform(1e-3, 1)"}},
            "search.training.learning_rate: loguniform(1e-4, 1) -> loguniform(1e-3, 1)",
        ),
        (
            "search",
            {"space": {**SPACE, "training.weight_decay": "uniform(0, 1)"}},
            "search.training.weight_decay: (empty) -> uniform(0, 1)",
        ),
        ("search", {"algorithm": "random"}, "search.algorithm: tpe -> random"),
        ("search", {"seed": 5}, "search.seed: 1 -> 5"),
        ("training", {"batch_size": 3}, "training.batch_size: 16 -> 3"),
        ("run", {"seed": 9}, "run.seed: "),
    ],
)
def test_nothing_else_may(
    begun: Path, configured: Configured, ray: SimpleNamespace, section: str, changes: dict[str, object], said: str
) -> None:
    before = (begun / "config.ini").read_text()
    with pytest.raises(RunError) as caught:
        tune(configured(**{section: changes}), resume=begun)
    line = str(caught.value)
    assert line.startswith(f"cannot resume {begun} with other settings: {said}") and line.endswith("or start a new sweep")
    assert ray.starts == 1 and (begun / "config.ini").read_text() == before and SweepFolder(begun).records()


def test_changed_images_are_noticed(configured: Configured, ray: SimpleNamespace, tmp_path: Path) -> None:
    catalogue = demo_catalogue(sites=2, images=12, image_size=16, channels=1, seed=1)
    demo_tree(catalogue, tmp_path / "images")
    ray.records = [failed(1, State.RUNNING)]
    data = {"source": "folder", "path": tmp_path / "images"}
    path = tune(configured(data=data)).path
    tune(configured(data=data), resume=path)
    first, second = sorted((tmp_path / "images").rglob("*.png"))[:2]
    first.write_bytes(second.read_bytes())
    with pytest.raises(RunError, match="the images have changed since it was started; start a new sweep"):
        tune(configured(data=data), resume=path)
    assert ray.starts == 2


def test_what_is_no_sweep_cannot_be_resumed(ray: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a sweep folder"):
        tune(resume=tmp_path)
    assert ray.starts == 0


def test_an_interrupted_sweep_can_be_gone_on_with(configured: Configured, ray: SimpleNamespace, tmp_path: Path) -> None:
    ray.error, ray.records = KeyboardInterrupt(), [failed(1, State.RUNNING)]
    with pytest.raises(KeyboardInterrupt):
        tune(configured())
    folder = SweepFolder(tmp_path / "runs" / "sweep")
    first = folder.read_summary()
    assert first["status"] == "interrupted" and folder.records() == ray.records
    ray.error = None
    again = tune(resume=folder.path).summary
    assert again["status"] == "complete"
    assert again["wall_seconds"] > float(str(first["wall_seconds"])) > 0, "time goes on over both parts"


def test_a_sweep_that_fails_before_its_first_trial_leaves_nothing(configured: Configured, ray: SimpleNamespace, tmp_path: Path) -> None:
    ray.start_error = ClusterError("there is no cluster")
    with pytest.raises(ClusterError):
        tune(configured())
    assert not (tmp_path / "runs" / "sweep").exists()
    ray.start_error, ray.error, ray.records = None, ClusterError("the actors do not start"), [failed(1, State.RUNNING)]
    with pytest.raises(ClusterError):
        tune(configured())
    folder = SweepFolder(tmp_path / "runs" / "sweep")
    assert folder.records() == ray.records, "one that fails later stays"
    summary = folder.read_summary()
    assert (summary["status"], summary["reason"]) == ("interrupted", "the actors do not start")


def test_a_sweep_that_is_complete_is_not_started_again(begun: Path, ray: SimpleNamespace) -> None:
    ray.records = [failed(number) for number in (1, 2, 3)]
    tune(resume=begun)
    starts = ray.starts
    with pytest.raises(RunError, match=r"is complete: all 3 trials are over; go on with more: primia-ray tune --resume .* --trials 13"):
        tune(resume=begun)
    assert ray.starts == starts
    tune(load_config(begun / "config.ini", ["search.trials=4"]), resume=begun)
    assert ray.starts == starts + 1


@pytest.mark.parametrize("error", [ClusterError("there is no cluster"), KeyboardInterrupt()])
def test_a_resume_that_does_not_begin_changes_nothing(
    begun: Path, configured: Configured, ray: SimpleNamespace, error: BaseException
) -> None:
    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in begun.rglob("*") if path.is_file()}

    before, ray.start_error = contents(), error
    with pytest.raises(type(error)):
        tune(configured(run={"name": "", "output": "."}, search={"trials": 9}), resume=begun)
    ray.start_error = None
    with pytest.raises(ConfigError, match="actors need"):
        tune(configured(run={"name": "", "output": "."}, search={"max_concurrent": 2000}), resume=begun)
    assert contents() == before
    SweepFolder(begun).write_records([])
    ray.start_error = error
    with pytest.raises(type(error)):
        tune(resume=begun)
    assert SweepFolder(begun).table.exists(), "also where no trial has begun yet"


def test_settings_may_come_from_a_file_as_they_were_stored(begun: Path, ray: SimpleNamespace) -> None:
    tune(load_config(begun / "config.ini", ["search.trials=4"]), resume=begun)
    assert ray.given.space.base.search.trials == 4


def test_a_sweep_is_not_resumed_as_if_it_were_a_run(begun: Path) -> None:
    with pytest.raises(RunError, match=r"is a sweep, not a run; go on with: primia-ray tune --resume"):
        train(resume=begun)
