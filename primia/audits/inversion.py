"""Gradient inversion: the picture whose gradient is the one that was seen.

Geiping, Bauermeister, Dröge, Moeller, "Inverting Gradients", NeurIPS 2020, section 4: the angle between the picture's gradient
and the one seen is made small, together with the total variation, by Adam on the signs of the derivatives. Two changes make it
work on the small network with max pooling as well. The picture grows from a quarter of its side to the whole, so that it
is roughly right before details can go astray. And the logarithm of the angle is what is made small, so that one weight of the total
variation suits all stages. Where a layer's batch statistics are sent along, they must fit too (Yin et al., "See through
Gradients", CVPR 2021, equation 10).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from primia.data.statistics import Normalisation
from primia.training.images import normalise_

Moments = list[tuple[Tensor, Tensor]]
"""Variance and mean of the input of each BatchNorm layer, ``(channels,)`` each."""

_SCALES = (4, 2, 1)
_SMALLEST_SIDE = 8
_FIRST_RATE = 0.1
_LATER_RATE = 0.04
_END = 0.02
_START_DEVIATION = 0.1
_SMALLEST_VARIANCE = 1e-3
_SMALLEST_ANGLE = 1e-9


@dataclass(frozen=True)
class Observation:
    """What is known of one optimisation step: its gradient in the order of the model's parameters, and BatchNorm's moments where sent."""

    gradient: tuple[Tensor, ...]
    moments: Moments | None = None

    def detached(self) -> Observation:
        """The same numbers, apart from the graph that made them."""
        moments = [(variance.detach(), mean.detach()) for variance, mean in self.moments] if self.moments else None
        return Observation(tuple(part.detach() for part in self.gradient), moments)


@dataclass(frozen=True)
class Effort:
    """How hard is tried: iterations over all sizes of the picture, starts of which the best is taken, and the priors' weights."""

    iterations: int = 500
    restarts: int = 1
    total_variation: float = 3.0
    moments: float = 1.0


@dataclass(frozen=True, eq=False)
class Victim:
    """The network at the start of the step, and the loss as the site computes it; all this is known to who sends the model."""

    model: nn.Module
    normalisation: Normalisation
    label_smoothing: float = 0.0

    def observe(self, images: Tensor, labels: Tensor, *, differentiable: bool = False) -> Observation:
        """The gradient of the mean loss of ``images`` (k, C, H, W), values 0 to 1, and BatchNorm's moments."""
        moments: Moments = []
        handles = _watch(self.model.train(), moments)
        try:
            logits = self.model(normalise_(images.clone(), self.normalisation))
        finally:
            for handle in handles:
                handle.remove()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return Observation(torch.autograd.grad(loss, list(self.model.parameters()), create_graph=differentiable), moments or None)


def inferred_label(observation: Observation) -> int:
    """The one image's class: the last layer's bias has gradient p - y, which is negative for that class alone.

    Zhao, Mopuri, Bilen, "iDLG", 2020, section 3, by the bias instead of the weights.
    """
    return int(observation.gradient[-1].argmin())


def invert(victim: Victim, seen: Observation, labels: Tensor, shape: tuple[int, ...], effort: Effort, generator: torch.Generator) -> Tensor:
    """Pictures ``(k, *shape)``, values 0 to 1, of these classes, whose mean gradient points where the one seen does."""
    size = (len(labels), *shape)
    tries = [_one_start(victim, seen, labels, size, effort, generator) for _ in range(max(1, effort.restarts))]
    return min(tries, key=lambda found: found[1])[0]


def _one_start(
    victim: Victim, seen: Observation, labels: Tensor, size: tuple[int, ...], effort: Effort, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Pictures from one random start, and the objective that they reach."""
    sides = picture_sides(size[-1])
    pictures = 0.5 + _START_DEVIATION * torch.randn(*size[:-2], sides[0], sides[0], generator=generator)

    def objective(small: Tensor) -> Tensor:
        whole = _resized(small, size[-1])
        tried = victim.observe(whole, labels, differentiable=True)
        fit = angle(tried.gradient, seen.gradient) + effort.moments * _moment_gap(tried.moments, seen.moments)
        return torch.log(fit + _SMALLEST_ANGLE) + effort.total_variation * total_variation(whole)

    for number, side in enumerate(sides):
        rate = _LATER_RATE if number else _FIRST_RATE
        pictures, reached = _descend(objective, _resized(pictures, side), effort.iterations // len(sides), rate)
    return pictures, reached


def picture_sides(side: int) -> list[int]:
    """The sides that the picture grows through."""
    return [side // scale for scale in _SCALES if side // scale >= min(side, _SMALLEST_SIDE)]


def _descend(objective: Callable[[Tensor], Tensor], pictures: Tensor, iterations: int, rate: float) -> tuple[Tensor, float]:
    """Signed Adam within the values that a picture can have; the rate falls as half a cosine."""
    pictures = pictures.clone().requires_grad_()
    optimizer = torch.optim.Adam([pictures], lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations, eta_min=rate * _END)
    value = 0.0
    for _ in range(iterations):
        loss = objective(pictures)
        pictures.grad = torch.autograd.grad(loss, pictures)[0].sign_()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            pictures.clamp_(0.0, 1.0)
        value = loss.item()
    return pictures.detach(), value


def angle(tried: Sequence[Tensor], seen: Sequence[Tensor]) -> Tensor:
    """One minus the cosine of the angle between two gradients, as vectors over all layers: 0 to 2."""
    product = sum(((a * b).sum() for a, b in zip(tried, seen, strict=True)), start=torch.zeros(()))
    lengths = [sum(((a * a).sum() for a in gradient), start=torch.zeros(())) for gradient in (tried, seen)]
    return 1.0 - product / (lengths[0] * lengths[1]).sqrt()


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, down plus across."""
    return (images[..., 1:, :] - images[..., :-1, :]).abs().mean() + (images[..., 1:] - images[..., :-1]).abs().mean()


def _moment_gap(tried: Moments | None, seen: Moments | None) -> Tensor:
    """How far BatchNorm's moments are from those seen, in shares of the variance; 0 where there are none."""
    gap = torch.zeros(())
    for (variance, mean), (variance_seen, mean_seen) in zip(tried or (), seen or (), strict=bool(seen)):
        scale = variance_seen + _SMALLEST_VARIANCE
        gap = gap + ((variance + _SMALLEST_VARIANCE) / scale).log().square().mean() + ((mean - mean_seen).square() / scale).mean()
    return gap


def _watch(model: nn.Module, moments: Moments) -> list[RemovableHandle]:
    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        moments.append(torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0))

    return [layer.register_forward_pre_hook(note) for layer in model.modules() if isinstance(layer, _BatchNorm)]


def _resized(images: Tensor, side: int) -> Tensor:
    return images if images.shape[-1] == side else F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
