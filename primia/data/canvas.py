"""The canvas that radiographs are drawn on: coordinates, soft edges and smooth noise."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
"""One value for every pixel of a square canvas."""


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
        placed: NDArray[np.float64] = points @ np.array([[cosine, sine], [-sine, cosine]]) + np.array(shift)
        return (placed + 1) / 2 * self.pixels


@lru_cache(maxsize=4)
def _unit_grid(pixels: int) -> tuple[Field, Field]:
    axis = ((np.arange(pixels, dtype=np.float32) + 0.5) / pixels * 2 - 1).astype(np.float32)
    return np.broadcast_to(axis, (pixels, pixels)), np.broadcast_to(axis[:, None], (pixels, pixels))


def step(distance: Field, softness: float) -> Field:
    """0 below zero, 1 above, with a border ``softness`` wide."""
    edge: Field = 0.5 + 0.5 * np.tanh(distance / softness)
    return edge


def bump(distance: Field, width: float) -> Field:
    """1 at zero, falling off on both sides over ``width``."""
    bell: Field = np.exp(-np.square(distance / width))
    return bell


@lru_cache(maxsize=32)
def _interpolation(pixels: int, cells: int) -> Field:
    centres = (np.arange(cells + 2, dtype=np.float32) - 0.5) / cells
    at = (np.arange(pixels, dtype=np.float32) + 0.5) / pixels
    weights = np.exp(-np.square((at[:, None] - centres) * cells / 0.75))
    basis: Field = (weights / np.sqrt(np.square(weights).sum(axis=1, keepdims=True))).astype(np.float32)
    return basis


def smooth_noise(rng: np.random.Generator, pixels: int, cells: int) -> Field:
    """Gaussian noise of unit variance that varies over ``cells`` cells across the canvas."""
    basis = _interpolation(pixels, cells)
    values = rng.standard_normal((cells + 2, cells + 2), dtype=np.float32)
    rows: Field = np.einsum("yi,ij->yj", basis, values)  # not @: BLAS threads would fight those that pack
    field: Field = np.einsum("yj,jx->yx", rows, np.ascontiguousarray(basis.T))
    return field
