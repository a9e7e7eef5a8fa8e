"""Fixtures for all tests; nothing heavy is imported here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


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
