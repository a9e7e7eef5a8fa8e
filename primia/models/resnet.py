"""torchvision's ResNet-18 with a choice of channels, stem pooling and normalisation."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

from primia.config.settings import ModelSettings
from primia.errors import ModelError
from primia.models.norm import norm_layer

_WEIGHTS = ResNet18_Weights.IMAGENET1K_V1


def build_resnet18(settings: ModelSettings, *, classes: int, channels: int) -> nn.Module:
    """ResNet-18 (He et al., CVPR 2016) from scratch; input ``(B, channels, H, W)`` with H, W >= 32."""
    model: nn.Module = resnet18(num_classes=classes, norm_layer=partial(norm_layer, settings.normalisation))
    if channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    if settings.pooling == "avg":
        model.maxpool = nn.AvgPool2d(3, stride=2, padding=1)
    return model


def imagenet_state() -> dict[str, Tensor]:
    """ImageNet weights by torchvision, downloaded into torch's cache at the first call; ModelError where that is not possible."""
    try:
        state: dict[str, Tensor] = _WEIGHTS.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"model.pretrained = imagenet: {_WEIGHTS.url} cannot be downloaded ({error}); "
            "fetch it elsewhere and give the file: model.pretrained = FILE"
        ) from None
    return state
