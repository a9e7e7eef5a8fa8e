from __future__ import annotations

import pytest

from primia.federation.policies import EarlyStopping, Quorum, SiteDraw

SITES = tuple(f"site-{index}" for index in range(10))


def test_draw_takes_all_sites_by_default() -> None:
    assert SiteDraw(0, seed=1).draw(SITES, 1) == SITES
    assert SiteDraw(10, seed=1).draw(SITES, 1) == SITES


def test_draw_depends_on_seed_and_round_alone() -> None:
    first = SiteDraw(3, seed=1).draw(SITES, 4)
    assert len(set(first)) == 3
    assert first == SiteDraw(3, seed=1).draw(SITES, 4)
    assert list(first) == sorted(first)
    others = {SiteDraw(3, seed=1).draw(SITES, round_) for round_ in range(20)} | {SiteDraw(3, seed=2).draw(SITES, 4)}
    assert len(others) > 10


def test_every_site_is_drawn_about_equally_often() -> None:
    counts = dict.fromkeys(SITES, 0)
    for round_ in range(1000):
        for name in SiteDraw(3, seed=7).draw(SITES, round_):
            counts[name] += 1
    assert all(240 <= count <= 360 for count in counts.values())


@pytest.mark.parametrize(
    ("fraction", "delivered", "drawn", "go_on"),
    [
        (0.5, 2, 4, True),
        (0.5, 1, 4, False),
        (0.5, 2, 3, True),
        (0.5, 1, 3, False),
        (1.0, 2, 3, False),
        (0.1, 0, 3, False),
        (0.01, 1, 50, True),
    ],
)
def test_quorum(fraction: float, delivered: int, drawn: int, go_on: bool) -> None:
    decision = Quorum(fraction).decide(delivered, drawn)
    assert decision.go_on is go_on
    assert go_on or f"{delivered} of {drawn}" in decision.reason


def test_early_stopping() -> None:
    assert EarlyStopping(0).decide(1000).go_on
    assert EarlyStopping(3).decide(2).go_on
    assert not EarlyStopping(3).decide(3).go_on
