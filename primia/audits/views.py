"""What who receives the updates sees of one image's step, under each protection."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from primia.audits.inversion import Observation

_RING_BITS = 32


def masked(gradient: Sequence[Tensor], *, largest: float, parties: int) -> Observation:
    """One site's message under secure aggregation: fixed-point numbers modulo 2^32 plus a mask, read as the sum would be.

    The mask is uniform and from the operating system, as the sites' own are to anyone who lacks their keys. So what comes out is
    uniform as well, whatever went in.
    """
    flat = torch.cat([part.flatten() for part in gradient]).double().numpy()
    scale = 2.0 ** (_RING_BITS - 1) / (largest * parties)
    ring = np.round(np.clip(flat, -largest, largest) * scale).astype(np.int64).astype(np.uint32)
    mask = np.frombuffer(os.urandom(ring.nbytes), dtype=np.uint32)
    decoded = (ring + mask).view(np.int32) / scale
    return Observation(_like(torch.from_numpy(decoded).float(), gradient))


def mean_of(gradients: Sequence[Sequence[Tensor]]) -> Observation:
    """What secure aggregation does show: the mean over sites, each having made its step on one image."""
    return Observation(tuple(torch.stack(parts).mean(dim=0) for parts in zip(*gradients, strict=True)))


def noised(gradient: Sequence[Tensor], *, clip: float, noise_multiplier: float, generator: torch.Generator) -> Observation:
    """One step of DP-SGD (Abadi et al., CCS 2016, algorithm 1) on one image: clipped to L2 norm ``clip``, plus Gaussian noise."""
    norm = torch.sqrt(sum((part.square().sum() for part in gradient), start=torch.zeros(())))
    factor = (clip / norm).clamp(max=1.0)
    deviation = noise_multiplier * clip
    return Observation(tuple(part * factor + deviation * torch.randn(part.shape, generator=generator) for part in gradient))


def _like(flat: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    pieces = torch.split(flat, [part.numel() for part in parts])
    return tuple(piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True))
