"""Models by name."""

from __future__ import annotations

import torch
from torch import nn

from primia.config.settings import RESNET_SMALLEST_INPUT, ModelSettings
from primia.errors import ModelError
from primia.models.convnet import ConvNet
from primia.models.pretrained import load_pretrained


def build_model(settings: ModelSettings, *, classes: int, channels: int, image_size: int, seed: int) -> nn.Module:
    """The model that the settings name, initialised from ``seed`` and then from ``settings.pretrained``.

    Torch's global generator is left as it was.

    Raises:
        ModelError: the images are too small for the model, or the pretrained weights cannot be used.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = _initialised(settings, classes, channels, image_size)
    if settings.pretrained != "no":
        load_pretrained(model, settings.pretrained)
    return model


def _initialised(settings: ModelSettings, classes: int, channels: int, image_size: int) -> nn.Module:
    if settings.name == "convnet":
        return ConvNet(settings, classes=classes, channels=channels, image_size=image_size)
    if image_size < RESNET_SMALLEST_INPUT:
        raise ModelError(f"resnet18 needs images of at least {RESNET_SMALLEST_INPUT} pixels, not {image_size}; set model.name = convnet")
    from primia.models.resnet import build_resnet18  # here: torchvision takes a second that convnet does not need

    return build_resnet18(settings, classes=classes, channels=channels)
