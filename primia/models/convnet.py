"""A small network for any input size: stages of convolution, normalisation, pooling and ReLU."""

from __future__ import annotations

from torch import Tensor, nn

from primia.config.settings import ModelSettings
from primia.models.norm import convolution, norm_layer

_WIDTHS = (16, 32, 64, 128)
_SMALLEST_MAP = 4


class ConvNet(nn.Module):
    """3x3 stages of 16, 32, 64 and 128 channels, each halving the map while 4 pixels remain; then the map's mean and a linear layer.

    ReLU comes after pooling: with maxima the function is the same, and encrypted inference compares a
    quarter of the values.
    """

    def __init__(self, settings: ModelSettings, *, classes: int, channels: int, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        size = image_size
        for width in _WIDTHS:
            layers += [convolution(settings.normalisation, channels, width, 3, padding=1), norm_layer(settings.normalisation, width)]
            if size >= 2 * _SMALLEST_MAP:
                layers.append(nn.MaxPool2d(2) if settings.pooling == "max" else nn.AvgPool2d(2))
                size //= 2
            layers.append(nn.ReLU())
            channels = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        logits: Tensor = self.head(self.pool(self.features(images)).flatten(1))
        return logits
