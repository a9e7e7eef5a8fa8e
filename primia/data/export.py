"""Writes image folders ``train|validation|test/<site>/<class>/<file>``: the demonstration set, and splits of a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from primia.data.catalogue import Catalogue
from primia.data.layout import CLASSES_FILE, SYNTHETIC_FILE
from primia.data.packed import Progress, new_folder
from primia.files import copy_private, private_folder

NOTICE = (
    "SYNTHETIC: these chest radiographs were drawn by a program (primia-ray data demo). None shows a patient; none is fit for diagnosis."
)


def write_tree(placed: Catalogue, output: Path, write: Callable[[int, Path], None], progress: Progress | None = None) -> None:
    """Make ``output`` with one file an image, written by ``write(index, path)``; all of it or nothing.

    ``classes.txt`` names the classes, so that sites may lack some.
    """
    with new_folder(output) as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        paths = [
            folder / split / site / placed.classes[label] / PurePosixPath(source).name for (site, split), label, source in _files(placed)
        ]
        for parent in {path.parent for path in paths}:
            private_folder(parent)
        for done, _ in enumerate(pool.map(write, range(len(paths)), paths), start=1):
            if progress:
                progress("writing files", done, len(paths))
        (folder / CLASSES_FILE).write_text("\n".join(placed.classes) + "\n", encoding="utf-8")
        if placed.synthetic:
            (folder / SYNTHETIC_FILE).write_text(NOTICE + "\n", encoding="utf-8")


def link_tree(placed: Catalogue, root: Path, output: Path, *, copy: bool, progress: Progress | None = None) -> None:
    """Lay out the files of a folder source at ``root`` anew, as copies or as links to their absolute paths."""

    def write(index: int, path: Path) -> None:
        source = (root / placed.sources[index]).resolve()
        if copy:
            copy_private(source, path)
        else:
            path.symlink_to(source)

    write_tree(placed, output, write, progress)


def demo_tree(placed: Catalogue, output: Path, progress: Progress | None = None) -> None:
    """Write the demonstration set as PNG files, each marked SYNTHETIC in its metadata as well as in a corner."""

    def write(index: int, path: Path) -> None:
        metadata = PngInfo()
        metadata.add_text("Synthetic", "true")
        metadata.add_text("Description", NOTICE)
        Image.fromarray(placed.read(index)[0]).save(path, pnginfo=metadata, compress_level=4)

    write_tree(placed, output, write, progress)


def _files(placed: Catalogue) -> list[tuple[tuple[str, str], int, str]]:
    return list(zip(placed.places(), placed.labels.tolist(), placed.sources, strict=True))
