"""A run folder that a stranger made is gone on with, or refused with one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from primia.api.search import _data_of, _resumed_settings
from primia.api.training import _resumed
from primia.config.settings import Settings
from primia.data.prepare import packed_fingerprint, place
from primia.data.sources import open_source
from primia.errors import DataError, RunError
from primia.runs.folder import RunFolder
from primia.search.folder import SweepFolder
from primia.search.space.space import Space

TINY = {"source": "demo", "sites": 2, "demo_images": 12, "image_size": 8}


def fingerprint(settings: Settings) -> str:
    return packed_fingerprint(place(open_source(settings.data), settings.data))


def sent(tmp_path: Path, fingerprint: str = "") -> RunFolder:
    """A run folder from somebody else, whose settings name places of the reader's."""
    mine = tmp_path / "mine"
    settings = Settings.model_validate({"data": {**TINY, "cache": mine / "cache"}, "run": {"output": mine / "runs", "name": "run"}})
    return RunFolder.create(tmp_path / "sent" / "run", settings, fingerprint or globals()["fingerprint"](settings))


def refused(folder: RunFolder) -> str:
    with pytest.raises(RunError) as caught:
        _resumed(folder.path, None, None)
    assert str(caught.value).isprintable() and not (folder.path.parent / ".shards").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    "summary", ["{}", '{"status": []}', '{"status": 1}', '{"status": null}', '{"status": "\\n\\u001b[2J"}', "[]", "[" * 100_000, '"x"']
)
def test_a_summary_that_does_not_say_how_the_run_ended_is_one_clear_error(tmp_path: Path, summary: str) -> None:
    folder = sent(tmp_path)
    folder.summary.write_text(summary)
    assert "summary.json cannot be read" in refused(folder)


def test_a_run_that_was_ended_early_goes_on_and_a_finished_one_does_not(tmp_path: Path) -> None:
    folder = sent(tmp_path)
    _resumed(folder.path, None, None)
    folder.write_summary({"status": "pruned"})
    _resumed(folder.path, None, None)
    folder.write_summary({"status": "finished"})
    with pytest.raises(RunError, match="is finished; see it with"):
        _resumed(folder.path, None, None)


def test_other_images_are_refused_before_anything_is_packed(tmp_path: Path) -> None:
    assert "the images have changed since it was started" in refused(sent(tmp_path, "other"))
    assert not (tmp_path / "mine").exists()


def test_shards_are_packed_beside_a_folder_and_not_where_its_settings_say(tmp_path: Path) -> None:
    folder = sent(tmp_path)
    settings, data = _resumed(folder.path, None, None)
    assert settings.run.output == tmp_path / "sent" and not (tmp_path / "mine").exists()
    assert data.sites[0].train and (tmp_path / "sent" / ".shards") in data.sites[0].train.parents


def test_the_cache_of_settings_that_a_user_gives_is_used(tmp_path: Path) -> None:
    folder = sent(tmp_path)
    given = Settings.model_validate({"data": {**TINY, "cache": tmp_path / "own"}})
    _, data = _resumed(folder.path, given, None)
    assert data.sites[0].train and (tmp_path / "own") in data.sites[0].train.parents
    with pytest.raises(RunError, match=r"cannot resume .* with other settings: run\.seed"):
        _resumed(folder.path, given.model_copy(update={"run": given.run.model_copy(update={"seed": 9})}), None)


def test_a_link_beside_a_folder_leads_nowhere(tmp_path: Path) -> None:
    folder = sent(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "sent" / ".shards").symlink_to(tmp_path / "mine")
    with pytest.raises(DataError, match="a link, where packed shards belong"):
        _resumed(folder.path, None, None)
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("searched", ["training.learning_rate", "data.split_seed"])
def test_a_sweep_that_was_sent_packs_where_it_lies_too(tmp_path: Path, searched: str) -> None:
    """A space over the data gives each trial images of its own."""
    mine = tmp_path / "mine"
    value = {"training.learning_rate": "uniform(0.1, 0.9)", "data.split_seed": "choice(1, 2)"}[searched]
    settings = Settings.model_validate(
        {"data": {**TINY, "cache": mine / "cache"}, "run": {"output": mine / "runs"}, "search": {"space": {searched: value}}}
    )
    own = Space.of(settings).needs_own_actors
    folder = SweepFolder.create(tmp_path / "sent" / "sweep", settings, "" if own else fingerprint(settings))
    resumed = _resumed_settings(None, folder.path)
    data = _data_of(folder, resumed, Space.of(resumed), None)
    assert (data is None) == own and resumed.data.cache is None and resumed.run.output == tmp_path / "sent"
    assert not mine.exists() and (own or (tmp_path / "sent" / ".shards").is_dir())
