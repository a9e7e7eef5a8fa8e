"""One site's local work, the same for every mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from primia.config.settings import AugmentationSettings, ModelSettings, TrainingSettings
from primia.data.augmentation import Augmentation
from primia.data.shard import Dataset
from primia.data.statistics import Normalisation
from primia.errors import TrainingError
from primia.models.flat import FlatSpec, Vector
from primia.models.registry import build_model
from primia.training.batches import batches, derived_seed
from primia.training.evaluation import Evaluation, evaluate_model
from primia.training.images import normalised, unit_images
from primia.training.optimizers import build_optimizer, load_state, state_vectors
from primia.training.schedule import learning_rate


class NonFiniteLoss(TrainingError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class LearnerSpec:
    """Everything that decides how a learner works, apart from its data."""

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
    """A site's part in a round; ``first_step`` is how many optimiser steps the site has made before."""

    site: str
    round: int
    rounds: int
    first_step: int
    steps: int
    normalisation: Normalisation


@dataclass(frozen=True)
class LocalResult:
    """Mean loss over images, images seen, steps made, the last learning rate, wall seconds."""

    loss: float
    samples: int
    steps: int
    learning_rate: float
    seconds: float


class Learner:
    """A model on a device, and the work on it. Results depend on the spec, the work, the data and the loaded vectors alone."""

    def __init__(self, spec: LearnerSpec) -> None:
        self.spec = spec
        self._device = torch.device(spec.device)
        model = build_model(spec.model, classes=len(spec.classes), channels=spec.channels, image_size=spec.image_size, seed=spec.seed)
        self.model = model.to(self._device).to(memory_format=torch.channels_last)
        self.flat = FlatSpec.of(self.model)
        self._augment = Augmentation(spec.augmentation)
        self._weights = None if spec.class_weights is None else torch.tensor(spec.class_weights, device=self._device)
        self._optimizer = build_optimizer(spec.training, self.model)
        self._keeps_state = False

    def load(self, parameters: Vector, buffers: Vector) -> None:
        """Load a global model."""
        self.flat.load(self.model, parameters, buffers)

    def parameters(self) -> Vector:
        """The model's parameters, a fresh vector."""
        return self.flat.parameters(self.model)

    def buffers(self) -> Vector:
        """The model's float buffers, a fresh vector."""
        return self.flat.buffers(self.model)

    def optimizer_state(self) -> dict[str, NDArray[Any]]:
        """State of the optimiser after :meth:`train`."""
        return state_vectors(self._optimizer)

    def load_optimizer_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Start the next :meth:`train` with this state instead of a fresh one."""
        self._optimizer = build_optimizer(self.spec.training, self.model)
        load_state(self._optimizer, state)
        self._keeps_state = True

    def train(self, data: Dataset, work: LocalWork) -> LocalResult:
        """Make the steps of ``work`` on the loaded model.

        Raises:
            NonFiniteLoss: names site, round and batch.
        """
        begun = perf_counter()
        if not self._keeps_state:
            self._optimizer = build_optimizer(self.spec.training, self.model)
        self._keeps_state = False
        start = [parameter.detach().clone() for parameter in self.model.parameters()] if self.spec.proximal_mu else []
        self.model.train()
        total, samples, rate = 0.0, 0, 0.0
        for step, index in enumerate(self._batches(data, work)):
            rate = self._set_rate((work.round - 1 + step / work.steps) / work.rounds)
            loss = self._step(data, index, work, step, start)
            if not isfinite(loss):
                raise NonFiniteLoss(
                    f"the loss is {loss} at site {work.site!r}, round {work.round}, batch {step + 1} of {work.steps}: "
                    f"lower training.learning_rate (now {rate:g}), or check the images"
                )
            total += loss * len(index)
            samples += len(index)
        return LocalResult(total / max(1, samples), samples, work.steps, rate, perf_counter() - begun)

    def evaluate(self, data: Dataset, normalisation: Normalisation) -> Evaluation:
        """Summable metrics of the loaded model."""
        spec = self.spec
        return evaluate_model(
            self.model,
            data,
            normalisation,
            len(spec.classes),
            batch_size=spec.training.evaluation_batch_size,
            precision=spec.precision,
        )

    def _batches(self, data: Dataset, work: LocalWork) -> Iterator[NDArray[np.int64]]:
        size = self.spec.training.batch_size
        return batches(len(data), size, seed=self.spec.seed, site=work.site, first_step=work.first_step, steps=work.steps)

    def _step(self, data: Dataset, index: NDArray[np.int64], work: LocalWork, step: int, start: list[Tensor]) -> float:
        generator = torch.Generator(self._device).manual_seed(
            derived_seed("augmentation", self.spec.seed, work.site, work.first_step + step)
        )
        images = normalised(self._augment(unit_images(data, index, self._device), generator), work.normalisation)
        labels = torch.from_numpy(data.labels[index]).to(self._device)
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), labels, weight=self._weights, label_smoothing=self.spec.training.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        if start:
            self._pull_towards(start)
        self._optimizer.step()
        return loss.item()

    @torch.no_grad()
    def _pull_towards(self, start: list[Tensor]) -> None:
        """FedProx (Li et al., MLSys 2020): the gradient of mu/2 |w - w_global|^2."""
        for parameter, anchor in zip(self.model.parameters(), start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - anchor, alpha=self.spec.proximal_mu)

    def _set_rate(self, progress: float) -> float:
        rate = learning_rate(self.spec.training, progress)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.spec.precision == "bfloat16")
