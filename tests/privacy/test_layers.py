"""Each kind of layer against automatic differentiation, image by image."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from primia.models.norm import StandardisedConv2d
from primia.privacy.layers import HeldGradients, Layer, SavedMaps, Trace, Views, layer_of, trace

MAKERS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "linear": lambda: (nn.Linear(7, 5), (7,)),
    "group norm": lambda: (nn.GroupNorm(4, 8), (8, 5, 5)),
    "convolution": lambda: (nn.Conv2d(3, 4, 3, padding=1), (3, 9, 9)),
    "strided convolution without bias": lambda: (nn.Conv2d(2, 6, 7, stride=2, padding=3, bias=False), (2, 13, 13)),
    "convolution of a small map": lambda: (nn.Conv2d(16, 32, 3, padding=1), (16, 2, 2)),
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


def norm_squares(gradients: list[dict[str, Tensor]]) -> Tensor:
    return torch.stack([sum(value.square().sum() for value in each.values()) for each in gradients])  # type: ignore[misc]


def test_gradients_are_those_of_each_image(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    module, a, g = case
    with torch.no_grad():
        gradients = layer_of(module).gradients(a, g)
    for name, _ in module.named_parameters():
        expected = torch.stack([each[name] for each in truth(module, a, g)])
        torch.testing.assert_close(gradients[name], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def traces(module: nn.Module, a: Tensor, g: Tensor) -> list[Trace]:
    """The trace that is chosen, and where there is a choice the other one."""
    layer = layer_of(module)
    chosen = trace(layer, a, g)
    other = SavedMaps(layer, a, g) if isinstance(chosen, HeldGradients) else HeldGradients(layer, layer.gradients(a, g))
    return [chosen] if type(layer).squares is Layer.squares else [chosen, other]


@torch.no_grad()
def test_squared_norms(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    module, a, g = case
    with torch.enable_grad():
        expected = norm_squares(truth(module, a, g))
    for each in traces(module, a, g):
        torch.testing.assert_close(each.squares(), expected, rtol=1e-4, atol=0)


@torch.no_grad()
def test_the_total_is_the_weighted_sum_over_images(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    module, a, g = case
    factors = torch.linspace(0, 1, len(a))
    with torch.enable_grad():
        gradients = truth(module, a, g)
    for each in traces(module, a, g):
        total = each.total(factors)
        assert set(total) == {name for name, _ in module.named_parameters()}
        for name, value in total.items():
            expected = torch.tensordot(factors, torch.stack([each[name] for each in gradients]), 1)
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_a_units_norm_is_that_of_its_images_sum(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    module, a, g = case
    owner = [0, 0, 1, 2, 2, 2]
    with torch.enable_grad():
        each = truth(module, a, g)
    sums = [{name: torch.stack([each[i][name] for i in range(6) if owner[i] == unit]).sum(0) for name in each[0]} for unit in range(3)]
    for made in traces(module, a, g):
        torch.testing.assert_close(made.unit_squares(Views(torch.tensor(owner), 3)), norm_squares(sums), rtol=1e-4, atol=0)


def test_small_gradients_are_held_and_large_ones_are_not() -> None:
    """A large map of few channels, and a small map of many."""
    early, late = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(64, 128, 3, padding=1)
    assert isinstance(trace(layer_of(early), torch.ones(1, 1, 32, 32), torch.ones(1, 16, 32, 32)), HeldGradients)
    assert isinstance(trace(layer_of(late), torch.ones(1, 64, 4, 4), torch.ones(1, 128, 4, 4)), SavedMaps)


def test_norms_are_not_understated_where_differences_cancel() -> None:
    """All-constant maps: nearly the whole effective gradient lies along what standardising takes away."""
    torch.manual_seed(0)
    layer = StandardisedConv2d(4, 3, 1, bias=False)
    with torch.no_grad():
        layer.gain.fill_(0.0)
        layer.gain[0] = 1.0
        a = torch.ones(2, 4, 3, 3) + 1e-5 * torch.randn(2, 4, 3, 3)
        g = torch.randn(2, 3, 3, 3)
        squares = layer_of(layer).squares(a, g)
    exact = norm_squares(truth(layer.double(), a.double(), g.double()))
    assert (squares >= exact * (1 - 1e-4)).all()


def test_layers_that_mix_images_are_unknown() -> None:
    with pytest.raises(KeyError):
        layer_of(nn.BatchNorm2d(3))
