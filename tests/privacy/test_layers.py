"""Each kind of layer against automatic differentiation, image by image."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from primia.models.norm import StandardisedConv2d
from primia.privacy.layers import layer_of

MAKERS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "linear": lambda: (nn.Linear(7, 5), (7,)),
    "linear without bias": lambda: (nn.Linear(7, 5, bias=False), (7,)),
    "group norm": lambda: (nn.GroupNorm(4, 8), (8, 5, 5)),
    "convolution": lambda: (nn.Conv2d(3, 4, 3, padding=1), (3, 9, 9)),
    "strided convolution without bias": lambda: (nn.Conv2d(2, 6, 7, stride=2, padding=3, bias=False), (2, 13, 13)),
    "convolution of a small map": lambda: (nn.Conv2d(16, 32, 3, padding=1), (16, 2, 2)),
    "pointwise convolution": lambda: (nn.Conv2d(5, 6, 1), (5, 4, 4)),
    "strided pointwise convolution": lambda: (nn.Conv2d(5, 6, 1, stride=2, bias=False), (5, 5, 5)),
    "standardised": lambda: (StandardisedConv2d(3, 4, 3, padding=1), (3, 9, 9)),
    "standardised, small map": lambda: (StandardisedConv2d(16, 32, 3, stride=2, padding=1, bias=False), (16, 4, 4)),
    "standardised, little variance": lambda: (flattened(StandardisedConv2d(3, 4, 3)), (3, 6, 6)),
}


def flattened(layer: StandardisedConv2d) -> StandardisedConv2d:
    with torch.no_grad():
        layer.weight[:2] *= 1e-3
    return layer


@pytest.fixture(params=list(MAKERS))
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    module, shape = MAKERS[request.param]()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape) * parameter.abs())
    a = torch.randn(6, *shape).relu()
    g = torch.randn_like(module(a))
    if a.dim() == 4:
        a, g = a.contiguous(memory_format=torch.channels_last), g.contiguous(memory_format=torch.channels_last)
    return module, a, g


def truth(module: nn.Module, a: Tensor, g: Tensor) -> list[dict[str, Tensor]]:
    names, parameters = zip(*module.named_parameters(), strict=True)
    return [dict(zip(names, torch.autograd.grad(module(a[i : i + 1]), parameters, g[i : i + 1]), strict=True)) for i in range(len(a))]


def test_gradients_are_those_of_each_image(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    """Written into parts of one matrix, a row an image, as clipping wants them."""
    module, a, g = case
    sizes = [parameter.numel() for parameter in module.parameters()]
    parts = torch.full((len(a), sum(sizes)), torch.nan).split(sizes, 1)
    into = {name: part.unflatten(1, parameter.shape) for part, (name, parameter) in zip(parts, module.named_parameters(), strict=True)}
    with torch.no_grad():
        layer_of(module).write(a, g, into)
    for name, _ in module.named_parameters():
        expected = torch.stack([each[name] for each in truth(module, a, g)])
        torch.testing.assert_close(into[name], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_layers_that_mix_images_are_unknown() -> None:
    with pytest.raises(KeyError):
        layer_of(nn.BatchNorm2d(3))
