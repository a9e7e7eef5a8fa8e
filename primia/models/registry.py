"""Models by name."""

from __future__ import annotations

import torch
from torch import nn

from primia.config.settings import ModelSettings
from primia.models.convnet import ConvNet
from primia.models.resnet import build_resnet18


def build_model(settings: ModelSettings, *, classes: int, channels: int, image_size: int, seed: int) -> nn.Module:
    """The model that the settings name, initialised from ``seed`` without disturbing torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.name == "resnet18":
            return build_resnet18(settings, classes=classes, channels=channels)
        return ConvNet(settings, classes=classes, channels=channels, image_size=image_size)
