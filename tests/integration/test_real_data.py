"""Trainings on real images; minutes, so they run with ``make test-slow``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import primia

pytestmark = [pytest.mark.integration, pytest.mark.slow]
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., primia.Run]:
    def train(config: str, *sets: str) -> primia.Run:
        return primia.train(primia.load_config(CONFIGS / config, [*sets, f"run.output={tmp_path}"]))

    return train


def test_mnist_at_three_sites(trained: Callable[..., primia.Run], shared_data: Path) -> None:
    run = trained("mnist.ini", f"data.path={shared_data / 'mnist'}", "federation.rounds=2")
    test = run.summary["test"]
    assert test["images"] == 10_000
    assert test["accuracy"] >= 0.975
    assert all(site["train_images"] > 17_000 for site in run.summary["sites"].values() if site["train_images"])


def test_chest_x_rays_at_three_sites(trained: Callable[..., primia.Run], shared_data: Path) -> None:
    small = ("data.image_size=64", "model.name=convnet", "federation.rounds=3", "training.learning_rate=0.002")
    run = trained("pneumonia-resnet18.ini", f"data.path={shared_data / 'chest_xray'}", *small)
    assert run.summary["data"]["classes"] == ["bacterial", "normal", "viral"]
    assert run.summary["test"]["mcc"] >= 0.35
