"""Normalisation layers by name."""

from __future__ import annotations

from torch import nn

_GROUPS = 32


def norm_layer(kind: str, channels: int) -> nn.Module:
    """``batch``: BatchNorm; ``group``: GroupNorm with min(32, channels) groups, which keeps no statistics."""
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(min(_GROUPS, channels), channels)
