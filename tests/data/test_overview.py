from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from primia.data.catalogue import Catalogue
from primia.data.decode import BadImage
from primia.data.overview import Group, file_sizes, groups, pixels

Make = Callable[..., Catalogue]


def test_groups_in_the_order_of_splits_then_sites(make_catalogue: Make) -> None:
    made = make_catalogue(
        [0, 1, 1, 0, 0],
        sites=["b", "a", "a", "a", "a"],
        splits=["train", "test", "train", "train", "train"],
        patients=["p", "q", "r", "r", "s"],
    )
    assert groups(made) == [Group("train", "a", (2, 1), 2), Group("train", "b", (1, 0), 1), Group("test", "a", (0, 1), 1)]


def test_pixels_of_each_site_and_of_all(make_catalogue: Make) -> None:
    found = pixels(make_catalogue([0, 1] * 50, sites=["a"] * 30 + ["b"] * 70))
    assert found.sites["a"].normalisation().mean[0] * 255 == np.mean(range(30))
    assert found.pooled().normalisation().mean[0] * 255 == np.mean(range(100))


def test_bad_images_are_told_and_left_out(make_catalogue: Make) -> None:
    def read(index: int) -> NDArray[np.uint8]:
        if index == 1:
            raise BadImage(Path("1.png"), "broken")
        return np.full((1, 8, 8), 10, dtype=np.uint8)

    found = pixels(make_catalogue([0, 1, 0], sites=["a"] * 3, read=read))
    assert [image.reason for image in found.bad] == ["broken"]
    assert found.pooled().count == 2 * 64


def test_file_sizes_smallest_first(tmp_path: Path) -> None:
    for name, size in (("a.png", (7, 5)), ("b.png", (4, 9)), ("c.png", (7, 5))):
        Image.new("L", size).save(tmp_path / name)
    (tmp_path / "d.png").write_text("no picture")
    assert file_sizes(tmp_path, ["a.png", "b.png", "c.png", "d.png"]) == [(4, 9), (7, 5)]
