"""torchvision's ResNet-18 with a choice of channels, stem pooling and normalisation."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.models.resnet import BasicBlock

from primia.config.settings import ModelSettings
from primia.errors import ModelError
from primia.models.norm import StandardisedConv2d, convolution, norm_layer

_WEIGHTS = ResNet18_Weights.IMAGENET1K_V1


def build_resnet18(settings: ModelSettings, *, classes: int, channels: int) -> nn.Module:
    """ResNet-18 (He et al., CVPR 2016) from scratch; input ``(B, channels, H, W)`` with H, W >= 32."""
    model: nn.Module = resnet18(num_classes=classes, norm_layer=partial(norm_layer, settings.normalisation))
    if channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    if settings.pooling == "avg":
        model.maxpool = nn.AvgPool2d(3, stride=2, padding=1)
    if settings.normalisation == "weight":
        _standardise(model)
    return model


def _standardise(model: nn.Module) -> None:
    """Replace every convolution by one of standardised weights; each residual branch begins at zero, so that variance does not grow."""
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Conv2d):
                setattr(module, name, _standardised(layer))
    for module in model.modules():
        if isinstance(module, BasicBlock) and isinstance(module.conv2, StandardisedConv2d):
            nn.init.zeros_(module.conv2.gain)


def _standardised(layer: nn.Conv2d) -> nn.Conv2d:
    size, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    return convolution("weight", layer.in_channels, layer.out_channels, size, stride=stride, padding=padding)


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
