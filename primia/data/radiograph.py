"""Draws one synthetic chest radiograph: anatomy, a finding, and the film that both are seen through.

Nothing here comes from a patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from primia.data.anatomy import Anatomy, Lungs, bones, lungs, soft_tissue, vessels
from primia.data.canvas import Field, Grid, bump, smooth_noise, step


@dataclass(frozen=True)
class Style:
    """How one site takes its pictures.

    ``noise`` is the standard deviation of a pixel, pixels being 0 to 1; ``blur`` is in 1/128 of the picture;
    ``marker`` is where the letter R stands, from the top and from the left, in fractions of the picture.
    """

    exposure: float
    contrast: float
    gamma: float
    noise: float
    blur: float
    field_of_view: float
    marker: tuple[float, float]


def consolidation(rng: np.random.Generator, grid: Grid, field: Lungs, severity: float) -> Field:
    """Bacterial: one dense opacity with a fuzzy border in one lobe (now and then two), bronchi showing through as dark streaks."""
    total = np.zeros_like(grid.u)
    free = np.flatnonzero((field.air > 0.9) & (field.heart < 0.1) & (field.wall > 0.08) & (grid.v > -0.62))
    for _ in range(1 + (rng.random() < 0.2)):
        centre = rng.choice(free)
        across, down = grid.u.flat[centre], grid.v.flat[centre]
        wide, high = rng.uniform(0.17, 0.30), rng.uniform(0.17, 0.34)
        warp = 0.22 * smooth_noise(rng, grid.pixels, 6) + 0.12 * smooth_noise(rng, grid.pixels, 14)
        radius = np.sqrt(np.square((grid.u - across) / wide) + np.square((grid.v - down) / high)) + warp
        total = np.maximum(total, step(1.0 - radius, 0.35))
    texture = 0.88 + 0.1 * smooth_noise(rng, grid.pixels, 18)
    dense: Field = severity * total * texture * (1.0 - 0.35 * vessels(rng, grid, 0.9)) * field.air
    return dense


def interstitial(rng: np.random.Generator, grid: Grid, field: Lungs, severity: float) -> Field:
    """Viral: thickened bronchial walls, a fine network and a haze about both hila, no focus."""
    net = np.zeros_like(grid.u)
    for cells in (17, 26):
        net += bump(smooth_noise(rng, grid.pixels, cells), 0.33)
    hila = bump(grid.side - 0.22, 0.30) * bump(grid.v - 0.02, 0.42)
    patchy = np.clip(0.8 + 0.25 * smooth_noise(rng, grid.pixels, 4), 0.3, 1.3)
    bronchi = vessels(rng, grid, 1.6)
    dense: Field = severity * field.air * (0.34 * net * (0.45 + 0.55 * hila) * patchy + 0.42 * bronchi + 0.22 * hila)
    return dense


LESIONS = {"bacterial": (consolidation, 0.75, 1.2), "viral": (interstitial, 0.55, 0.95)}
"""How each finding is drawn, and the range of its severity."""


def radiograph(anatomy: Anatomy, finding: str, style: Style, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """One picture ``(size, size)``, uint8, bright = dense, of a patient with the given finding.

    ``rng`` draws what differs between two pictures of one patient: pose, breath, the lesion's detail, film noise.
    """
    pixels = 2 * size if size <= 96 else size
    zoom = style.field_of_view * rng.uniform(0.95, 1.05)
    grid = Grid(pixels, rotation=rng.normal(0.0, 0.045), zoom=zoom, shift=(rng.normal(0.0, 0.04), rng.normal(0.02, 0.04)))
    field = lungs(grid, anatomy)
    dense = soft_tissue(grid, anatomy, field) + bones(grid, anatomy, field)
    dense += 0.20 * anatomy.markings * field.air * vessels(rng, grid, 0.8)
    if finding in LESIONS:
        lesion, mild, severe = LESIONS[finding]
        dense += (1.0 - 0.6 * field.heart) * lesion(rng, grid, field, rng.uniform(mild, severe))
    dense += 0.02 * smooth_noise(rng, pixels, 5)
    return _expose(dense, style, rng, size)


def _expose(dense: Field, style: Style, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    exposure = style.exposure * rng.uniform(0.9, 1.1)
    from scipy.ndimage import gaussian_filter  # here: it takes a while that runs on real images do not need

    light: Field = gaussian_filter(1.0 - np.exp(-exposure * np.maximum(dense, 0.0)), style.blur * len(dense) / 128)
    _stamp_letter(light, style.marker)
    factor = len(dense) // size
    small = light.reshape(size, factor, size, factor).mean(axis=(1, 3))
    small += style.noise * rng.standard_normal(small.shape, dtype=np.float32)
    film = 0.5 + style.contrast * (np.power(np.clip(small, 0.0, 1.0), style.gamma) - 0.5)
    grey: NDArray[np.uint8] = (np.clip(film, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
    return grey


def _stamp_letter(light: Field, place: tuple[float, float]) -> None:
    """The R that marks the patient's right side."""
    glyph = _glyph(max(6, len(light) // 16))
    top, left = (int(fraction * len(light)) for fraction in place)
    patch = light[top : top + glyph.shape[0], left : left + glyph.shape[1]]
    np.maximum(patch, 0.95 * glyph[: patch.shape[0], : patch.shape[1]], out=patch)


@lru_cache(maxsize=4)
def _glyph(height: int) -> Field:
    picture = Image.new("L", (height, height + 2))
    ImageDraw.Draw(picture).text((1, 0), "R", fill=255, font=ImageFont.load_default(height))
    glyph: Field = np.asarray(picture).astype(np.float32) / np.float32(255)
    return glyph
