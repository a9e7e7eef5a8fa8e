"""The images of a run, as shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from primia.config.settings import Settings
from primia.data.prepare import Check, FederatedData, prepare, shards_beside
from primia.runs.folder import ResultFolder

PackProgress = Callable[[str, int, int], None]
"""Called as (what, done, total) while images are packed."""

_DRY = "dry run on the mock halves: no patient's image is read, and the numbers mean nothing"


def new_data(settings: Settings, on_pack: PackProgress | None = None) -> FederatedData:
    """The shards of a new run with these settings: those of the site boxes, or packed once from where its images are."""
    return _data(settings, settings.data.cache or shards_beside(settings.run.output), None, None, on_pack)


def data_of(folder: ResultFolder, check: Check, *, cache: Path | None = None, on_pack: PackProgress | None = None) -> FederatedData:
    """The shards of a run or sweep that exists, which somebody else may have made.

    Nothing is written before ``check`` has passed their fingerprint, and then into ``cache``, which is the caller's, or beside the folder;
    the cache that its own settings name is only read.
    """
    settings = folder.settings()
    return _data(settings, cache or shards_beside(settings.run.output), settings.data.cache, check, on_pack)


def _data(settings: Settings, cache: Path, kept: Path | None, check: Check | None, on_pack: PackProgress | None) -> FederatedData:
    if settings.data.source == "boxes" and settings.data.path:
        from primia.consent.boxes import federated_data  # Syft takes a while to load

        data = federated_data(settings.data.path, settings.run.dry_run)
        if check:
            check(data.fingerprint)
        return replace(data, synthetic=True, warnings=(*data.warnings, _DRY)) if settings.run.dry_run else data
    return prepare(settings.data, cache, on_pack, kept=kept, check=check)
