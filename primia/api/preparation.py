"""What training and searching do before the first actor starts: settings made absolute, a place to write."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from primia.config.settings import Settings
from primia.errors import RunError
from primia.files import private_folder, scratch_file

if TYPE_CHECKING:
    from primia.data.prepare import Check
    from primia.runs.folder import ResultFolder


def resolved(settings: Settings) -> Settings:
    """Settings with absolute paths and a name, as they are written into the run folder."""
    run = settings.run.model_copy(update={"output": settings.run.output.resolve(), "name": settings.run.name or run_name(settings)})
    data = settings.data.model_copy(
        update={key: path.resolve() for key in ("path", "cache") if (path := getattr(settings.data, key)) is not None}
    )
    pretrained = settings.model.pretrained
    file = pretrained if pretrained in ("no", "imagenet") else str(Path(pretrained).resolve())
    model = settings.model.model_copy(update={"pretrained": file})
    if settings.privacy.is_on and model.normalisation == "batch":
        model = model.model_copy(update={"normalisation": "group"})
    warm_start = tuple(str(Path(name).resolve()) for name in settings.search.warm_start)
    search = settings.search.model_copy(update={"warm_start": warm_start})
    return settings.model_copy(update={"run": run, "data": data, "model": model, "search": search})


def in_place_of(stored: Settings, given: Settings) -> Settings:
    """Settings given for a folder that exists, with its name and place, and the cache that it was made with."""
    run = given.run.model_copy(update={"name": stored.run.name, "output": stored.run.output})
    return given.model_copy(update={"run": run, "data": given.data.model_copy(update={"cache": stored.data.cache})})


def run_name(settings: Settings) -> str:
    """A run's name where it is not given one."""
    data = settings.data
    what = data.path.name if data.source == "folder" and data.path else data.source
    mode = f"local-{settings.run.site}" if settings.run.mode == "local" else settings.run.mode
    return f"{what}-{settings.model.name}-{mode}-{datetime.now():%Y%m%d-%H%M%S}"


def check_output(output: Path) -> None:
    """Make the folder; RunError where nothing can be written into it."""
    try:
        private_folder(output)
        with scratch_file(output):
            pass
    except OSError as error:
        raise RunError(f"cannot write to {output}: {error.strerror}; give another --output") from None


def same_images(folder: ResultFolder, what: str) -> Check:
    """Refuse other images than those that a ``run`` or ``sweep`` was started with, and a folder that cannot be written; RunError."""

    def check(fingerprint: str) -> None:
        if folder.fingerprint() != fingerprint:
            raise RunError(f"cannot resume {folder.path}: the images have changed since it was started; start a new {what}")
        check_output(folder.path)

    return check


def store_bytes(sites: int) -> int:
    """Room for the largest model we train (ResNet-18, 45 MB) ten times a node, and twice a site."""
    return (10 + 2 * sites) * 48 * 2**20
