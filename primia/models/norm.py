"""Normalisation by name: of activations by a layer of its own, or of weights inside the convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_GROUPS = 32
_SMALLEST_VARIANCE = 1e-4
_RELU_GAIN = (2 / (1 - 1 / torch.pi)) ** 0.5


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose weights are standardised for each output channel, times a learnt gain.

    Scaled weight standardisation (Brock, De, Smith, ICLR 2021, equation 1): the output of a ReLU network keeps its variance
    without any statistic of the images. So it needs no batch, suits differential privacy, and under encryption is a convolution like any.
    """

    def __init__(self, *arguments: int, **options: int | bool) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def effective_weight(self) -> Tensor:
        """The weights that it convolves with."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        scale = (variance * self.weight[0].numel()).clamp_min(_SMALLEST_VARIANCE).rsqrt()
        standardised: Tensor = (self.weight - mean) * scale * (self.gain * _RELU_GAIN)
        return standardised

    def forward(self, images: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, O, H, W)."""
        return F.conv2d(images, self.effective_weight(), self.bias, self.stride, self.padding, self.dilation, self.groups)


def norm_layer(kind: str, channels: int) -> nn.Module:
    """``batch``: BatchNorm; ``group``: GroupNorm with min(32, channels) groups, which keeps no statistics; ``weight``: nothing."""
    if kind == "weight":
        return nn.Identity()
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(min(_GROUPS, channels), channels)


def convolution(kind: str, channels: int, width: int, size: int, *, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    """The convolution that goes before :func:`norm_layer` of that kind; it has a bias where no layer follows."""
    layer = StandardisedConv2d if kind == "weight" else nn.Conv2d
    return layer(channels, width, size, stride=stride, padding=padding, bias=kind == "weight")
