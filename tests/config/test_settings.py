"""Bounds and contradictions of the typed settings."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from pydantic import ValidationError

from primia.config.settings import Settings


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"run": {"mode": "local"}}, "needs run.site"),
        ({"model": {"name": "resnet18", "pretrained": "imagenet"}}, "set data.channels = 3"),
        ({"model": {"pretrained": "imagenet"}, "data": {"channels": 3}}, "needs model.name = resnet18"),
        ({"model": {"name": "resnet18"}, "data": {"image_size": 28}}, "at least 32 pixels"),
        ({"federation": {"sync_every_n_batch": 5, "local_epochs": 2}}, "keep one of them"),
        ({"data": {"validation_fraction": 0.5, "test_fraction": 0.5}}, "leave nothing to train on"),
        ({"data": {"source": "folder"}}, "needs data.path"),
        ({"data": {"classes": ("a", "b", "a")}}, "names a class twice"),
    ],
)
def test_contradiction_is_refused(values: Mapping[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings.model_validate(values)


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "a b", "-x", "x\n"])
def test_run_name_is_one_plain_folder(name: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"run": {"name": name}})


@pytest.mark.parametrize("number", [float("inf"), float("nan"), 0.0, -1.0])
def test_learning_rate_is_finite_and_positive(number: float) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"training": {"learning_rate": number}})


@pytest.mark.parametrize("pattern", ["(", "person", "(a)(b)"])
def test_patient_pattern_has_one_group(pattern: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"data": {"patient_pattern": pattern}})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().run.seed = 2  # type: ignore[misc]


def test_a_dumped_model_validates_again() -> None:
    settings = Settings.model_validate({"federation": {"sync_every_n_batch": 5}})
    assert Settings.model_validate(settings.model_dump()) == settings


PRIVATE = {"unit": "image", "target_epsilon": 8.0}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"privacy": {"unit": "image"}}, "needs one of privacy.target_epsilon and privacy.noise_multiplier"),
        ({"privacy": PRIVATE | {"noise_multiplier": 1.0}}, "and not both"),
        ({"privacy": PRIVATE, "training": {"class_weights": True}}, "exact class counts"),
        ({"privacy": PRIVATE, "data": {"normalisation": "site"}}, "a site's own statistics are not accounted for"),
        ({"privacy": PRIVATE, "federation": {"patience": 3}}, "stopping by private validation images"),
        (
            {"privacy": PRIVATE | {"statistics": "noisy"}, "run": {"mode": "pooled"}},
            "privacy.statistics = noisy needs run.mode = federated",
        ),
        ({"privacy": PRIVATE | {"unit": "site"}}, "privacy.unit = site needs privacy.delta"),
        ({"privacy": PRIVATE | {"unit": "site", "delta": 1e-5}}, "sites must count alike"),
        ({"privacy": PRIVATE | {"views": 4, "clipping": "ghost"}}, "ghost"),
        ({"run": {"dry_run": True}}, "give --data BOXES"),
        ({"data": {"source": "boxes"}}, "data.source = boxes needs data.path"),
        ({"data": {"source": "boxes", "path": "boxes"}, "run": {"mode": "pooled"}}, "which no grant allows"),
        ({"federation": {"sites_per_round": 1}}, "a sum over one site hides nothing"),
    ],
)
def test_what_would_void_a_protection_is_refused(sections: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings.model_validate(sections)


def test_early_stopping_by_public_images_is_allowed() -> None:
    settings = Settings.model_validate({"privacy": PRIVATE | {"validation": "public"}, "federation": {"patience": 3}})
    assert settings.privacy.chooses_model and settings.privacy.is_by_site


def test_one_site_a_round_is_allowed_without_secure_aggregation() -> None:
    settings = {"federation": {"sites_per_round": 1}, "secure_aggregation": {"enabled": False}}
    assert Settings.model_validate(settings).federation.sites_per_round == 1
