"""A finished run folder on tiny synthetic images, made without training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from primia.audits.subject import Subject
from primia.config.reader import dump_config
from primia.config.settings import Settings
from primia.data.prepare import prepare
from primia.data.statistics import Normalisation
from primia.models.file import ModelCard, save_model
from primia.models.flat import FlatSpec
from primia.models.registry import build_model

TINY = {
    "data": {"source": "demo", "demo_images": 36, "image_size": 16, "sites": 3, "validation_fraction": 0.25, "test_fraction": 0.25},
    "model": {"pooling": "avg", "normalisation": "weight"},
    "training": {"batch_size": 4},
    "federation": {"rounds": 2},
}


def locate(settings: Settings, check=None):
    return prepare(settings.data, settings.data.cache or settings.run.output / ".shards", check=check)


def make_run(path: Path, spent: dict[str, object] | None = None, **sections: dict[str, object]) -> Path:
    """A run folder whose model is untrained; ``spent`` goes into its summary as ``privacy``."""
    merged = {key: {**TINY.get(key, {}), **sections.get(key, {})} for key in {*TINY, *sections}}
    settings = Settings.model_validate({**merged, "run": {"output": path.parent, "name": path.name, **sections.get("run", {})}})
    data = locate(settings)
    path.mkdir(parents=True)
    (path / "config.ini").write_text(dump_config(settings))
    (path / "data.json").write_text(json.dumps({"fingerprint": data.fingerprint}))
    (path / "summary.json").write_text(json.dumps({"name": path.name} | ({"privacy": spent} if spent else {})))
    _save(path, settings, data.classes)
    return path


def _save(path: Path, settings: Settings, classes: tuple[str, ...]) -> None:
    size, channels = settings.data.image_size, settings.data.channels
    model = build_model(settings.model, classes=len(classes), channels=channels, image_size=size, seed=settings.run.seed)
    flat = FlatSpec.of(model)
    card = ModelCard(settings.model, classes, channels, size, Normalisation((0.5,) * channels, (0.25,) * channels), True, path.name, {})
    save_model(path, card, flat.state_dict(flat.parameters(model), flat.buffers(model)))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Operations on tiny pictures are slower on several threads, and very much so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("audited") / "run")


@pytest.fixture(scope="session")
def subject(tiny_run: Path) -> Subject:
    return Subject.open(tiny_run, locate)


@pytest.fixture
def make_subject(tmp_path: Path) -> Callable[..., Subject]:
    """The subject of a run of its own; arguments as those of ``make_run``."""
    return lambda **changes: Subject.open(make_run(tmp_path / "own", **changes), locate)


@pytest.fixture(scope="session", name="locate")
def _locate() -> Callable[[Settings], object]:
    return locate


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """A run folder of its own; arguments as those of ``make_run``."""
    return lambda **changes: make_run(tmp_path / "own", **changes)
