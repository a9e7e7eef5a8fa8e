"""The front door without Ray; training through it is in tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest

import primia
from primia import api
from primia.config.settings import ModelSettings, Settings
from primia.data.demo import demo_catalogue
from primia.data.export import demo_tree
from primia.data.statistics import Normalisation
from primia.errors import DataError, ModelError, RunError
from primia.federation.run_folder import RunFolder
from primia.models.file import ModelCard, save_model
from primia.models.flat import FlatSpec
from primia.models.registry import build_model

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
    stored = api._resolved(Settings.model_validate({"run": {"name": "a", "output": tmp_path}}))
    RunFolder.create(tmp_path / "a", stored, "f")
    assert api._resumed_settings(None, tmp_path / "a") == stored
    assert api._resumed_settings(Settings(), tmp_path / "a") == stored, "where the run lies is no difference"
    with pytest.raises(RunError, match=r"training.batch_size: 16 -> 8"):
        api._resumed_settings(Settings.model_validate({"training": {"batch_size": 8}}), tmp_path / "a")


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write to .*; give another --output"):
        primia.train(Settings.model_validate({"run": {"output": tmp_path / "file" / "runs"}}))


def test_names_tell_what_was_run() -> None:
    assert api._name(Settings()).startswith("demo-convnet-federated-2")
    local = Settings.model_validate({"run": {"mode": "local", "site": "b"}, "data": {"source": "folder", "path": "x/chest"}})
    assert api._name(local).startswith("chest-convnet-local-b-2")
