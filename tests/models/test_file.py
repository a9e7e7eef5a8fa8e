from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from primia.config.settings import ModelSettings
from primia.data.statistics import Normalisation
from primia.errors import ModelError, RunError
from primia.models.file import ModelCard, load_model, save_model
from primia.models.flat import FlatSpec
from primia.models.registry import build_model

CARD = ModelCard(
    model=ModelSettings(pooling="avg", pretrained="long-gone.pth"),
    classes=("bacterial", "normal", "viral"),
    channels=1,
    image_size=16,
    normalisation=Normalisation((0.5,), (0.25,)),
    synthetic=True,
    run="first",
    versions={"python": "3.11"},
)


@pytest.fixture
def model() -> nn.Module:
    network = build_model(ModelSettings(pooling="avg"), classes=3, channels=1, image_size=16, seed=4)
    network(torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    return network.eval()


@pytest.fixture
def folder(tmp_path: Path, model: nn.Module) -> Path:
    spec = FlatSpec.of(model)
    save_model(tmp_path, CARD, spec.state_dict(spec.parameters(model), spec.buffers(model)))
    return tmp_path


def test_a_model_file_gives_model_and_card_back(folder: Path, model: nn.Module) -> None:
    loaded, card = load_model(folder)
    images = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    assert card == CARD and not loaded.training
    assert torch.equal(loaded(images), model(images))
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.json: No such file.*is the run finished"):
        load_model(tmp_path)


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors: no such file"):
        load_model(folder)


def test_weights_cut_short_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"model\.safetensors: cut short or not a safetensors file"):
        load_model(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": {"name": "vgg"}}'])
def test_a_card_that_is_none_is_named_in_one_line(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(ModelError, match=r"^[^\n]*model\.json: not a model card[^\n]*$"):
        load_model(folder)


def test_weights_of_another_run_do_not_fit_the_card(folder: Path) -> None:
    document = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(document | {"classes": ["normal", "viral"]}))
    with pytest.raises(ModelError, match=r"does not fit model\.json: head\.weight has shape \(3, 128\) where the model has \(2, 128\)"):
        load_model(folder)


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*model\.safetensors"):
        save_model(tmp_path / "absent", CARD, {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"channels": 10**9}, "channels"),
        ({"channels": -1}, "channels"),
        ({"channels": "many"}, "channels"),
        ({"image_size": 10**9}, "image_size"),
        ({"classes": ["a"] * 100_000}, "classes"),
        ({"classes": []}, "classes"),
        ({"classes": 3}, "classes"),
        ({"normalisation": {"mean": [0.5], "std": [0.0]}}, "standard deviation"),
        ({"normalisation": {"mean": [0.5], "std": [-1.0]}}, "standard deviation"),
        ({"normalisation": {"mean": [0.5], "std": [1e-300]}}, "standard deviation"),
        ({"normalisation": {"mean": [float("nan")], "std": [0.5]}}, "NaN"),
        ({"normalisation": {"mean": [0.5, 0.5], "std": [0.5, 0.5]}}, "2 channels, not 1"),
        ({"normalisation": {"mean": [[[[0.5]]]], "std": [0.5]}}, "normalisation"),
        ({"normalisation": None}, "normalisation"),
        ({"model": None}, "model"),
        ({"model": {"name": "convnet", "layers": 10**9}}, "layers"),
        ({"versions": [1]}, "versions"),
    ],
)
def test_an_absurd_card_is_refused_before_anything_is_built(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], said: str
) -> None:
    monkeypatch.setattr("primia.models.file.build_model", lambda *_, **__: pytest.fail("built"))
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | change))
    with pytest.raises(ModelError, match=rf"model\.json: not a model card \(.*{said}") as refused:
        load_model(folder)
    assert str(refused.value).isprintable()


def test_a_card_nested_deep_or_that_is_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    card = folder / "model.json"
    card.rename(tmp_path / "elsewhere.json")
    card.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ModelError, match="a symbolic link"):
        load_model(folder)
    card.unlink()
    card.write_text("[" * 1_000_000)
    with pytest.raises(ModelError, match="nested too deep"):
        load_model(folder)
