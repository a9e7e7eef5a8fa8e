from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from primia.audits.inversion import Effort, Observation, Victim, angle, inferred_label, invert, picture_sides, total_variation
from primia.audits.similarity import similarity
from primia.config.settings import ModelSettings
from primia.data.statistics import Normalisation
from primia.models.registry import build_model

SIDE = 16


def victim(normalisation: str = "weight", pooling: str = "avg", label_smoothing: float = 0.0) -> Victim:
    settings = ModelSettings(pooling=pooling, normalisation=normalisation)
    return Victim(build_model(settings, classes=3, channels=1, image_size=SIDE, seed=1), Normalisation((0.5,), (0.25,)), label_smoothing)


def picture(seed: int = 1) -> torch.Tensor:
    blobs = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(blobs, size=(SIDE, SIDE), mode="bilinear")


def observe(attacked: Victim, image: torch.Tensor, label: int = 1) -> Observation:
    return attacked.observe(image, torch.tensor([label])).detached()


def attack(attacked: Victim, seen: Observation, seed: int = 1, **effort: float) -> torch.Tensor:
    labels = torch.tensor([inferred_label(seen)])
    return invert(attacked, seen, labels, (1, SIDE, SIDE), Effort(**{"iterations": 160, **effort}), torch.Generator().manual_seed(seed))


def test_an_image_comes_back_from_its_gradient_and_not_from_noise():
    attacked, original = victim(), picture()
    seen = observe(attacked, original)
    noise = Observation(tuple(torch.randn(part.shape, generator=torch.Generator().manual_seed(5)) for part in seen.gradient))
    assert similarity(attack(attacked, seen), original).ssim > 0.7
    assert similarity(attack(attacked, noise), original).ssim < 0.3


def test_the_attack_follows_from_the_generator():
    attacked = victim()
    seen = observe(attacked, picture())
    first, again, other = (attack(attacked, seen, seed, iterations=6) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.min() >= 0.0 and first.max() <= 1.0


def test_of_several_starts_the_one_that_fits_best_is_taken():
    attacked = victim()
    seen = observe(attacked, picture())

    def fit(restarts: int, seed: int) -> float:
        found = attack(attacked, seen, seed, iterations=12, restarts=restarts)
        return float(angle(observe(attacked, found).gradient, seen.gradient))

    assert fit(4, 1) < fit(1, 1)


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("normalisation", ["batch", "group", "weight"])
def test_the_label_is_read_off_the_last_layer(label, label_smoothing, normalisation):
    assert inferred_label(observe(victim(normalisation, label_smoothing=label_smoothing), picture(), label)) == label


def test_batchnorms_moments_are_seen_and_no_hook_is_left_behind():
    attacked = victim("batch")
    image = picture()
    seen = observe(attacked, image)
    first = attacked.model.features[0]((image - 0.5) / 0.25).detach()
    assert len(seen.moments) == 4
    assert torch.allclose(seen.moments[0][1], first.mean(dim=(0, 2, 3)), atol=1e-6)
    assert torch.allclose(seen.moments[0][0], first.var(dim=(0, 2, 3), correction=0), atol=1e-6)
    assert not any(layer._forward_pre_hooks for layer in attacked.model.modules())
    assert observe(victim("group"), image).moments is None


def test_the_moments_bring_back_the_contrast_that_batchnorm_takes_out_of_the_gradient():
    attacked, original = victim("batch"), (picture() - 0.5) * 0.4 + 0.3
    seen = observe(attacked, original)
    told, untold = (attack(attacked, Observation(seen.gradient, moments)) for moments in (seen.moments, None))
    assert abs(told.mean() - original.mean()) < 0.5 * abs(untold.mean() - original.mean())


def test_the_angle_does_not_depend_on_lengths():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    assert float(angle([a, b], [3 * a, 3 * b])) == pytest.approx(0.0, abs=1e-6)
    assert float(angle([a, a], [b, b])) == pytest.approx(1.0)
    assert float(angle([a, b], [-a, -b])) == pytest.approx(2.0)


def test_total_variation_is_the_mean_step_between_neighbours():
    steps = torch.arange(4.0).view(1, 1, 1, 4).repeat(1, 1, 4, 1)
    assert float(total_variation(steps)) == 1.0


@pytest.mark.parametrize("side, sides", [(8, [8]), (16, [8, 16]), (28, [14, 28]), (64, [16, 32, 64])])
def test_the_picture_grows_from_no_less_than_eight_pixels(side, sides):
    assert picture_sides(side) == sides
