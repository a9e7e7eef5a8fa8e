"""The public paediatric chest X-rays: where they are to be had, and how a download becomes three class folders."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from primia.data.closed import refuse_box
from primia.data.decode import SUFFIXES
from primia.data.packed import new_folder
from primia.errors import DataError
from primia.files import copy_private, private_folder

SOURCE = "the chest X-rays of Kermany, Zhang and Goldbaum (Mendeley Data, doi:10.17632/rscbjbr9sj, CC BY 4.0)"
NAMES = {"normal": r"^(NORMAL2-)?IM-\d+", "bacterial": r"^person\d+_bacteria_", "viral": r"^person\d+_virus_"}
PUBLIC_COUNTS = {"train": {"normal": 1349, "bacterial": 2538, "viral": 1345}, "test": {"normal": 234, "bacterial": 242, "viral": 148}}

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Sorted:
    """Images of each part and class, files whose name tells no class, and how many files came twice."""

    counts: dict[Part, dict[str, int]]
    unexpected: tuple[str, ...]
    repeated: int

    @property
    def images(self) -> int:
        return sum(sum(counts.values()) for counts in self.counts.values())

    def report(self) -> list[str]:
        """Lines that compare what was found with what was published."""
        lines = [_compare(part, counts) for part, counts in self.counts.items()]
        if self.repeated:
            lines.append(f"{self.repeated} files lie in the download twice; one of each was taken")
        if self.unexpected:
            lines.append(f"{len(self.unexpected)} files left out, their names tell no class: {', '.join(self.unexpected[:5])}")
        return lines


def sort_pneumonia(download: Path, output: Path, *, copy: bool) -> Sorted:
    """Sort the images under ``download`` by file name into ``<output>/<class>``, the public test split into ``<output>/test/<class>``.

    ``download`` may be the archive's folder (``chest_xray/train/NORMAL`` and so on) or any folder of its files;
    those below a folder named ``test`` are the test split. Raises :class:`DataError` if none is recognised.
    """
    if not download.is_dir():
        raise DataError(f"{download}: no such folder; give the unpacked download of {SOURCE}")
    refuse_box(download)
    files = [path for path in sorted(download.rglob("*")) if path.suffix.lower() in SUFFIXES and not _hidden(path, download)]
    for path in {path.resolve().parent: path for path in files}.values():
        refuse_box(path)
    targets: dict[Path, Path] = {}
    for path in files:
        if label := image_class(path.name):
            folder = Path("test", label) if _part(path, download) == "test" else Path(label)
            targets.setdefault(folder / path.name, path)
    if not targets:
        raise DataError(
            f"{download}: no file named like IM-0115-0001.jpeg, person1_bacteria_1.jpeg or person1_virus_6.jpeg; is this {SOURCE}?"
        )
    with new_folder(output) as scratch:
        for target, path in targets.items():
            private_folder((scratch / target).parent)
            _put(path, scratch / target, copy=copy)
    unexpected = tuple(str(path.relative_to(download)) for path in files if not image_class(path.name))
    return Sorted(_count(targets), unexpected, len(files) - len(unexpected) - len(targets))


def image_class(name: str) -> str | None:
    """Class that a file name tells; none if it is not named as in the public set."""
    return next((label for label, pattern in NAMES.items() if re.search(pattern, name)), None)


def _compare(part: Part, counts: dict[str, int]) -> str:
    found = ", ".join(f"{count} {label}" for label, count in counts.items())
    published = ", ".join(f"{count} {label}" for label, count in PUBLIC_COUNTS[part].items())
    return f"{part}: {found}" + (" (all there)" if counts == PUBLIC_COUNTS[part] else f" (published: {published})")


def _count(targets: dict[Path, Path]) -> dict[Part, dict[str, int]]:
    found = Counter(("test" if target.parts[0] == "test" else "train", target.parent.name) for target in targets)
    parts: tuple[Part, Part] = ("train", "test")
    return {part: {label: found[part, label] for label in NAMES} for part in parts}


def _part(path: Path, root: Path) -> Part:
    return "test" if "test" in path.relative_to(root).parts[:-1] else "train"


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.relative_to(root).parts)


def _put(source: Path, target: Path, *, copy: bool) -> None:
    if copy:
        copy_private(source, target)
    else:
        target.symlink_to(source.resolve())
