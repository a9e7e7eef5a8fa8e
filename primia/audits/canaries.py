"""Canaries in the real private training: units of their own, each there or not by a coin, and the scores that guess the coins.

They go through the code that real units go through: their units are sampled, clipped, added up and noised by
:class:`~primia.privacy.learner.PrivateLearner`, or clipped and noised as a site's update. What is scored is what is released: the
noised sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from primia.audits.one_run_bound import Coins
from primia.audits.roc import Scores
from primia.data.randomness import stream
from primia.data.shard import Dataset
from primia.models.flat import Vector
from primia.privacy.clipping import ClippedSum, Losses
from primia.privacy.learner import PrivateLearner
from primia.privacy.mechanism import Mechanism
from primia.privacy.sampling import Batch, Index, Units
from primia.training.learner import LearnerSpec, LocalWork

_SMALLEST_NORM = 1e-12

Seen = Callable[[Tensor], None]
"""Takes the noised sum ``(d,)`` of a step."""


@dataclass(frozen=True, eq=False)
class GradientCanaries:
    """Worst-case canaries: the gradient of each is of length ``strength`` along one parameter of its own, ``places`` ``(m,)``.

    With no parameter shared, what one contributes is not hidden by the others; clipping leaves of it exactly the clip.
    """

    places: Index
    strength: float

    @classmethod
    def spread(cls, count: int, parameters: int, strength: float, seed: int) -> GradientCanaries:
        """Canaries at ``count`` different parameters out of ``parameters``, chosen at random."""
        chosen = stream(seed, "canary places").permutation(parameters)[:count].astype(np.int64)
        return cls(chosen, strength)

    def __len__(self) -> int:
        return len(self.places)

    def gradients(self, canaries: Index, parameters: int) -> Tensor:
        """The gradients ``(k, d)`` of some of the canaries."""
        rows = torch.zeros(len(canaries), parameters)
        rows[torch.arange(len(canaries)), torch.from_numpy(self.places[canaries])] = self.strength
        return rows


def toss(canaries: int, seed: int) -> Coins:
    """Return a fair coin for each canary: whether it is in the data."""
    return stream(seed, "canary coins").random(canaries) < 0.5


def with_canaries(units: Units, first: int, members: Sequence[Index]) -> Units:
    """Add a unit for each of ``members``, the images of a canary counted from ``first`` on, as many as there are images before."""
    return Units((*units.members, *(first + index for index in members)), units.views)


class CanaryLearner(PrivateLearner):
    """A private learner whose units may be gradient canaries, and which shows the noised sum of every step.

    A unit of "images" from ``len(data)`` on is the canary of that number. ``seen`` is called with what an optimiser step is made from:
    whoever sees a model after every step of plain SGD knows it.
    """

    def __init__(self, spec: LearnerSpec, *, physical_batch: int, canaries: GradientCanaries | None = None, seen: Seen) -> None:
        super().__init__(spec, physical_batch=physical_batch)
        self._canaries = canaries
        self._seen = seen
        self._divisor = 1.0

    def protect(self, units: Units, mechanism: Mechanism) -> None:
        """As the learner's; keeps what its sums are divided by."""
        super().protect(units, mechanism)
        self._divisor = mechanism.expected_units

    def _begin(self) -> list[Tensor]:
        anchors = super()._begin()
        self._optimizer.register_step_pre_hook(lambda *_: self._show())
        return anchors

    def _show(self) -> None:
        parts = [parameter.grad.flatten() for parameter in self.model.parameters() if parameter.grad is not None]
        self._seen(torch.cat(parts).cpu() * self._divisor)

    def _add_clipped(self, clipped: ClippedSum, total: Tensor, data: Dataset, work: LocalWork, batch: Batch) -> None:
        of_canaries = batch.index >= len(data)
        images = _without(batch, of_canaries)
        if images.units:
            super()._add_clipped(clipped, total, data, work, images)
        _, first = np.unique(batch.owner[of_canaries & (batch.owner < batch.units)], return_index=True)
        if len(first):
            canaries = batch.index[of_canaries][first] - len(data)
            clipped.add_units(total, self._gradients(canaries))

    def _gradients(self, canaries: Index) -> Tensor:
        if self._canaries is None:
            raise IndexError("a unit of images that are not there")
        return self._canaries.gradients(canaries, self.flat.parameter_count).to(self._device)


def _without(batch: Batch, left_out: NDArray[np.bool_]) -> Batch:
    """The batch without some units, of the same number of images: what is left out becomes filling."""
    owners, owner = np.unique(np.where(left_out, batch.units, batch.owner), return_inverse=True)
    return Batch(np.where(left_out, 0, batch.index), owner.astype(np.int64), int(np.count_nonzero(owners < batch.units)))


class LikelihoodRatios:
    """Scores of gradient canaries: how much more likely the noised sums are with a canary that is drawn at the stated rate.

    The best score there is (Neyman and Pearson), summed over the steps: the logarithm of 1 - q + q exp((2x - 1) / 2 sigma^2), x being
    the sum at the canary's parameter over the clip.
    """

    def __init__(self, canaries: GradientCanaries, mechanism: Mechanism) -> None:
        self._places = canaries.places
        self._mechanism = mechanism
        self.scores: Scores = np.zeros(len(canaries))

    def see(self, total: Tensor | Vector) -> None:
        """Take a step's noised sum ``(d,)`` into account."""
        values = np.asarray(total, np.float64)[self._places] / self._mechanism.clip
        self.scores += log_likelihood_ratio(values, self._mechanism)


def log_likelihood_ratio(values: Scores, mechanism: Mechanism) -> Scores:
    """The logarithm of the likelihood of sums over the clip with a canary, over that without, by the stated mechanism."""
    gains = (2 * values - 1) / (2 * mechanism.noise_multiplier**2)
    if mechanism.sample_rate >= 1.0:
        return gains
    mixed: Scores = np.logaddexp(np.log1p(-mechanism.sample_rate), np.log(mechanism.sample_rate) + gains)
    return mixed


def score_images(model: nn.Module, losses: Losses, members: Iterable[tuple[Tensor, Tensor]], total: Tensor) -> Scores:
    """Scores of image canaries: how far the noised sums, added up over the steps, go along each one's own gradient.

    ``model`` has the weights that the steps began from. ``members``: images and labels of each canary, in the data or not.
    """
    return np.array([_along(model, losses(*each).mean(), total) for each in members])


def _along(model: nn.Module, loss: Tensor, total: Tensor) -> float:
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
    return float(gradient @ total / gradient.norm().clamp_min(_SMALLEST_NORM))


def score_updates(
    canaries: GradientCanaries,
    included: Coins,
    mechanism: Mechanism,
    *,
    parameters: int,
    rounds: int,
    clip: Callable[[Vector], Vector],
    noise: Callable[[Vector], Vector],
) -> Scores:
    """Scores of canaries that are sites, each of which sends the same update in all rounds; ``clip`` and ``noise`` as the run does them."""
    total = np.zeros(parameters, np.float32)
    for canary in np.flatnonzero(included)[:, None]:
        total += clip(canaries.gradients(canary, parameters)[0].numpy())
    ratios = LikelihoodRatios(canaries, mechanism)
    for _ in range(rounds):
        ratios.see(noise(total.copy()))
    return ratios.scores
