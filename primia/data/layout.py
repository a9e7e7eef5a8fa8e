"""Recognises how a data folder is laid out, and lists its images.

=====================================  =========================================================
layout                                 meaning
=====================================  =========================================================
``train|validation|test/<site>/<class>``   sites and splits as given (``primia-ray data split``)
``<site>/<class>``                     sites; beside them may lie a central ``validation/<class>``
                                       and ``test/<class>`` (PriMIA's ``worker1..n``)
``<class>``                            neither sites nor splits; both are made
``train|validation|test/<class>``      one site with its splits
=====================================  =========================================================

Files directly in a class folder count; hidden ones (``._*`` too) do not. Links to files and folders
are followed. ``classes.txt`` in the root, one name a line, names the classes in their order, so that
a site may lack some.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from primia.data.catalogue import CENTRAL, SPLITS
from primia.data.closed import refuse_box
from primia.data.decode import DICOM_SUFFIXES, SUFFIXES
from primia.errors import DataError
from primia.untrusted.files import printable, read_file

CLASSES_FILE = "classes.txt"
SYNTHETIC_FILE = "SYNTHETIC.txt"
"""Its presence in the root says that the images were drawn, not taken."""
ONE_SITE = "site"
_CLASSES_BYTES = 2**20
NO_DICOM = "DICOM files are not supported yet; export them as PNG, 8 or 16 bit"


class ImageFile(NamedTuple):
    """One image file; ``site`` and ``split`` are ``""`` where the layout leaves them open."""

    path: Path
    site: str
    split: str
    label: str


@dataclass(frozen=True)
class FolderListing:
    """Images of a folder, sorted by site, split, class and file name, and the classes in the order of their labels."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[ImageFile, ...]


def is_packed(root: Path) -> bool:
    """Whether ``root`` holds packed shards, ``train|validation|test/<site>.arrow``."""
    return any(any((root / split).glob("*.arrow")) for split in SPLITS)


def list_folder(root: Path, classes: Sequence[str] = ()) -> FolderListing:
    """All images under ``root``; :class:`DataError` names the folder, site or class that does not fit.

    ``classes`` (else ``classes.txt``) fixes names and order; without either, all sites must have the same
    class folders, which are then sorted by name.
    """
    folders = subfolders(root)
    if not folders:
        raise DataError(_no_classes(root))
    files = tuple(_walk(root, folders))
    declared = tuple(classes) or read_classes(root)
    return FolderListing(root, _agree(root, files, declared), files)


def read_classes(root: Path) -> tuple[str, ...]:
    """Names in ``classes.txt`` of ``root``; none where there is no such file."""
    path = root / CLASSES_FILE
    if not path.is_file():
        return ()
    refuse_box(path)
    try:
        text = read_file(path, _CLASSES_BYTES, follow=True).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({printable(error)}); give one class name a line, as UTF-8 text") from None
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def image_files(folder: Path) -> list[Path]:
    """Image files directly in ``folder``, by name; :class:`DataError` if one is DICOM, or the folder cannot be listed."""
    names = [entry.name for entry in _entries(folder, lambda entry: not entry.is_dir())]
    dicom = next((name for name in names if name.lower().endswith(DICOM_SUFFIXES)), None)
    if dicom:
        raise DataError(f"{folder / dicom}: {NO_DICOM}")
    return [folder / name for name in names if name.lower().endswith(SUFFIXES)]


def subfolders(folder: Path) -> dict[str, Path]:
    """Folders directly in ``folder``, by name; :class:`DataError` if it cannot be listed, or holds a link to nothing."""
    return {entry.name: folder / entry.name for entry in _entries(folder, _is_folder)}


def _walk(root: Path, folders: Mapping[str, Path]) -> Iterator[ImageFile]:
    splits = {name: folders[name] for name in SPLITS if name in folders}
    others = {name: folder for name, folder in folders.items() if name not in splits}
    if "train" not in splits:
        yield from _site_or_class(root, others)
    elif others:
        raise DataError(f"{root}: has train and also {_names(others)}; keep only train, validation and test at this level")
    for split, folder in splits.items():
        yield from _split_folder(folder, split, lonely=_one_site(splits))


def _one_site(splits: Mapping[str, Path]) -> bool:
    return "train" in splits and not _holds_sites(subfolders(splits["train"]))


def _split_folder(folder: Path, split: str, *, lonely: bool) -> Iterator[ImageFile]:
    inner = subfolders(folder)
    if not inner:
        raise DataError(_no_classes(folder))
    if _holds_sites(inner) and lonely:
        raise DataError(f"{folder}: has sites, train has none; lay out both as <site>/<class> or both as <class>")
    if _holds_sites(inner):
        yield from _sites(inner, split)
    else:
        yield from _class_folders(inner, ONE_SITE if lonely else CENTRAL, split)


def _site_or_class(root: Path, folders: Mapping[str, Path]) -> Iterator[ImageFile]:
    if not folders:
        raise DataError(f"{root}: has no training images; add train/<class> or <site>/<class> folders")
    if _holds_sites(folders):
        yield from _sites(folders, "")
    else:
        yield from _class_folders(folders, "", "")


def _sites(folders: Mapping[str, Path], split: str) -> Iterator[ImageFile]:
    for site, folder in folders.items():
        inner = subfolders(folder)
        if site == CENTRAL and split in ("", "train"):
            raise DataError(f"{folder}: {CENTRAL!r} is the name of the holder of central images; rename this site")
        if not inner:
            raise DataError(_no_classes(folder))
        yield from _class_folders(inner, site, split)


def _class_folders(folders: Mapping[str, Path], site: str, split: str) -> Iterator[ImageFile]:
    for label, folder in folders.items():
        images = image_files(folder)
        if not images:
            raise DataError(f"{folder}: no image of class {label!r}{_at(site)}; add some ({', '.join(SUFFIXES)}) or remove the folder")
        yield from (ImageFile(path, site, split, label) for path in images)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink() and not Path(entry.path).exists() and not entry.name.lower().endswith(SUFFIXES):
        raise DataError(f"{entry.path}: a link to nothing; mend or remove it")
    return entry.is_dir()


def _entries(folder: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> list[os.DirEntry[str]]:
    refuse_box(folder)
    try:
        with os.scandir(folder) as entries:
            chosen = sorted((entry for entry in entries if not entry.name.startswith(".") and wanted(entry)), key=lambda entry: entry.name)
    except FileNotFoundError:
        raise DataError(f"{folder}: no such folder; give an existing one with --data DIR or data.path") from None
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed as a folder ({error.strerror}); give a readable one") from None
    _refuse_links(chosen)
    return chosen


def _refuse_links(entries: Sequence[os.DirEntry[str]]) -> None:
    """Refuse links into a site box; links to one folder are looked at once."""
    links = {os.path.dirname(os.path.realpath(entry.path)): entry for entry in entries if entry.is_symlink()}  # noqa: PTH120 - of many
    links |= {entry.path: entry for entry in entries if entry.is_symlink() and entry.is_dir()}
    for entry in links.values():
        refuse_box(Path(entry.path))


def _holds_sites(folders: Mapping[str, Path]) -> bool:
    return any(subfolders(folder) for folder in folders.values())


def _agree(root: Path, files: Sequence[ImageFile], declared: tuple[str, ...]) -> tuple[str, ...]:
    found: dict[str, set[str]] = {}
    for file in files:
        found.setdefault(file.site, set()).add(file.label)
    sites = [labels for site, labels in found.items() if site != CENTRAL]
    classes = declared or tuple(sorted(set().union(*sites)))
    for site, labels in found.items():
        unknown, missing = sorted(labels - set(classes)), sorted(set(classes) - labels)
        if unknown:
            raise DataError(
                f"{root}: class {_names(unknown)}{_at(site)} is none of {_names(classes)}; rename the folder or add it to classes"
            )
        if missing and not declared and site != CENTRAL:
            place = f"{_at(site)} but present elsewhere"
            raise DataError(f"{root}: class {_names(missing)} is missing{place}; add it, or list all classes in {CLASSES_FILE}")
    if len(classes) < 2:
        raise DataError(f"{root}: only class {_names(classes)}; a classifier needs two or more class folders")
    return classes


def _no_classes(folder: Path) -> str:
    suffixes = {path.suffix.lower() for path in folder.iterdir()}
    if suffixes & set(DICOM_SUFFIXES):
        return f"{folder}: {NO_DICOM}"
    state = "holds images but no class folders" if suffixes & set(SUFFIXES) else "has no class folders"
    return f"{folder}: {state}; put images into one folder a class, <class>/*.png"


def _names(names: Sequence[str] | Mapping[str, Path]) -> str:
    return ", ".join(repr(name) for name in names)


def _at(site: str) -> str:
    return f" at site {site!r}" if site else ""
