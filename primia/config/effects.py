"""Which settings have an effect: a key that is given but does nothing in the chosen mode is told, never passed over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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
_OF_DP_SGD = ("views", "physical_batch", "statistics", "statistics_noise")
_OF_AGGREGATION = ("threshold", "neighbours", "range", "site_metrics")

NEEDS = (
    Need("run.site", "run.mode", ("local",)),
    Need("run.repeat", "run.mode", ("federated",)),
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
    Need("search.random_trials", "search.algorithm", ("tpe",)),
    Need("search.grace", "search.scheduler", ("asha", "median", "pbt")),
    Need("search.reduction", "search.scheduler", ("asha",)),
    Need("search.max_epsilon", "privacy.unit", _PRIVATE),
    Need("resources.actors", "run.mode", ("federated",)),
)


def needs_of(key: str) -> list[Need]:
    """What one key needs to have an effect."""
    return [need for need in NEEDS if need.key == key]


def has_effect(key: str, look: Callable[[str], object]) -> bool:
    """Whether a key has an effect, ``look`` giving the value of any key."""
    return all(look(need.other) in need.values for need in needs_of(key))


def unmet_needs(settings: Settings, among: Iterable[str] | None = None) -> dict[str, Need]:
    """Keys (of ``among``; None: of all) without effect under these settings, each with its first unmet need."""
    chosen = frozenset(keys() if among is None else among)
    return {need.key: need for need in reversed(NEEDS) if need.key in chosen and not need.is_met(settings)}


def ineffective(settings: Settings, explicit: frozenset[str]) -> list[str]:
    """One line for each explicitly given ``section.key`` that has no effect, in the order of the settings, and for such a searched one.

    Where what it needs is searched itself, it can have an effect.
    """
    given = {key: f"{key} = {render(value_of(settings, key))}" for key in keys() if key in explicit}
    searched = {key: f"[search] {key}" for key in settings.search.space}
    return [*_lines(settings, given), *_lines(settings, searched)]


def _lines(settings: Settings, said: Mapping[str, str]) -> Iterator[str]:
    for key, words in said.items():
        unmet = [need for need in needs_of(key) if not need.is_met(settings) and need.other not in settings.search.space]
        if unmet:
            yield f"{words} has no effect: it needs {unmet[0]}, not {render(value_of(settings, unmet[0].other))}"
