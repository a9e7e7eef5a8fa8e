"""A picture of what a source holds: a row a site, a column a class, several images in each cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from primia.data.catalogue import Catalogue
from primia.data.decode import BadImage

MARGIN, TITLE = 4, 20
"""Space between thumbnails and height of a line of text, in pixels."""


def contact_sheet(
    catalogue: Catalogue, *, columns: int = 4, thumbnail: int = 96, most_sites: int = 12, most_classes: int = 24
) -> Image.Image:
    """Up to ``columns`` images of each of the first classes at each of the first sites, evenly spaced through their list.

    An image that cannot be read shows as a crossed box.
    """
    sites = sorted(set(catalogue.sites))[:most_sites]
    classes = catalogue.classes[:most_classes]
    cell = columns * (thumbnail + MARGIN) + MARGIN
    height = thumbnail + TITLE + MARGIN
    sheet = Image.new("RGB", (cell * len(classes), TITLE + height * len(sites)), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for column, label in enumerate(classes):
        pen.text((column * cell + MARGIN, 2), label, fill="black", font=font)
        for row, site in enumerate(sites):
            rows = _rows(catalogue, site, column)
            top = TITLE + row * height
            pen.text((column * cell + MARGIN, top), f"{site or 'all'}: {len(rows)}", fill="dimgrey", font=font)
            for place, index in enumerate(_spread(rows, columns)):
                sheet.paste(_thumbnail(catalogue, index, thumbnail), (column * cell + MARGIN + place * (thumbnail + MARGIN), top + TITLE))
    return sheet


def _rows(catalogue: Catalogue, site: str, label: int) -> list[int]:
    return [index for index in np.flatnonzero(catalogue.labels == label).tolist() if catalogue.sites[index] == site]


def _spread(rows: Sequence[int], count: int) -> list[int]:
    return [rows[round(place)] for place in np.linspace(0, len(rows) - 1, min(count, len(rows)))]


def _thumbnail(catalogue: Catalogue, index: int, size: int) -> Image.Image:
    try:
        pixels = catalogue.read(index)
    except BadImage:
        return _crossed_box(size)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return picture.resize((size, size), Image.Resampling.BILINEAR).convert("RGB")


def _crossed_box(size: int) -> Image.Image:
    box = Image.new("RGB", (size, size), "mistyrose")
    pen = ImageDraw.Draw(box)
    pen.line((0, 0, size, size), fill="firebrick")
    pen.line((0, size, size, 0), fill="firebrick")
    return box
