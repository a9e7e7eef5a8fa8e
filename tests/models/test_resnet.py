from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from primia.config.settings import ModelSettings
from primia.errors import ModelError
from primia.models import resnet
from primia.models.resnet import build_resnet18, imagenet_state


def build(channels: int = 3, classes: int = 3, **settings: str) -> nn.Module:
    return build_resnet18(ModelSettings.model_validate({"name": "resnet18", **settings}), classes=classes, channels=channels)


def test_is_torchvisions_network() -> None:
    ours, theirs = build(classes=7).eval(), resnet18(num_classes=7).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("pooling", ["max", "avg"])
@pytest.mark.parametrize("normalisation", ["batch", "group", "weight"])
def test_takes_grey_images_of_the_smallest_size(pooling: str, normalisation: str) -> None:
    assert build(1, pooling=pooling, normalisation=normalisation)(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


def test_group_normalisation_replaces_every_batch_normalisation() -> None:
    model = build(normalisation="group")
    assert not list(model.buffers()) and sum(isinstance(module, nn.GroupNorm) for module in model.modules()) == 20


def test_average_pooling_is_in_the_stem() -> None:
    stem = build(pooling="avg").maxpool
    assert isinstance(stem, nn.AvgPool2d) and (stem.kernel_size, stem.stride, stem.padding) == (3, 2, 1)


def test_a_download_that_fails_names_the_file_option(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable:
        url = "https://weights.invalid/resnet18.pth"

        def get_state_dict(self, *, progress: bool, check_hash: bool) -> dict[str, torch.Tensor]:
            raise OSError("no route to host")

    monkeypatch.setattr(resnet, "_WEIGHTS", Unreachable())
    with pytest.raises(
        ModelError, match=r"weights\.invalid/resnet18\.pth cannot be downloaded \(no route to host\).*model\.pretrained = FILE"
    ):
        imagenet_state()


def test_standardised_weights_begin_with_residual_branches_at_zero() -> None:
    model = build(normalisation="weight")
    assert not any(isinstance(module, nn.BatchNorm2d | nn.GroupNorm) for module in model.modules())
    gains = [module.gain for name, module in model.named_modules() if name.endswith("conv2")]
    assert len(gains) == 8 and not any(bool(gain.any()) for gain in gains)  # type: ignore[operator, union-attr]
