"""Digests of what a site's contribution follows from, apart from its images: names of work, however a run calls it.

In them is what decides the local work, and nothing else: no run, charter, driver or account; not the number of rounds but the learning
rates that follow from it; not how the result is weighted, encoded or rounded. So a driver that renames a run, or changes what does not
matter, asks for the same work. Where a change has no effect after all, such as one that float32 rounds away, the trained model is the
same, and its digest is a name of the work too. A driver that changes the work, be it by the last bit of the model, gets nearly the same.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np

from primia.config.settings import TrainingSettings
from primia.data.statistics import Normalisation
from primia.federation.exchange import Session
from primia.training.learner import LearnerSpec, LocalWork
from primia.training.schedule import learning_rate

_OPTIMIZER_KEYS = {"sgd": ("momentum",), "adam": ("beta1", "beta2"), "adamw": ("beta1", "beta2")}


def training_work(session: Session, work: LocalWork, batch_size: int, model: str) -> str:
    """Name of a site's work in a round, from a model of this digest, in batches of at most ``batch_size`` of the site's images."""
    spec, training = session.learner, session.learner.training
    weights = spec.class_weights if spec.class_weights and len(set(spec.class_weights)) > 1 else None
    rates = [float(learning_rate(training, (work.round - 1 + step / work.steps) / work.rounds)) for step in range(work.steps)]
    goes_on = work.steps > 1 or session.charter.settings.federation.keep_optimizer_state
    return _digest(
        "train", model, _network(spec), _normalisation(work.normalisation), _optimizer(training, goes_on), rates, work.first_step,
        spec.seed, spec.augmentation.model_dump(), float(spec.proximal_mu) if work.steps > 1 else 0.0, batch_size,
        float(training.label_smoothing),
        weights and [weight / sum(weights) for weight in weights],
    )  # fmt: skip


def evaluation_work(session: Session, split: str, normalisation: Normalisation, model: str) -> str:
    """Name of a site's evaluation of a model of this digest on one split."""
    return _digest(split, model, _network(session.learner), _normalisation(normalisation))


def _network(spec: LearnerSpec) -> list[object]:
    """The network, whose input has the size that the site's shards have."""
    return [spec.model.name, spec.model.pooling, spec.model.normalisation, len(spec.classes), spec.channels]


def _normalisation(normalisation: Normalisation) -> list[float]:
    """Mean and deviation as images are normalised with: in float32."""
    return [float(np.float32(value)) for value in (*normalisation.mean, *normalisation.std)]


def _optimizer(training: TrainingSettings, goes_on: bool) -> list[object]:
    """The optimiser's rule; its memory of earlier steps has no effect in a single one."""
    used = [float(getattr(training, key)) for key in _OPTIMIZER_KEYS[training.optimizer]] if goes_on else []
    return [training.optimizer, float(training.weight_decay), *used]


def _digest(*content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
