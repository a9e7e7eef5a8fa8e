"""What a search space must keep to: settings that cannot be searched, schedulers, objectives, and points that contradict themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from primia.config.reader import unknown
from primia.config.settings import Settings
from primia.data.randomness import stream
from primia.errors import ConfigError
from primia.search.records import Value

if TYPE_CHECKING:
    from primia.search.space.space import Space

_ALL_OF = 500
_SAMPLES = 300
"""Points that are checked: all of a finite space that has no more than the first, else so many random ones and the ends."""

_FOLDERS = "every trial has a folder of its own within the sweep's"
_REFUSED = {
    "run.name": _FOLDERS,
    "run.output": _FOLDERS,
    "run.repeat": "what sites draw is every trial's own",
    "run.dry_run": "trials are compared on the same images",
    "data.path": "trials are compared on the same images",
    "data.cache": "it is only where shards are kept",
    "data.classes": "a list cannot be drawn",
    "federation.identity": "it is the name that sites grant",
    "privacy.unit": "what protects images and what protects patients does not add up over the trials",
    "privacy.delta": "epsilons at different deltas do not add up over the trials",
}
_REFUSED_SECTIONS = {"search": "it says how to search", "inference": "it has no effect on training"}

_PRIVATE_DATA = ("data.image_size", "data.channels", "data.normalisation")
"""Settings of the data that leave every image and every patient at one site, so that what trials spend there adds up."""

_WITHIN_A_RUN = ("training.", "augmentation.", "federation.server_")
_EXAMPLE = "training.learning_rate = loguniform(1e-5, 1e-2)"


def check_names(texts: Mapping[str, str]) -> None:
    """There is something to search, and it is settings that can be searched."""
    if not texts:
        raise ConfigError(f"[search] there is nothing to search: write settings beside its keys, for example: {_EXAMPLE}")
    for key, text in texts.items():
        reason = unknown(key)
        if reason:
            raise ConfigError(f"[search] {reason}")
        reason = _REFUSED.get(key) or _REFUSED_SECTIONS.get(key.partition(".")[0])
        if reason:
            raise ConfigError(
                f"[search] {key} = {text}: this setting cannot be searched: {reason}; set it in section [{key.split('.')[0]}]"
            )


def check_space(space: Space) -> None:
    """How it is searched fits what is searched, and no point contradicts itself."""
    _check_algorithm(space)
    _check_population(space)
    _check_sites(space)
    points = _points(space)
    if not any(len({values[key] for values in points if key in values}) > 1 for key in space.names):
        names = " and ".join(space.names) + (" never varies" if len(space.names) == 1 else " never vary")
        raise ConfigError(f"[search] there is nothing to search: {names}; write for example: {_EXAMPLE}")
    _check_privacy(space.base, [space.settings(values) for values in points])


def _points(space: Space) -> list[dict[str, Value]]:
    if space.is_finite:
        points = list(islice(space.combinations(), _ALL_OF + 1))
        if len(points) <= _ALL_OF:
            return points
    generator = stream(0, "space")
    return [*space.ends(), *(space.random(generator) for _ in range(_SAMPLES))]


def _check_algorithm(space: Space) -> None:
    search = space.base.search
    dense = next((each for each in space.expressions.values() if not each.is_finite), None)
    if search.algorithm == "grid" and dense:
        how = "quniform(LOW, HIGH, STEP) or choice(...)"
        raise ConfigError(f"[search] {dense.key} = {dense.text}: a grid needs finitely many values; write it with {how}")
    if search.second_objective == "none":
        return
    said = f"search.second_objective = {search.second_objective}"
    if search.scheduler != "none":
        raise ConfigError(f"{said}: who ends trials early knows validation MCC alone; set search.scheduler = none")
    if search.algorithm == "grid":
        raise ConfigError(f"{said} needs search.algorithm = tpe or random")


def _check_population(space: Space) -> None:
    base = space.base
    if base.search.scheduler != "pbt":
        return
    said = "population based training changes settings within a run"
    for key in space.names:
        if key == "training.batch_size" or not (key == "federation.proximal_mu" or key.startswith(_WITHIN_A_RUN)):
            raise ConfigError(
                f"[search] {key} cannot be searched with search.scheduler = pbt: {said}, which works for training.* (but not batch_size), "
                "augmentation.*, federation.proximal_mu and federation.server_* only"
            )
    kept = {
        f"privacy.unit = {base.privacy.unit}": base.privacy.is_on,
        "federation.keep_optimizer_state = yes": base.federation.keep_optimizer_state,
        "federation.batchnorm = local": base.federation.batchnorm == "local",
    }
    for setting, is_set in kept.items():
        if is_set:
            raise ConfigError(f"search.scheduler = pbt cannot be used with {setting}: {said}, and models change hands; use asha")


def _check_sites(space: Space) -> None:
    unit = space.base.privacy.unit
    for key, expression in space.expressions.items() if space.base.privacy.is_on else ():
        if key in ("run.mode", "run.site") or (key.startswith("data.") and key not in _PRIVATE_DATA):
            raise ConfigError(
                f"[search] {key} = {expression.text}: this setting cannot be searched with privacy.unit = {unit}: an image must be at the "
                "same site in all trials, so that what they spend there adds up"
            )


def _check_privacy(base: Settings, points: Iterable[Settings]) -> None:
    if not base.privacy.is_on:
        if base.search.max_epsilon is not None:
            raise ConfigError("search.max_epsilon has no effect: nothing is private; set privacy.unit, or leave it out")
        if base.search.second_objective == "epsilon":
            raise ConfigError("search.second_objective = epsilon: nothing is private, and there is no epsilon; set privacy.unit")
        return
    if any(not point.privacy.chooses_model for point in points):
        raise ConfigError(
            "privacy.validation = private: a search chooses by validation images, which is not accounted for; set "
            "privacy.validation = public if they may be published"
        )
