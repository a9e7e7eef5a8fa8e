"""Local work under differential privacy of images or patients: DP-SGD."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, sqrt
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from primia.data.shard import Dataset
from primia.privacy.clipping import ClippedSum
from primia.privacy.mechanism import Mechanism
from primia.privacy.noise import SecureGenerator
from primia.privacy.sampling import Batch, Units, micro_batches, poisson_sample
from primia.training.learner import Learner, LearnerSpec, LocalResult, LocalWork


class PrivateLearner(Learner):
    """A learner whose parameters after :meth:`train` are all that may leave the site, and protect each unit.

    Sampling and noise come from ``generator``, so results are not repeatable, and neither losses nor sizes of samples are told.
    Whoever releases the parameters must have charged ``mechanism.spend(steps)`` before.

    The sum of clipped gradients is a vector of whole numbers (:class:`ClippedSum`), and so is the noise on it
    (:meth:`SecureGenerator.rounded_gaussian`): what leaves a step is the Gaussian mechanism, rounded.

    ``physical_batch``: images whose gradients are in memory at a time, at most.

    Raises:
        ConfigError: the model has layers that mix the images of a batch.
    """

    def __init__(self, spec: LearnerSpec, *, physical_batch: int, generator: SecureGenerator | None = None) -> None:
        super().__init__(spec)
        self._physical_batch = physical_batch
        self._generator = generator or SecureGenerator()
        self._protection: tuple[Units, Mechanism] | None = None
        self._checked: set[tuple[int, int]] = set()
        self._clipped_sum(clip=1.0)

    def protect(self, units: Units, mechanism: Mechanism) -> None:
        """Set what the next :meth:`train` samples from its data, and how it clips and noises."""
        self._protection = units, mechanism

    def train(self, data: Dataset, work: LocalWork) -> LocalResult:
        """Make the steps of ``work`` on the loaded model, as :meth:`protect` set, which holds for this call alone.

        ``samples`` of the result is the expected number of units, ``loss`` is None: what was drawn is private.

        Raises:
            NonFiniteLoss: the noised model is no longer finite; names site, round and batch.
            PrivacyError: on this device a unit's gradient depends on its place in a batch.
            RuntimeError: :meth:`protect` was not called.
        """
        start = perf_counter()
        if self._protection is None:
            raise RuntimeError("PrivateLearner.train without protect()")
        (units, mechanism), self._protection = self._protection, None
        anchors = self._begin()
        clipped, size = self._clipped_sum(mechanism.clip), self._batch_size(units, mechanism)
        self._check_places(size)
        total = clipped.zeros()
        for step in range(work.steps):
            rate = self._set_rate(work, step)
            total.zero_()
            for batch in micro_batches(poisson_sample(units, mechanism.sample_rate, self._generator), size):
                self._add_clipped(clipped, total, data, work, batch)
            self._noise(total, clipped.step, mechanism)
            if anchors:
                self._pull_towards(anchors)
            self._optimizer.step()
        self._end(work, step, rate)
        return LocalResult(None, round(mechanism.expected_units * work.steps), work.steps, rate, perf_counter() - start)

    def _clipped_sum(self, clip: float) -> ClippedSum:
        return ClippedSum(self.model, lambda images, labels: self._loss(images, labels, "none"), clip)

    def _check_places(self, size: int) -> None:
        """Check for each size of a batch and number of threads that a unit's rounding does not follow from its place in a batch.

        On noise instead of images, and with drawn parameters and a plain loss: those of a run are chosen by others, and where they make
        gradients vanish there is nothing to compare.
        """
        if (size, torch.get_num_threads()) in self._checked:
            return
        draws = torch.Generator().manual_seed(0)
        images = torch.randn(size, self.spec.channels, self.spec.image_size, self.spec.image_size, generator=draws)
        labels = torch.randint(len(self.spec.classes), (size,), generator=draws)
        with _drawn_parameters(self.model, draws):
            plain = ClippedSum(self.model, lambda images, labels: F.cross_entropy(self._logits(images), labels, reduction="none"), 1.0)
            plain.check_places(images.to(self._device), labels.to(self._device))
        self._checked.add((size, torch.get_num_threads()))

    def _batch_size(self, units: Units, mechanism: Mechanism) -> int:
        """Return the images of each micro-batch, from public numbers alone.

        The last one of a step is filled up, by half of it on average. On a processor a few images are as quick as many, so batches
        are small there: for m images a step, about 2 sqrt(m) has the least of both overheads.
        """
        if self._device.type == "cuda":
            return self._physical_batch
        return min(self._physical_batch, max(units.views, ceil(2 * sqrt(mechanism.expected_units * units.views))))

    def _add_clipped(self, clipped: ClippedSum, total: Tensor, data: Dataset, work: LocalWork, batch: Batch) -> None:
        # A secret seed: with draws that follow from a known one, a unit more would change the others' augmentation.
        seed = int(self._generator.words(1)[0] >> 1)
        images = self._augmented(data, batch.index, work.normalisation, seed)
        owner = torch.from_numpy(batch.owner).to(self._device)
        clipped.add_to(total, images, self._labels(data, batch.index), owner, batch.units)

    @torch.no_grad()
    def _noise(self, total: Tensor, step: float, mechanism: Mechanism) -> None:
        """Make the noised mean over the expected number of units the model's gradient; ``total`` is in whole steps."""
        noise = self._generator.rounded_gaussian(len(total), mechanism.noise_multiplier * mechanism.clip / step)
        total.add_(torch.from_numpy(noise).to(self._device))
        parts = torch.split(total.mul_(step / mechanism.expected_units), [parameter.numel() for parameter in self.model.parameters()])
        for parameter, part in zip(self.model.parameters(), parts, strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(part.view(parameter.shape))


@contextmanager
def _drawn_parameters(model: nn.Module, draws: torch.Generator) -> Iterator[None]:
    """Give the model parameters that let every layer's gradient through, and its own ones back afterwards."""
    own = [parameter.detach().clone() for parameter in model.parameters()]
    try:
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=draws)
            with torch.no_grad():
                parameter.copy_(drawn * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 1 + drawn / 10)
        yield
    finally:
        for parameter, values in zip(model.parameters(), own, strict=True):
            with torch.no_grad():
                parameter.copy_(values)
