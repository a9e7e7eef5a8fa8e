"""The gradient of each image's loss by each parameter of a layer, from what the layer saw and what came back.

Shapes: n images, O output channels, p weights a channel, L positions of the map. A convolution's gradient for one image is
G = g a^T, with its input a as columns ``(n, p, L)`` and its output's gradient g as rows ``(n, O, L)``. How exact G is has no part in
the guarantee: what is clipped is the vector that was computed, whatever it is (:mod:`primia.privacy.clipping`). That is why norms
do not come from Gram matrices without G ("ghost norms": Goodfellow, 2015): they can cancel, and the sum over images that goes with
them is rounded as one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from primia.models.norm import _RELU_GAIN, _SMALLEST_VARIANCE, StandardisedConv2d

Places = Mapping[str, Tensor]
"""Where the gradients of a layer's parameters are written, by name: ``(n, *shape)`` each."""


class Layer:
    """A layer of the network and its gradients; made by :func:`layer_of`."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def output(self, a: Tensor, output: Tensor) -> Tensor:
        """Return what the layer hands on: its ``output``, or the same computed for each image apart from the others."""
        return output

    def write(self, a: Tensor, g: Tensor, into: Places) -> None:
        """Write each image's gradient, from input ``a`` and output's gradient ``g``, both ``(n, ...)`` and float32."""
        raise NotImplementedError


class LinearLayer(Layer):
    """``nn.Linear`` on vectors.

    A product of matrices rounds the rows at an edge of its blocks in another way than those inside: products with each row do not.
    """

    module: nn.Linear

    def output(self, a: Tensor, output: Tensor) -> Tensor:
        product = (a.float()[:, None, :] * self.module.weight).sum(2)
        bias: Tensor | None = self.module.bias
        return product if bias is None else product + bias

    def write(self, a: Tensor, g: Tensor, into: Places) -> None:
        torch.mul(g[:, :, None], a[:, None, :], out=into["weight"])
        if "bias" in into:
            into["bias"].copy_(g)


class GroupNormLayer(Layer):
    """``nn.GroupNorm``, whose scale and shift are one number a channel."""

    module: nn.GroupNorm

    def write(self, a: Tensor, g: Tensor, into: Places) -> None:
        normal = F.group_norm(a.contiguous(), self.module.num_groups, eps=self.module.eps)
        into["weight"].copy_(normal.mul_(g).sum((2, 3)))
        into["bias"].copy_(g.sum((2, 3)))


class ConvolutionLayer(Layer):
    """``nn.Conv2d`` of one group, zero padding and no dilation."""

    module: nn.Conv2d

    def write(self, a: Tensor, g: Tensor, into: Places) -> None:
        # Measured: on a processor, where maps are large and channels few, twice as fast.
        if a.device.type == "cpu" and g.shape[2:].numel() >= a.shape[1]:
            into["weight"].copy_(self._by_groups(a, g).view_as(into["weight"]))
        else:
            torch.bmm(g.flatten(2), self._columns(a).transpose(1, 2), out=into["weight"].flatten(2))
        if "bias" in into:
            into["bias"].copy_(g.sum((2, 3)))

    def _by_groups(self, a: Tensor, g: Tensor) -> Tensor:
        """Take the n images for the n groups of one convolution, whose weight then has each image's gradient."""
        shape = [len(a) * self.module.out_channels, *self.module.weight.shape[1:]]
        maps, gradients = a.flatten(0, 1)[None], g.flatten(0, 1)[None]
        weights: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
            maps, shape, gradients, self.module.stride, self.module.padding, groups=len(a)
        )
        return weights

    def _columns(self, a: Tensor) -> Tensor:
        size, padding, stride = self.module.kernel_size, self.module.padding, self.module.stride
        if size == stride == (1, 1) and padding == (0, 0):
            return a.flatten(2)
        columns: Tensor = F.unfold(a.contiguous(), size, padding=padding, stride=stride)  # type: ignore[arg-type]
        return columns


class StandardisedLayer(ConvolutionLayer):
    """:class:`StandardisedConv2d`: the gradient G of the effective weight, taken back to weight and gain.

    For each channel the effective weight is c (w - mean w) s with s = 1 / |w - mean w| and the channel's scale c. With the unit
    vectors e along (1, ..., 1) and u along w - mean w, the gradient of w is c s (G - e<e, G> - u<u, G>), that of the scale is <u, G>.
    Below the smallest variance s is constant, and the last term falls away.
    """

    module: StandardisedConv2d

    def write(self, a: Tensor, g: Tensor, into: Places) -> None:
        super().write(a, g, into)
        effective = into["weight"]
        direction, scale, free = self._geometry()
        along = (effective * direction).sum((2, 3, 4))
        into["gain"].copy_((along * _RELU_GAIN)[:, :, None, None, None])
        effective.sub_(effective.mean((2, 3, 4), keepdim=True))
        effective.sub_((free * along)[:, :, None, None, None] * direction)
        effective.mul_(scale[:, None, None, None])

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
    """Return the layer's kind; KeyError for one without a gradient for each image, such as BatchNorm."""
    return _KINDS[type(module)](module)
