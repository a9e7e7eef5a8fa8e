"""Which images to predict: a flat folder of image files, class folders named as the model's classes, or one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from primia.data.closed import refuse_box
from primia.data.decode import DICOM_SUFFIXES, SUFFIXES, decode
from primia.data.layout import NO_DICOM, image_files, list_folder, subfolders
from primia.errors import DataError


@dataclass(frozen=True, eq=False)
class InferenceImages:
    """Images in the order of their names, decoded one by one as they are asked for.

    ``names`` are paths relative to ``root``, with slashes; ``labels`` ``(n,)`` index the model's classes, None where the
    folders do not tell them.
    """

    root: Path
    names: tuple[str, ...]
    labels: NDArray[np.int64] | None
    paths: tuple[Path, ...]
    channels: int
    image_size: int

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Image ``index`` as uint8 ``(channels, image_size, image_size)``; raises :class:`~primia.data.decode.BadImage`."""
        return decode(self.paths[index], channels=self.channels, image_size=self.image_size)


def find_images(data: Path, *, classes: Sequence[str], channels: int, image_size: int) -> InferenceImages:
    """The images at ``data`` for a model with these classes, channels and image size. Decodes none of them.

    Raises:
        ConsentError: they lie in a site box.
        DataError: there are no images, a folder is none of the classes, images lie beside folders, or a file is DICOM.
    """
    refuse_box(data)
    root = data.parent if data.is_file() else data
    labelled = _one_file(data) if data.is_file() else _folder(data, classes)
    named = sorted((_printable(path.relative_to(root)), path, label) for path, label in labelled)
    names, paths, labels = zip(*named, strict=True)
    known = None if None in labels else np.array([classes.index(label) for label in labels], dtype=np.int64)
    return InferenceImages(root, names, known, paths, channels, image_size)


_Labelled = list[tuple[Path, str | None]]


def _one_file(path: Path) -> _Labelled:
    suffix = path.suffix.lower()
    if suffix in DICOM_SUFFIXES:
        raise DataError(f"{path}: {NO_DICOM}")
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: not an image file by its name; give one that ends in {', '.join(SUFFIXES)}, or a folder of them")
    return [(path, None)]


def _folder(root: Path, classes: Sequence[str]) -> _Labelled:
    images, folders = image_files(root), subfolders(root)
    if images and folders:
        raise DataError(f"{root}: holds images and also folders ({_names(folders)}); give either a flat folder or class folders")
    if images:
        return [(path, None) for path in images]
    if not folders:
        raise DataError(f"{root}: no images here; give a folder that holds some ({', '.join(SUFFIXES)})")
    _check_class_folders(root, folders, classes)
    return [(file.path, file.label) for file in list_folder(root, classes).files]


def _check_class_folders(root: Path, folders: dict[str, Path], classes: Sequence[str]) -> None:
    if unknown := sorted(set(folders) - set(classes)):
        raise DataError(
            f"{root}: {_names(unknown)} is none of the model's classes {_names(classes)}; "
            "name the folders as these, or give a flat folder of images"
        )
    for folder in folders.values():
        if inner := subfolders(folder):
            raise DataError(f"{folder}: holds folders ({_names(inner)}); put the images directly into the class folder")


def _names(names: Sequence[str] | dict[str, Path]) -> str:
    return ", ".join(repr(name) for name in names)


def _printable(path: Path) -> str:
    """A file name need not be UTF-8, what is written and printed must be."""
    return path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
