from __future__ import annotations

import pytest
import torch
from torch import nn

from primia.config.settings import ModelSettings
from primia.models.convnet import ConvNet


@pytest.mark.parametrize("image_size", [8, 13, 28, 64])
@pytest.mark.parametrize("normalisation", ["batch", "group", "weight"])
@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_takes_any_input_size(image_size: int, normalisation: str, pooling: str) -> None:
    settings = ModelSettings.model_validate({"normalisation": normalisation, "pooling": pooling})
    model = ConvNet(settings, classes=4, channels=3, image_size=image_size)
    assert model(torch.zeros(2, 3, image_size, image_size)).shape == (2, 4)


@pytest.mark.parametrize(("image_size", "halvings"), [(8, 1), (15, 1), (16, 2), (28, 2), (64, 4), (512, 4)])
def test_halves_the_map_while_four_pixels_remain(image_size: int, halvings: int) -> None:
    model = ConvNet(ModelSettings(pooling="max", normalisation="batch"), classes=2, channels=1, image_size=image_size)
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in model.features) == halvings


def test_relu_after_max_pooling_is_the_same_function_as_before_it() -> None:
    model = ConvNet(ModelSettings(pooling="max", normalisation="batch"), classes=2, channels=1, image_size=16).eval()
    layers = list(model.features)
    swapped = nn.Sequential(*layers[:2], layers[3], layers[2], *layers[4:])
    images = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.features(images), swapped(images))


def test_group_normalisation_keeps_no_statistics_and_needs_no_batch() -> None:
    model = ConvNet(ModelSettings(normalisation="group"), classes=2, channels=1, image_size=16)
    images = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert not list(model.buffers())
    torch.testing.assert_close(model(images)[:1], model(images[:1]))
