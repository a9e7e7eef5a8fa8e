"""The command around :func:`primia.api.tune`: what it asks for, and what it says."""

from __future__ import annotations

import runpy
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from primia import api
from primia.api.search import Sweep, SweepStart
from primia.cli.tune import tune
from primia.cluster.session import ClusterResources
from primia.config.reader import dump_config, load_config
from primia.config.settings import Settings
from primia.errors import ConfigError, RunError
from primia.search import tensorboard
from primia.search.space.demo import with_demo_space
from primia.search.space.space import Space
from primia.search.tune.callback import SweepProgress

sweeps = runpy.run_path(str(Path(__file__).parents[1] / "search" / "sweeps.py"))

app = typer.Typer()
app.command()(tune)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """What ``api.tune`` was asked for; in place of a sweep there is one that is over already (``folder``), or ``error``."""
    seen = SimpleNamespace(
        settings=None, options={}, error=None, interrupt=None, notices=(), cluster=ClusterResources(2, 0), folder=tmp_path / "sweep"
    )

    def fake(settings: Settings | None, *, on_start: Callable[[SweepStart], None], on_progress: Any, on_pack: Any, **options: Any) -> Sweep:
        seen.settings, seen.options = settings, options
        if not seen.folder.exists():
            sweeps["make_sweep"](seen.folder, change=lambda document: document.update(seen.changes))
        base = with_demo_space(settings or Settings())
        on_start(SweepStart(seen.folder, Space.of(base), seen.notices, seen.cluster))
        if seen.interrupt:
            seen.interrupt(None)
        if seen.error:
            raise seen.error
        on_progress(SweepProgress({record.number: record for record in Sweep(seen.folder).records}, 20, 60.0, None))
        return Sweep(seen.folder)

    seen.changes = {}
    monkeypatch.setattr(api, "tune", fake)
    monkeypatch.chdir(tmp_path)
    return seen


def test_without_anything_it_searches_over_the_demonstration(asked: SimpleNamespace) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert asked.settings == Settings()
    assert asked.options == {"resume": None, "address": None, "dashboard": True}
    assert "20 trials by tpe over 5 settings, asha ends trials early" in result.output


def test_flags_are_settings(asked: SimpleNamespace, tmp_path: Path) -> None:
    file = tmp_path / "x.ini"
    file.write_text("[search]\ntrials = 5\ntraining.momentum = uniform(0, 0.9)\n[training]\noptimizer = sgd\n")
    result = run(
        "--config", file, "--trials", 7, "--name", "first", "--output", "out", "--max-concurrent", 2, "--time-limit", 60, "--target", 0.9,
        "--set", "search.scheduler=median", "--set", "run.seed=3", "--address", "ray://there", "--no-dashboard",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    settings, search = asked.settings, asked.settings.search
    assert (search.trials, search.max_concurrent, search.time_limit, search.target, search.scheduler) == (7, 2, 60.0, 0.9, "median")
    assert (settings.run.name, settings.run.output, settings.run.seed, settings.training.optimizer) == ("first", Path("out"), 3, "sgd")
    assert search.space == {"training.momentum": "uniform(0, 0.9)"}
    assert asked.options == {"resume": None, "address": "ray://there", "dashboard": False}
    assert "7 trials by tpe over 1 setting, median ends trials early" in result.output


def test_images_make_the_demonstration_a_folder_run(asked: SimpleNamespace, tmp_path: Path) -> None:
    run("--data", "images", "--set", "search.training.weight_decay=uniform(0, 1)")
    assert (asked.settings.data.source, asked.settings.data.path) == ("folder", Path("images"))


def test_warm_starts_add_up_whatever_their_names(asked: SimpleNamespace) -> None:
    result = run("--warm-start", "runs/a, b", "--warm-start", "good.ini")
    assert result.exit_code == 0, result.output
    assert asked.settings.search.warm_start == ("runs/a, b", "good.ini")


def test_a_sweep_is_resumed_as_it_was_or_with_other_limits(asked: SimpleNamespace, tmp_path: Path) -> None:
    sweeps["make_sweep"](asked.folder)
    run("--resume", "sweep")
    assert asked.settings is None and asked.options["resume"] == Path("sweep")
    run("--resume", "sweep", "--trials", 50)
    stored = load_config(tmp_path / "sweep" / "config.ini")
    assert asked.settings == stored.model_copy(update={"search": stored.search.model_copy(update={"trials": 50})})


def test_a_wrong_value_is_a_config_error(asked: SimpleNamespace) -> None:
    result = run("--trials", 0)
    assert isinstance(result.exception, ConfigError) and "search.trials" in str(result.exception)
    assert asked.settings is None


@pytest.mark.parametrize(
    ("scheduler", "said"), [("none", "over 5 settings\n"), ("pbt", "over 2 settings, as one population that exchanges settings (pbt)\n")]
)
def test_what_ends_trials_is_said(asked: SimpleNamespace, scheduler: str, said: str) -> None:
    space = ("--set", "search.training.learning_rate=loguniform(1e-4, 1)", "--set", "search.training.weight_decay=uniform(0, 1)")
    result = run("--set", f"search.scheduler={scheduler}", *(space if scheduler == "pbt" else ()))
    assert said in result.output


def test_it_says_where_to_look_while_it_runs(asked: SimpleNamespace) -> None:
    asked.notices = ("3 of 4 finished trials of runs/[old] are known from the start",)
    asked.cluster = ClusterResources(2, 0, "http://127.0.0.1:8265", "/tmp/token")
    lines = run().output.splitlines()
    assert asked.notices[0] in lines
    assert "sweep       sweep" in lines and any(line.startswith("watch       tensorboard --logdir ") for line in lines)
    assert "dashboard   http://127.0.0.1:8265     it asks for the token in /tmp/token" in lines


def test_at_the_end_it_shows_the_trials_and_what_is_next(asked: SimpleNamespace) -> None:
    output = run().output
    best = max(record.value for record in Sweep(asked.folder).records if record.state == "complete")
    assert "trials, best first" in output and f"{best:.3f}" in output
    assert "primia-ray train --config sweep/best.ini" in output and "primia-ray tune --resume sweep --trials N" in output
    assert "report      sweep/report.html" in output
    assert "stopped" not in output and "privacy" not in output


def test_it_says_why_it_stopped_and_what_was_spent(asked: SimpleNamespace) -> None:
    asked.changes = {"status": "stopped", "reason": "search.time_limit = 60 s is over [so]", "privacy": sweeps["PRIVACY"]}
    output = run().output
    assert "stopped     search.time_limit = 60 s is over [so]" in output
    assert f"privacy     {sweeps['PRIVACY']['sentence']}" in output


def test_of_a_private_sweep_the_best_trials_own_model_is_what_is_next(asked: SimpleNamespace) -> None:
    sweeps["make_sweep"](asked.folder)
    config = asked.folder / "config.ini"
    private = ("privacy.unit=image", "privacy.noise_multiplier=1", "privacy.validation=public")
    config.write_text(dump_config(load_config(config, private)))
    output = run().output
    best = next(record for record in Sweep(asked.folder).records if record.number == Sweep(asked.folder).summary["best"])
    assert f"next        primia-ray evaluate sweep/{best.folder} --data DIR     the model to publish" in output
    assert "primia-ray train" not in output


def test_ctrl_c_is_answered_at_once(asked: SimpleNamespace) -> None:
    def interrupted(progress: object) -> None:
        signal.raise_signal(signal.SIGINT)

    asked.interrupt = interrupted
    before = signal.getsignal(signal.SIGINT)
    result = run()
    assert result.output.index("stopping: results so far are written") < result.output.index("interrupted; go on with:")
    assert signal.getsignal(signal.SIGINT) is before


def test_without_a_result_there_is_no_next_but_an_error(asked: SimpleNamespace) -> None:
    made = {
        number: replace(record, state="failed", value=None, curve=(), cause="[/red] no memory")
        for number, record in sweeps["records"](3).items()
    }
    sweeps["make_sweep"](asked.folder, made)
    (asked.folder / "best.ini").unlink()
    result = run()
    assert isinstance(result.exception, RunError)
    assert str(result.exception) == "no trial came to a result, so there is no best.ini; see sweep/sweep.log"
    assert "trials, best first" in result.output and "[/red] no memory" in result.output and "sweep/report.html" in result.output
    assert "best  " not in result.output and "next" not in result.output and "primia-ray train" not in result.output


def test_what_can_be_pasted_is_as_a_shell_reads_it(asked: SimpleNamespace, tmp_path: Path) -> None:
    asked.folder = tmp_path / "my [bold]sweep"
    output = run().output
    assert "primia-ray train --config 'my [bold]sweep/best.ini'" in output
    assert "primia-ray tune --resume 'my [bold]sweep' --trials N" in output
    assert "sweep       my [bold]sweep" in output
    asked.error = KeyboardInterrupt()
    assert "interrupted; go on with: primia-ray tune --resume 'my [bold]sweep'\n" in run().output


def test_a_resumed_sweep_stays_in_its_folder(asked: SimpleNamespace) -> None:
    run()
    asked.settings = "untouched"
    for flag in ("--name", "--output"):
        result = run("--resume", "sweep", flag, "elsewhere")
        assert isinstance(result.exception, ConfigError)
        assert str(result.exception) == f"{flag} cannot be given with --resume: what is resumed stays in sweep; leave it out"
    assert asked.settings == "untouched"


def test_an_interrupted_one_says_how_to_go_on(asked: SimpleNamespace) -> None:
    asked.error = KeyboardInterrupt()
    result = run()
    assert "interrupted; go on with: primia-ray tune --resume sweep" in result.output
    assert "trials, best first" not in result.output and result.exit_code != 0


def test_tensorboard_runs_as_long_as_the_sweep(asked: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    boards: list[str] = []

    @contextmanager
    def board(folder: Path) -> Iterator[SimpleNamespace]:
        boards.append(f"on {folder.name}")
        yield SimpleNamespace(url="http://127.0.0.1:6006/")
        boards.append("ended")

    monkeypatch.setattr(tensorboard, "TensorBoard", board)
    assert "tensorboard http://127.0.0.1:6006/" in run("--tensorboard").output
    assert boards == ["on sweep", "ended"]
    run()
    assert len(boards) == 2, "only where it is asked for"
