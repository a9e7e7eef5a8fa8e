"""Identities are made once: their keys are not what these tests are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from primia.secagg.identity import Identity
from primia.secagg.messages import Task
from primia.secagg.ring import Layout

LAYOUT = Layout(7, 3)


@pytest.fixture(scope="session")
def identities() -> Mapping[str, Identity]:
    return {name: Identity.generate(name) for name in (f"site-{index:02d}" for index in range(40))}


@pytest.fixture
def make_task(identities: Mapping[str, Identity]) -> Callable[..., Task]:
    """A task among the first ``sites`` identities."""

    def make(sites: int, *, layout: Layout = LAYOUT, neighbours: int = 0, threshold: float = 0.6, round_: int = 1) -> Task:
        return Task("study@hospital.example", "run", round_, "train", tuple(identities)[:sites], threshold, neighbours, layout)

    return make
