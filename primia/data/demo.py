"""The demonstration federation: synthetic radiographs of made-up patients at sites that differ.

Every choice follows from the seed: the same seed, site and image give the same pixels, whatever
else is drawn. Sites differ in exposure, contrast, gamma, film noise, sharpness, field of view and
in the mix of classes; a patient has one to three images.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from primia.data.anatomy import Anatomy
from primia.data.catalogue import Catalogue, digest
from primia.data.radiograph import Style, radiograph
from primia.data.randomness import stream

CLASSES = ("bacterial", "normal", "viral")
VERSION = 2
"""Raise when the drawing changes, so that cached shards are made anew."""

_MARK_CANVAS = 224


class Picture(NamedTuple):
    """One image to be drawn: its site and patient by number, its finding and its number there."""

    site: int
    patient: int
    finding: int
    number: int

    @property
    def patient_id(self) -> str:
        return f"person{self.site + 1}{self.patient:04d}"

    @property
    def file_name(self) -> str:
        """In the pattern of the public chest X-rays, so that patients are found again."""
        return f"{self.patient_id}_{CLASSES[self.finding]}_{self.number}.png"


def site_names(count: int) -> tuple[str, ...]:
    """``site-1`` ... ``site-n``, padded so that they sort."""
    width = len(str(count))
    return tuple(f"site-{number:0{width}d}" for number in range(1, count + 1))


def demo_catalogue(*, sites: int, images: int, image_size: int, channels: int, seed: int) -> Catalogue:
    """``images`` pictures at each of ``sites`` sites; nothing is drawn before it is read."""
    pictures = [picture for site in range(sites) for picture in _site_pictures(seed, site, images)]
    names = site_names(sites)

    def read(index: int) -> NDArray[np.uint8]:
        return np.repeat(draw(pictures[index], seed, image_size)[None], channels, axis=0)

    return Catalogue(
        name="the demonstration set",
        classes=CLASSES,
        labels=np.array([picture.finding for picture in pictures], dtype=np.int64),
        patients=[picture.patient_id for picture in pictures],
        sources=[picture.file_name for picture in pictures],
        sites=[names[picture.site] for picture in pictures],
        splits=[""] * len(pictures),
        read=read,
        channels=channels,
        image_size=image_size,
        fingerprint=digest(("demo", VERSION, sites, images, seed)),
        synthetic=True,
    )


def draw(picture: Picture, seed: int, image_size: int) -> NDArray[np.uint8]:
    """The picture itself with its mark, uint8 ``(image_size, image_size)``."""
    anatomy = Anatomy.draw(stream(seed, "patient", picture.site, picture.patient))
    film = stream(seed, "film", picture.site, picture.patient, picture.number)
    return mark(radiograph(anatomy, CLASSES[picture.finding], site_style(seed, picture.site), film, image_size))


def mark(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with the word SYNTHETIC in its lower right corner, the same whatever it shows.

    The mark has one size relative to the picture, legible from some 150 pixels on, so that pictures drawn small
    and pictures drawn large and then resized look alike to a network.
    """
    ink, cover = _mark(len(pixels))
    marked: NDArray[np.uint8] = (pixels * (1 - cover) + ink * cover + 0.5).astype(np.uint8)
    return marked


@lru_cache(maxsize=4)
def _mark(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Grey values of the mark, and how much of each pixel it covers."""
    canvas = max(size, _MARK_CANVAS)
    font = ImageFont.load_default(canvas // 20)
    layers = []
    for fill, outline in ((235, 20), (255, 255)):
        layer = Image.new("L", (canvas, canvas))
        ImageDraw.Draw(layer).text(
            (canvas - 2, canvas - 2), "SYNTHETIC", fill=fill, anchor="rs", font=font, stroke_width=1, stroke_fill=outline
        )
        layers.append(np.asarray(layer.resize((size, size), Image.Resampling.BOX), dtype=np.float32))
    cover = np.divide(layers[1], 255, dtype=np.float32)
    return np.divide(layers[0], np.maximum(cover, 1e-6), dtype=np.float32), cover


def site_style(seed: int, site: int) -> Style:
    """How this site takes its pictures."""
    rng = stream(seed, "style", site)
    return Style(
        exposure=rng.uniform(0.85, 1.5),
        contrast=rng.uniform(0.9, 1.2),
        gamma=rng.uniform(0.75, 1.25),
        noise=rng.uniform(0.005, 0.0175),
        blur=rng.uniform(0.4, 0.8),
        field_of_view=rng.uniform(0.94, 1.1),
        marker=(rng.uniform(0.02, 0.12), rng.uniform(0.02, 0.08)),
    )


def _site_pictures(seed: int, site: int, images: int) -> Iterator[Picture]:
    rng = stream(seed, "patients", site)
    mix = 0.4 / 3 + 0.6 * rng.dirichlet((3.0, 3.0, 3.0))
    patient = drawn = 0
    while drawn < images:
        finding = int(rng.choice(3, p=mix))
        count = min(int(rng.integers(1, 4)), images - drawn)
        yield from (Picture(site, patient, finding, number) for number in range(1, count + 1))
        patient, drawn = patient + 1, drawn + count
