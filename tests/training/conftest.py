"""A learner for the small dataset in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from primia.config.settings import AugmentationSettings, ModelSettings, TrainingSettings
from primia.data.shard import Dataset
from primia.data.statistics import Normalisation
from primia.training.learner import Learner, LearnerSpec, LocalWork

CLASSES = ("low", "middle", "high")
# Nothing is left to the settings' defaults, which may change.
MODEL = {"name": "convnet", "pooling": "max", "normalisation": "batch", "pretrained": "no"}
TRAINING = {
    "batch_size": 8,
    "evaluation_batch_size": 256,
    "optimizer": "adam",
    "learning_rate": 0.01,
    "end_learning_rate": 1e-4,
    "schedule": "constant",
    "restarts": 0,
    "momentum": 0.9,
    "beta1": 0.9,
    "beta2": 0.999,
    "weight_decay": 0.0,
    "label_smoothing": 0.0,
}
NO_AUGMENTATION = dict.fromkeys(AugmentationSettings.model_fields, 0.0)


@pytest.fixture
def data(make_data: Callable[[int], Dataset]) -> Dataset:
    return make_data(42)


@pytest.fixture
def make_learner() -> Callable[..., Learner]:
    """A learner; keyword arguments are sections with the keys to change, or fields of the spec."""

    def make(
        model: dict[str, object] | None = None,
        training: dict[str, object] | None = None,
        augmentation: dict[str, object] | None = None,
        **fields: object,
    ) -> Learner:
        values: dict[str, object] = {
            "model": ModelSettings.model_validate(MODEL | (model or {})),
            "training": TrainingSettings.model_validate(TRAINING | (training or {})),
            "augmentation": AugmentationSettings.model_validate(NO_AUGMENTATION | (augmentation or {})),
            "proximal_mu": 0.0,
            "precision": "float32",
            "device": "cpu",
            "classes": CLASSES,
            "channels": 1,
            "image_size": 8,
            "seed": 3,
            "class_weights": None,
        }
        return Learner(LearnerSpec(**values | fields))  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_work() -> Callable[..., LocalWork]:
    def make(site: str = "hospital-a", round: int = 1, rounds: int = 4, first_step: int = 0, steps: int = 6) -> LocalWork:
        return LocalWork(site, round, rounds, first_step, steps, Normalisation((0.45,), (0.22,)))

    return make
