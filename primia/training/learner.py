"""One site's local work, the same for every mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from primia.config.settings import AugmentationSettings, ModelSettings, TrainingSettings
from primia.data.augmentation import Augmentation
from primia.data.randomness import stream
from primia.data.shard import Dataset
from primia.data.statistics import Normalisation
from primia.errors import LoneImage, NonFiniteLoss
from primia.models.flat import FlatSpec, Vector
from primia.models.registry import build_model
from primia.training.batches import batches
from primia.training.evaluation import Evaluation, evaluate_model
from primia.training.images import normalise_, unit_images
from primia.training.optimizers import State, build_optimizer, load_state_arrays, state_arrays
from primia.training.schedule import learning_rate


@dataclass(frozen=True)
class LearnerSpec:
    """Everything that decides how a learner works, apart from its data.

    ``proximal_mu``: FedProx's pull towards the loaded model, 0 for none. ``precision``: of forward and backward; the
    parameters stay float32. ``class_weights``: of the loss, one a class.
    """

    model: ModelSettings
    training: TrainingSettings
    augmentation: AugmentationSettings
    proximal_mu: float
    precision: str
    device: str
    classes: tuple[str, ...]
    channels: int
    image_size: int
    seed: int
    class_weights: tuple[float, ...] | None


@dataclass(frozen=True)
class LocalWork:
    """A site's part in a round (from 1); ``first_step`` is how many optimiser steps the site has made before."""

    site: str
    round: int
    rounds: int
    first_step: int
    steps: int
    normalisation: Normalisation


@dataclass(frozen=True)
class LocalResult:
    """Mean loss over images (None where it is private), images seen, steps made, the last learning rate, wall time in seconds."""

    loss: float | None
    samples: int
    steps: int
    learning_rate: float
    seconds: float


class Learner:
    """A model on a device, and the work on it.

    Results follow from the spec, the work, the data and the loaded vectors alone: not from earlier calls, nor from the
    process. A new learner has the seed's initial weights; pretrained ones come, like all others, with :meth:`load`.
    """

    def __init__(self, spec: LearnerSpec) -> None:
        self.spec = spec
        self._device = torch.device(spec.device)
        settings = spec.model.model_copy(update={"pretrained": "no"})
        model = build_model(settings, classes=len(spec.classes), channels=spec.channels, image_size=spec.image_size, seed=spec.seed)
        self.model = model.to(self._device).to(memory_format=torch.channels_last)
        self.flat = FlatSpec.of(self.model)
        self._augment = Augmentation(spec.augmentation)
        self._class_weights = None if spec.class_weights is None else torch.tensor(spec.class_weights, device=self._device)
        self._optimizer = build_optimizer(spec.training, self.model)
        self._goes_on = False

    def load(self, parameters: Vector, buffers: Vector) -> None:
        """Load a model: parameters and float buffers."""
        self.flat.load(self.model, parameters, buffers)

    def parameters(self) -> Vector:
        """The model's parameters, a fresh vector."""
        return self.flat.parameters(self.model)

    def buffers(self) -> Vector:
        """The model's float buffers, a fresh vector."""
        return self.flat.buffers(self.model)

    def optimizer_state(self) -> dict[str, NDArray[np.generic]]:
        """State of the optimiser after :meth:`train`, as copies."""
        return state_arrays(self._optimizer)

    def load_optimizer_state(self, state: State) -> None:
        """Start the next :meth:`train` with this state instead of a fresh one."""
        self._optimizer = build_optimizer(self.spec.training, self.model)
        load_state_arrays(self._optimizer, state)
        self._goes_on = True

    def train(self, data: Dataset, work: LocalWork) -> LocalResult:
        """Make the steps of ``work`` on the loaded model.

        Raises:
            NonFiniteLoss: names site, round and batch.
            LoneImage: a batch has one image where BatchNorm needs more.
        """
        start = perf_counter()
        anchors = self._begin()
        total, samples = 0.0, 0
        for step, index in enumerate(self._batches(data, work)):
            rate = self._set_rate(work, step)
            loss = self._step(self._images(data, index, work, step), self._labels(data, index), anchors)
            if not isfinite(loss):
                raise self._not_finite("loss", work, step, rate)
            total += loss * len(index)
            samples += len(index)
        self._end(work, step, rate)
        return LocalResult(total / samples, samples, work.steps, rate, perf_counter() - start)

    def evaluate(self, data: Dataset, normalisation: Normalisation) -> Evaluation:
        """Summable metrics of the loaded model; raises NonFiniteLoss where its outputs are not finite."""
        return evaluate_model(
            self.model,
            data,
            normalisation,
            len(self.spec.classes),
            batch_size=self.spec.training.evaluation_batch_size,
            precision=self.spec.precision,
        )

    def _begin(self) -> list[Tensor]:
        """Make model and optimiser ready; the loaded parameters, copied, where the work is pulled towards them."""
        if not self._goes_on:
            self._optimizer = build_optimizer(self.spec.training, self.model)
        self._goes_on = False
        self.model.train()
        return [parameter.detach().clone() for parameter in self.model.parameters()] if self.spec.proximal_mu else []

    def _end(self, work: LocalWork, step: int, rate: float) -> None:
        """Let go of the gradients, and refuse a model that the last step ruined."""
        self._optimizer.zero_grad(set_to_none=True)
        if not self._is_finite():
            raise self._not_finite("model", work, step, rate)

    def _batches(self, data: Dataset, work: LocalWork) -> Iterator[NDArray[np.int64]]:
        size = self.spec.training.batch_size
        return batches(len(data), size, seed=self.spec.seed, site=work.site, first_step=work.first_step, steps=work.steps)

    def _images(self, data: Dataset, index: NDArray[np.int64], work: LocalWork, step: int) -> Tensor:
        """Augmented, normalised images; the draws are keyed by seed, site and the site's own count of steps."""
        key = stream(self.spec.seed, "augmentation", work.site, work.first_step + step)
        return self._augmented(data, index, work.normalisation, int(key.integers(2**63)))

    def _augmented(self, data: Dataset, index: NDArray[np.int64], normalisation: Normalisation, seed: int) -> Tensor:
        images = self._augment(unit_images(data, index, self._device), torch.Generator().manual_seed(seed))
        return normalise_(images, normalisation).contiguous(memory_format=torch.channels_last)

    def _labels(self, data: Dataset, index: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(data.labels[index]).to(self._device)

    def _step(self, images: Tensor, labels: Tensor, anchors: Sequence[Tensor]) -> float:
        self._optimizer.zero_grad(set_to_none=True)
        try:
            loss = self._loss(images, labels, "mean")
        except ValueError as error:
            if len(labels) > 1:
                raise
            raise LoneImage("BatchNorm needs more than one image a batch, and there is one; set model.normalisation = group") from error
        torch.autograd.backward(loss)
        if anchors:
            self._pull_towards(anchors)
        self._optimizer.step()
        return loss.item()

    def _loss(self, images: Tensor, labels: Tensor, reduction: str) -> Tensor:
        smoothing = self.spec.training.label_smoothing
        return F.cross_entropy(self._logits(images), labels, weight=self._class_weights, label_smoothing=smoothing, reduction=reduction)

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.spec.precision == "bfloat16"):
            logits: Tensor = self.model(images)
        return logits.float()

    @torch.no_grad()
    def _pull_towards(self, anchors: Sequence[Tensor]) -> None:
        """Add the gradient of mu/2 |w - w_global|^2 (FedProx: Li et al., MLSys 2020, eq. 2)."""
        for parameter, anchor in zip(self.model.parameters(), anchors, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - anchor, alpha=self.spec.proximal_mu)

    def _set_rate(self, work: LocalWork, step: int) -> float:
        rate = learning_rate(self.spec.training, (work.round - 1 + step / work.steps) / work.rounds)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _is_finite(self) -> bool:
        """Whether the last step, which no loss has seen yet, left every parameter and statistic finite."""
        # A sum is finite only where all its terms are, and takes a tenth of the time of looking at each.
        sums = [tensor.detach().sum().float() for tensor in (*self.model.parameters(), *self.model.buffers())]
        return bool(torch.stack(sums).isfinite().all())

    def _not_finite(self, what: str, work: LocalWork, step: int, rate: float) -> NonFiniteLoss:
        return NonFiniteLoss(
            f"site {work.site}, round {work.round}, batch {step + 1} of {work.steps}: the {what} is no longer finite; lower "
            f"training.learning_rate (now {rate:.3g}){self._suspects()}"
        )

    def _suspects(self) -> str:
        suspects = []
        if self.spec.class_weights is not None:
            suspects.append(f"look at the class weights (largest {max(self.spec.class_weights):.3g})")
        if self.spec.precision != "float32":
            suspects.append("set resources.precision = float32")
        return "".join(f", or {suspect}" for suspect in suspects)
