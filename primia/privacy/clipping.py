"""The sum of clipped gradients over units, exact on an integer grid.

**Guarantee.** Let M be the sum on some units and M' the sum on the same and one more. Then M' - M is a vector of integers of L2
norm at most clip / step, whatever the model's weights, its layers, the images and the labels are. For:

1. *A unit's gradient is a function of the unit alone.* It is computed in a batch of a fixed number of images, filled up where units
   are missing, since kernels choose their order of summation by the shape of a batch; within one shape those that are used treat
   images alike and apart, whatever their place: maps are contiguous, since GroupNorm's kernel for channels-last ones divides images
   between threads, and the last layer's product is taken row by row. :meth:`ClippedSum.check_places` compares bits, before private images
   are looked at. Networks that amplify rounding would else turn a unit more into another gradient for all the others.
2. *What is clipped is what is added.* The norm is that of the computed vector, whatever rounding, cancellation or overflow made of
   it. Its squares are exact in float64, where they neither overflow nor vanish, and their sum has a relative error below 2^-21 for up
   to 2^32 entries; ``SLACK`` covers it together with the roundings, 2^-53 each, of root, factor and product. A unit with an entry
   that is not finite adds nothing.
3. *Scaled entries are truncated towards zero* to whole steps, so none becomes larger.
4. *Adding is exact*: integers of at most 2^21 in float64, where sums stay below 2^53.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from primia.errors import ConfigError, PrivacyError
from primia.privacy.grid import SLACK, grid_step
from primia.privacy.kernels import add_steps, squared_norms
from primia.privacy.layers import Layer, layer_of

Losses = Callable[[Tensor, Tensor], Tensor]
"""From images and labels to a loss for each image, ``(n,)``."""


class ClippedSum:
    """Sums of clipped per-unit gradients of a model, in whole multiples of :attr:`step`.

    The model's layers must treat images apart from one another.

    Raises:
        ConfigError: a layer does not.
    """

    def __init__(self, model: nn.Module, losses: Losses, clip: float) -> None:
        self.step = grid_step(clip)
        self._model = model
        self._losses = losses
        self._clip = clip
        self._layers = _layers(model)
        for parameter in model.parameters():
            parameter.data = _contiguous(parameter.data)
        self._vectors = torch.empty(0, 0)
        self._places: dict[int, Tensor] = {}

    def zeros(self) -> Tensor:
        """Return a sum over no units, ``(d,)``: whole numbers in float64, in the order of the model's parameters."""
        parameters = list(self._model.parameters())
        return torch.zeros(sum(parameter.numel() for parameter in parameters), dtype=torch.float64, device=parameters[0].device)

    @torch.no_grad()
    def add_to(self, total: Tensor, images: Tensor, labels: Tensor, owner: Tensor, units: int) -> None:
        """Add the clipped gradients of ``units`` units to ``total`` ``(d,)``.

        ``owner`` ``(n,)`` gives each image its unit, from 0 to ``units - 1``; a unit's gradient is the mean over its images. Images
        of an owner beyond that fill the batch up and add nothing.
        """
        shares = torch.bincount(owner, minlength=units + 1).reciprocal()[owner] * (owner < units)
        vectors = self._image_gradients(images, labels, shares)
        if units < len(images):
            vectors = _summed_by_owner(vectors, owner, units)
        self.add_units(total, vectors)

    def check_places(self, images: Tensor, labels: Tensor) -> None:
        """Compare the gradients of ``images``, which are nobody's, bit for bit in other places and in other company.

        Raises:
            PrivacyError: they differ, so that with these kernels a unit more would change the rounding of others.
        """
        count, shares = len(images), torch.ones(len(images), device=images.device)
        here = self._image_gradients(images, labels, shares).clone()
        for shift in sorted({1, count // 2, count - 1} - {0}):
            there = self._image_gradients(images.roll(shift, 0), labels.roll(shift, 0), shares)
            if not torch.equal(here, there.roll(-shift, 0)):
                raise PrivacyError(
                    f"privacy: on {images.device} a unit's gradient depends on its place in a batch of {count} images, so the guarantee "
                    "would not hold; set resources.threads = 1, privacy.physical_batch = 1, or model.normalisation = weight"
                )

    @torch.no_grad()
    def add_units(self, total: Tensor, gradients: Tensor) -> None:
        """Clip each of ``gradients`` ``(m, d)``, one a unit, and add them to ``total``."""
        norms = squared_norms(gradients).sqrt()
        factors = (self._clip / (norms * (1 + SLACK))).clamp_max(1.0) / self.step
        add_steps(total, gradients, torch.where(norms.isfinite(), factors, 0.0))

    def _image_gradients(self, images: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
        """Return the gradient of each image's loss times its share, ``(n, d)``, in memory that the next call overwrites."""
        if len(self._vectors) != len(images):
            self._allocate(len(images), images.device)
        with torch.enable_grad(), _recorded(self._layers, self._places) as (written, first):
            loss = (self._losses(_contiguous(images), labels) * shares).sum()
            # By the first layers' outputs alone: gradients of parameters, summed over images before clipping, are not wanted.
            torch.autograd.grad(loss, first)
        if sorted(written) != list(range(len(self._layers))):  # else memory would hold what an earlier batch left there
            raise AssertionError("a layer was used twice or not at all, so its gradients are not those of its parameters")
        return self._vectors

    def _allocate(self, count: int, device: torch.device) -> None:
        """Make room for so many vectors, and find where in them each parameter's gradients are written, by its identity."""
        parameters = list(self._model.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        self._vectors = torch.empty(count, sum(sizes), device=device)
        parts = torch.split(self._vectors, sizes, 1)
        self._places = {id(parameter): part.view(count, *parameter.shape) for parameter, part in zip(parameters, parts, strict=True)}


def _contiguous(values: Tensor) -> Tensor:
    """Copy ``values``; ``contiguous()`` keeps the strides of one channel or pixel, which kernels take for channels-last."""
    return values.detach().clone(memory_format=torch.contiguous_format)


def _summed_by_owner(vectors: Tensor, owner: Tensor, units: int) -> Tensor:
    if bool((owner[:units] == torch.arange(units, device=owner.device)).all()) and bool((owner[units:] >= units).all()):
        return vectors[:units]
    kept = owner < units
    return torch.zeros(units, vectors.shape[1], device=vectors.device).index_add_(0, owner[kept], vectors[kept])


@contextmanager
def _recorded(layers: Sequence[Layer], places: Mapping[int, Tensor]) -> Iterator[tuple[list[int], list[GradientEdge]]]:
    """Write the gradients of each layer that a backward pass goes through to the places of its parameters.

    Yields the numbers of the layers that were written, in the pass's order, and the outputs with which the backward pass ends.
    A hook on the output tensor, unlike a module's backward hook, bears that the output is changed in place afterwards.
    """
    written: list[int] = []
    first: list[GradientEdge] = []

    def hook(number: int, layer: Layer) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        into = {name: places[id(parameter)] for name, parameter in layer.module.named_parameters(recurse=False)}

        def forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            a, output = inputs[0].detach(), layer.output(inputs[0], output)

            @torch.no_grad()
            def backward(g: Tensor) -> None:
                layer.write(a.float(), g.float(), into)
                written.append(number)

            if not inputs[0].requires_grad:
                first.append(get_gradient_edge(output))
            output.register_hook(backward)  # type: ignore[no-untyped-call]
            return output

        return forward

    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            stack.callback(layer.module.register_forward_hook(hook(number, layer)).remove)
        yield written, first


def _layers(model: nn.Module) -> list[Layer]:
    modules = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    try:
        return [layer_of(module) for module in modules]
    except KeyError as error:
        raise ConfigError(
            f"privacy.unit: {error.args[0].__name__} mixes the images of a batch, or has no gradient for each image; set "
            "model.normalisation = weight or group"
        ) from None
