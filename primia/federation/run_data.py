"""The images of a run, as shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from primia.config.settings import Settings
from primia.data.federation import FederatedData, prepare

PackProgress = Callable[[str, int, int], None]
"""Called as (what, done, total) while images are packed."""

_DRY = "dry run on the mock halves: no patient's image is read, and the numbers mean nothing"


def run_data(settings: Settings, on_pack: PackProgress | None = None) -> FederatedData:
    """The shards of a run with these settings: those of the site boxes, or packed once from where its images are."""
    if settings.data.source == "boxes" and settings.data.path:
        from primia.federation.boxes import federated_data  # Syft takes a while to load

        data = federated_data(settings.data.path, settings.run.dry_run)
        return replace(data, synthetic=True, warnings=(*data.warnings, _DRY)) if settings.run.dry_run else data
    return prepare(settings.data, settings.data.cache or settings.run.output / ".shards", on_pack)
