"""Anatomy of a made-up chest: how much each part of it weakens the beam, at every pixel.

Coordinates ``u`` (across) and ``v`` (down) run from -1 to 1 over the picture before the pose is
applied; the patient's right lung lies at negative ``u``, as on film. Attenuation has no unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from primia.data.canvas import Field, Grid, bump, step

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
    hilum = 0.05 * bump(v + 0.08, 0.2) + 0.05 * bump(v + 0.4, 0.09) * (u > 0) + 0.07 * bump(v - 0.22, 0.2) * (u < 0)
    medial = side - body.mediastinum - hilum
    air = step(wall, 0.02) * step(top, 0.03) * step(dome - v, 0.018) * step(medial, 0.03)
    return Lungs(air, wall, dome - v, _heart(grid, body), _half_width(grid, body))


def _half_width(grid: Grid, body: Anatomy) -> Field:
    """Of neck, shoulders and trunk."""
    slope = np.clip((grid.v + body.shoulder) / 0.42, 0.0, 1.0)
    width: Field = 0.26 + (body.chest + body.fat - 0.20 + 0.05 * grid.v) * np.square(slope) * (3.0 - 2.0 * slope)
    return width


def _heart(grid: Grid, body: Anatomy) -> Field:
    cosine, sine = math.cos(body.heart_tilt), math.sin(body.heart_tilt)
    across, along = grid.u - 0.14, grid.v - 0.2
    major, minor = cosine * along + sine * across, cosine * across - sine * along
    radius = np.sqrt(np.square(major / (body.heart * 1.25)) + np.square(minor / body.heart))
    return step(1.0 - radius, 0.1)


def soft_tissue(grid: Grid, body: Anatomy, field: Lungs) -> Field:
    """Attenuation of trunk, neck, mediastinum, heart and abdomen, less the air in the lungs."""
    u, v, side = grid.u, grid.v, grid.side
    trunk = np.clip(1.0 - np.square(side / field.half_width), 0.0, 1.0)
    thickness = 0.16 * step(field.half_width - side, 0.025) + 0.30 * np.sqrt(trunk) + 0.38 * trunk
    arm = 0.36 * np.sqrt(np.clip(1.0 - np.square((side - body.arm - 0.3 * v) / 0.17), 0.0, 1.0)) * step(v + 0.66, 0.12)
    middle = bump(u, 0.19) * (0.30 + 0.1 * v) + 0.14 * bump(u - 0.2, 0.08) * bump(v + 0.38, 0.1)
    air = field.air * (1.0 - 0.80 * field.heart) * np.sqrt(np.clip(field.wall / 0.32, 0.05, 1.0))
    abdomen = 0.16 * step(-field.diaphragm, 0.03)
    trachea = 0.14 * bump(u + 0.01, 0.05) * step(-0.22 - v, 0.06)
    gas = 0.62 * air + trachea + _stomach(grid, body)
    dense: Field = np.maximum(thickness, arm) + middle + 0.17 * field.heart + abdomen - gas
    return dense


def _stomach(grid: Grid, body: Anatomy) -> Field:
    """A gas bubble beneath the left dome, in about half of all patients."""
    if body.stomach < 0.5:
        return np.zeros_like(grid.u)
    radius = np.sqrt(np.square((grid.u - 0.36) / 0.2) + np.square((grid.v - body.diaphragm[1] - 0.2) / 0.11))
    return step(1.0 - radius, 0.12) * (0.5 * (body.stomach - 0.3))


def bones(grid: Grid, body: Anatomy, field: Lungs) -> Field:
    """Attenuation of spine, ribs, clavicles and shoulders."""
    v, side = grid.v, grid.side
    vertebra = 0.75 + 0.25 * np.cos(2 * math.pi * (v / 0.125 + body.rib_phase))
    spine = 0.13 * step(0.085 - side, 0.015) * vertebra + 0.05 * bump(side - 0.085, 0.014)
    cage = step(field.wall + 0.045, 0.01) * step(v - APEX, 0.06)
    square: Field = np.square(side)
    posterior = v + 0.10 * side - body.rib_slope * square - 0.3 * square * square
    anterior: Field = v - (0.25 + body.rib_slope) * (0.75 - side)
    ribs = 0.17 * _bands(posterior, body, 0.0, 1.9) + 0.07 * _bands(anterior, body, 0.4, 1.2) * step(side - 0.36, 0.06)
    edge = 0.12 * bump(field.wall + 0.015, 0.02) * (0.55 + 0.45 * _bands(posterior, body, 0.1, 1.0))
    fade = cage * step(side - 0.07, 0.02) * step(field.diaphragm + 0.25, 0.2)
    dense: Field = spine + body.rib_density * fade * (ribs + edge) + _girdle(grid, body, field)
    return dense


def _bands(level: Field, body: Anatomy, offset: float, sharpness: float) -> Field:
    """Evenly spaced bands with brighter rims, as of tubes of bone."""
    wave = np.cos(2 * math.pi * (level / body.rib_spacing + body.rib_phase + offset))
    band = np.exp(sharpness * (wave - 1.0) * 1.4)
    tubes: Field = band * (1.0 - 0.35 * np.square(np.maximum(wave, 0.0)) * band) * 1.25
    return tubes


def _girdle(grid: Grid, body: Anatomy, field: Lungs) -> Field:
    v, side = grid.v, grid.side
    line = body.clavicle - body.clavicle_slope * (side - 0.1) + 0.06 * np.sin(5.5 * (side - 0.1))
    tube = bump(v - line, 0.032) - 0.35 * bump(v - line, 0.015)
    clavicle = 0.27 * tube * step(side - 0.10, 0.02) * step(np.minimum(0.74, field.half_width - 0.03) - side, 0.03)
    humerus = 0.22 * step(0.09 - np.hypot(side - body.arm + 0.2, v + 0.66), 0.025)
    shaft = 0.15 * bump(side - body.arm - 0.3 * v, 0.05) * step(v + 0.64, 0.03)
    scapula = 0.07 * bump(side - 0.70 + 0.22 * (v + 0.5), 0.03) * step(v + 0.72, 0.05) * step(-0.15 - v, 0.05)
    dense: Field = clavicle + humerus + shaft + scapula
    return dense


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
    from scipy.ndimage import gaussian_filter  # here: it takes a while that runs on real images do not need

    tree: Field = gaussian_filter(np.asarray(picture.reduce(scale), dtype=np.float32) / 255, 0.006 * width * grid.pixels)
    return tree


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
