"""Who started a run on images of their own is told what their sites say; of a site with a box they are told the kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from primia.api.site_words import SiteWords
from primia.config.settings import Settings
from primia.data.prepare import FederatedData, SiteShards
from primia.errors import DataError
from primia.federation.events import Notice, SiteLeftOut
from primia.federation.run_spec import RunSetup
from primia.federation.site.log import SiteLog


@pytest.fixture
def setup(tmp_path: Path) -> RunSetup:
    """Site ``a`` without a box, site ``b`` with one."""
    shards = tmp_path / "x.arrow"
    sites = (SiteShards("a", shards, shards, None), SiteShards("b", shards, shards, None, box=tmp_path / "box"))
    data = FederatedData(sites, ("x", "y"), 1, 16, synthetic=True, skipped=(), fingerprint="made")
    return RunSetup.of(Settings(), data, tmp_path / "run", started_at=0.0)


def log(setup: RunSetup, site: str) -> SiteLog:
    path = setup.folder / "sites" / site / "errors.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return SiteLog(path)


def test_a_site_without_a_box_says_it_all(setup: RunSetup) -> None:
    words, event = SiteWords(setup), SiteLeftOut(2, "a", "an error stopped it")
    assert words.complete(event) == event, "it has said nothing"
    log(setup, "a").write("train of round 2", ZeroDivisionError("of all things"))
    told = words.complete(event)
    assert isinstance(told, SiteLeftOut) and told.reason == "ZeroDivisionError: of all things" and "ZeroDivisionError" in told.traceback
    assert words.complete(event) == event, "what it said before is of something else"
    assert words.complete(Notice("info", "x")) == Notice("info", "x")


def test_a_site_with_a_box_says_the_kind(setup: RunSetup) -> None:
    words = SiteWords(setup)
    log(setup, "b").write("train of round 2", ZeroDivisionError("of all things"))
    event = SiteLeftOut(2, "b", "an error stopped it")
    assert words.complete(event) == event and not list(words.rest())


def test_what_an_earlier_part_of_the_run_left_is_not_told_again(setup: RunSetup) -> None:
    log(setup, "a").write("facts", DataError("old"))
    words = SiteWords(replace(setup))
    assert not list(words.rest())
    log(setup, "a").write("facts", DataError("new"))
    assert list(words.rest()) == [SiteLeftOut(0, "a", "new")] and not list(words.rest())
