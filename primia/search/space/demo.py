"""The small space that is searched where nobody has given one: the built-in demonstration's."""

from __future__ import annotations

from primia.config.settings import Settings

DEMO_SPACE = {
    "training.learning_rate": "loguniform(3e-4, 3e-2)",
    "training.optimizer": "choice(adam, sgd)",
    "training.momentum": "uniform(0.5, 0.95)",
    "training.batch_size": "choice(8, 16, 32)",
    "augmentation.rotation": "quniform(0, 20, 5)",
}


def with_demo_space(settings: Settings) -> Settings:
    """The settings, with the small space where they are the demonstration's and have none."""
    if settings.search.space or settings.data.source != "demo":
        return settings
    return settings.model_copy(update={"search": settings.search.model_copy(update={"space": DEMO_SPACE})})
