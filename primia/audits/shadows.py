"""Shadow models: models trained just like the run's, on halves of the images, so that the attacker knows what each was trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from primia.audits.membership import ShadowScores, confidences
from primia.audits.side_by_side import side_by_side
from primia.data.randomness import stream
from primia.data.shard import Dataset
from primia.data.statistics import Normalisation
from primia.training.batches import steps_per_epoch
from primia.training.learner import Learner, LearnerSpec, LocalWork


class Subset:
    """Some images of a dataset, as a dataset."""

    def __init__(self, whole: Dataset, chosen: NDArray[np.int64]) -> None:
        self._whole = whole
        self._chosen = chosen
        self.labels: NDArray[np.int64] = whole.labels[chosen]

    def __len__(self) -> int:
        return len(self._chosen)

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images ``(k, C, H, W)`` at ``indices`` of the subset."""
        return self._whole.gather(self._chosen[indices])


def deal_halves(images: int, shadows: int, seed: int) -> NDArray[np.bool_]:
    """Which shadow is trained on which image, ``(shadows, images)``: every image goes to exactly half of the shadows, at random."""
    order = stream(seed, "shadows").random((shadows, images)).argsort(axis=0)
    return order < shadows // 2


def train_shadows(
    spec: LearnerSpec,
    pool: Dataset,
    normalisation: Normalisation,
    *,
    shadows: int,
    epochs: int,
    seed: int,
    threads: int,
    on_progress: Callable[[int, int], None],
) -> ShadowScores:
    """Train an even number of shadow models for so many epochs each, and score all images of the pool under each.

    They start from weights of their own, and learn in one place what the run's sites learn together.
    """
    trained_on = deal_halves(len(pool), shadows, seed)
    values = np.empty(trained_on.shape)
    building = Lock()

    def train(shadow: int) -> int:
        with building:  # a model is initialised from torch's global generator
            learner = Learner(replace(spec, seed=_own_seed(seed, shadow)))
        _train(learner, Subset(pool, np.flatnonzero(trained_on[shadow])), normalisation, epochs)
        values[shadow] = confidences(learner.model, pool, normalisation)
        return shadow

    for done, _ in enumerate(side_by_side(range(shadows), train, threads), start=1):
        on_progress(done, shadows)
    return ShadowScores(values, trained_on)


def _own_seed(seed: int, shadow: int) -> int:
    return int(stream(seed, "shadow", shadow).integers(2**31))


def _train(learner: Learner, data: Dataset, normalisation: Normalisation, epochs: int) -> None:
    steps = epochs * steps_per_epoch(len(data), learner.spec.training.batch_size)
    learner.train(data, LocalWork("shadow", round=1, rounds=1, first_step=0, steps=steps, normalisation=normalisation))
