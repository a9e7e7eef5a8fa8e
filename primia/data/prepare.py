"""From settings to shards on disk: sites, splits by patient, packing into a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from primia.config.settings import DataSettings
from primia.data.catalogue import CENTRAL, SPLITS, Catalogue, digest
from primia.data.closed import refuse_box
from primia.data.demo import site_names
from primia.data.layout import ONE_SITE, is_packed
from primia.data.packed import Progress, clear_broken, pack, packed_fingerprint, read_notes, read_shards, shards_fingerprint
from primia.data.sources import open_source
from primia.data.split import Assignment, assign, assign_splits
from primia.errors import DataError
from primia.files import keep_private
from primia.untrusted.documents import read_object
from primia.untrusted.files import printable

Check = Callable[[str], None]
"""Raises where the images with this fingerprint are not the ones that belong to a run."""


@dataclass(frozen=True)
class SiteShards:
    """Shards of one site. Where validation or test images belong to no site, a holder named ``central`` has no ``train``.

    ``box``: the folder of the owner's grants and keys, where the site has one.
    """

    name: str
    train: Path | None
    validation: Path | None
    test: Path | None
    box: Path | None = None


@dataclass(frozen=True)
class FederatedData:
    """Packed shards of all sites, and what is common to them. Picklable; holds paths, no pixels.

    ``skipped`` names images that could not be read, ``warnings`` what may harm an honest result, and
    ``fingerprint`` changes whenever a shard's content does.
    """

    sites: tuple[SiteShards, ...]
    classes: tuple[str, ...]
    channels: int
    image_size: int
    synthetic: bool
    skipped: tuple[str, ...]
    fingerprint: str
    warnings: tuple[str, ...] = ()


def shards_beside(folder: Path) -> Path:
    """Where the shards of the runs in ``folder`` are packed, unless ``data.cache`` says where.

    Raises:
        DataError: it is a link, as a folder that somebody has sent may hold one.
    """
    beside = folder / ".shards"
    if beside.is_symlink():
        raise DataError(f"{beside}: a link, where packed shards belong; remove it, or set data.cache to the folder that it leads to")
    return beside


def prepare(
    settings: DataSettings,
    cache: Path,
    progress: Progress | None = None,
    *,
    kept: Path | None = None,
    check: Check | None = None,
) -> FederatedData:
    """Shards for a run: packed ones in place, anything else split by patient and packed once into ``cache``.

    Validation and test splits that the source lacks are cut from each site's images. Raises
    :class:`DataError` with one line on anything that does not fit; then nothing half-written is left.

    Args:
        settings: where the images are, and how they are split.
        cache: folder of packed shards, made where it is missing.
        progress: called as (what, done, total) while images are packed.
        kept: another such folder, which is looked into first and left as it is.
        check: refuses images by the fingerprint that their shards have or will have, before anything is written.
    """
    source = open_source(settings)
    placed = place(source, settings)
    if settings.source == "folder" and settings.path and is_packed(settings.path) and placed.places() == source.places():
        data = read_packed(settings.path)
        if check:
            check(data.fingerprint)
        return data
    if check:
        check(packed_fingerprint(placed))
    if kept:
        with suppress(DataError):
            return read_packed(_packed_folder(placed, kept, settings.on_bad_image))
    return _packed_once(placed, cache, settings.on_bad_image, progress)


def check_trained_on(run: Path, fingerprint: str) -> None:
    """Refuse images by their fingerprint where the run in a folder was trained on others.

    Raises:
        DataError: it was, or its ``data.json`` does not say.
    """
    try:
        trained_on = read_object(run / "data.json").get("fingerprint")
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or printable(error)
        raise DataError(f"{run / 'data.json'} cannot be read ({why}); was the run folder copied whole?") from None
    if fingerprint != trained_on:
        raise DataError(f"{run}: the images are not those that it was trained on; put them back, or take a run on the new ones")


def prepare_evaluation(
    path: Path,
    *,
    classes: Sequence[str],
    channels: int,
    image_size: int,
    cache: Path,
    on_bad_image: Literal["error", "skip"] = "error",
    progress: Progress | None = None,
) -> FederatedData:
    """Labelled images at ``path`` as test shards for a trained model: its test split where it has one, else all of it.

    ``classes`` are the model's; the folder may lack some, others in it are a :class:`DataError`.
    """
    fields = {"source": "folder", "path": path, "classes": tuple(classes), "channels": channels, "image_size": image_size}
    source = open_source(DataSettings.model_validate(fields))
    has_test = "test" in source.splits
    sites = [site or CENTRAL for site in source.sites]
    splits = ["test" if split == "test" or not has_test else "" for split in source.splits]
    return _packed_once(source.with_places(sites, splits), cache, on_bad_image, progress)


def read_packed(root: Path) -> FederatedData:
    """What a packed folder holds; :class:`DataError` if it holds no shard, or a broken one."""
    shards = read_shards(root)
    paths: dict[str, dict[str, Path]] = {}
    for shard in shards:
        paths.setdefault(shard.site, {})[shard.split] = shard.path
    notes = read_notes(root)
    return FederatedData(
        sites=tuple(SiteShards(site, *(paths[site].get(split) for split in SPLITS)) for site in sorted(paths)),
        classes=shards[0].classes,
        channels=shards[0].channels,
        image_size=shards[0].image_size,
        synthetic=shards[0].synthetic,
        skipped=notes.skipped,
        fingerprint=shards_fingerprint(shards),
        warnings=notes.warnings,
    )


def place(source: Catalogue, settings: DataSettings) -> Catalogue:
    """Give every image a site and a split: those of the source where it has them, made ones elsewhere."""
    validation = 0.0 if "validation" in source.splits else settings.validation_fraction
    test = 0.0 if "test" in source.splits else settings.test_fraction
    sites, splits = list(source.sites), list(source.splits)
    for (site, split), rows in source.groups().items():
        if split in ("validation", "test"):
            made = Assignment([site or CENTRAL] * len(rows), [split] * len(rows))
        else:
            made = _assign(source, rows, site, validation, test, settings)
        for row, new_site, new_split in zip(rows, made.sites, made.splits, strict=True):
            sites[row], splits[row] = new_site, new_split
    placed = source.with_places(sites, splits)
    _check_splits(placed, validation, test)
    return replace(placed, warnings=(*placed.warnings, *_leaks(placed)))


def as_laid_out(source: Catalogue) -> Catalogue:
    """Sites and splits as the source has them; images without either belong to one site and to training."""
    splits = [split or "train" for split in source.splits]
    sites = [site or (ONE_SITE if split == "train" else CENTRAL) for site, split in zip(source.sites, splits, strict=True)]
    placed = source.with_places(sites, splits)
    return replace(placed, warnings=(*placed.warnings, *_leaks(placed)))


def without_sites(source: Catalogue) -> Catalogue:
    """The same images with sites yet to be made; :class:`DataError` if the source has several already."""
    sites = sorted(set(source.sites) - {"", ONE_SITE, CENTRAL})
    if sites:
        raise DataError(f"{source.name}: is laid out by site already ({', '.join(sites[:3])} ...); train on it as it is")
    return source.with_places([""] * len(source), source.splits)


def _assign(source: Catalogue, rows: Sequence[int], site: str, validation: float, test: float, settings: DataSettings) -> Assignment:
    patients, labels, seed = [source.patients[row] for row in rows], source.labels[rows], settings.split_seed
    if site:
        return assign_splits(patients, labels, site=site, seed=seed, validation_fraction=validation, test_fraction=test)
    return assign(
        patients,
        labels,
        sites=site_names(settings.sites),
        method=settings.split,
        alpha=settings.dirichlet_alpha,
        seed=seed,
        validation_fraction=validation,
        test_fraction=test,
    )


def _check_splits(placed: Catalogue, validation: float, test: float) -> None:
    present = set(placed.splits)
    for split, fraction in (("train", 1.0), ("validation", validation), ("test", test)):
        if fraction and split not in present:
            raise DataError(
                f"{placed.name}: too few patients at every site for {split} images; add images, or give {split} images of their own"
            )


def _leaks(placed: Catalogue) -> tuple[str, ...]:
    """A warning where patients are in more than one split, as only the folders of a source can put them."""
    seen: dict[str, set[str]] = {}
    for patient, split in zip(placed.patients, placed.splits, strict=True):
        seen.setdefault(patient, set()).add(split)
    torn = {patient: sorted(splits) for patient, splits in seen.items() if len(splits) > 1}
    if not torn:
        return ()
    patient, splits = next(iter(torn.items()))
    return (
        f"{placed.name}: {len(torn)} patient(s) in more than one split, the first being {patient!r} in {' and '.join(splits)}; "
        "results will look too good, split by patient again (primia-ray data split)",
    )


def _packed_once(placed: Catalogue, cache: Path, on_bad_image: Literal["error", "skip"], progress: Progress | None) -> FederatedData:
    """The shards of ``placed`` in the cache, packed now if they are not there or broken."""
    refuse_box(cache)
    folder = _packed_folder(placed, cache, on_bad_image)
    if folder.is_symlink():
        raise DataError(f"{folder}: a link, where packed shards of this cache belong; remove it")
    try:
        data = read_packed(folder)
        keep_private(folder)  # an earlier version may have packed it
        return data
    except DataError:
        clear_broken(folder)
    try:
        pack(placed, folder, on_bad_image, progress)
    except DataError:
        if not folder.exists():  # else another process has packed the same meanwhile
            raise
    return read_packed(folder)


def _packed_folder(placed: Catalogue, cache: Path, on_bad_image: str) -> Path:
    return cache / digest((placed.content(), on_bad_image))
