"""Private learners for the small dataset in memory, and a generator that repeats itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from primia.config.settings import AugmentationSettings, ModelSettings, TrainingSettings
from primia.data.statistics import Normalisation
from primia.models.registry import build_model
from primia.privacy.learner import PrivateLearner
from primia.privacy.noise import SecureGenerator
from primia.training.learner import LearnerSpec, LocalWork

TRAINING = {"batch_size": 8, "optimizer": "sgd", "learning_rate": 0.05, "schedule": "constant", "momentum": 0.9}
NO_AUGMENTATION = dict.fromkeys(AugmentationSettings.model_fields, 0.0)


@pytest.fixture
def generator() -> SecureGenerator:
    return SecureGenerator(bytes(range(32)))


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of torch's threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def make_model() -> Callable[..., nn.Module]:
    """A network whose gains and biases are not at their initial zeros and ones."""

    def make(name: str = "convnet", normalisation: str = "weight", size: int = 16) -> nn.Module:
        settings = ModelSettings.model_validate({"name": name, "normalisation": normalisation})
        model = build_model(settings, classes=3, channels=1, image_size=size, seed=3).to(memory_format=torch.channels_last)
        draws = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter[0].numel() == 1:
                    parameter.add_(0.3 * torch.rand(parameter.shape, generator=draws))
        return model.train()

    return make


@pytest.fixture
def make_learner() -> Callable[..., PrivateLearner]:
    """A private learner; keyword arguments are sections with the keys to change, or fields of the spec."""

    def make(
        model: dict[str, object] | None = None,
        training: dict[str, object] | None = None,
        augmentation: dict[str, object] | None = None,
        physical_batch: int = 16,
        **fields: object,
    ) -> PrivateLearner:
        values: dict[str, object] = {
            "model": ModelSettings.model_validate({"name": "convnet", "normalisation": "weight"} | (model or {})),
            "training": TrainingSettings.model_validate(TRAINING | (training or {})),
            "augmentation": AugmentationSettings.model_validate(NO_AUGMENTATION | (augmentation or {})),
            "proximal_mu": 0.0,
            "precision": "float32",
            "device": "cpu",
            "classes": ("low", "middle", "high"),
            "channels": 1,
            "image_size": 8,
            "seed": 3,
            "class_weights": None,
        }
        spec = LearnerSpec(**values | fields)  # type: ignore[arg-type]
        return PrivateLearner(spec, physical_batch=physical_batch, generator=SecureGenerator(bytes(32)))

    return make


@pytest.fixture
def make_work() -> Callable[..., LocalWork]:
    def make(site: str = "hospital-a", round: int = 1, rounds: int = 4, first_step: int = 0, steps: int = 3) -> LocalWork:
        return LocalWork(site, round, rounds, first_step, steps, Normalisation((0.45,), (0.22,)))

    return make
