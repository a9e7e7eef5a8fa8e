"""Random changes of a training batch, drawn for each image anew, computed for the whole batch at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from primia.config.settings import AugmentationSettings

ANGLE, SCALE, SHEAR, FLIP_X, FLIP_Y, SHIFT_X, SHIFT_Y, CONTRAST, BRIGHTNESS, NOISE, DRAWS = range(11)
"""Columns of the uniform draws, and their number. All are drawn whatever is switched on: one setting does not change another's draws."""


class Augmentation:
    """Affine change and flips by one bilinear resampling, then contrast, brightness and noise."""

    def __init__(self, settings: AugmentationSettings):
        self._settings = s = settings
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
            images = move(images, self._settings, draws)
        if self._settings.noise:
            noise = torch.randn(images.shape, generator=generator, device=generator.device).to(images.device)
            return recolour(images, self._settings, draws, noise)
        return recolour(images, self._settings, draws) if self._recolours else images


def move(images: Tensor, settings: AugmentationSettings, draws: Tensor) -> Tensor:
    """Rotate, shear, scale, flip and shift about the centre, by uniform ``draws`` ``(B, DRAWS)``, of which 0.5 is no change."""
    shift = 2.0 * settings.translation * _spread(draws[:, [SHIFT_X, SHIFT_Y]])
    backward = _inverse(_linear_part(settings, draws))  # grid_sample asks where each output pixel comes from
    affine = torch.cat((backward, -(backward @ shift[:, :, None])), dim=2)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False).to(images.dtype)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def recolour(images: Tensor, settings: AugmentationSettings, draws: Tensor, noise: Tensor | None = None) -> Tensor:
    """Change contrast about each image's mean, then brightness, then add ``noise`` of unit variance, scaled; clamped to 0..1."""
    factor = 1.0 + settings.contrast * _spread(draws[:, CONTRAST])
    offset = settings.brightness * _spread(draws[:, BRIGHTNESS])
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = middle + _each(factor) * (images - middle) + _each(offset)
    if noise is not None:
        images = images + _each(settings.noise * draws[:, NOISE]) * noise
    return images.clamp(0.0, 1.0)


def _linear_part(settings: AugmentationSettings, draws: Tensor) -> Tensor:
    """Matrices ``(B, 2, 2)`` of rotation · shear · scale · flips in (x, y), y pointing down: positive angles turn clockwise."""
    angle = math.radians(settings.rotation) * _spread(draws[:, ANGLE])
    shear = torch.tan(math.radians(settings.shear) * _spread(draws[:, SHEAR]))
    scale = 1.0 + settings.scale * _spread(draws[:, SCALE])
    flip_x = torch.where(draws[:, FLIP_X] < settings.horizontal_flip, -scale, scale)
    flip_y = torch.where(draws[:, FLIP_Y] < settings.vertical_flip, -scale, scale)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    return _matrix(cosine, -sine, sine, cosine) @ _matrix(one, shear, zero, one) @ _matrix(flip_x, zero, zero, flip_y)


def _inverse(matrices: Tensor) -> Tensor:
    """Of ``(B, 2, 2)``; ``torch.linalg.inv`` cannot be called first by several threads on a GPU (pytorch/pytorch#90613)."""
    a, b, c, d = matrices.flatten(1).unbind(1)
    return _matrix(d, -b, -c, a) / (a * d - b * c)[:, None, None]


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack((torch.stack((a, b), dim=1), torch.stack((c, d), dim=1)), dim=1)


def _spread(draws: Tensor) -> Tensor:
    return 2.0 * draws - 1.0


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]
