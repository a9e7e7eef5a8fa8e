"""Fixtures for all tests; nothing heavy is imported here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of a file run in one process, and those that start a Ray one after the other, beside the others."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.get_closest_marker("integration") else str(item.path)))


class MemoryDataset:
    """Noise whose mean grows with the class."""

    def __init__(self, images: int, seed: int = 0, channels: int = 1, size: int = 8) -> None:
        rng = np.random.Generator(np.random.Philox(seed))
        self.labels: NDArray[np.int64] = rng.integers(0, 3, images)
        noise = rng.integers(0, 180, (images, channels, size, size))
        self.images: NDArray[np.uint8] = (noise + 30 * self.labels[:, None, None, None]).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.images[indices]


@pytest.fixture
def make_data() -> Callable[..., MemoryDataset]:
    """Makes a :class:`~primia.data.shard.Dataset` of so many images."""
    return MemoryDataset


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; where it is absent, the test skips."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data is absent: no ../shared/data beside the repository")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Tests are small: one thread each, where torch is loaded at all."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
