"""The files in configs/ are valid, warn of nothing and say what they claim."""

from __future__ import annotations

from pathlib import Path

import pytest

from primia.config.reader import read_config
from primia.config.settings import Settings

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.ini")), ids=lambda path: path.name)
def test_a_shipped_file_is_valid_and_every_key_has_an_effect(path: Path) -> None:
    assert read_config(path)[1] == []


def test_demo_is_the_defaults() -> None:
    assert read_config(CONFIGS / "demo.ini")[0] == Settings()


def test_mnist() -> None:
    settings = read_config(CONFIGS / "mnist.ini")[0]
    assert (settings.data.source, settings.data.image_size, settings.data.sites, settings.model.name) == ("mnist", 28, 3, "convnet")


def test_pneumonia() -> None:
    settings = read_config(CONFIGS / "pneumonia-resnet18.ini")[0]
    assert (settings.data.source, settings.data.image_size, settings.data.sites, settings.model.name) == ("folder", 112, 3, "resnet18")
