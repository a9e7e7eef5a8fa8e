"""Local work under differential privacy of images or patients: DP-SGD."""

from __future__ import annotations

from time import perf_counter

import torch
from torch import Tensor

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

    ``clipping``: see :class:`ClippedSum`. ``physical_batch``: images whose activations are in memory at a time.

    Raises:
        ConfigError: the model has layers that mix the images of a batch.
    """

    def __init__(self, spec: LearnerSpec, *, clipping: str, physical_batch: int, generator: SecureGenerator | None = None) -> None:
        super().__init__(spec)
        self._physical_batch = physical_batch
        self._clipping = clipping
        self._generator = generator or SecureGenerator()
        self._protection: tuple[Units, Mechanism] | None = None
        self._clipped_sum(clip=1.0)

    def protect(self, units: Units, mechanism: Mechanism) -> None:
        """Set what the next :meth:`train` samples from its data, and how it clips and noises."""
        self._protection = units, mechanism

    def train(self, data: Dataset, work: LocalWork) -> LocalResult:
        """Make the steps of ``work`` on the loaded model, as :meth:`protect` set, which holds for this call alone.

        ``samples`` of the result is the expected number of units, ``loss`` is None: what was drawn is private.

        Raises:
            NonFiniteLoss: the noised model is no longer finite; names site, round and batch.
            RuntimeError: :meth:`protect` was not called.
        """
        start = perf_counter()
        if self._protection is None:
            raise RuntimeError("PrivateLearner.train without protect()")
        (units, mechanism), self._protection = self._protection, None
        anchors = self._begin()
        clipped = self._clipped_sum(mechanism.clip)
        for step in range(work.steps):
            rate = self._set_rate(work, step)
            totals = [torch.zeros_like(parameter) for parameter in self.model.parameters()]
            for batch in micro_batches(poisson_sample(units, mechanism.sample_rate, self._generator), self._physical_batch):
                self._add_clipped(clipped, totals, data, work, batch)
            self._noise(totals, mechanism)
            if anchors:
                self._pull_towards(anchors)
            self._optimizer.step()
        self._end(work, step, rate)
        return LocalResult(None, round(mechanism.expected_units * work.steps), work.steps, rate, perf_counter() - start)

    def _clipped_sum(self, clip: float) -> ClippedSum:
        return ClippedSum(self.model, lambda images, labels: self._loss(images, labels, "none"), clip, self._clipping)

    def _add_clipped(self, clipped: ClippedSum, totals: list[Tensor], data: Dataset, work: LocalWork, batch: Batch) -> None:
        # A secret seed: with draws that follow from a known one, a unit more would change the others' augmentation.
        seed = int(self._generator.words(1)[0] >> 1)
        images = self._augmented(data, batch.index, work.normalisation, seed)
        owner = torch.from_numpy(batch.owner).to(self._device)
        clipped.add_to(totals, images, self._labels(data, batch.index), owner, batch.units)

    @torch.no_grad()
    def _noise(self, totals: list[Tensor], mechanism: Mechanism) -> None:
        """Make the noised mean over the expected number of units the model's gradient."""
        deviation = mechanism.noise_multiplier * mechanism.clip
        noise = torch.from_numpy(self._generator.gaussian(self.flat.parameter_count, deviation)).to(self._device)
        parts = torch.split(noise, [total.numel() for total in totals])
        for parameter, total, part in zip(self.model.parameters(), totals, parts, strict=True):
            parameter.grad = total.add_(part.view(total.shape)).div_(mechanism.expected_units)
