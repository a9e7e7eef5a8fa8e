from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from primia.data.catalogue import Catalogue
from primia.data.contact_sheet import MARGIN, TITLE, contact_sheet
from primia.data.decode import BadImage

Make = Callable[..., Catalogue]


def test_rows_are_sites_and_columns_are_classes(make_catalogue: Make) -> None:
    sheet = contact_sheet(make_catalogue([0, 0, 1, 1, 0], sites=["a", "a", "a", "b", "b"]), columns=2, thumbnail=30)
    cell, height = 2 * (30 + MARGIN) + MARGIN, 30 + TITLE + MARGIN
    assert sheet.size == (2 * cell, TITLE + 2 * height)
    centre = 2 * TITLE + 15
    grey = [sheet.getpixel((x, centre)) for x in (MARGIN + 15, MARGIN + 34 + 15, cell + MARGIN + 15)]
    assert grey == [(0, 0, 0), (1, 1, 1), (2, 2, 2)]
    assert sheet.getpixel((MARGIN + 15, centre + height)) == (4, 4, 4)


def test_only_the_first_sites_are_shown(make_catalogue: Make) -> None:
    made = make_catalogue([0, 1] * 20, sites=[f"s{index:02d}" for index in range(40)])
    assert contact_sheet(made, most_sites=3).height < contact_sheet(made, most_sites=4).height


def test_only_the_first_classes_are_shown(make_catalogue: Make) -> None:
    """A sheet of a thousand classes would take gigabytes."""
    made = make_catalogue(list(range(5)) * 2, classes=tuple("abcde"))
    assert contact_sheet(made, most_classes=3).width < contact_sheet(made, most_classes=4).width == contact_sheet(made).width * 4 // 5


def test_unreadable_image_is_a_crossed_box(make_catalogue: Make) -> None:
    def read(index: int) -> NDArray[np.uint8]:
        raise BadImage(Path("a.png"), "broken")

    sheet = contact_sheet(make_catalogue([0, 1], read=read), columns=1, thumbnail=31)
    assert sheet.getpixel((MARGIN + 15, 2 * TITLE + 15)) == (178, 34, 34)
