from __future__ import annotations

from dataclasses import asdict

import pytest

from primia.config.settings import Settings
from primia.federation.driver.privacy_summary import _statement
from primia.privacy.site import Statement

SITE = Statement("image", 2.0, 2.0, 1e-5, "prv", 1.1, 0.05, "Poisson", 200, 1.0, 1, 10000, "add or remove one image", False, 2.0)


@pytest.mark.parametrize(("pretrained", "is_named"), [("no", False), ("imagenet", True), ("/data/start.safetensors", True), ("none", True)])
def test_a_run_names_starting_weights_that_it_does_not_cover(pretrained: str, is_named: bool) -> None:
    model = {"name": "resnet18", "pretrained": pretrained, "normalisation": "group"}
    settings = Settings.model_validate(
        {"model": model, "data": {"channels": 3, "image_size": 64}, "privacy": {"unit": "image", "target_epsilon": 2}}
    )
    text = _statement(settings, {"a": asdict(SITE)}, 3, 3, is_secure=True, is_sealed=False)
    assert ("the guarantee does not cover the images that those were trained on" in text) == is_named


def test_a_statement_of_an_earlier_version_can_be_read() -> None:
    fields = asdict(SITE)
    del fields["epsilon_spent"]
    text = _statement(Settings.model_validate({"model": {"normalisation": "group"}}), {"a": fields}, 3, 3, is_secure=True, is_sealed=False)
    assert "with epsilon = 2 at delta" in text and "planned" not in text


@pytest.mark.parametrize(
    ("fewest", "most", "said"),
    [
        (2, 3, "With two sites, each can compute the other's update"),
        (3, 3, "fewer than 2 of a round's sites"),
        (10, 10, "fewer than 6 of a round's sites"),
        (30, 40, "; Bell et al., 2020, on a random graph"),
        (30, 40, "fewer than 4 of a round's sites"),
        (4, 40, "fewer than 3 of a round's sites"),
    ],
)
def test_a_statement_names_how_many_sites_must_work_together(fewest: int, most: int, said: str) -> None:
    assert said in _statement(Settings(), {}, fewest, most, is_secure=True, is_sealed=False)
