from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from primia.config.settings import ModelSettings
from primia.errors import ModelError
from primia.models.registry import build_model


def build(source: str = "no", *, seed: int = 1, classes: int = 3, channels: int = 1, **settings: str) -> nn.Module:
    chosen = ModelSettings.model_validate({"pretrained": source, **settings})
    return build_model(chosen, classes=classes, channels=channels, image_size=32, seed=seed)


def write(model: nn.Module, path: Path) -> str:
    state = model.state_dict()
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


def same(first: nn.Module, second: nn.Module) -> set[str]:
    """Names of the entries that are equal, bit for bit."""
    other = second.state_dict()
    return {name for name, value in first.state_dict().items() if torch.equal(value, other[name])}


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_gives_all_weights(tmp_path: Path, name: str) -> None:
    source = build(seed=7)
    source(torch.randn(4, 1, 32, 32))  # so that BatchNorm statistics are not the initial ones
    loaded = build(write(source, tmp_path / name), seed=1)
    assert same(loaded, source) == set(source.state_dict())


def test_the_head_is_the_seeds_where_the_classes_differ(tmp_path: Path) -> None:
    source = build(seed=7, classes=5)
    loaded = build(write(source, tmp_path / "w.pth"), seed=1)
    fresh = build(seed=1)
    assert {"head.weight", "head.bias"} <= same(loaded, fresh)
    assert torch.equal(loaded.state_dict()["features.0.weight"], source.state_dict()["features.0.weight"])


@pytest.mark.parametrize("name", ["convnet", "resnet18"])
def test_colour_weights_on_grey_images_respond_as_on_repeated_channels(tmp_path: Path, name: str) -> None:
    source = build(seed=7, channels=3, name=name).eval()
    loaded = build(write(source, tmp_path / "w.safetensors"), channels=1, name=name).eval()
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded(images), source(images.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_batch_statistics_are_left_out_where_the_model_has_group_normalisation(tmp_path: Path) -> None:
    source = build(seed=7)
    loaded = build(write(source, tmp_path / "w.safetensors"), normalisation="group")
    assert same(loaded, source) == set(loaded.state_dict())


def test_imagenet_weights_keep_everything_but_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    source = build(seed=7, classes=1000, channels=3, name="resnet18")
    monkeypatch.setattr("primia.models.resnet.imagenet_state", source.state_dict)
    loaded = build("imagenet", channels=3, name="resnet18")
    assert set(source.state_dict()) - same_named(loaded, source) == {"fc.weight", "fc.bias"}


def same_named(first: nn.Module, second: nn.Module) -> set[str]:
    other = second.state_dict()
    return {name for name, value in first.state_dict().items() if value.shape == other[name].shape and torch.equal(value, other[name])}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.pth: no such file"):
        build(str(tmp_path / "absent.pth"))


@pytest.mark.parametrize("name", ["text.safetensors", "text.pth"])
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("these are no weights at all")
    with pytest.raises(ModelError, match="not a weights file"):
        build(str(tmp_path / name))


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = Path(write(build(), tmp_path / "w.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="not a weights file"):
        build(str(path))


class Unsafe:
    """What a malicious file could hold: unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    torch.save({"features.0.weight": Unsafe(tmp_path / "executed")}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="not a weights file"):
        build(str(tmp_path / "w.pth"))
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_with_more_than_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "model": build().state_dict()}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"more than tensors.*state_dict\(\) alone"):
        build(str(tmp_path / "w.pth"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    source = write(build(name="resnet18"), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"features\.0\.weight is missing; give weights of the same network"):
        build(source)


def test_grey_weights_do_not_fit_colour_images(tmp_path: Path) -> None:
    source = write(build(channels=1), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"features\.0\.weight has shape \(16, 1, 3, 3\) where the model has \(16, 3, 3, 3\)"):
        build(source, channels=3)
