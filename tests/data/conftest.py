"""Small image folders and catalogues that tests fill as they need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from primia.data.catalogue import Catalogue


@pytest.fixture
def write_images() -> Callable[..., None]:
    """``write_images(root, "site/class", ...)`` puts ``count`` grey PNG files, each of another brightness, into each folder."""

    def write(root: Path, *folders: str, names: Iterable[str] = ("a.png", "b.png", "c.png", "d.png")) -> None:
        for folder in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
            for number, name in enumerate(names):
                Image.new("L", (12, 10), 20 * (number + 1)).save(root / folder / name)

    return write


@pytest.fixture
def make_catalogue() -> Callable[..., Catalogue]:
    """A catalogue of 8x8 images whose pixels are all their own index."""

    def make(
        labels: Sequence[int],
        *,
        sites: Sequence[str] = (),
        splits: Sequence[str] = (),
        patients: Sequence[str] = (),
        classes: tuple[str, ...] = ("x", "y"),
        read: Callable[[int], NDArray[np.uint8]] | None = None,
        synthetic: bool = False,
    ) -> Catalogue:
        count = len(labels)
        return Catalogue(
            name="made",
            classes=classes,
            labels=np.array(labels, dtype=np.int64),
            patients=patients or [f"p{index}" for index in range(count)],
            sources=[f"{index}.png" for index in range(count)],
            sites=sites or [""] * count,
            splits=splits or [""] * count,
            read=read or (lambda index: np.full((1, 8, 8), index, dtype=np.uint8)),
            channels=1,
            image_size=8,
            fingerprint="made",
            synthetic=synthetic,
        )

    return make
