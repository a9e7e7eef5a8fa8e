"""Draws one synthetic chest radiograph: an attenuation map of simple anatomy, seen through a film.

Nothing here comes from a patient. Coordinates ``u`` (across) and ``v`` (down) run from -1 to 1 over
the picture before the pose is applied; the patient's right lung lies at negative ``u``, as on film.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

Field = NDArray[np.float32]

APEX, BASE = -0.80, 0.80
"""``v`` of the top of the lungs and of the deepest costophrenic angle."""


@dataclass(frozen=True)
class Anatomy:
    """What stays the same over the images of one patient; lengths in units of half a picture."""

    chest: float
    heart: float
    heart_tilt: float
    mediastinum: float
    diaphragm: tuple[float, float]
    dome: float
    rib_spacing: float
    rib_phase: float
    rib_slope: float
    rib_density: float
    clavicle: float
    clavicle_slope: float
    shoulder: float
    fat: float
    stomach: float
    arm: float
    markings: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Anatomy:
        """Anatomy of a random patient."""
        right = rng.normal(0.40, 0.05)
        return cls(
            chest=rng.uniform(0.68, 0.84),
            heart=rng.uniform(0.23, 0.34),
            heart_tilt=rng.uniform(0.3, 0.8),
            mediastinum=rng.uniform(0.11, 0.16),
            diaphragm=(right, right + rng.uniform(0.0, 0.09)),
            dome=rng.uniform(0.7, 1.5),
            rib_spacing=rng.uniform(0.135, 0.165),
            rib_phase=rng.uniform(0.0, 1.0),
            rib_slope=rng.uniform(0.15, 0.55),
            rib_density=rng.uniform(0.7, 1.3),
            clavicle=rng.uniform(-0.76, -0.60),
            clavicle_slope=rng.uniform(-0.02, 0.16),
            shoulder=rng.uniform(0.98, 1.15),
            fat=rng.uniform(0.05, 0.14),
            stomach=rng.uniform(0.0, 1.0),
            arm=rng.uniform(1.02, 1.2),
            markings=rng.uniform(0.4, 0.9),
        )


@dataclass(frozen=True)
class Style:
    """How one site takes its pictures."""

    exposure: float
    contrast: float
    gamma: float
    noise: float
    blur: float
    field_of_view: float
    marker: tuple[float, float]


class Grid:
    """Anatomical coordinates of every pixel of a square canvas under one pose."""

    def __init__(self, pixels: int, *, rotation: float, zoom: float, shift: tuple[float, float]):
        x, y = _unit_grid(pixels)
        cosine, sine = math.cos(rotation) / zoom, math.sin(rotation) / zoom
        x, y = x - shift[0], y - shift[1]
        self.pixels = pixels
        self.u: Field = cosine * x + sine * y
        self.v: Field = cosine * y - sine * x
        self.side: Field = np.abs(self.u)
        self._pose = (rotation, zoom, shift)

    def to_pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Columns and rows ``(k, 2)`` of anatomical points ``(k, 2)``."""
        rotation, zoom, shift = self._pose
        cosine, sine = zoom * math.cos(rotation), zoom * math.sin(rotation)
        turned = points @ np.array([[cosine, sine], [-sine, cosine]]) + np.array(shift)
        return (turned + 1) / 2 * self.pixels


@lru_cache(maxsize=4)
def _unit_grid(pixels: int) -> tuple[Field, Field]:
    axis = ((np.arange(pixels, dtype=np.float32) + 0.5) / pixels * 2 - 1).astype(np.float32)
    return np.broadcast_to(axis, (pixels, pixels)), np.broadcast_to(axis[:, None], (pixels, pixels))


def _step(distance: Field, softness: float) -> Field:
    """0 below zero, 1 above, with a border ``softness`` wide."""
    return 0.5 + 0.5 * np.tanh(distance / softness)


def _bump(distance: Field | float, width: float) -> Field:
    return np.exp(-np.square(distance / width))


@lru_cache(maxsize=32)
def _interpolation(pixels: int, cells: int) -> Field:
    centres = (np.arange(cells + 2, dtype=np.float32) - 0.5) / cells
    at = (np.arange(pixels, dtype=np.float32) + 0.5) / pixels
    weights = np.exp(-np.square((at[:, None] - centres) * cells / 0.75))
    return (weights / np.sqrt(np.square(weights).sum(axis=1, keepdims=True))).astype(np.float32)


def smooth_noise(rng: np.random.Generator, pixels: int, cells: int) -> Field:
    """Gaussian noise of unit variance that varies over ``cells`` cells across the canvas."""
    basis = _interpolation(pixels, cells)
    return basis @ rng.standard_normal((cells + 2, cells + 2), dtype=np.float32) @ basis.T


@dataclass(frozen=True)
class Lungs:
    """The two lung fields: where there is air, how deep it is, and the borders it ends at."""

    air: Field
    wall: Field
    diaphragm: Field
    heart: Field
    half_width: Field


def lungs(grid: Grid, body: Anatomy) -> Lungs:
    """Lung fields between the chest wall, the mediastinum, the heart and the diaphragm."""
    u, v, side = grid.u, grid.v, grid.side
    depth = np.clip((v - APEX) / (BASE - APEX), 0.0, 1.0)
    wall = body.chest * np.power(1.0 - np.power(1.0 - depth, 2.3), 0.62) - side
    top = v - APEX - 1.6 * np.square(np.minimum(side - 0.36, 0.0))
    level = np.where(u < 0, np.float32(body.diaphragm[0]), np.float32(body.diaphragm[1]))
    dome = level + body.dome * np.square(side - 0.3) + 1.8 * np.square(np.maximum(side - 0.48, 0.0))
    hilum = 0.05 * _bump(v + 0.08, 0.2) + 0.05 * _bump(v + 0.4, 0.09) * (u > 0) + 0.07 * _bump(v - 0.22, 0.2) * (u < 0)
    medial = side - body.mediastinum - hilum
    air = _step(wall, 0.02) * _step(top, 0.03) * _step(dome - v, 0.018) * _step(medial, 0.03)
    return Lungs(air, wall, dome - v, _heart(grid, body), _half_width(grid, body))


def _half_width(grid: Grid, body: Anatomy) -> Field:
    """Of neck, shoulders and trunk."""
    slope = np.clip((grid.v + body.shoulder) / 0.42, 0.0, 1.0)
    return 0.26 + (body.chest + body.fat - 0.20 + 0.05 * grid.v) * np.square(slope) * (3.0 - 2.0 * slope)


def _heart(grid: Grid, body: Anatomy) -> Field:
    cosine, sine = math.cos(body.heart_tilt), math.sin(body.heart_tilt)
    across, along = grid.u - 0.14, grid.v - 0.2
    major, minor = cosine * along + sine * across, cosine * across - sine * along
    radius = np.sqrt(np.square(major / (body.heart * 1.25)) + np.square(minor / body.heart))
    return _step(1.0 - radius, 0.1)


def soft_tissue(grid: Grid, body: Anatomy, field: Lungs) -> Field:
    """Attenuation of trunk, neck, mediastinum, heart and abdomen, less the air in the lungs."""
    u, v, side = grid.u, grid.v, grid.side
    trunk = np.clip(1.0 - np.square(side / field.half_width), 0.0, 1.0)
    thickness = 0.16 * _step(field.half_width - side, 0.025) + 0.30 * np.sqrt(trunk) + 0.38 * trunk
    arm = 0.36 * np.sqrt(np.clip(1.0 - np.square((side - body.arm - 0.3 * v) / 0.17), 0.0, 1.0)) * _step(v + 0.66, 0.12)
    middle = _bump(u, 0.19) * (0.30 + 0.1 * v) + 0.14 * _bump(u - 0.2, 0.08) * _bump(v + 0.38, 0.1)
    air = field.air * (1.0 - 0.80 * field.heart) * np.sqrt(np.clip(field.wall / 0.32, 0.05, 1.0))
    abdomen = 0.16 * _step(-field.diaphragm, 0.03)
    trachea = 0.14 * _bump(u + 0.01, 0.05) * _step(-0.22 - v, 0.06)
    return np.maximum(thickness, arm) + middle + 0.17 * field.heart + abdomen - 0.62 * air - trachea - _stomach(grid, body)


def _stomach(grid: Grid, body: Anatomy) -> Field | float:
    """A gas bubble beneath the left dome, in about half of all patients."""
    if body.stomach < 0.5:
        return 0.0
    radius = np.sqrt(np.square((grid.u - 0.36) / 0.2) + np.square((grid.v - body.diaphragm[1] - 0.2) / 0.11))
    return 0.5 * (body.stomach - 0.3) * _step(1.0 - radius, 0.12)


def bones(grid: Grid, body: Anatomy, field: Lungs) -> Field:
    """Attenuation of spine, ribs, clavicles and shoulders."""
    u, v, side = grid.u, grid.v, grid.side
    vertebra = 0.75 + 0.25 * np.cos(2 * math.pi * (v / 0.125 + body.rib_phase))
    spine = 0.13 * _step(0.085 - side, 0.015) * vertebra + 0.05 * _bump(side - 0.085, 0.014)
    cage = _step(field.wall + 0.045, 0.01) * _step(v - APEX, 0.06)
    posterior = v + 0.10 * side - body.rib_slope * np.square(side) - 0.3 * np.square(np.square(side))
    anterior = v - (0.25 + body.rib_slope) * (0.75 - side)
    ribs = 0.17 * _bands(posterior, body, 0.0, 1.9) + 0.07 * _bands(anterior, body, 0.4, 1.2) * _step(side - 0.36, 0.06)
    edge = 0.12 * _bump(field.wall + 0.015, 0.02) * (0.55 + 0.45 * _bands(posterior, body, 0.1, 1.0))
    fade = cage * _step(side - 0.07, 0.02) * _step(field.diaphragm + 0.25, 0.2)
    return spine + body.rib_density * fade * (ribs + edge) + _girdle(grid, body, field)


def _bands(level: Field, body: Anatomy, offset: float, sharpness: float) -> Field:
    """Evenly spaced bands with brighter rims, as of tubes of bone."""
    wave = np.cos(2 * math.pi * (level / body.rib_spacing + body.rib_phase + offset))
    band = np.exp(sharpness * (wave - 1.0) * 1.4)
    return band * (1.0 - 0.35 * np.square(np.maximum(wave, 0.0)) * band) * 1.25


def _girdle(grid: Grid, body: Anatomy, field: Lungs) -> Field:
    v, side = grid.v, grid.side
    line = body.clavicle - body.clavicle_slope * (side - 0.1) + 0.06 * np.sin(5.5 * (side - 0.1))
    tube = _bump(v - line, 0.032) - 0.35 * _bump(v - line, 0.015)
    clavicle = 0.27 * tube * _step(side - 0.10, 0.02) * _step(np.minimum(0.74, field.half_width - 0.03) - side, 0.03)
    humerus = 0.22 * _step(0.09 - np.hypot(side - body.arm + 0.2, v + 0.66), 0.025)
    shaft = 0.15 * _bump(side - body.arm - 0.3 * v, 0.05) * _step(v + 0.64, 0.03)
    scapula = 0.07 * _bump(side - 0.70 + 0.22 * (v + 0.5), 0.03) * _step(v + 0.72, 0.05) * _step(-0.15 - v, 0.05)
    return clavicle + humerus + shaft + scapula


def vessels(rng: np.random.Generator, grid: Grid, width: float) -> Field:
    """Branching vessels and bronchi from both hila outwards; ``width`` scales the calibre."""
    scale = 2
    picture = Image.new("L", (grid.pixels * scale, grid.pixels * scale))
    pen = ImageDraw.Draw(picture)
    for side in (-1.0, 1.0):
        for generation, forks in enumerate(_forks(rng, side)):
            calibre = max(1, round(width * 0.011 * 0.72**generation * grid.pixels * scale))
            corners = scale * grid.to_pixels(forks.reshape(-1, 2))
            for fork in corners.reshape(len(forks), -1).tolist():
                pen.line(fork, fill=int(230 * 0.8**generation), width=calibre)
    return gaussian_filter(np.asarray(picture.reduce(scale), dtype=np.float32) / 255, 0.006 * width * grid.pixels)


def _forks(rng: np.random.Generator, side: float) -> Iterator[NDArray[np.float64]]:
    """Each generation of one lung's tree as forks ``(k, 3, 2)``: end, common start, other end."""
    angles = np.repeat(np.linspace(-1.35, 1.35, 4), 2) + np.tile((-0.2, 0.2), 4) + rng.normal(0.0, 0.12, 8)
    points = np.stack((np.full(4, side * 0.17), rng.normal(0.0, 0.07, 4)), axis=1)
    lengths = rng.uniform(0.13, 0.2, 8)
    for _ in range(4):
        starts = np.repeat(points, 2, axis=0)
        ends = starts + lengths[:, None] * np.stack((side * np.cos(angles), np.sin(angles)), axis=1)
        yield np.stack((ends[::2], points, ends[1::2]), axis=1)
        points = ends
        lengths = np.repeat(lengths, 2) * rng.uniform(0.65, 0.95, 2 * len(points))
        angles = np.repeat(angles, 2) + rng.normal(0.0, 0.42, 2 * len(points))


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
        total = np.maximum(total, _step(1.0 - radius, 0.35))
    texture = 0.88 + 0.1 * smooth_noise(rng, grid.pixels, 18)
    return severity * total * texture * (1.0 - 0.35 * vessels(rng, grid, 0.9)) * field.air


def interstitial(rng: np.random.Generator, grid: Grid, field: Lungs, severity: float) -> Field:
    """Viral: thickened bronchial walls, a fine network and a haze about both hila, no focus."""
    net = np.zeros_like(grid.u)
    for cells in (17, 26):
        net += _bump(smooth_noise(rng, grid.pixels, cells), 0.33)
    hila = _bump(grid.side - 0.22, 0.30) * _bump(grid.v - 0.02, 0.42)
    patchy = np.clip(0.8 + 0.25 * smooth_noise(rng, grid.pixels, 4), 0.3, 1.3)
    bronchi = vessels(rng, grid, 1.6)
    return severity * field.air * (0.34 * net * (0.45 + 0.55 * hila) * patchy + 0.42 * bronchi + 0.22 * hila)


LESIONS = {"bacterial": (consolidation, 0.55, 1.05), "viral": (interstitial, 0.45, 0.9)}
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
    pixels = len(dense)
    light = 1.0 - np.exp(-style.exposure * rng.uniform(0.9, 1.1) * np.maximum(dense, 0.0))
    light = gaussian_filter(light, style.blur * pixels / 128)
    light = _letter(light, style.marker)
    light += style.noise * rng.standard_normal(light.shape, dtype=np.float32)
    small = light.reshape(size, pixels // size, size, pixels // size).mean(axis=(1, 3))
    small = 0.5 + style.contrast * (np.power(np.clip(small, 0.0, 1.0), style.gamma) - 0.5)
    return (np.clip(small, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)


def _letter(light: Field, place: tuple[float, float]) -> Field:
    glyph = _glyph(max(6, len(light) // 16))
    top, left = (int(fraction * len(light)) for fraction in place)
    patch = light[top : top + glyph.shape[0], left : left + glyph.shape[1]]
    np.maximum(patch, 0.95 * glyph[: patch.shape[0], : patch.shape[1]], out=patch)
    return light


@lru_cache(maxsize=4)
def _glyph(height: int) -> Field:
    picture = Image.new("L", (height, height + 2))
    ImageDraw.Draw(picture).text((1, 0), "R", fill=255, font=ImageFont.load_default(height))
    return np.asarray(picture, dtype=np.float32) / 255
