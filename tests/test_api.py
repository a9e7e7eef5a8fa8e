"""The front door without Ray; training through it is in tests/integration."""

from __future__ import annotations

import base64
import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

import primia
from primia import api
from primia.api import inference, preparation, training
from primia.config.settings import ModelSettings, Settings
from primia.data.demo import demo_catalogue
from primia.data.export import demo_tree
from primia.data.statistics import Normalisation
from primia.errors import ConfigError, DataError, KeyReuseError, ModelError, RunError
from primia.inference.service import Mode
from primia.inference.spec import InferenceSpec
from primia.models.file import ModelCard, save_model
from primia.models.flat import FlatSpec
from primia.models.registry import build_model
from primia.runs.folder import RunFolder

CLASSES = ("bacterial", "normal", "viral")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with an untrained model."""
    model = build_model(ModelSettings(), classes=3, channels=1, image_size=16, seed=1)
    flat = FlatSpec.of(model)
    card = ModelCard(ModelSettings(), CLASSES, 1, 16, Normalisation((0.5,), (0.2,)), synthetic=True, run="run", versions={})
    folder = tmp_path / "run"
    folder.mkdir()
    save_model(folder, card, flat.state_dict(flat.parameters(model), flat.buffers(model)))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    catalogue = demo_catalogue(sites=2, images=12, image_size=16, channels=1, seed=1)
    demo_tree(catalogue.with_places(catalogue.sites, ["test"] * len(catalogue)), tmp_path / "images")
    return tmp_path / "images" / "test"


def test_evaluate_counts_every_image_by_site_and_together(run: Path, images: Path) -> None:
    results = primia.evaluate(run, images)
    assert results["images"] == 24 and set(results["sites"]) == {"site-1", "site-2"}
    assert sum(map(sum, results["confusion"])) == 24
    assert {"accuracy", "balanced_accuracy", "mcc", "roc_auc", "per_class"} <= set(results)
    assert primia.evaluate(str(run), str(images)) == results | {"data": str(images)}
    alone = primia.evaluate(run, images / "site-1")
    assert alone["images"] == 12 and "sites" not in alone


def test_evaluate_refuses_what_does_not_fit(run: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.json"):
        primia.evaluate(tmp_path, images)
    with pytest.raises(DataError, match="no such folder"):
        primia.evaluate(run, tmp_path / "nowhere")
    (images / "site-1" / "normal").rename(images / "site-1" / "healthy")
    with pytest.raises(DataError, match="healthy"):
        primia.evaluate(run, images)


def test_a_bad_image_is_named_or_skipped(run: Path, images: Path) -> None:
    bad = next((images / "site-1" / "normal").iterdir())
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(DataError, match=bad.name):
        primia.evaluate(run, images)
    results = primia.evaluate(run, images, on_bad_image="skip")
    assert results["images"] == 23 and bad.name in results["skipped"][0]


def test_a_resume_with_other_settings_says_which_differ(tmp_path: Path) -> None:
    stored = preparation.resolved(Settings.model_validate({"run": {"name": "a", "output": tmp_path}}))
    RunFolder.create(tmp_path / "a", stored, "f")
    assert training._resumed_settings(None, tmp_path / "a") == stored
    assert training._resumed_settings(Settings(), tmp_path / "a") == stored, "where the run lies is no difference"
    with pytest.raises(RunError, match=r"training.batch_size: 16 -> 8"):
        training._resumed_settings(Settings.model_validate({"training": {"batch_size": 8}}), tmp_path / "a")


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write to .*; give another --output"):
        primia.train(Settings.model_validate({"run": {"output": tmp_path / "file" / "runs"}}))


def test_names_tell_what_was_run() -> None:
    assert preparation.run_name(Settings()).startswith("demo-convnet-federated-2")
    local = Settings.model_validate({"run": {"mode": "local", "site": "b"}, "data": {"source": "folder", "path": "x/chest"}})
    assert preparation.run_name(local).startswith("chest-convnet-local-b-2")


def job_events(*lines: str) -> tuple[inference._JobEvents, list[dict[str, object]]]:
    heard: list[dict[str, object]] = []
    events = inference._JobEvents(heard.append)
    for line in lines:
        events.line(line)
    return events, heard


def test_events_of_an_inference_job_are_told_apart_from_what_else_it_prints() -> None:
    done = {"event": "done", "summary": {"images": 3}}
    events, heard = job_events(
        '{"event": "plan"}', "a warning", "[1]", "3", '{"level": "info"}', '{"event": "progr', json.dumps(done), "bye"
    )
    assert heard == [{"event": "plan"}, done] and events.result() == done


@pytest.mark.parametrize(
    ("kind", "raised"), [("KeyReuseError", KeyReuseError), ("DataError", DataError), ("ModelError", ModelError), ("NoSuchError", RunError)]
)
def test_an_error_of_the_job_is_the_one_that_was_raised_there(kind: str, raised: type[Exception]) -> None:
    events, _ = job_events(json.dumps({"event": "error", "kind": kind, "message": "what is wrong"}))
    with pytest.raises(raised, match=r"^what is wrong$") as caught:
        events.result()
    assert type(caught.value) is raised


@pytest.mark.parametrize("lines", [(), ('{"event": "plan"}',), ('{"event": "progress", "done": 3, "total": 3}', "Killed")])
def test_a_job_that_ends_without_a_result_is_an_error(lines: tuple[str, ...]) -> None:
    with pytest.raises(RunError, match="ended without a result"):
        job_events(*lines)[0].result()


@pytest.fixture
def finished(run: Path, tmp_path: Path) -> Path:
    """The run folder with settings, as training leaves it."""
    settings = preparation.resolved(Settings.model_validate({"run": {"name": "done", "output": tmp_path}, "inference": {"pipeline": 5}}))
    folder = RunFolder.create(tmp_path / "done", settings, "f")
    for file in run.iterdir():
        file.rename(folder.path / file.name)
    return folder.path


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A cluster whose jobs print ``lines``; what was asked of it."""
    found = SimpleNamespace(lines=[], entrypoint=None, address=None, heads=0)

    @contextmanager
    def local_head(**options: object) -> Iterator[SimpleNamespace]:
        found.heads += 1
        yield SimpleNamespace(dashboard_url="http://local", environment={"TOKEN": "t"})

    def run_job(entrypoint: list[str], *, address: str, on_line: Callable[[str], None], environment: object = None) -> None:
        found.entrypoint, found.address = entrypoint, address
        for line in found.lines:
            on_line(line)

    monkeypatch.setattr("primia.cluster.head.local_head", local_head)
    monkeypatch.setattr("primia.cluster.jobs.run_job", run_job)
    return found


def one_file(folder: Path) -> Path:
    """A flat folder with a file that is an image by its name."""
    folder.mkdir()
    (folder / "a.png").touch()
    return folder


def test_an_encrypted_inference_is_a_job_with_absolute_paths(
    finished: Path, tmp_path: Path, job: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one_file(tmp_path / "flat")
    job.lines = [json.dumps({"event": "done", "summary": {"images": 2}, "files": {}, "plan": {}})]
    options = api.EncryptedOptions(calibration=Path("own"), overrides=("inference.spare_bits=3",))
    assert primia.infer_encrypted(primia.Run(finished), "flat", output="p.csv", options=options) == {"images": 2}
    spec = InferenceSpec.model_validate_json(job.entrypoint[-1])
    assert job.entrypoint[:3] == [sys.executable, "-m", "primia.inference.job"] and (job.heads, job.address) == (1, "http://local")
    assert (spec.run, spec.data, spec.output, spec.calibration) == (finished, tmp_path / "flat", tmp_path / "p.csv", tmp_path / "own")
    assert (spec.mode, spec.keys, spec.fetch, spec.resume) == (Mode.STREAM, None, False, False)
    assert (spec.inference.pipeline, spec.inference.spare_bits) == (5, 3)


def test_on_another_cluster_the_files_come_back_through_the_job(finished: Path, tmp_path: Path, job: SimpleNamespace) -> None:
    files = {"p.csv": base64.b64encode(b"rows").decode(), "p.summary.json": base64.b64encode(b"{}").decode()}
    job.lines = [json.dumps({"event": "done", "summary": {}, "files": files, "plan": {}})]
    options = api.EncryptedOptions(keys=tmp_path / "keys", address="http://far:8265", resume=True)
    primia.infer_encrypted(finished, tmp_path, output=tmp_path / "p.csv", options=options)
    spec = InferenceSpec.model_validate_json(job.entrypoint[-1])
    assert (job.heads, job.address, job.entrypoint[0]) == (0, "http://far:8265", "python")
    assert (spec.mode, spec.keys, spec.fetch, spec.resume) == (Mode.CONSUME, tmp_path / "keys", True, True)
    assert (tmp_path / "p.csv").read_bytes() == b"rows" and (tmp_path / "p.summary.json").read_bytes() == b"{}"


def test_keys_are_made_by_a_job(finished: Path, tmp_path: Path, job: SimpleNamespace) -> None:
    job.lines = [json.dumps({"event": "done", "summary": {"keys": 7, "seconds": 1.0}, "files": {}, "plan": {}})]
    assert primia.prepare_keys(finished, 7, keys=tmp_path / "keys")["keys"] == 7
    spec = InferenceSpec.model_validate_json(job.entrypoint[-1])
    assert (spec.mode, spec.preprocess, spec.keys) == (Mode.PREPARE, 7, tmp_path / "keys")


def test_what_cannot_be_is_refused_before_a_cluster_starts(finished: Path, tmp_path: Path, job: SimpleNamespace) -> None:
    (tmp_path / "p.csv").write_text("precious")
    flat = one_file(tmp_path / "flat")
    with pytest.raises(RunError, match="--overwrite"):
        primia.infer_encrypted(finished, flat, output=tmp_path / "p.csv")
    with pytest.raises(RunError):
        primia.infer_encrypted(tmp_path / "no run", flat, output=tmp_path / "q.csv")
    with pytest.raises(DataError, match="no such folder"):
        primia.infer_encrypted(finished, tmp_path / "nothing", output=tmp_path / "q.csv")
    with pytest.raises(ConfigError, match=r"inference\.pipeline"):
        primia.infer_encrypted(finished, flat, output=tmp_path / "q.csv", options=api.EncryptedOptions(overrides=("inference.pipeline=0",)))
    assert job.heads == 0


def test_agreement_counts_classes_and_the_largest_difference(run: Path, images: Path, tmp_path: Path) -> None:
    flat = images / "site-1"
    primia.infer(run, flat, output=tmp_path / "p.csv")
    assert api.agreement(run, flat, tmp_path / "p.csv") == {
        "images": 12,
        "same_class": 12,
        "largest_difference": pytest.approx(0, abs=1e-6),
    }
    with (tmp_path / "p.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows[3]["predicted"] = next(name for name in CLASSES if name != rows[3]["predicted"])
    rows[4]["p_normal"] = str(float(rows[4]["p_normal"]) + 0.25)
    rows[5] |= {"status": "unreadable", "predicted": ""}
    with (tmp_path / "q.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert api.agreement(run, flat, tmp_path / "q.csv") == {
        "images": 11,
        "same_class": 10,
        "largest_difference": pytest.approx(0.25, abs=1e-6),
    }
