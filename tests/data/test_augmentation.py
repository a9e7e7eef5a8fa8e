from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from primia.config.settings import AugmentationSettings
from primia.data import augmentation
from primia.data.augmentation import Augmentation, move, recolour


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(size: int = 8, channels: int = 1) -> Tensor:
    return torch.rand(1, channels, size, size, generator=generator(9))


def drawn(**columns: float) -> Tensor:
    """Draws for one image: 0.5, which changes nothing, but for the named columns."""
    draws = torch.full((1, augmentation.DRAWS), 0.5)
    for name, value in columns.items():
        draws[:, getattr(augmentation, name)] = value
    return draws


def settings(**fields: float) -> AugmentationSettings:
    """All off but ``fields``."""
    return AugmentationSettings.model_validate(dict.fromkeys(AugmentationSettings.model_fields, 0.0) | fields)


def changed(images: Tensor, **fields: float) -> Tensor:
    return Augmentation(settings(**fields))(images, generator())


def test_all_off_returns_the_batch_and_draws_nothing() -> None:
    images, state = picture(), generator()
    assert Augmentation(settings())(images, state) is images
    assert torch.equal(state.get_state(), generator().get_state())


def test_horizontal_flip() -> None:
    images = picture(channels=3)
    assert torch.allclose(changed(images, horizontal_flip=1.0), images.flip(3), atol=1e-6)


def test_vertical_flip() -> None:
    images = picture()
    assert torch.allclose(changed(images, vertical_flip=1.0), images.flip(2), atol=1e-6)


def test_flips_happen_as_often_as_asked() -> None:
    images = picture().expand(2000, -1, -1, -1)
    flipped = (changed(images, horizontal_flip=0.3) - images.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert abs(flipped.float().mean().item() - 0.3) < 0.05


@pytest.mark.parametrize(("draw", "turns"), [(1.0, -1), (0.0, 1)])
def test_90_degrees_turn_clockwise(draw: float, turns: int) -> None:
    images = picture()
    turned = move(images, settings(rotation=90.0), drawn(ANGLE=draw))
    assert torch.allclose(turned, torch.rot90(images, turns, (2, 3)), atol=1e-5)


def test_translation_by_whole_pixels_repeats_the_border() -> None:
    images = picture(8)
    moved = move(images, settings(translation=0.25), drawn(SHIFT_X=1.0, SHIFT_Y=0.0))
    assert torch.allclose(moved[:, :, :6, 2:], images[:, :, 2:, :6], atol=1e-6)
    assert torch.allclose(moved[:, :, :6, 0], images[:, :, 2:, 0], atol=1e-6)


def test_scale_two_thirds_makes_things_smaller() -> None:
    square = torch.zeros(1, 1, 24, 24)
    square[:, :, 3:21, 3:21] = 1.0
    assert move(square, settings(scale=1 / 3), drawn(SCALE=0.0)).sum().item() == pytest.approx(12 * 12, rel=0.03)


def test_shear_moves_rows_by_the_tangent() -> None:
    column = torch.zeros(1, 1, 41, 41)
    column[:, :, :, 20] = 1.0
    sheared = move(column, settings(shear=30.0), drawn(SHEAR=1.0))[0, 0]
    place = (sheared * torch.arange(41)).sum(1) / sheared.sum(1)
    assert (place[30] - place[20]).item() == pytest.approx(10 * math.tan(math.radians(30)), abs=0.05)


def test_shift_comes_after_rotation() -> None:
    images = picture(8)
    turned = move(images, settings(rotation=90.0), drawn(ANGLE=1.0))
    both = move(images, settings(rotation=90.0, translation=0.25), drawn(ANGLE=1.0, SHIFT_X=1.0))
    assert torch.allclose(both[..., 2:], turned[..., :6], atol=1e-5)


def test_contrast_about_the_mean_then_brightness() -> None:
    images = torch.tensor([0.4, 0.6]).repeat(2, 1)[None, None]
    recoloured = recolour(images, settings(contrast=0.5, brightness=0.1), drawn(CONTRAST=1.0, BRIGHTNESS=0.0))
    assert torch.allclose(recoloured[0, 0, 0], torch.tensor([0.25, 0.55]))


def test_noise_has_at_most_the_deviation_asked_for() -> None:
    noise = torch.randn(1, 1, 64, 64, generator=generator())
    noisy = recolour(torch.full((1, 1, 64, 64), 0.5), settings(noise=0.1), drawn(NOISE=1.0), noise)
    assert torch.allclose(noisy - 0.5, 0.1 * noise, atol=1e-6)


def test_result_stays_in_range() -> None:
    noisy = changed(torch.rand(8, 1, 16, 16, generator=generator()), noise=0.5, brightness=0.5, contrast=0.5)
    assert noisy.min().item() == 0.0 and noisy.max().item() == 1.0


def test_follows_from_the_generator_alone() -> None:
    apply = Augmentation(settings(rotation=20, translation=0.1, scale=0.1, shear=5, horizontal_flip=0.5, noise=0.1, contrast=0.2))
    images = picture(16).expand(6, -1, -1, -1)
    torch.manual_seed(5)
    first = apply(images, generator())
    torch.manual_seed(6)
    assert torch.equal(first, apply(images, generator()))
    assert not torch.equal(first, apply(images, generator(2)))
    assert not torch.equal(first[0], first[1])


def test_leaves_its_input_alone() -> None:
    images = picture()
    before = images.clone()
    changed(images, rotation=30.0, noise=0.2, brightness=0.2)
    assert torch.equal(images, before)
