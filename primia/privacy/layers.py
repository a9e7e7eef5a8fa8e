"""How much each unit adds to a layer's gradient, and the weighted sum over units, from what the layer saw and what came back.

Shapes: n images, m units, O output channels, p weights a channel, L positions of the map. A convolution's gradient for one image is
G = g a^T, with its input a as columns ``(n, p, L)`` and its output's gradient g as rows ``(n, O, L)``. Where G is small it is made
and held. Where it is large, its norm is had from the Gram matrix a^T a without it ("ghost norm": Goodfellow, 2015; which of the two
is cheaper, layer by layer: Bu et al., NeurIPS 2022), and the weighted sum over images from the saved a and g, with no second
backward pass ("book-keeping": Bu et al., ICML 2023). Opacus has neither for convolutions, and its sampler for them misreads
channels-last maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from primia.models.norm import _RELU_GAIN, _SMALLEST_VARIANCE, StandardisedConv2d

_ROUNDING = 1e-6
"""What a difference of float32 squares can be too small by, relative to the first: norms are never understated."""


@dataclass(frozen=True, eq=False)
class Views:
    """The unit ``owner`` ``(n,)`` of each image."""

    owner: Tensor
    units: int

    def add_up(self, values: Tensor) -> Tensor:
        """Sums ``(m, ...)`` over each unit's images of ``values`` ``(n, ...)``."""
        return torch.zeros(self.units, *values.shape[1:], device=values.device).index_add_(0, self.owner, values)


class Layer:
    """A layer of the network and how its gradients are had; made by :func:`layer_of`."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def is_small(self, a: Tensor, g: Tensor) -> bool:
        """Whether making each image's gradient is cheaper than doing without."""
        raise NotImplementedError

    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        """Each image's gradient ``(n, *shape)`` of each parameter."""
        raise NotImplementedError

    def squares(self, a: Tensor, g: Tensor) -> Tensor:
        """Each image's squared gradient norm ``(n,)`` over all parameters, without the gradients."""
        raise NotImplementedError

    def total(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        """The sum over images of each parameter's gradient, without the gradients of each."""
        raise NotImplementedError


class Trace(Protocol):
    """What a layer adds to the gradients of a batch."""

    @property
    def layer(self) -> Layer:
        """The layer."""
        ...

    def squares(self) -> Tensor:
        """Each image's squared norm ``(n,)``."""
        ...

    def unit_squares(self, views: Views) -> Tensor:
        """Each unit's squared norm ``(m,)`` of the sum of its images' gradients."""
        ...

    def total(self, factors: Tensor) -> dict[str, Tensor]:
        """The sum over images of each parameter's gradient times ``factors`` ``(n,)``."""
        ...


@dataclass(frozen=True, eq=False)
class HeldGradients:
    """Each image's gradient of each parameter."""

    layer: Layer
    gradients: Mapping[str, Tensor]

    def squares(self) -> Tensor:
        return _squares(self.gradients)

    def unit_squares(self, views: Views) -> Tensor:
        return _squares({name: views.add_up(value) for name, value in self.gradients.items()})

    def total(self, factors: Tensor) -> dict[str, Tensor]:
        return {name: torch.tensordot(factors, value, 1) for name, value in self.gradients.items()}


@dataclass(frozen=True, eq=False)
class SavedMaps:
    """A layer's input and its output's gradient, from which gradients follow."""

    layer: Layer
    a: Tensor
    g: Tensor

    def squares(self) -> Tensor:
        return self.layer.squares(self.a, self.g)

    def unit_squares(self, views: Views) -> Tensor:
        return HeldGradients(self.layer, self.layer.gradients(self.a, self.g)).unit_squares(views)

    def total(self, factors: Tensor) -> dict[str, Tensor]:
        return self.layer.total(self.a, self.g * factors.view(-1, *[1] * (self.g.dim() - 1)))


def trace(layer: Layer, a: Tensor, g: Tensor) -> Trace:
    """The trace of a layer that saw ``a`` and to whose output ``g`` came back, both ``(n, ...)`` and float32."""
    return HeldGradients(layer, layer.gradients(a, g)) if layer.is_small(a, g) else SavedMaps(layer, a, g)


class LinearLayer(Layer):
    """``nn.Linear`` on vectors."""

    def is_small(self, a: Tensor, g: Tensor) -> bool:
        return False

    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        return {"weight": g[:, :, None] * a[:, None, :], "bias": g}

    def squares(self, a: Tensor, g: Tensor) -> Tensor:
        """|g a^T|^2 = |g|^2 |a|^2."""
        return g.square().sum(1) * (a.square().sum(1) + 1)

    def total(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        return {"weight": g.T @ a, "bias": g.sum(0)}


class GroupNormLayer(Layer):
    """``nn.GroupNorm``, whose scale and shift are one number a channel."""

    module: nn.GroupNorm

    def is_small(self, a: Tensor, g: Tensor) -> bool:
        return True

    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        normal = F.group_norm(a, self.module.num_groups, eps=self.module.eps)
        return {"weight": (normal * g).sum((2, 3)), "bias": g.sum((2, 3))}


class ConvolutionLayer(Layer):
    """``nn.Conv2d`` of one group, zero padding and no dilation."""

    module: nn.Conv2d

    def is_small(self, a: Tensor, g: Tensor) -> bool:
        """By multiplications: L p O for g a^T, L (p + O) L for the Gram matrix and its use."""
        size, channels = self.module.weight[0].numel(), len(self.module.weight)
        return g.shape[2] * g.shape[3] * (size + channels) >= size * channels

    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        rows = g.flatten(2)
        weight = torch.bmm(rows, self._columns(a).transpose(1, 2)).view(len(a), *self.module.weight.shape)
        return {"weight": weight, **self._bias(g.sum((2, 3)))}

    def squares(self, a: Tensor, g: Tensor) -> Tensor:
        columns, rows = self._columns(a), g.flatten(2)
        return _channel_squares(columns, rows).sum(1) + self._bias_squares(rows)

    def total(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        module = self.module
        # Not in TF32, a GPU's default for convolutions: norms are of float32 gradients, and so the clipped sum must be.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            weight = conv2d_weight(a, module.weight.shape, g, module.stride, module.padding)  # type: ignore[no-untyped-call]
        return {"weight": weight, **self._bias(g.sum((0, 2, 3)))}

    def _columns(self, a: Tensor) -> Tensor:
        size, padding, stride = self.module.kernel_size, self.module.padding, self.module.stride
        columns: Tensor = F.unfold(a.contiguous(), size, padding=padding, stride=stride)  # type: ignore[arg-type]
        return columns

    def _bias(self, value: Tensor) -> dict[str, Tensor]:
        return {} if self.module.bias is None else {"bias": value}

    def _bias_squares(self, rows: Tensor) -> Tensor | float:
        return 0.0 if self.module.bias is None else rows.sum(2).square().sum(1)


class StandardisedLayer(ConvolutionLayer):
    """:class:`StandardisedConv2d`: the gradient G of the effective weight, taken back to weight and gain.

    For each channel the effective weight is c (w - mean w) s with s = 1 / |w - mean w| and the channel's scale c. With the unit
    vectors e along (1, ..., 1) and u along w - mean w, the gradient of w is c s (G - e<e, G> - u<u, G>), that of the scale is <u, G>.
    Below the smallest variance s is constant, and the last term falls away.
    """

    module: StandardisedConv2d

    def gradients(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        plain = super().gradients(a, g)
        return plain | self._pull_back(plain["weight"])

    def squares(self, a: Tensor, g: Tensor) -> Tensor:
        columns, rows = self._columns(a), g.flatten(2)
        direction, scale, free = self._geometry()
        size = columns.shape[1]
        squares = _channel_squares(columns, rows)
        along_ones = torch.bmm(rows, columns.sum(1)[:, :, None]).squeeze(2).square() / size
        along_weight = (torch.matmul(direction.flatten(1), columns) * rows).sum(2).square()
        weight = (squares - along_ones - free * along_weight).clamp_min(0) + _ROUNDING * squares
        both: Tensor = weight * scale.square() + along_weight * _RELU_GAIN**2
        return both.sum(1) + self._bias_squares(rows)

    def total(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        plain = super().total(a, g)
        return plain | {name: value.squeeze(0) for name, value in self._pull_back(plain["weight"][None]).items()}

    def _pull_back(self, effective: Tensor) -> dict[str, Tensor]:
        """Gradients ``(n, ...)`` of weight and gain from those of the effective weight."""
        direction, scale, free = self._geometry()
        along = (effective * direction).sum((2, 3, 4))
        back = effective - effective.mean((2, 3, 4), keepdim=True) - (free * along)[:, :, None, None, None] * direction
        return {"weight": back * scale[:, None, None, None], "gain": (along * _RELU_GAIN)[:, :, None, None, None]}

    @torch.no_grad()
    def _geometry(self) -> tuple[Tensor, Tensor, Tensor]:
        """For each channel the direction u of its weights, the factor ``(O,)`` of weight gradients, and 0 where s is constant, else 1."""
        centred = self.module.weight - self.module.weight.mean((1, 2, 3), keepdim=True)
        square = centred.square().sum((1, 2, 3))
        inverse = square.clamp_min(_SMALLEST_VARIANCE).rsqrt()
        free = (square > _SMALLEST_VARIANCE).float()
        return centred * inverse[:, None, None, None], inverse * self.module.gain.flatten() * _RELU_GAIN, free


_KINDS: Mapping[type[nn.Module], type[Layer]] = {
    nn.Linear: LinearLayer,
    nn.GroupNorm: GroupNormLayer,
    nn.Conv2d: ConvolutionLayer,
    StandardisedConv2d: StandardisedLayer,
}


def layer_of(module: nn.Module) -> Layer:
    """The layer's kind; KeyError for one whose gradients cannot be had image by image, such as BatchNorm."""
    return _KINDS[type(module)](module)


def _channel_squares(columns: Tensor, rows: Tensor) -> Tensor:
    """Squared norms ``(n, O)`` of the rows of g a^T, through a^T a."""
    gram = torch.bmm(columns.transpose(1, 2), columns)
    return (torch.bmm(rows, gram) * rows).sum(2).clamp_min(0)


def _squares(gradients: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([value.flatten(1).square().sum(1) for value in gradients.values()]).sum(0)
