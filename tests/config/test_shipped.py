"""The files in configs/ are valid, warn of nothing and say what they claim."""

from __future__ import annotations

from pathlib import Path

import pytest

from primia.config.reader import read_config
from primia.config.settings import SearchSettings, Settings
from primia.data.randomness import stream
from primia.search.space.demo import DEMO_SPACE
from primia.search.space.space import Space

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.ini")), ids=lambda path: path.name)
def test_a_shipped_file_is_valid_and_every_key_has_an_effect(path: Path) -> None:
    assert read_config(path)[1] == []


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.ini")), ids=lambda path: path.name)
def test_a_shipped_space_is_sound_and_holds_what_the_file_gives(path: Path) -> None:
    settings = read_config(path)[0]
    if settings.search.space:
        assert Space.of(settings).given() is not None
    else:
        assert path.name == "pneumonia-private.ini"


def test_trials_of_the_wide_search_are_of_one_length() -> None:
    """About 25 passes of 7 batches, validated about once a pass."""
    space = Space.of(read_config(CONFIGS / "search-pneumonia.ini")[0])
    for number in range(100):
        federation = space.settings(space.random(stream(number))).federation
        steps = federation.sync_every_n_batch or 7 * federation.local_epochs
        assert 175 <= federation.rounds * steps <= 175 + max(steps, 14)
        assert 7 <= federation.validate_every * steps <= 7 + steps or federation.validate_every == 1


def test_demo_is_the_defaults() -> None:
    settings = read_config(CONFIGS / "demo.ini")[0]
    assert settings.model_copy(update={"search": SearchSettings()}) == Settings()
    assert settings.search.space == DEMO_SPACE, "with and without the file the same is searched"


def test_mnist() -> None:
    settings = read_config(CONFIGS / "mnist.ini")[0]
    assert (settings.data.source, settings.data.image_size, settings.data.sites, settings.model.name) == ("mnist", 28, 3, "convnet")


def test_pneumonia() -> None:
    settings = read_config(CONFIGS / "pneumonia-resnet18.ini")[0]
    assert (settings.data.source, settings.data.image_size, settings.data.sites, settings.model.name) == ("folder", 112, 3, "resnet18")
