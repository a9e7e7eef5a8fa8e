"""Random changes of a training batch, drawn for each image anew, computed for the whole batch at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from primia.config.settings import AugmentationSettings

DRAWS = 11
"""Uniform numbers an image uses up, whatever is switched on: one augmentation does not change another's draws."""


class Augmentation:
    """Affine change and flips by one bilinear resampling, then contrast, brightness and noise."""

    def __init__(self, settings: AugmentationSettings):
        self._settings = settings
        s = settings
        self._moves = any((s.rotation, s.translation, s.scale, s.shear, s.horizontal_flip, s.vertical_flip))
        self._recolours = any((s.noise, s.brightness, s.contrast))

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changed copies of square ``images``, float ``(B, C, S, S)`` in 0..1; what lies outside repeats the border.

        The result, again in 0..1, follows from ``images``, the settings and the state of ``generator``.
        """
        if not (self._moves or self._recolours):
            return images
        draws = torch.rand(len(images), DRAWS, generator=generator, device=generator.device).to(images.device)
        if self._moves:
            images = self._move(images, draws[:, :8])
        if self._recolours:
            images = self._recolour(images, draws[:, 8:], generator)
        return images

    def _move(self, images: Tensor, draws: Tensor) -> Tensor:
        forward = linear_part(self._settings, draws)
        shift = 2.0 * self._settings.translation * (2.0 * draws[:, 6:8] - 1.0)
        backward = torch.linalg.inv(forward)  # grid_sample asks where each output pixel comes from
        origin = -(backward @ shift[:, :, None])
        grid = functional.affine_grid(torch.cat((backward, origin), dim=2), list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="border", align_corners=False)

    def _recolour(self, images: Tensor, draws: Tensor, generator: torch.Generator) -> Tensor:
        s = self._settings
        contrast, brightness = 1.0 + s.contrast * (2.0 * draws[:, 0] - 1.0), s.brightness * (2.0 * draws[:, 1] - 1.0)
        middle = images.mean(dim=(1, 2, 3), keepdim=True)
        images = middle + _each(contrast) * (images - middle) + _each(brightness)
        if s.noise:
            noise = torch.randn(images.shape, generator=generator, device=generator.device).to(images.device)
            images = images + _each(s.noise * draws[:, 2]) * noise
        return images.clamp(0.0, 1.0)


def linear_part(settings: AugmentationSettings, draws: Tensor) -> Tensor:
    """Matrices ``(B, 2, 2)`` of rotation · shear · scale · flips in (x, y) coordinates, from uniform ``draws`` ``(B, >= 6)``.

    Positive angles turn the picture clockwise, y pointing down.
    """
    spread = 2.0 * draws - 1.0
    angle = math.radians(settings.rotation) * spread[:, 0]
    scale = 1.0 + settings.scale * spread[:, 1]
    shear = torch.tan(math.radians(settings.shear) * spread[:, 2])
    flip_x = torch.where(draws[:, 3] < settings.horizontal_flip, -scale, scale)
    flip_y = torch.where(draws[:, 4] < settings.vertical_flip, -scale, scale)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rotation = _matrix(cosine, -sine, sine, cosine)
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    return rotation @ _matrix(one, shear, zero, one) @ _matrix(flip_x, zero, zero, flip_y)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack((torch.stack((a, b), dim=1), torch.stack((c, d), dim=1)), dim=1)


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]
