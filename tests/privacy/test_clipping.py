"""Sums of clipped gradients against a loop over images, and against Opacus."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.nn import functional as F

from primia.errors import ConfigError
from primia.privacy.clipping import ClippedSum

MakeModel = Callable[..., nn.Module]
NETWORKS = [("convnet", "group", 16), ("convnet", "weight", 16), ("resnet18", "group", 32), ("resnet18", "weight", 32)]


def losses_of(model: nn.Module, smoothing: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda images, labels: F.cross_entropy(model(images), labels, reduction="none", label_smoothing=smoothing)


def batch(size: int, count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 1, size, size, generator=generator) * torch.linspace(0.2, 2.0, count)[:, None, None, None]
    return images.contiguous(memory_format=torch.channels_last), torch.randint(0, 3, (count,), generator=generator)


def unit_gradients(model: nn.Module, images: Tensor, labels: Tensor, owner: list[int]) -> list[list[Tensor]]:
    """The gradient of the mean loss of each unit's images."""
    gradients = []
    for unit in range(max(owner) + 1):
        own = [i for i, each in enumerate(owner) if each == unit]
        loss = losses_of(model)(images[own], labels[own]).mean()
        gradients.append(list(torch.autograd.grad(loss, list(model.parameters()))))
    return gradients


def norm(gradient: list[Tensor]) -> float:
    return float(torch.cat([value.double().flatten() for value in gradient]).norm())


def clipped_sum(gradients: list[list[Tensor]], clip: float) -> list[Tensor]:
    factors = [min(1.0, clip / norm(gradient)) for gradient in gradients]
    return [
        torch.stack([factor * value for factor, value in zip(factors, values, strict=True)]).sum(0)
        for values in zip(*gradients, strict=True)
    ]


def total(model: nn.Module, images: Tensor, labels: Tensor, owner: list[int], clip: float, clipping: str) -> list[Tensor]:
    totals = [torch.zeros_like(parameter) for parameter in model.parameters()]
    summed = ClippedSum(model, losses_of(model), clip, clipping)
    summed.add_to(totals, images, labels, torch.tensor(owner), max(owner) + 1)
    return totals


def close(ours: list[Tensor], expected: list[Tensor]) -> bool:
    """To a thousandth of the whole gradient's norm."""
    return norm([a - b for a, b in zip(ours, expected, strict=True)]) < 1e-3 * norm(expected)


@pytest.mark.parametrize("clipping", ["per-sample", "ghost"])
@pytest.mark.parametrize(("name", "normalisation", "size"), NETWORKS)
def test_equals_a_loop_over_images(name: str, normalisation: str, size: int, clipping: str, make_model: MakeModel) -> None:
    model, (images, labels) = make_model(name, normalisation, size), batch(size)
    gradients = unit_gradients(model, images, labels, list(range(6)))
    clip = sorted(norm(gradient) for gradient in gradients)[3]  # some are clipped, some not
    assert close(total(model, images, labels, list(range(6)), clip, clipping), clipped_sum(gradients, clip))


def test_a_units_views_are_averaged_then_clipped_once(make_model: MakeModel) -> None:
    model, (images, labels), owner = make_model(), batch(16), [0, 0, 0, 1, 2, 2]
    gradients = unit_gradients(model, images, labels, owner)
    clip = sorted(norm(gradient) for gradient in gradients)[1]
    assert close(total(model, images, labels, owner, clip, "auto"), clipped_sum(gradients, clip))


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_equals_opacus(make_model: MakeModel) -> None:
    """On contiguous maps and a network that it can wrap; with no noise its optimiser leaves the clipped sum."""
    model, (images, labels), clip = make_model(normalisation="group"), batch(16), 0.7
    ours = total(model, images, labels, list(range(6)), clip, "auto")
    wrapped = GradSampleModule(model.to(memory_format=torch.contiguous_format), loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), 0.0), noise_multiplier=0.0, max_grad_norm=clip, expected_batch_size=None, loss_reduction="sum"
    )
    losses_of(wrapped)(images.contiguous(), labels).sum().backward()
    optimizer.step()
    assert close(ours, [parameter.grad for parameter in wrapped.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("clipping", ["per-sample", "ghost"])
def test_one_unit_more_changes_the_sum_by_no_more_than_the_clip(clipping: str, make_model: MakeModel) -> None:
    model, (images, labels), clip = make_model(), batch(16), 0.01
    every = total(model, images, labels, list(range(6)), clip, clipping)
    fewer = total(model, images[:5], labels[:5], list(range(5)), clip, clipping)
    difference = norm([a - b for a, b in zip(every, fewer, strict=True)])
    assert 0.99 * clip < difference < 1.0001 * clip


def test_in_half_precision_too(make_model: MakeModel) -> None:
    model, (images, labels), clip = make_model(), batch(16), 0.01

    def losses(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(images)
        return F.cross_entropy(logits.float(), labels, reduction="none")

    for clipping in ("per-sample", "ghost"):
        totals = [torch.zeros_like(parameter) for parameter in model.parameters()]
        ClippedSum(model, losses, clip, clipping).add_to(totals, images[:1], labels[:1], torch.tensor([0]), 1)
        assert norm(totals) == pytest.approx(clip, rel=1e-3)


@pytest.mark.parametrize("clipping", ["per-sample", "ghost"])
def test_a_unit_whose_gradient_is_not_finite_adds_nothing(clipping: str, make_model: MakeModel) -> None:
    model, (images, labels) = make_model(), batch(16)
    spoilt = images.clone(memory_format=torch.preserve_format)
    spoilt[[1, 4]] = float("nan")
    good = [0, 2, 3, 5]
    expected = total(model, images[good], labels[good], list(range(4)), 1.0, clipping)
    assert close(total(model, spoilt, labels, list(range(6)), 1.0, clipping), expected)
    nothing = total(model, torch.full_like(images, float("inf")), labels, list(range(6)), 1.0, clipping)
    assert norm(nothing) == 0.0


def test_the_sum_has_the_parameters_memory_format_and_leaves_no_hook(make_model: MakeModel) -> None:
    model, (images, labels) = make_model(), batch(16)
    totals = total(model, images, labels, list(range(6)), 1.0, "auto")
    assert all(value.stride() == parameter.stride() for value, parameter in zip(totals, model.parameters(), strict=True))
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_batchnorm_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ConfigError, match=r"BatchNorm2d mixes the images .* set model\.normalisation = weight or group$"):
        ClippedSum(make_model(normalisation="batch"), lambda images, labels: images, 1.0, "auto")
