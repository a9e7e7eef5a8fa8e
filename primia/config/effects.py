"""Which settings have an effect: a key that is given but does nothing in the chosen mode is told, never passed over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from primia.config.fields import keys, render, value_of
from primia.config.settings import Settings


class Need(NamedTuple):
    """``key`` has an effect only while ``other`` has one of ``values``."""

    key: str
    other: str
    values: tuple[object, ...]

    def is_met(self, settings: Settings) -> bool:
        """Whether the key has an effect as far as this need goes."""
        return value_of(settings, self.other) in self.values

    def __str__(self) -> str:
        return f"{self.other} = {' or '.join(map(render, self.values))}"


_ADAM = ("adam", "adamw")
_FEDADAM = ("fedadam", "fedyogi")
_FALLING = ("cosine", "log-linear")
_SKEWED = ("label-skew", "quantity-skew")
_FILES = ("folder",)
_SPLIT_HERE = ("mnist", "folder")
_WITH_PATH = (*_SPLIT_HERE, "boxes")
_BY_IMAGES = ("image", "patient")
_PRIVATE = (*_BY_IMAGES, "site")
_OF_PRIVACY = ("target_epsilon", "noise_multiplier", "delta", "clip", "accountant", "validation")
_OF_DP_SGD = ("clipping", "views", "physical_batch", "statistics", "statistics_noise")
_OF_AGGREGATION = ("threshold", "neighbours", "range", "site_metrics")

NEEDS = (
    Need("run.site", "run.mode", ("local",)),
    Need("data.path", "data.source", _WITH_PATH),
    Need("data.patient_pattern", "data.source", _FILES),
    Need("data.on_bad_image", "data.source", _FILES),
    Need("data.split", "data.source", _SPLIT_HERE),
    Need("data.dirichlet_alpha", "data.source", _SPLIT_HERE),
    Need("data.dirichlet_alpha", "data.split", _SKEWED),
    Need("data.test_fraction", "data.source", ("demo", "folder")),
    Need("data.demo_images", "data.source", ("demo",)),
    Need("training.end_learning_rate", "training.schedule", _FALLING),
    Need("training.restarts", "training.schedule", _FALLING),
    Need("training.momentum", "training.optimizer", ("sgd",)),
    Need("training.beta1", "training.optimizer", _ADAM),
    Need("training.beta2", "training.optimizer", _ADAM),
    Need("federation.local_epochs", "federation.sync_every_n_batch", (0,)),
    Need("federation.weighting", "run.mode", ("federated",)),
    Need("federation.proximal_mu", "run.mode", ("federated",)),
    Need("federation.quorum", "run.mode", ("federated",)),
    Need("federation.batchnorm", "run.mode", ("federated",)),
    Need("federation.batchnorm", "model.normalisation", ("batch",)),
    Need("federation.server_momentum", "federation.server_optimizer", ("fedavgm", *_FEDADAM)),
    Need("federation.server_beta2", "federation.server_optimizer", _FEDADAM),
    Need("federation.server_epsilon", "federation.server_optimizer", _FEDADAM),
    *(Need(f"privacy.{key}", "privacy.unit", _PRIVATE) for key in _OF_PRIVACY),
    *(Need(f"privacy.{key}", "privacy.unit", _BY_IMAGES) for key in _OF_DP_SGD),
    Need("privacy.statistics_noise", "privacy.statistics", ("noisy",)),
    Need("secure_aggregation.enabled", "run.mode", ("federated",)),
    Need("secure_aggregation.seal", "run.mode", ("federated",)),
    Need("secure_aggregation.seal", "secure_aggregation.enabled", (False,)),
    *(Need(f"secure_aggregation.{key}", "run.mode", ("federated",)) for key in _OF_AGGREGATION),
    *(Need(f"secure_aggregation.{key}", "secure_aggregation.enabled", (True,)) for key in _OF_AGGREGATION),
    Need("resources.actors", "run.mode", ("federated",)),
)


def unmet_needs(settings: Settings, among: Iterable[str] | None = None) -> dict[str, Need]:
    """Keys (of ``among``; None: of all) without effect under these settings, each with its first unmet need."""
    chosen = frozenset(keys() if among is None else among)
    return {need.key: need for need in reversed(NEEDS) if need.key in chosen and not need.is_met(settings)}


def ineffective(settings: Settings, explicit: frozenset[str]) -> list[str]:
    """One line for each explicitly given ``section.key`` that has no effect, in the order of the settings."""
    unmet = unmet_needs(settings, explicit)
    return [_line(settings, unmet[key]) for key in keys() if key in unmet]


def _line(settings: Settings, need: Need) -> str:
    given, actual = render(value_of(settings, need.key)), render(value_of(settings, need.other))
    return f"{need.key} = {given} has no effect: it needs {need}, not {actual}"
