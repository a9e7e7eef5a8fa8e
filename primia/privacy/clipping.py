"""The sum of clipped gradients over units: one backward pass, no gradient of a single unit held longer than its layer needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from primia.errors import ConfigError
from primia.privacy.layers import Layer, Trace, Views, layer_of, trace

Losses = Callable[[Tensor, Tensor], Tensor]
"""From images and labels to a loss for each image, ``(n,)``."""

_SMALLEST_NORM = 1e-6


class ClippedSum:
    """Sums of clipped per-unit gradients of a model.

    Guarantee: what one unit adds has L2 norm at most ``clip``, over all parameters together, whatever its images hold; one whose
    gradient is not finite adds nothing. The model's layers must treat images apart from one another.

    ``clipping``: ``per-sample`` takes norms from each unit's gradients, layer by layer; ``ghost`` takes those of layers where it is
    cheaper from Gram matrices, which needs one image a unit; ``auto``: ghost wherever each unit shows one image.
    """

    def __init__(self, model: nn.Module, losses: Losses, clip: float, clipping: str) -> None:
        self._model = model
        self._losses = losses
        self._clip = clip
        self._ghost = clipping != "per-sample"
        self._layers = _layers(model)

    @torch.no_grad()
    def add_to(self, totals: Sequence[Tensor], images: Tensor, labels: Tensor, owner: Tensor, units: int) -> None:
        """Add the clipped gradients of ``units`` units to ``totals``, one tensor for each of the model's parameters.

        ``owner`` ``(n,)`` gives each image its unit, from 0 to ``units - 1``; a unit's gradient is the mean over its images.
        """
        shares = torch.bincount(owner, minlength=units).reciprocal()[owner]
        traces = self._traces(images, labels, shares)
        norms = self._norms(traces, Views(owner, units), single=len(images) == units)
        if not bool(norms.isfinite().all()):
            self._add_finite(totals, images, labels, owner, norms.isfinite())
            return
        factors = (self._clip / (norms + _SMALLEST_NORM)).clamp_max(1.0)[owner]
        into = dict(zip(self._model.parameters(), totals, strict=True))
        for each in traces:
            for name, value in each.total(factors).items():
                into[getattr(each.layer.module, name)].add_(value)

    def _add_finite(self, totals: Sequence[Tensor], images: Tensor, labels: Tensor, owner: Tensor, finite: Tensor) -> None:
        """Leave the units out whose gradient is not finite: zero times it would not be zero."""
        kept = finite[owner]
        if bool(kept.any()):
            renumbered = torch.cumsum(finite, 0)[owner[kept]] - 1
            self.add_to(totals, images[kept], labels[kept], renumbered, int(finite.sum()))

    def _norms(self, traces: Sequence[Trace], views: Views, *, single: bool) -> Tensor:
        if self._ghost and single:
            return torch.stack([each.squares() for each in traces]).sum(0).sqrt()
        return torch.stack([each.unit_squares(views) for each in traces]).sum(0).sqrt()

    def _traces(self, images: Tensor, labels: Tensor, shares: Tensor) -> list[Trace]:
        traces: list[Trace] = []
        with torch.enable_grad(), _recorded(self._layers, traces):
            inputs = images.detach().requires_grad_()
            # By the images alone: the gradients of parameters, summed over images before clipping, are not wanted.
            torch.autograd.grad((self._losses(inputs, labels) * shares).sum(), inputs)
        return traces


@contextmanager
def _recorded(layers: Sequence[Layer], traces: list[Trace]) -> Iterator[None]:
    """Append a trace to ``traces`` for each layer that a backward pass goes through.

    A hook on the output tensor, unlike a module's backward hook, bears that the output is changed in place afterwards.
    """

    def hook(layer: Layer) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            a = inputs[0].detach()

            @torch.no_grad()
            def backward(g: Tensor) -> None:
                traces.append(trace(layer, a.float(), g.float()))

            output.register_hook(backward)  # type: ignore[no-untyped-call]

        return forward

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.module.register_forward_hook(hook(layer)).remove)
        yield


def _layers(model: nn.Module) -> list[Layer]:
    modules = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    try:
        return [layer_of(module) for module in modules]
    except KeyError as error:
        raise ConfigError(
            f"privacy.unit: {error.args[0].__name__} mixes the images of a batch, or its gradients cannot be had image by image; set "
            "model.normalisation = weight or group"
        ) from None
