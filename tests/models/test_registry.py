from __future__ import annotations

import pytest
import torch

from primia.config.settings import ModelSettings
from primia.errors import ModelError
from primia.models.flat import FlatSpec
from primia.models.registry import build_model


def weights(name: str, seed: int) -> bytes:
    model = build_model(ModelSettings.model_validate({"name": name}), classes=3, channels=1, image_size=32, seed=seed)
    return FlatSpec.of(model).parameters(model).tobytes()


@pytest.mark.parametrize("name", ["convnet", "resnet18"])
def test_weights_follow_from_the_seed_alone(name: str) -> None:
    first = weights(name, seed=5)
    torch.rand(3)
    assert weights(name, seed=5) == first != weights(name, seed=6)


def test_the_global_generator_is_left_as_it_was() -> None:
    before = torch.random.get_rng_state()
    build_model(ModelSettings(), classes=3, channels=1, image_size=16, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_images_too_small_for_the_network_are_refused() -> None:
    with pytest.raises(ModelError, match="resnet18 needs images of at least 32 pixels, not 28"):
        build_model(ModelSettings(name="resnet18"), classes=3, channels=1, image_size=28, seed=1)
